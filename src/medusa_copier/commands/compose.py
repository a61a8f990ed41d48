"""Composes the requests that ``medusa-copier submit`` sends: from its arguments, or from a stream of JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import click
import msgspec

from medusa_copier.client import copy_parameters
from medusa_copier.contract.parameters import ACTIONS, decode
from simple_queue_server import Failure

_KIND_BY_DIGITS: Final = {32: "md5", 40: "sha1", 64: "sha256"}
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?|[{}\[\]]')
"""What a JSON text is divided by. A string that has no end ends with its line: JSON has no line breaks in strings."""


def one_request(
    action: str,
    places: Sequence[str | None],
    parameters: Mapping[str, Any],
    *,
    pass_through: str | None,
    labels: Sequence[str],
) -> bytes:
    """The body of a request to copy from one ``ROOT:KEY`` of ``places`` to the other.

    ``parameters`` are further ones, of which those that are None or empty aren't sent. ``labels`` (``k=v``) become
    fields of ``pass_through``, which is JSON. Raises click.UsageError for what the action's contract doesn't take.
    """
    source, target = places
    if source is None or target is None:
        raise click.UsageError("say what to copy where: ROOT:KEY ROOT:KEY, or --from FILE")
    try:
        further = {name: value for name, value in parameters.items() if value not in (None, (), [])}
        request: dict[str, Any] = {"action": action, "parameters": copy_parameters(source, target, **further)}
        decode(request["parameters"], ACTIONS[action])
        if pass_through is not None or labels:
            request["pass_through"] = _pass_through(pass_through, labels)
        return msgspec.json.encode(request)
    except UnicodeError:
        raise click.UsageError("ROOT:KEY must be UTF-8; other names can't be written in JSON") from None
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except Failure as failure:
        raise click.UsageError(f"{action}: {failure.message}") from None


def expected_hashes(texts: Sequence[str]) -> dict[str, str] | None:
    """``md5:…``, ``md5=…``, or the digits alone, from whose number the type follows; as the parameter ``expected``.

    Raises click.UsageError.
    """
    hashes: dict[str, str] = {}
    for text in texts:
        kind, _, digits = text.replace("=", ":").rpartition(":")
        kind = kind.lower() or _KIND_BY_DIGITS.get(len(digits), "")
        if not kind:
            raise click.UsageError(f"--expected {text}: write the kind before it: md5:…, sha1:… or sha256:…")
        if kind in hashes:
            raise click.UsageError(f"--expected: there are two of the kind {kind}")
        hashes[kind] = digits
    return hashes or None


def manifest_at(place: str | None, kind: str | None) -> dict[str, str] | None:
    """``ROOT:KEY`` and the format as the parameter ``manifest`` has them. Raises click.UsageError."""
    if place is None:
        if kind is not None:
            raise click.UsageError("--manifest-format goes with --manifest")
        return None
    root, colon, key = place.partition(":")
    if not colon:
        raise click.UsageError(f"--manifest {place}: write the root's name, a colon and the key of the file")
    return {"root": root, "key": key} | ({} if kind is None else {"format": kind})


def requests_in(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The JSON values of a stream, each on one or more lines. Invalid JSON is returned as the text of its line.

    Raises click.UsageError for an incomplete value; those before it have been yielded.
    """
    value, depth, begun_at = bytearray(), 0, 0
    for number, line in enumerate(lines, 1):
        done = 0
        for token in _TOKEN.finditer(line):
            if token[0] in (b"{", b"["):
                begun_at = begun_at if depth else number
                depth += 1
            elif token[0] in (b"}", b"]") and depth:
                depth -= 1
                if depth == 0:
                    yield bytes(value + line[done : token.end()]).strip()
                    value.clear()
                    done = token.end()
        value += line[done:]
        if depth == 0:
            if rest := bytes(value).strip():
                yield rest
            value.clear()
    if depth:
        raise click.UsageError(
            f"--from: the request that begins on line {begun_at} has no end; those before it were submitted"
        )


def _pass_through(text: str | None, labels: Sequence[str]) -> Any:
    """As it was written, where there are no labels."""
    try:
        written = msgspec.json.decode("{}" if text is None else text, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise click.UsageError(f"--pass-through is not JSON: {error}") from None
    if not labels:
        return written
    try:
        fields = msgspec.json.decode(written, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        raise click.UsageError("--label adds fields to --pass-through, which must be a JSON object then") from None
    return fields | dict(map(_label, labels))


def _label(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise click.UsageError(f"--label {text}: write NAME=VALUE")
    return name, value
