"""The resident rclone: private, watched, replaced, and gone with its service."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from medusa_copier.rclone.errors import MachineTrouble, RcloneError, RcloneStopped, RcloneUnusable
from medusa_copier.rclone.partials import copy_id
from medusa_copier.rclone.process.environment import FlagValue
from medusa_copier.rclone.rcd import orphans
from medusa_copier.rclone.rcd.copyto import copy_file
from medusa_copier.rclone.rcd.daemon import Daemon, Timing
from medusa_copier.rclone.rcd.sweep import sweep
from medusa_copier.rclone.retry import Retries
from simple_queue_server.system.locks import Lock
from tests.support import storage
from tests.support.processes import die_with_us
from tests.support.storage_fixtures import at, copying, until
from tests.support.waiting import eventually

RCLONE = Path(storage.RCLONE)
SLOW: dict[str, FlagValue] = {"bwlimit": "8M"}
HASTY = Timing(ping_interval_s=0.1, ping_timeout_s=1, ping_misses=2, first_backoff_s=0.01)

SERVICE = """
import asyncio, signal, sys
from pathlib import Path
from medusa_copier.rclone.rcd.daemon import Daemon

async def main():
    interrupted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    async with Daemon(Path(sys.argv[1]), run_directory=Path(sys.argv[2])) as daemon:
        print(daemon.pid, flush=True)
        await interrupted.wait()
        await daemon.client.ping()
        print("still there", daemon.pid, daemon.restarts, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def service(run_directory: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A service in a process of its own, and the process number of its rclone."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, storage.RCLONE, str(run_directory)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(run_directory)},
        start_new_session=True,
        preexec_fn=die_with_us(),
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield process, int(next(line for line in process.stdout if line.strip().isdigit()))
        finally:
            process.kill()
            process.wait()


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def listening_tcp_sockets(pid: int) -> set[str]:
    held = {str(descriptor.readlink()) for descriptor in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path(f"/proc/net/{table}").read_text().splitlines()]
    return {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"} & held


def socket_directory(daemon: Daemon) -> Path:
    assert daemon._directory is not None
    return daemon._directory


async def test_the_socket_is_private_and_goes_with_the_daemon() -> None:
    async with Daemon(RCLONE) as daemon:
        directory = socket_directory(daemon)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert [path.name for path in directory.iterdir()] == ["rc.sock"]
        pid = daemon.pid
        assert pid is not None
    assert not directory.exists()
    assert not runs(pid)
    assert daemon.pid is None


async def test_nothing_listens_on_tcp_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCLONE_RC", "true")
    monkeypatch.setenv("RCLONE_RC_ADDR", "127.0.0.1:0")
    async with Daemon(RCLONE) as daemon:
        assert daemon.pid is not None
        assert listening_tcp_sockets(daemon.pid) == set()


async def test_a_temporary_directory_with_a_long_name_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    async with Daemon(RCLONE) as daemon:
        await daemon.client.ping()
    assert list(long.iterdir()) == []


async def test_a_dry_run_from_the_environment_doesnt_turn_copies_into_lies(
    world: storage.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RCLONE_DRY_RUN", "true")
    monkeypatch.setenv("RCLONE_INTERACTIVE", "true")
    (world.src / "a").write_text("content")
    async with Daemon(RCLONE, config=world.config) as daemon:
        await copy_file(daemon.client, at("src:a"), at("dst:a"))
    assert (world.dst / "a").read_text() == "content"


async def test_a_call_may_take_longer_than_rclones_own_timeouts() -> None:
    async with Daemon(RCLONE) as daemon:
        options = json.loads(await daemon.client._rc.call("options/get", {}))["rc"]["HTTP"]
    assert (options["ServerReadTimeout"], options["ServerWriteTimeout"]) == (0, 0)  # one hour by default


async def test_log_lines_of_rclone_arrive_in_our_log(world: storage.Places) -> None:
    (world.src / "a").write_text("content")
    with structlog.testing.capture_logs() as entries:
        async with Daemon(RCLONE, config=world.config, flags={"log_level": "INFO"}) as daemon:
            await copy_file(daemon.client, at("src:a"), at("dst:a"))
    copied = {"log_level": "info", "event": "rclone_log", "text": "Copied (new)", "object": "a"}
    assert copied in entries


async def test_a_flood_of_log_lines_doesnt_stop_rclone(world: storage.Places) -> None:
    (world.src / "a").write_text("content")
    async with Daemon(RCLONE, config=world.config, flags={"log_level": "DEBUG"}) as daemon:
        with structlog.testing.capture_logs():
            for number in range(300):
                await copy_file(daemon.client, at("src:a"), at(f"dst:{number}/{'x' * 200}"))


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (
            {"bwlimits": 1},
            "the rclone flag 'bwlimits' can't be set: rclone has no flag with this name; did you mean bwlimit?",
        ),
        (
            {"transfers": "many"},
            'rclone can\'t start: Failed to load "main" default values',
        ),
        ({"dry_run": True}, "the rclone flag 'dry_run' can't be set"),
    ],
)
async def test_a_wrong_flag_is_named(flags: dict[str, FlagValue], reason: str) -> None:
    with pytest.raises(RcloneUnusable) as caught:
        await Daemon(RCLONE, flags=flags).start()
    assert caught.value.reason.startswith(reason)


async def test_a_config_that_isnt_there_or_cant_be_read_is_named(tmp_path: Path) -> None:
    config = tmp_path / "rclone.conf"
    with pytest.raises(RcloneUnusable, match=r"there is no rclone configuration file .*/rclone\.conf"):
        await Daemon(RCLONE, config=config).start()
    config.write_text("this is [no config\n")
    with pytest.raises(RcloneUnusable, match=r'load config file ".*/rclone\.conf": could not parse line'):
        await Daemon(RCLONE, config=config).start()


@pytest.fixture
def encrypted(world: storage.Places) -> Path:
    """The rclone.conf of ``world``, encrypted with the password ``right``."""
    done = storage.rclone(world.config, "config", "encryption", "set", "--password-command", "echo right")
    assert done.returncode == 0, done.stderr
    return world.config


async def test_an_encrypted_config_works_with_its_password(encrypted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCLONE_CONFIG_PASS", "right")
    async with Daemon(RCLONE, config=encrypted) as daemon:
        assert "src" in await daemon.client.list_remotes()


async def test_an_encrypted_config_works_with_a_password_command(encrypted: Path) -> None:
    async with Daemon(RCLONE, config=encrypted, flags={"password_command": "echo right"}) as daemon:
        assert "src" in await daemon.client.list_remotes()


async def test_an_encrypted_config_without_its_password_is_an_error_and_not_a_prompt(
    encrypted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RCLONE_CONFIG_PASS", raising=False)
    with pytest.raises(RcloneUnusable, match="set RCLONE_CONFIG_PASS to your configuration password"):
        await Daemon(RCLONE, config=encrypted).start()
    monkeypatch.setenv("RCLONE_CONFIG_PASS", "wrong")
    with pytest.raises(RcloneUnusable, match="RCLONE_CONFIG_PASS env password, unable to decrypt") as caught:
        await Daemon(RCLONE, config=encrypted).start()
    assert "wrong" not in caught.value.reason


async def test_a_failed_start_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    daemon = Daemon(RCLONE, flags={"transfers": "many"}, run_directory=tmp_path / "run")
    with pytest.raises(RcloneUnusable):
        await daemon.start()
    assert [path.name for path in tmp_path.rglob("*")] == ["run"]


async def test_a_program_that_never_answers_is_given_up_and_ended(tmp_path: Path) -> None:
    mute = tmp_path / "rclone"
    mute.write_text("#!/bin/sh\nexec sleep 60\n")
    mute.chmod(0o755)
    daemon = Daemon(mute, timing=Timing(start_timeout_s=0.3))
    with pytest.raises(RcloneUnusable, match=r"didn't answer within 0\.3 s of its start"):
        await daemon.start()
    assert daemon.pid is None


async def test_rclone_killed_in_mid_copy_is_replaced_and_the_copy_succeeds(world: storage.Places) -> None:
    content = os.urandom(4_000_000)
    (world.src / "big").write_bytes(content)
    async with Daemon(RCLONE, config=world.config, flags=SLOW) as daemon:
        client, first = daemon.client, daemon.pid
        copy = asyncio.create_task(
            Retries(ready=daemon.ready).run(lambda: copy_file(client, at("src:big"), at("dst:big")))
        )
        await until(lambda: copying(client))
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await copy
        assert daemon.pid not in {None, first}
        assert daemon.restarts == 1
        assert (world.dst / "big").read_bytes() == content
        await sweep(client, at("dst:big"), copy_id(at("dst:big").joined))
    assert [path.name for path in world.dst.iterdir()] == ["big"]


async def test_a_call_during_which_rclone_dies_raises_rclone_stopped(world: storage.Places) -> None:
    (world.src / "big").write_bytes(bytes(20_000_000))
    async with Daemon(RCLONE, config=world.config, flags=SLOW) as daemon:
        copies = [asyncio.create_task(copy_file(daemon.client, at("src:big"), at(f"dst:{n}"))) for n in range(3)]
        await until(lambda: copying(daemon.client))
        assert daemon.pid is not None
        os.kill(daemon.pid, signal.SIGKILL)
        errors = await asyncio.gather(*copies, return_exceptions=True)
    assert [type(error) for error in errors] == [RcloneStopped] * 3
    assert {(error.exit_status, error.transient) for error in errors if isinstance(error, RcloneError)} == {(5, True)}


async def test_a_hung_rclone_is_replaced_and_the_copy_succeeds(world: storage.Places) -> None:
    (world.src / "big").write_bytes(bytes(4_000_000))
    async with Daemon(RCLONE, config=world.config, flags=SLOW, timing=HASTY) as daemon:
        client, first = daemon.client, daemon.pid
        copy = asyncio.create_task(
            Retries(ready=daemon.ready).run(lambda: copy_file(client, at("src:big"), at("dst:big")))
        )
        await until(lambda: copying(client))
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        await copy
        assert daemon.pid != first
        assert not runs(first)
    assert (world.dst / "big").stat().st_size == 4_000_000


async def test_an_rclone_that_doesnt_come_up_again_is_tried_with_growing_pauses(world: storage.Places) -> None:
    timing = Timing(first_backoff_s=0.01, longest_backoff_s=0.04)
    with structlog.testing.capture_logs() as entries:
        async with Daemon(RCLONE, config=world.config, timing=timing) as daemon:
            config = world.config.read_text()
            world.config.write_text("broken [\n")
            assert daemon.pid is not None
            os.kill(daemon.pid, signal.SIGKILL)

            async def failures() -> list[float]:
                found = [entry for entry in entries if entry["event"] == "rclone_unavailable"]
                return [entry["restart_in_s"] for entry in found] if len(found) >= 3 else []

            assert (await until(failures))[:3] == pytest.approx([0.02, 0.04, 0.04], rel=0.3, abs=0.006)
            world.config.write_text(config)
            await asyncio.wait_for(daemon.ready(), 20)
            await daemon.client.ping()


async def test_a_socket_directory_that_was_removed_is_noticed_and_made_anew(world: storage.Places) -> None:
    (world.src / "a").write_text("content")
    async with Daemon(RCLONE, config=world.config, timing=Timing(first_backoff_s=0.01)) as daemon:
        shutil.rmtree(socket_directory(daemon))
        await daemon.client._rc.close()  # idle connections would do for a while
        client = daemon.client
        async with asyncio.timeout(10):
            await Retries(ready=daemon.ready).run(lambda: copy_file(client, at("src:a"), at("dst:a")))
        assert daemon.restarts == 1
        assert socket_directory(daemon).stat().st_mode & 0o777 == 0o700
    assert (world.dst / "a").read_text() == "content"
    assert not socket_directory_exists(daemon)


def socket_directory_exists(daemon: Daemon) -> bool:
    return daemon._directory is not None and daemon._directory.exists()


async def test_a_run_directory_that_was_removed_does_not_keep_rclone_from_coming_back(
    world: storage.Places, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    async with Daemon(RCLONE, config=world.config, run_directory=run, timing=Timing(first_backoff_s=0.01)) as daemon:
        for stands_in_the_way in (True, False):
            shutil.rmtree(run) if run.is_dir() else run.unlink()
            if stands_in_the_way:
                run.touch()
            assert daemon.pid is not None
            os.kill(daemon.pid, signal.SIGKILL)
            await until(lambda: restarted(daemon, 1 if stands_in_the_way else 2))  # noqa: B023 - awaited here
        (record,) = run.glob("rclone-*.json")
        assert Lock.take(record, create=False) is None  # so that nobody takes this rclone for a dead service's


async def restarted(daemon: Daemon, times: int) -> bool:
    return daemon.restarts == times


async def test_scarce_descriptors_do_not_make_rclone_look_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Daemon(RCLONE, timing=HASTY) as daemon:
        first = daemon.pid

        async def ping(**_: float) -> None:
            raise MachineTrouble("there is no connection to rclone: Too many open files")

        monkeypatch.setattr(daemon.client, "ping", ping)
        await asyncio.sleep(HASTY.ping_interval_s * (HASTY.ping_misses + 2))
        assert daemon.pid == first


async def test_rclone_is_gone_when_its_service_is_killed(tmp_path: Path) -> None:
    with service(tmp_path) as (process, rclone):
        assert runs(rclone)
        process.kill()
        eventually(lambda: not runs(rclone))


async def test_what_a_killed_service_left_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    with service(tmp_path) as (process, _):
        (record,) = tmp_path.glob(orphans.RECORDS)
        left = Path(json.loads(record.read_bytes())["socket"]).parent
        process.kill()
        process.wait()
    assert left.exists()
    async with Daemon(RCLONE, run_directory=tmp_path):
        assert not left.exists()
    assert not list(tmp_path.glob(orphans.RECORDS))


async def test_ctrl_c_in_the_terminal_doesnt_reach_rclone(tmp_path: Path) -> None:
    with service(tmp_path) as (process, rclone):
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout is not None
        told = next(line for line in process.stdout if line.startswith("still there"))
        assert told.split() == ["still", "there", str(rclone), "0"]
        assert runs(rclone)


async def test_stopping_takes_no_time_in_mid_copy(world: storage.Places) -> None:
    (world.src / "big").write_bytes(bytes(50_000_000))
    async with Daemon(RCLONE, config=world.config, flags=SLOW) as daemon:
        copy = asyncio.create_task(copy_file(daemon.client, at("src:big"), at("dst:big")))
        await until(lambda: copying(daemon.client))
        begun = time.monotonic()
    assert time.monotonic() - begun < 4  # before it would be killed
    with pytest.raises(RcloneStopped):
        await copy
