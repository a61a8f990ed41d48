"""What the application knows of its requests and responses, and the records don't: places, amounts, reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

NUMBER_LIMIT: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Places:
    """What a request takes from where, and puts where."""

    source_root: str | None = None
    source_key: str | None = None
    target_root: str | None = None
    target_key: str | None = None


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a response says was done."""

    bytes: int | None = None
    files: int | None = None


class Describer(Protocol):
    """The application's side. Called in the background, never on the way of a request; it must not raise."""

    def places(self, action: str, parameters: Mapping[str, Any]) -> Places:
        """Where a request works. The values of its parameters may be anything."""

    def amounts(self, response: Mapping[str, Any], details: Mapping[str, Any]) -> Amounts:
        """How much was done; ``details`` are the request's ``log_fields``."""

    def reason(self, response: Mapping[str, Any]) -> str:
        """Why it failed, in the same words for the same reason: without names and numbers of the one request."""


class PlainDescriber:
    """For an application that says nothing about its requests."""

    def places(self, action: str, parameters: Mapping[str, Any]) -> Places:  # noqa: ARG002
        return Places()

    def amounts(self, response: Mapping[str, Any], details: Mapping[str, Any]) -> Amounts:  # noqa: ARG002
        return Amounts(bytes=number(details.get("bytes")))

    def reason(self, response: Mapping[str, Any]) -> str:
        return str(response.get("message", ""))


def number(value: Any) -> int | None:
    """A count that a database takes; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= NUMBER_LIMIT else None
