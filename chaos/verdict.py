"""The outcome of a run: reads every response, compares the bytes of every success, and counts."""

from __future__ import annotations

import asyncio
import filecmp
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from chaos.workload import Kind, Request, mark_of

Flaw: TypeAlias = Literal["false success", "false failure", "wrong response"]

DISK_FULL: Final = ("no space left", "file too big for remaining disk space")
"""rclone's messages for a full disk: during a copy, and if it checks beforehand."""

FAILURES: Final[dict[Kind, tuple[str, object]]] = {
    "missing source": ("rclone_status", 3),
    "unknown action": ("message", "Unrecognized Action"),
    "invalid JSON": ("message", "Invalid Request"),
}
"""A field of the responses to requests that must fail."""

SHOWN: Final = 10
"""How many findings of each kind are described."""


@dataclass
class Verdict:
    """The numbers of one run. ``findings`` tell a person what is behind those that should be 0.

    ``about``: the broker's program and version, and what else one should know of this run.
    """

    broker: str
    requests: int = 0
    missing: int = 0
    flaws: Counter[Flaw] = field(default_factory=Counter)
    duplicates: int = 0
    duplicates_allowed: bool = True
    left_on_queue: int = 0
    left_in_journal: int = 0
    stray_processes: int = 0
    partial_files: int = 0
    bad_exits: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    not_run: list[str] = field(default_factory=list)
    about: str = ""
    seconds: float = 0.0
    findings: list[str] = field(default_factory=list)
    memory_mib: dict[str, list[float]] = field(default_factory=dict)
    """Of a ``service`` and of its ``rclone`` processes together, every two seconds, in order."""

    @property
    def must_be_zero(self) -> dict[str, int]:
        """Every number that must be 0, by its name in the table."""
        numbers = {
            "responses missing": self.missing,
            "false successes": self.flaws["false success"],
            "false failures": self.flaws["false failure"],
            "wrong responses": self.flaws["wrong response"],
            "requests left on the queue": self.left_on_queue,
            "entries left in the journal": self.left_in_journal,
            "stray processes": self.stray_processes,
            "leftover .partial files": self.partial_files,
            "services that ended by themselves": self.bad_exits,
        }
        return numbers if self.duplicates_allowed else numbers | {"duplicates": self.duplicates}

    @property
    def is_good(self) -> bool:
        """Whether there is no finding."""
        return not any(self.must_be_zero.values())


class Responses:
    """The responses of a run, as they arrive."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._requests = {request.id: request for request in requests}
        self._times: Counter[tuple[int, int]] = Counter()
        self._responses: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        self._findings: list[tuple[Flaw, str]] = []
        self._checks: set[asyncio.Task[None]] = set()
        self.grown = asyncio.Event()

    @property
    def missing(self) -> list[Request]:
        """The requests that have no response yet."""
        return [request for number, request in self._requests.items() if number not in self._responses]

    def take(self, body: bytes) -> None:
        """Record a response. The bytes of a success are compared immediately if its target is written only once."""
        try:
            response = json.loads(body)
            number, sending = mark_of(response)
            request = self._requests[number]
        except (ValueError, KeyError) as error:
            self._findings.append(("wrong response", f"unreadable ({error}): {body[:300]!r}"))
            return
        self._times[number, sending] += 1
        self._responses[number].append(response)
        if flaw := flaw_of(request, response):
            self._note(flaw, request, response)
        elif response["status"] == "success" and request.parameters["target_root"] != "bucket":
            check = asyncio.create_task(self._check_now(request, response))
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)
        self.grown.set()

    async def judge(self, verdict: Verdict) -> None:
        """Compare everything once more, and return the numbers."""
        await asyncio.gather(*self._checks)
        for number, responses in self._responses.items():
            request = self._requests[number]
            successes = [response for response in responses if response["status"] == "success"]
            if successes and not await asyncio.to_thread(has_content, request):
                self._note("false success", request, successes[0], "in the end")
        verdict.requests = len(self._requests)
        verdict.missing = len(self.missing)
        verdict.findings += [f"no response to {request}" for request in self.missing[:SHOWN]]
        verdict.duplicates = sum(self._times.values()) - len(self._times)
        verdict.flaws = Counter(flaw for flaw, _ in self._findings)
        shown: Counter[Flaw] = Counter()
        for flaw, text in self._findings:
            shown[flaw] += 1
            if shown[flaw] <= SHOWN:
                verdict.findings.append(f"{flaw}: {text}")

    async def _check_now(self, request: Request, response: Mapping[str, Any]) -> None:
        if not await asyncio.to_thread(has_content, request):
            self._note("false success", request, response, "when it was answered")

    def _note(self, flaw: Flaw, request: Request, response: Mapping[str, Any], when: str = "") -> None:
        self._findings.append((flaw, f"{when} {request.kind} {request.id} {request.parameters}: {response}".lstrip()))


def has_content(request: Request) -> bool:
    """Whether the target's bytes are the source's."""
    source, target = request.source, request.target
    if source is None or target is None:
        return False
    if source.is_dir():
        files = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
        return all(
            (target / name).exists() and filecmp.cmp(source / name, target / name, shallow=False) for name in files
        )
    try:
        return filecmp.cmp(source, target, shallow=False)
    except FileNotFoundError:
        return False
    finally:
        filecmp.clear_cache()


def flaw_of(request: Request, response: Mapping[str, Any]) -> Flaw | None:
    """What is wrong with a response, apart from the bytes."""
    succeeded = response.get("status") == "success"
    if request.kind in ("copy", "copy a directory", "copy to the small disk"):
        if succeeded:
            is_whole = response.get("parameters") == request.parameters and response.get("rclone_status") == 0
            return None if is_whole else "wrong response"
        is_told = any(words in response.get("message", "") for words in DISK_FULL)
        return None if request.kind == "copy to the small disk" and is_told else "false failure"
    if succeeded:
        return "false success"
    name, expected = FAILURES[request.kind]
    return None if response.get(name) == expected else "false failure"
