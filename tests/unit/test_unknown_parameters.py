"""Parameters of requests: what is wrong with one is said by its name."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medusa_copier.contract.parameters import CopytoParameters, decode
from medusa_copier.contract.parameters import given as given_of
from simple_queue_server import Failure

FOUR = {"source_root": "a", "source_key": "b", "target_root": "c", "target_key": "d"}
FOUR_DECODED = CopytoParameters(source_root="a", source_key="b", target_root="c", target_key="d")
KNOWN = "known here: depth, expected, overwrite, source_key, source_root, target_key, target_root, verify"


class More(CopytoParameters, frozen=True, kw_only=True):
    depth: int | None = None


def refusal(**changes: Any) -> str:
    with pytest.raises(Failure) as raised:
        decode(FOUR | changes, More)
    assert not raised.value.fields, "nothing was tried, so there is no rclone_status"
    return raised.value.message


def test_the_four_parameters_are_enough() -> None:
    assert decode(FOUR, CopytoParameters) == FOUR_DECODED


@pytest.mark.parametrize("name", FOUR)
def test_a_missing_parameter_is_named(name: str) -> None:
    assert refusal(**{name: None}) == f"the parameter {name} is missing"
    with pytest.raises(Failure, match=f"the parameter {name} is missing"):
        decode({other: value for other, value in FOUR.items() if other != name}, CopytoParameters)


@pytest.mark.parametrize("name", FOUR)
@pytest.mark.parametrize(
    ("value", "kind"),
    [(5, "a number"), (1.5, "a number"), (True, "a boolean"), (["a"], "an array"), ({"a": 1}, "an object")],
)
def test_a_parameter_that_is_no_string_is_named(name: str, value: Any, kind: str) -> None:
    assert refusal(**{name: value}) == f"the parameter {name} must be a string, not {kind}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"verify": "loud"},
            "the parameter verify must be one of default, checksum, download, not 'loud'",
        ),
        ({"depth": 1.5}, "the parameter depth must be a whole number"),
        ({"depth": "x"}, "the parameter depth must be a number, not a string"),
        ({"expected": {"md4": "x"}}, "the parameter expected.md4 is unknown; did you mean md5?"),
        ({"expected": {"md5": 1}}, "the parameter expected.md5 must be a string, not a number"),
        ({"expected": {}}, "the parameter expected: give at least one hash: md5, sha1 or sha256"),
        ({"expected": {"md5": None}}, "the parameter expected: give at least one hash: md5, sha1 or sha256"),
        (
            {"expected": {"md5": "beef"}},
            "the parameter expected.md5 must be 32 hexadecimal digits",
        ),
        ({"expected": {"sha1": "0" * 40 + "\n"}}, "the parameter expected.sha1 must be 40 hexadecimal digits"),
        (
            {"expected": {"sha256": "g" * 64}},
            "the parameter expected.sha256 must be 64 hexadecimal digits",
        ),
        ({"expected": "beef"}, "the parameter expected must be an object, not a string"),
        (
            {"overwrite": "maybe"},
            "the parameter overwrite must be one of always, if_different, never, not 'maybe'",
        ),
        ({"verfiy": "checksum"}, "the parameter verfiy is unknown; did you mean verify?"),
        ({"source_keys": "x"}, "the parameter source_keys is unknown; did you mean source_key?"),
        ({"verification": "checksum"}, "the parameter verification is unknown; did you mean verify?"),
        (
            {"dry_run": True},
            f"the parameter dry_run is unknown; {KNOWN}",
        ),
        (
            {"x" * 1000: 1},
            f"the parameter {'x' * 100} is unknown; {KNOWN}",
        ),
    ],
)
def test_a_wrong_parameter_is_named(changes: dict[str, Any], message: str) -> None:
    assert refusal(**changes) == message


def test_a_parameter_of_another_action_is_refused() -> None:
    with pytest.raises(Failure, match="the parameter max_depth is unknown; known here: expected, overwrite"):
        decode(FOUR | {"max_depth": 1}, CopytoParameters)


def test_expected_hashes_are_compared_in_small_letters() -> None:
    asked = decode(FOUR | {"expected": {"md5": "AB" * 16, "sha1": None}}, CopytoParameters)
    assert asked.expected is not None
    assert asked.expected.hashes == {"md5": "ab" * 16}


def test_what_was_given_is_what_the_client_wrote() -> None:
    written = FOUR | {"expected": {"md5": "AB" * 16}, "verify": "default"}
    assert given_of(written | {"overwrite": None, "comment": "x"}, CopytoParameters) == written


@given(st.dictionaries(st.sampled_from([*FOUR, "verify", "depth", "expected"]), st.none() | st.integers() | st.text()))
def test_whatever_comes_is_decoded_or_refused_by_name(changes: dict[str, Any]) -> None:
    try:
        decode(FOUR | changes, More)
    except Failure as failure:
        assert any(name in failure.message for name in changes)


@pytest.mark.parametrize(
    ("name", "shown"), [("", "''"), ("\n", "'\\n'"), (" verify", "' verify'"), ("dry_run", "dry_run")]
)
def test_an_unknown_parameter_is_named_so_that_it_can_be_seen(name: str, shown: str) -> None:
    assert refusal(**{name: True}).startswith(f"the parameter {shown} is unknown; ")
