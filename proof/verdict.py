"""A response, and what is on disk → findings. Pure: it knows nothing of how the service works."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from proof.cases import HARMLESS, REPAIRABLE, Case
from proof.scene import Scene

Flaw: TypeAlias = Literal[
    "false successes",
    "untrue manifests",
    "incomplete accounts",
    "false claims",
    "content lost",
    "stray files",
    "failures without a cause",
    "responses missing",
]
FLAWS: Final[tuple[Flaw, ...]] = Flaw.__args__  # type: ignore[attr-defined]
Note: TypeAlias = Literal["successes", "honest failures", "damage missed as documented"]
Files: TypeAlias = Mapping[bytes, bytes]
Response: TypeAlias = Mapping[str, Any]


MANIFEST_FAILED: Final = "could not be written"
"""After such a response the manifest needn't be right."""


class Finding(NamedTuple):
    """What is wrong with a response."""

    flaw: Flaw
    text: str


@dataclass
class Verdict:
    """The numbers of a run, in total and by trouble."""

    cases: int = 0
    flaws: Counter[Flaw] = field(default_factory=Counter)
    notes: Counter[Note] = field(default_factory=Counter)
    by_trouble: dict[str, Counter[str]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.flaws

    def add(self, case: Case, note: Note, findings: list[Finding]) -> None:
        """Count a case."""
        self.cases += 1
        self.notes[note] += 1
        counts = self.by_trouble.setdefault(case.trouble, Counter())
        counts.update(["cases", note])
        for flaw in {finding.flaw for finding in findings}:
            self.flaws[flaw] += 1
            counts[flaw] += 1
        self.findings += [f"{finding.flaw}: {case}: {finding.text}" for finding in findings]


def judge(scene: Scene, response: Response | None, there: Files, listing: bytes | None) -> tuple[Note, list[Finding]]:
    """``there`` is the content of the target, ``listing`` the manifest if there is one."""
    if response is None:
        return "honest failures", [Finding("responses missing", "")]
    is_success = response["status"] == "success"
    wrong = _wrong(scene, there)
    findings = [*_content_lost(scene, there), *_stray(scene, there)]
    if MANIFEST_FAILED not in response.get("message", ""):
        findings += _untrue(scene, is_success, there, listing)
    note: Note = "successes" if is_success else "honest failures"
    if is_success and (wrong or _must_fail(scene)):
        if is_promised(scene.case) or _must_fail(scene):
            findings.append(Finding("false successes", f"{_shown(wrong)}; {_short(response)}"))
        else:
            note = "damage missed as documented"
    if not is_success and _has_no_cause(scene):
        findings.append(Finding("failures without a cause", _short(response)))
    findings += _accounts(scene, response)
    if note != "damage missed as documented":
        findings += _claims(scene, response, there, wrong)
    return note, findings


def is_promised(case: Case) -> bool:
    """Whether a success must be true; otherwise it is a limitation listed in docs/guarantees.md."""
    if case.mode.compares:
        return True
    if case.trouble == "rotted: same size, same time":
        overwrite = case.mode.overwrite
        return overwrite == "always" or (overwrite == "never" and case.mode.action == "copyto")
    if case.trouble.startswith("flipped"):
        return case.shares_hash
    return case.trouble != "the target is replaced"


def _must_fail(scene: Scene) -> bool:
    return scene.is_missing or scene.case.mode.expects == "another"


def _wrong(scene: Scene, there: Files) -> list[bytes]:
    """The entries whose content at the target isn't that of the source."""
    return [
        path
        for path, entry in scene.entries.items()
        if (path not in there and not entry.optional) or (path in there and there[path] not in entry.versions)
    ]


def _has_no_cause(scene: Scene) -> bool:
    case = scene.case
    if case.oddity != "plain" or _must_fail(scene):
        return False
    if case.mode.parameters.get("verify") == "checksum" and not case.shares_hash:
        return False
    if case.mode.overwrite == "never" and case.trouble != "nothing" and not case.mode.compares:
        return case.trouble in HARMLESS and case.shares_hash
    return case.trouble in HARMLESS or (case.trouble in REPAIRABLE and case.mode.overwrite != "never")


def _content_lost(scene: Scene, there: Files) -> Iterator[Finding]:
    for path, content in scene.before.items():
        may_be_replaced = path in scene.entries and scene.case.mode.overwrite != "never"
        if not may_be_replaced and there.get(path) != content:
            yield Finding("content lost", f"{path!r} at the target, which was not to be replaced")


def _stray(scene: Scene, there: Files) -> Iterator[Finding]:
    for path in there.keys() - scene.entries.keys() - scene.before.keys():
        yield Finding("stray files", f"{path!r} ({len(there[path])} bytes) is at the target")


def _accounts(scene: Scene, response: Response) -> Iterator[Finding]:
    """A ``copy`` has to account for each file of the source."""
    if scene.case.mode.action == "copyto" or "copied" not in response:
        return
    arrived = response["copied"]["files"] + response["unchanged"]["files"]
    failed, skipped = response["failed"]["files"], response.get("skipped", {}).get("files", 0)
    is_whole_failure = response["status"] != "success" and not failed
    required = sum(not entry.optional for entry in scene.entries.values())
    least, most = required + scene.others, len(scene.entries) + scene.others
    if not is_whole_failure and not least <= arrived + failed + skipped <= most:
        text = f"{arrived} arrived, {failed} failed, {skipped} skipped, of {least} to {most}"
        yield Finding("incomplete accounts", f"{text}; {_short(response)}")
    for each in response["failed"]["first"]:
        exact = each.get("key_base64")
        key = base64.b64decode(exact) if exact else each["key"].encode()
        if not any(_is_named(key, path) for path in scene.entries):
            yield Finding("incomplete accounts", f"{each} names nothing that is at the source")


def _is_named(key: bytes, path: bytes) -> bool:
    """Whether the key of an account is this file, or a directory that it is in."""
    return key == path or path.startswith(key.rstrip(b"/") + b"/")


def _claims(scene: Scene, response: Response, there: Files, wrong: list[bytes]) -> Iterator[Finding]:
    """What a response says to have compared or found unchanged."""
    verified = response.get("verified") or {}
    if scene.case.mode.action == "copyto":
        content = there.get(scene.case.paths[0], b"")
        for kind, value in verified.get("hashes", {}).items():
            if hashlib.new(kind, content).hexdigest() != value:
                yield Finding("false claims", f"the target's {kind} isn't {value}; {_short(response)}")
        return
    right = len(scene.entries) - len(wrong)
    arrived = response.get("copied", {}).get("files", 0) + response.get("unchanged", {}).get("files", 0)
    was_compared = response["status"] == "success" or scene.case.mode.compares
    if is_promised(scene.case) and was_compared and arrived > right:
        yield Finding("false claims", f"{arrived} arrived, but {right} are right: {_shown(wrong)}; {_short(response)}")
    if verified.get("files", 0) > right:
        yield Finding("false claims", f"{verified} but {right} are right: {_shown(wrong)}")
    if response["status"] == "success" and verified.get("files", arrived) != arrived:
        yield Finding("false claims", f"{verified} of {arrived} files")


def _untrue(scene: Scene, is_success: bool, there: Files, listing: bytes | None) -> Iterator[Finding]:
    """Each line of a manifest must be true of the target; that of a success has all files."""
    if scene.listing is None or (listing is None and not is_success):
        return
    if listing is None:
        yield Finding("untrue manifests", "there is none")
        return
    lines = list(_lines(listing, scene.case.mode.manifest or ""))
    for line in lines:
        content = there.get(line.path)
        if content is None or not line.is_of(content):
            yield Finding("untrue manifests", f"{line}, at the target {_digests(content)}")
    listed = {line.path for line in lines}
    for path, entry in scene.entries.items():
        if is_success and path not in listed and not entry.optional:
            yield Finding("untrue manifests", f"{path!r} isn't in it")


class Line(NamedTuple):
    """What a line says of a file that it calls present."""

    path: bytes
    kind: str
    hash: str | None
    size: int | None = None

    def is_of(self, content: bytes) -> bool:
        """Whether it is true of this content."""
        if self.size is not None and self.size != len(content):
            return False
        return self.hash is not None and hashlib.new(self.kind, content).hexdigest() == self.hash


def _lines(listing: bytes, form: str) -> Iterator[Line]:
    for text in listing.removesuffix(b"\n").split(b"\n") if listing else ():
        if form == "jsonl":
            entry = json.loads(text)
            if entry["outcome"] in ("copied", "unchanged"):
                kind, value = next(iter((entry["hash"] or {"md5": None}).items()))
                yield Line(_path_of(entry), kind, value, entry["size"])
        else:
            value, _, path = text.partition(b"  data/")
            plain = path.replace(b"%0A", b"\n").replace(b"%0D", b"\r").replace(b"%25", b"%")
            yield Line(plain, form.removeprefix("bagit-"), value.decode("ascii", "replace"))


def _path_of(entry: Mapping[str, Any]) -> bytes:
    exact = entry.get("path_base64")
    return base64.b64decode(exact) if exact else str(entry["path"]).encode()


def _digests(content: bytes | None) -> str:
    return "nothing" if content is None else f"{len(content)} bytes, md5 {hashlib.md5(content).hexdigest()}"  # noqa: S324


def _shown(paths: list[bytes]) -> str:
    return f"not at the target as at the source: {paths}" if paths else "it had to fail"


def _short(response: Response) -> str:
    fields = ("status", "message", "copied", "unchanged", "failed", "skipped", "verified")
    return str({name: response[name] for name in fields if name in response})[:700]
