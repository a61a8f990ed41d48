"""The proof's verdict finds each kind of lie, and the space that its cases are drawn from is the one that is meant."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from proof.cases import MODES, TROUBLES, Case, Mode, draw
from proof.names import ODD
from proof.scene import Entry, Scene
from proof.storages import KINDS
from proof.verdict import Verdict, judge

A, B = b"content of a", b"content of b"
GOOD = {"status": "success", "copied": {"files": 2}, "unchanged": {"files": 0}, "failed": {"files": 0, "first": []}}
COPY, COPYTO = Mode("copy"), Mode("copyto")


def scene(mode: Mode, trouble: str = "nothing", **storages: str) -> Scene:
    where = {"source": "local", "target": "s3"} | storages
    case = Case(number=1, mode=mode, trouble=trouble, oddity="plain", paths=(b"a", b"d/b"), seed=0, **where)
    made = Scene(case, Path("s"), Path("t"), random.Random(1))
    made.entries = {b"a": Entry([A])} if mode.action == "copyto" else {b"a": Entry([A]), b"d/b": Entry([B])}
    return made


def flaws(made: Scene, response: Any, there: dict[bytes, bytes], listing: bytes | None = None) -> set[str]:
    return {finding.flaw for finding in judge(made, response, there, listing)[1]}


def jsonl(**changes: Any) -> bytes:
    line = {"path": "a", "size": len(A), "hash": {"md5": hashlib.md5(A).hexdigest()}, "outcome": "copied"}
    other = {"path": "d/b", "size": len(B), "hash": {"md5": hashlib.md5(B).hexdigest()}, "outcome": "unchanged"}
    return "".join(json.dumps(each) + "\n" for each in (line | changes, other)).encode()


def test_the_truth_is_no_finding() -> None:
    assert not flaws(scene(COPY), GOOD, {b"a": A, b"d/b": B})
    assert not flaws(scene(COPYTO), {"status": "success"}, {b"a": A})
    assert not flaws(scene(Mode("copy", manifest="jsonl")), GOOD, {b"a": A, b"d/b": B}, jsonl())


@pytest.mark.parametrize("there", [{}, {b"a": B}, {b"a": A[:-1]}, {b"A": A}])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_a_success_with_content_missing_or_different_is_false(mode: Mode, there: dict[bytes, bytes]) -> None:
    assert "false successes" in flaws(scene(mode), GOOD, there)


@pytest.mark.parametrize("mode", [Mode("copyto", expects="another"), COPYTO])
def test_a_success_of_what_had_to_fail_is_false(mode: Mode) -> None:
    made = scene(mode, "the source is missing" if mode is COPYTO else "nothing")
    if mode is COPYTO:
        made.entries.clear()
    assert "false successes" in flaws(made, {"status": "success"}, {b"a": A})


@pytest.mark.parametrize(
    "changes",
    [
        {"hash": {"md5": "0" * 32}},
        {"hash": {"sha256": hashlib.sha256(B).hexdigest()}},
        {"hash": None},
        {"size": 1},
        {"path": "c"},
        {"outcome": "failed"},
    ],
)
def test_a_manifest_that_is_not_true_of_the_target_is_found(changes: dict[str, Any]) -> None:
    mode = Mode("copy", manifest="jsonl")
    assert flaws(scene(mode), GOOD, {b"a": A, b"d/b": B}, jsonl(**changes)) == {"untrue manifests"}


def test_a_bag_that_lists_other_content_or_not_all_is_found() -> None:
    there = {b"a": A, b"d/b": B}
    lines = [f"{hashlib.sha256(content).hexdigest()}  data/{path.decode()}\n" for path, content in there.items()]
    made = scene(Mode("copy", manifest="bagit-sha256"))
    assert not flaws(made, GOOD, there, "".join(lines).encode())
    for bad in (
        lines[0],
        "".join(lines).replace(lines[0][:3], "000"),
        "".join(lines).replace("data/a", "data/b"),
        None,
    ):
        assert flaws(made, GOOD, there, None if bad is None else bad.encode()) == {"untrue manifests"}


@pytest.mark.parametrize(
    "changes",
    [
        {"copied": {"files": 1}},
        {"copied": {"files": 3}},
        {"status": "failure", "failed": {"files": 1, "first": [{"key": "x", "reason": ""}]}, "copied": {"files": 1}},
    ],
)
def test_counts_that_do_not_add_up_are_found(changes: dict[str, Any]) -> None:
    assert "incomplete accounts" in flaws(scene(COPY), GOOD | changes, {b"a": A, b"d/b": B})


@pytest.mark.parametrize("changes", [{"unchanged": {"files": 1}, "copied": {"files": 1}}, {}])
def test_a_failure_that_calls_different_content_verified_or_unchanged_is_found(changes: dict[str, Any]) -> None:
    answer = GOOD | {"status": "failure"} | changes
    assert "false claims" in flaws(scene(Mode("copy", {"verify": "checksum"})), answer, {b"a": A, b"d/b": A})


def test_verified_hashes_and_numbers_are_compared_with_the_target() -> None:
    made = scene(Mode("copyto", {"verify": "checksum"}))
    for content, expected in ((A, set()), (B, {"false claims"})):
        answer = {"status": "success", "verified": {"hashes": {"md5": hashlib.md5(content).hexdigest()}}}
        assert flaws(made, answer, {b"a": A}) == expected
    made = scene(Mode("copy", {"verify": "download"}))
    assert flaws(made, GOOD | {"verified": {"files": 1}}, {b"a": A, b"d/b": B}) == {"false claims"}


def test_content_that_was_not_to_be_replaced_is_missed_and_what_nobody_asked_for_is_seen() -> None:
    made = scene(Mode("copyto", {"overwrite": "never"}), "same size, another time")
    made.before = {b"a": B}
    assert flaws(made, {"status": "failure", "message": ""}, {b"a": A}) == {"content lost"}
    made = scene(COPYTO)
    made.before = {b"neighbour": B}
    assert flaws(made, {"status": "success"}, {b"a": A}) == {"content lost"}
    assert flaws(scene(COPYTO), {"status": "success"}, {b"a": A, b"a.x.partial": A}) == {"stray files"}


def test_a_failure_without_a_cause_and_no_response_at_all_are_found() -> None:
    failure = {"status": "failure", "message": "no"}
    assert flaws(scene(COPYTO), failure, {}) == {"failures without a cause"}
    assert not flaws(scene(COPYTO, "cut each time", source="s3"), failure, {})
    assert flaws(scene(COPYTO), None, {}) == {"responses missing"}


def test_only_what_is_documented_may_be_missed() -> None:
    rotted = "rotted: same size, same time"
    for mode, trouble, target, is_missed in (
        (COPYTO, rotted, "s3", True),
        (Mode("copyto", {"overwrite": "always"}), rotted, "webdav-bare", False),
        (Mode("copyto", {"overwrite": "never"}), rotted, "s3", False),
        (Mode("copyto", {"verify": "download"}), rotted, "s3", False),
        (COPYTO, "flipped on writing", "webdav-times", True),
        (COPYTO, "flipped on writing", "s3", False),
        (COPYTO, "a short answer", "webdav-bare", False),
        (COPYTO, "a login page", "local", False),
    ):
        note, findings = judge(scene(mode, trouble, target=target), {"status": "success"}, {b"a": B}, None)
        assert (note == "damage missed as documented") == (not findings) == is_missed, (mode, trouble, target)


def test_findings_are_counted_by_case() -> None:
    verdict = Verdict()
    made = scene(COPY)
    verdict.add(made.case, *judge(made, GOOD, {}, None))
    verdict.add(made.case, *judge(made, GOOD, {b"a": A, b"d/b": B}, None))
    assert (verdict.cases, verdict.flaws["false successes"], verdict.is_good) == (2, 1, False)
    assert any(finding.startswith("false successes: c00001 local → s3, copy; nothing") for finding in verdict.findings)


def test_many_cases_have_each_storage_mode_trouble_and_name_among_them() -> None:
    cases = list(draw(random.Random(1), 3000))
    assert {case.source for case in cases} == {case.target for case in cases} == set(KINDS)
    assert {case.mode.name for case in cases} == {mode.name for mode in MODES}
    assert {case.trouble for case in cases} == set(TROUBLES)
    assert {case.oddity for case in cases} == {"plain", *ODD}
    assert len({(case.source, case.target) for case in cases}) == len(KINDS) ** 2 - 1
    assert cases == list(draw(random.Random(1), 3000))
