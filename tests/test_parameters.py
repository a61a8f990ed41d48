"""Parameters of requests: what is wrong with one is said by its name."""

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medusa_copier.actions.parameters import CopytoParameters, decode
from simple_queue_server import Failure

FOUR = {"source_root": "a", "source_key": "b", "target_root": "c", "target_key": "d"}


class More(CopytoParameters, frozen=True, kw_only=True):
    verify: Literal["default", "checksum"] = "default"
    depth: int | None = None
    expected: dict[Literal["md5"], str] | None = None


def refusal(**changes: Any) -> str:
    with pytest.raises(Failure) as raised:
        decode(FOUR | changes, More)
    assert not raised.value.fields, "nothing was tried, so there is no rclone_status"
    return raised.value.message


def test_the_four_parameters_are_enough() -> None:
    assert decode(FOUR, CopytoParameters) == CopytoParameters(**FOUR)


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
        ({"verify": "loud"}, "the parameter verify: invalid enum value 'loud'"),
        ({"depth": "x"}, "the parameter depth must be a number, not a string"),
        ({"expected": {"md4": "x"}}, "the parameter expected: invalid enum value 'md4'"),
        ({"expected": {"md5": 1}}, "the parameter expected must be a string, not a number"),
        ({"verfiy": "checksum"}, "the parameter verfiy is unknown; did you mean verify?"),
        ({"source_keys": "x"}, "the parameter source_keys is unknown; did you mean source_key?"),
    ],
)
def test_a_wrong_parameter_is_named(changes: dict[str, Any], message: str) -> None:
    assert refusal(**changes) == message


def test_parameters_that_look_like_none_of_ours_are_let_through() -> None:
    assert decode(FOUR | {"comment": "for the reading room", "id": 7}, CopytoParameters) == CopytoParameters(**FOUR)


@given(st.dictionaries(st.sampled_from([*FOUR, "verify", "depth", "expected"]), st.none() | st.integers() | st.text()))
def test_whatever_comes_is_decoded_or_refused_by_name(changes: dict[str, Any]) -> None:
    try:
        decode(FOUR | changes, More)
    except Failure as failure:
        assert any(name in failure.message for name in changes)
