"""The command line of rclone, its log lines, and one that outlived its service."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog

from medusa_copier.rclone.errors import RcloneUnusable
from medusa_copier.rclone.process.process import FlagValue, command_line, end, flag_arguments, spawn
from medusa_copier.rclone.rcd import orphans
from medusa_copier.rclone.rcd.log import LONGEST_LINE, LogLines
from tests.support.waiting import eventually


def test_flags_are_written_by_rclones_own_names() -> None:
    flags: dict[str, FlagValue] = {
        "bwlimit": "50M",
        "transfers": 8,
        "fast_list": True,
        "check-first": False,
        "--tpslimit": 2.5,
        "header": ["a: b", "c: d"],
        "exclude": [],
    }
    assert flag_arguments(flags) == [
        "--bwlimit=50M",
        "--transfers=8",
        "--fast-list",
        "--check-first=false",
        "--tpslimit=2.5",
        "--header=a: b",
        "--header=c: d",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "rc",
        "rc_addr",
        "--rc-serve",
        "config",
        "dry_run",
        "dry-run",
        "compare_dest",
        "ignore_existing",
        "ignore_size",
        "inplace",
        "interactive",
        "log_file",
        "no_check_dest",
        "size_only",
        "update",
        "ask_password",
    ],
)
def test_a_flag_that_breaks_what_is_promised_is_refused_by_name(name: str) -> None:
    with pytest.raises(RcloneUnusable, match=f"the rclone flag '{name}' can't be set: "):
        flag_arguments({name: True})


def test_the_remote_control_is_on_the_socket_only() -> None:
    command = command_line(Path("/rclone"), Path("/private/s"), None, {})
    assert [part for part in command if part.startswith("--rc-addr")] == ["--rc-addr=unix:///private/s"]


async def logged(*chunks: bytes, serving: bool = True) -> tuple[list[dict[str, Any]], LogLines]:
    """What is in our log after rclone wrote ``chunks``."""
    stream = asyncio.StreamReader()
    for chunk in chunks:
        stream.feed_data(chunk)
    stream.feed_eof()
    lines = LogLines(stream)
    lines.serving = serving
    with structlog.testing.capture_logs() as entries:
        await lines.read()
    return [dict(entry) for entry in entries], lines


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("debug", "debug"),
        ("info", "info"),
        ("notice", "info"),
        ("warning", "warning"),
        ("error", "error"),
        ("critical", "critical"),
        ("emergency", "critical"),
        ("new", "info"),
    ],
)
async def test_a_line_has_the_matching_level(theirs: str, ours: str) -> None:
    line = f'{{"time":"2026","level":"{theirs}","msg":"Copied\\n(new)","object":"a b","size":3}}\n'
    [entry], _ = await logged(line.encode())
    assert entry == {"log_level": ours, "event": "rclone.log", "text": "Copied (new)", "object": "a b"}


async def test_lines_may_come_in_pieces_and_without_an_end() -> None:
    whole = '{"level":"info","msg":"ü"}\n'.encode()
    entries, _ = await logged(whole[:24], whole[24:], whole[:-1])
    assert [entry["text"] for entry in entries] == ["ü", "ü"]


async def test_a_failed_call_is_left_to_whoever_made_it() -> None:
    [entry], _ = await logged(b'{"level":"error","msg":"rc: \\"sync/copy\\": error: no"}\n')
    assert entry["log_level"] == "debug"


async def test_what_is_no_json_is_logged_too_and_what_is_endless_is_cut() -> None:
    entries, _ = await logged(
        b"goroutine 1 [running]:\n", b"\xff\n", b"\n", b"x" * (3 * LONGEST_LINE) + b"\n", b'{"level":1}\n'
    )
    assert [entry["log_level"] for entry in entries] == ["warning"] * 4
    assert entries[0]["text"] == "goroutine 1 [running]:"
    assert len(entries[2]["text"]) <= LONGEST_LINE


async def test_the_help_text_after_a_wrong_flag_is_no_warning_but_its_error_is_kept() -> None:
    entries, lines = await logged(b"Error: unknown flag: --x\nUsage:\n  rclone\n", serving=False)
    assert {entry["log_level"] for entry in entries} == {"debug"}
    assert lines.complaint == "unknown flag: --x"


async def test_an_rclone_that_outlived_its_service_is_killed(tmp_path: Path) -> None:
    directory = tmp_path / f"{orphans.DIRECTORY_PREFIX}old"
    directory.mkdir()
    sleep = "import sys, time; print(1, file=sys.stderr, flush=True); time.sleep(60)"
    left = await spawn([sys.executable, "-c", sleep, str(directory / "s")])
    assert left.stderr is not None
    await left.stderr.readline()
    record = orphans.Record(tmp_path)
    record.write(left.pid, directory / "s")
    await orphans.end_stale(tmp_path)
    assert left.returncode is None, "its service lives"
    let_go_of(record)
    await orphans.end_stale(tmp_path)
    assert await left.wait() == -signal.SIGKILL
    assert not directory.exists()
    assert not list(tmp_path.glob(orphans.RECORDS))


def let_go_of(record: orphans.Record) -> None:
    """As the kernel does when the service dies."""
    assert record._lock is not None
    record._lock.release()


async def test_a_process_that_got_the_number_of_an_old_rclone_is_left_alone(tmp_path: Path) -> None:
    other = await spawn(["/bin/sleep", "60"])
    record = orphans.Record(tmp_path)
    record.write(other.pid, tmp_path / "rclone-old" / "s")
    let_go_of(record)
    await orphans.end_stale(tmp_path)
    assert other.returncode is None
    assert Path(f"/proc/{other.pid}").exists()
    await end(other, patience_s=0)


@pytest.mark.parametrize("record", [None, b"", b"{", b'{"pid":"x"}', b'{"pid":999999999,"socket":"/nowhere/s"}'])
async def test_no_record_or_a_broken_one_is_no_problem(tmp_path: Path, record: bytes | None) -> None:
    if record is not None:
        (tmp_path / "rclone-1-a.json").write_bytes(record)
    await orphans.end_stale(tmp_path)


async def test_a_run_directory_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(RcloneUnusable, match=r"run directory .*run can't be written"):
        orphans.Record(tmp_path / "run").write(1, tmp_path / "s")


async def test_the_remote_control_variables_of_the_environment_dont_reach_rclone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RCLONE_RC", "true")
    monkeypatch.setenv("RCLONE_RC_ADDR", "127.0.0.1:5572")
    monkeypatch.setenv("RCLONE_TRANSFERS", "7")
    process = await spawn(["/bin/sh", "-c", "env >&2"])
    assert process.stderr is not None
    environment = (await process.stderr.read()).decode()
    await process.wait()
    assert "RCLONE_RC" not in environment
    assert "RCLONE_TRANSFERS=7" in environment


async def test_a_process_that_ignores_sigterm_is_killed_with_its_children() -> None:
    script = "trap '' TERM; sleep 60 & echo $! >&2; wait; wait"
    process = await spawn(["/bin/sh", "-c", script])
    assert process.stderr is not None
    child = int(await process.stderr.readline())
    await end(process, patience_s=0.1)
    eventually(lambda: not _runs(child))


async def test_a_program_that_isnt_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(RcloneUnusable, match="/nowhere can't be run: No such file or directory"):
        await spawn(["/nowhere"])


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
