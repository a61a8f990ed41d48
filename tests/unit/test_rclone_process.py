"""The command line of rclone, its log lines, and one that outlived its service."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog

from medusa_copier.rclone.errors import MachineTrouble, RcloneUnusable
from medusa_copier.rclone.process.environment import (
    FlagValue,
    flag_arguments,
    flag_variables,
    for_rclone,
    ignored_variables,
)
from medusa_copier.rclone.process.process import command_line, end, spawn
from medusa_copier.rclone.rcd import orphans
from medusa_copier.rclone.rcd.log import MAX_LINE_LENGTH, LogLines
from tests.support.waiting import eventually


def test_flags_go_by_variables_which_other_users_of_the_machine_cannot_read() -> None:
    flags: dict[str, FlagValue] = {
        "bwlimit": "50M",
        "transfers": 8,
        "fast_list": True,
        "check-first": False,
        "--tpslimit": 2.5,
        "header": ["a: b", "X-Auth-Token: c"],
        "ca_cert": ["/a,b", "/c"],
        "s3-session-token": "secret",
        "metadata-set": [],
    }
    assert flag_variables(flags) == {
        "RCLONE_BWLIMIT": "50M",
        "RCLONE_TRANSFERS": "8",
        "RCLONE_FAST_LIST": "true",
        "RCLONE_CHECK_FIRST": "false",
        "RCLONE_TPSLIMIT": "2.5",
        "RCLONE_HEADER": "X-Auth-Token: c",
        "RCLONE_CA_CERT": '"/a,b",/c',
        "RCLONE_S3_SESSION_TOKEN": "secret",
    }
    assert flag_arguments(flags) == ["--header=a: b"]


def test_a_second_secret_in_one_flag_is_refused() -> None:
    with pytest.raises(RcloneUnusable, match="'header' can't have more than one value with a secret"):
        flag_arguments({"header": ["Cookie: a", "Authorization: b"]})


def test_a_list_for_a_flag_that_takes_one_value_is_refused() -> None:
    with pytest.raises(RcloneUnusable, match="'bwlimit' takes one value, not a list of 2"):
        flag_variables({"bwlimit": ["1M", "2M"]})


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
        flag_variables({name: True})


def test_the_remote_control_is_on_the_socket_only() -> None:
    command = command_line(Path("/rclone"), Path("/private/s"), None)
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
    assert entry == {"log_level": ours, "event": "rclone_log", "text": "Copied (new)", "object": "a b"}


async def test_lines_may_come_in_pieces_and_without_an_end() -> None:
    whole = '{"level":"info","msg":"ü"}\n'.encode()
    entries, _ = await logged(whole[:24], whole[24:], whole[:-1])
    assert [entry["text"] for entry in entries] == ["ü", "ü"]


async def test_a_failed_call_is_left_to_whoever_made_it() -> None:
    [entry], _ = await logged(b'{"level":"error","msg":"rc: \\"sync/copy\\": error: no"}\n')
    assert entry["log_level"] == "debug"


async def test_what_is_no_json_is_logged_too_and_what_is_endless_is_cut() -> None:
    entries, _ = await logged(
        b"goroutine 1 [running]:\n", b"\xff\n", b"\n", b"x" * (3 * MAX_LINE_LENGTH) + b"\n", b'{"level":1}\n'
    )
    assert [entry["log_level"] for entry in entries] == ["warning"] * 4
    assert entries[0]["text"] == "goroutine 1 [running]:"
    assert len(entries[2]["text"]) <= MAX_LINE_LENGTH


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
    await end(other, grace_s=0)


@pytest.mark.parametrize("record", [None, b"", b"{", b'{"pid":"x"}', b'{"pid":999999999,"socket":"/nowhere/s"}'])
async def test_no_record_or_a_broken_one_is_no_problem(tmp_path: Path, record: bytes | None) -> None:
    if record is not None:
        (tmp_path / "rclone-1-a.json").write_bytes(record)
    await orphans.end_stale(tmp_path)


async def test_a_run_directory_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(RcloneUnusable, match=r"run directory .*run can't be written"):
        orphans.Record(tmp_path / "run").write(1, tmp_path / "s")


async def environment_of_a_process(environment: dict[str, str]) -> dict[str, str]:
    process = await spawn(["/usr/bin/env"], environment=environment, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    printed = (await process.stdout.read()).decode()
    await process.wait()
    return dict(line.split("=", 1) for line in printed.splitlines())


async def test_rclone_gets_of_the_environment_only_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = {
        "MQ_PASSWORD": "x",
        "RCLONE_RC": "true",
        "RCLONE_RC_ADDR": "127.0.0.1:5572",
        "RCLONE_FILTER": "- *",
        "RCLONE_COMBINED": "/tmp/x",
        "RCLONE_ONE_WAY": "true",
        "RCLONE_S3_VERSIONS": "true",
        "RCLONE_NO_SUCH": "1",
        "RCLONE_CONFIG_S_GLOBAL.SIZE_ONLY": "true",
        "RCLONE_CONFIG_S_OVERRIDE.IGNORE_CHECKSUM": "true",
    }
    kept = {
        "RCLONE_TRANSFERS": "7",
        "RCLONE_CONFIG_S_SECRET_ACCESS_KEY": "x",
        "RCLONE_CONFIG_S_OVERRIDE.TRANSFERS": "7",
        "RCLONE_CONFIG_PASS": "x",
        "RCLONE_S3_REGION": "eu",
        "AWS_PROFILE": "p",
        "https_proxy": "http://proxy",
        "VAULT_ADDR": "v",
    }
    for name, value in (dropped | kept | {"RCLONE_LOG_LEVEL": "DEBUG"}).items():
        monkeypatch.setenv(name, value)
    found = await environment_of_a_process(for_rclone({"bwlimit": "1M", "verbose": 1}, ["VAULT_*"]))
    assert dropped.keys() & found.keys() == set()
    assert kept.items() <= found.items()
    assert found["RCLONE_BWLIMIT"] == "1M"
    assert {"RCLONE_VERBOSE", "RCLONE_LOG_LEVEL"} & found.keys() == set(), "a command's output is read"
    resident = for_rclone({"verbose": 1}, resident=True)
    assert resident["RCLONE_VERBOSE"] == "1"
    assert resident["RCLONE_LOG_LEVEL"] == "DEBUG"
    assert set(ignored_variables()) == {name for name in dropped if name.startswith("RCLONE_")}


def test_commands_may_leave_more_garbage_than_the_resident_rclone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"GOGC": "400", "GOMEMLIMIT": "2GiB"}.items() <= for_rclone().items()
    resident = for_rclone(resident=True)
    assert (resident["GOGC"], resident.get("GOMEMLIMIT")) == ("200", None)
    monkeypatch.setenv("GOGC", "50")
    monkeypatch.setenv("GOMEMLIMIT", "1GiB")
    assert [for_rclone()["GOGC"], for_rclone(resident=True)["GOGC"], for_rclone()["GOMEMLIMIT"]] == ["50", "50", "1GiB"]


async def test_a_process_that_ignores_sigterm_is_killed_with_its_children() -> None:
    script = "trap '' TERM; sleep 60 & echo $! >&2; wait; wait"
    process = await spawn(["/bin/sh", "-c", script])
    assert process.stderr is not None
    child = int(await process.stderr.readline())
    await end(process, grace_s=0.1)
    eventually(lambda: not _runs(child))


async def test_a_program_that_isnt_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(MachineTrouble, match="/nowhere can't be run: No such file or directory"):
        await spawn(["/nowhere"])


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


SPAWN_WITH_FEW_DESCRIPTORS = """
import asyncio, os, resource, sys, uvloop
from medusa_copier.rclone.errors import MachineTrouble
from medusa_copier.rclone.process.process import spawn

async def main():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for spare in range(12):
        used = max(map(int, os.listdir("/proc/self/fd")))  # one of these is the listing itself
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, hard))
        try:
            process = await spawn(["/bin/true"])
        except MachineTrouble as trouble:
            print(trouble.reason)
        else:
            sys.exit(await process.wait())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

uvloop.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
def test_without_descriptors_for_a_process_the_reason_says_so_whichever_of_them_is_missing() -> None:
    command = [sys.executable, "-c", SPAWN_WITH_FEW_DESCRIPTORS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    reasons = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(reasons) > 2
    assert [reason for reason in reasons if "can't be run: Too many open files" not in reason] == []
