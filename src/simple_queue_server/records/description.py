"""What the application knows about its requests and responses: locations, amounts, reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

NUMBER_LIMIT: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Places:
    """The source and target of a request."""

    source_root: str | None = None
    source_key: str | None = None
    target_root: str | None = None
    target_key: str | None = None


@dataclass(frozen=True, slots=True)
class Amounts:
    """The amounts reported in a response."""

    bytes: int | None = None
    files: int | None = None


class Describer(Protocol):
    """Implemented by the application, as a class at the top of an importable module: another process makes it, without
    arguments, and calls it, never while a request is processed. It must not raise.
    """

    def places(self, action: str, parameters: Mapping[str, Any]) -> Places:
        """A request's source and target. The values of its parameters may be anything."""

    def amounts(self, response: Mapping[str, Any], details: Mapping[str, Any]) -> Amounts:
        """How much was done; ``details`` are the request's ``log_fields``."""

    def reason(self, response: Mapping[str, Any]) -> str:
        """Why it failed, with the same text for the same reason: without names and numbers of the request."""


class PlainDescriber:
    """For applications that describe nothing."""

    def places(self, action: str, parameters: Mapping[str, Any]) -> Places:  # noqa: ARG002
        return Places()

    def amounts(self, response: Mapping[str, Any], details: Mapping[str, Any]) -> Amounts:  # noqa: ARG002
        return Amounts(bytes=number(details.get("bytes")))

    def reason(self, response: Mapping[str, Any]) -> str:
        return str(response.get("message", ""))


def number(value: Any) -> int | None:
    """A count in a form that a database accepts; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= NUMBER_LIMIT else None
