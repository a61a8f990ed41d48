"""What ``medusa-copier submit`` makes of its arguments, and of a stream of JSON."""

import json
import typing
from collections.abc import Iterator
from typing import Any

import click
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medusa_copier.cli import main
from medusa_copier.commands.compose import expected_hashes, manifest_at, one_request, requests_in
from medusa_copier.contract.parameters import CopyParameters, CopytoParameters, ManifestParameters, fields_of

MD5, SHA1, SHA256 = "0" * 32, "A" * 40, "b" * 64
NAMED_BY_ARGUMENTS = {"source_root", "source_key", "target_root", "target_key"}


def options() -> dict[str, click.Option]:
    return {option.name or "": option for option in main.commands["submit"].params if isinstance(option, click.Option)}


def choices(name: str) -> list[str]:
    kind = options()[name].type
    assert isinstance(kind, click.Choice)
    return sorted(kind.choices)


def literals(annotation: Any) -> list[str]:
    return sorted(typing.get_args(annotation))


def test_each_parameter_of_the_contract_has_an_option() -> None:
    parameters = fields_of(CopytoParameters).keys() | fields_of(CopyParameters).keys()
    assert parameters - NAMED_BY_ARGUMENTS - options().keys() == set()
    assert {f"manifest_{name}" for name in fields_of(ManifestParameters)} - {"manifest_root", "manifest_key"} <= set(
        options()
    )


def test_the_options_take_what_the_contract_takes() -> None:
    assert choices("overwrite") == literals(fields_of(CopyParameters)["overwrite"].type)
    assert choices("verify") == literals(fields_of(CopyParameters)["verify"].type)
    assert choices("manifest_format") == literals(fields_of(ManifestParameters)["format"].type)


def composed(*places: str, action: str = "copyto", pass_through: str | None = None, **rest: Any) -> Any:
    labels = rest.pop("labels", ())
    return json.loads(one_request(action, places, rest, pass_through=pass_through, labels=labels))


def test_a_request_has_what_was_asked_for_and_nothing_else() -> None:
    assert composed("src:a", "dst:b", overwrite=None, include=()) == {
        "action": "copyto",
        "parameters": {"source_root": "src", "source_key": "a", "target_root": "dst", "target_key": "b"},
    }
    said: dict[str, Any] = {
        "include": ("*.mov",),
        "max_depth": 2,
        "verify": "checksum",
        "manifest": {"root": "dst", "key": "m"},
    }
    parameters = composed("src:", "dst:b", action="copy", **said)["parameters"]
    assert msgspec.convert(parameters, CopyParameters).include == ["*.mov"]
    assert {name: parameters[name] for name in said} == said | {"include": ["*.mov"]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"action": "copyto", "include": ("*.mov",)}, "copyto: .*include"),
        ({"action": "copy", "expected": {"md5": MD5}}, "copy: .*expected"),
        ({"expected": {"md5": "12"}}, "expected"),
        ({"action": "copy", "manifest": {"root": "dst", "key": "m", "format": "x"}}, "manifest"),
        ({"labels": ("ticket",)}, "NAME=VALUE"),
        ({"labels": ("a=1",), "pass_through": "7"}, "must be a JSON object"),
    ],
)
def test_what_the_contract_does_not_take_is_refused_before_it_is_sent(arguments: Any, words: str) -> None:
    with pytest.raises(click.UsageError, match=words):
        composed("src:a", "dst:b", **arguments)


def test_labels_are_fields_of_the_pass_through() -> None:
    assert composed("src:a", "dst:b", labels=("ticket=7", "note=a=b"))["pass_through"] == {"ticket": "7", "note": "a=b"}
    both = composed("src:a", "dst:b", labels=("ticket=7",), pass_through='{"n": 1}')
    assert both["pass_through"] == {"n": 1, "ticket": "7"}


def test_the_kind_of_an_expected_hash_is_known_by_its_digits() -> None:
    assert expected_hashes([MD5, f"sha1:{SHA1}", f"SHA256={SHA256}"]) == {"md5": MD5, "sha1": SHA1, "sha256": SHA256}
    assert expected_hashes([]) is None
    with pytest.raises(click.UsageError, match="write the kind"):
        expected_hashes(["123"])
    with pytest.raises(click.UsageError, match="two of the kind md5"):
        expected_hashes([MD5, f"md5:{MD5}"])


def test_a_manifest_is_named_as_a_place() -> None:
    assert manifest_at("dst:a:b", "jsonl") == {"root": "dst", "key": "a:b", "format": "jsonl"}
    assert manifest_at(None, None) is None
    for place, kind in (("dst", None), (None, "jsonl")):
        with pytest.raises(click.UsageError, match="--manifest"):
            manifest_at(place, kind)


TEXTS = st.text('ab"\\\n{}[] é', max_size=5)
VALUES = st.dictionaries(TEXTS, TEXTS | st.integers() | st.lists(TEXTS, max_size=3), max_size=3)


@settings(max_examples=50)
@given(st.lists(st.tuples(VALUES, st.sampled_from([None, 1, 4]), st.sampled_from(["\n", "", " ", "\n\n"]))))
def test_a_stream_of_values_is_the_values_however_it_is_laid_out(values: list[tuple[Any, int | None, str]]) -> None:
    stream = "".join(json.dumps(value, indent=indent, ensure_ascii=False) + end for value, indent, end in values)
    found = [
        json.loads(body) for body in requests_in(stream.encode("utf-8", "surrogatepass").splitlines(keepends=True))
    ]
    assert found == [value for value, _, _ in values]


def test_what_is_no_json_is_the_value_of_its_line() -> None:
    lines = [b'{"a": 1}\n', b"\n", b"Not JSON\n", b'"}"\n', b'{"b": "}{"}\n', b"5"]
    assert list(requests_in(lines)) == [b'{"a": 1}', b"Not JSON", b'"}"', b'{"b": "}{"}', b"5"]


def test_a_value_without_an_end_is_named_and_those_before_it_are_given() -> None:
    def read() -> Iterator[bytes]:
        yield from requests_in([b"{}\n", b'{"a":\n', b"[1\n"])

    stream = read()
    assert next(stream) == b"{}"
    with pytest.raises(click.UsageError, match="begins on line 2 has no end"):
        next(stream)
