"""The command line as a user meets it, on the embedded queue and a real rclone."""

import importlib.metadata
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from simple_queue_server.brokers.base import ReplyAddress
from simple_queue_server.brokers.embedded.broker import EmbeddedBroker
from simple_queue_server.settings.sections import EmbeddedSection
from tests.support.processes import COPIER, output
from tests.support.service import NO_RECORDS, World, copyto
from tests.support.storage import SECRET, USER, obscured, rclone_without_rights, section, serving
from tests.support.waiting import eventually


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, "", NO_RECORDS)


@pytest.fixture
def served(world: World) -> Iterator[World]:
    with world.service():
        yield world


def test_version_is_that_of_the_package() -> None:
    done = subprocess.run([COPIER, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"medusa-copier {importlib.metadata.version('medusa-copier')}\n"


def test_the_package_is_run_as_the_command() -> None:
    for arguments in (["--help"], ["--version"], ["submit", "nonsense"]):
        command, package = (
            subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)
            for program in ([COPIER], [sys.executable, "-m", "medusa_copier"])
        )
        assert (package.returncode, package.stdout, package.stderr) == (
            command.returncode,
            command.stdout,
            command.stderr,
        )


def test_help_explains_the_commands_and_the_first_steps() -> None:
    done = subprocess.run([COPIER, "--help"], capture_output=True, text=True, check=True)
    for word in ("check", "run", "submit", "First steps", "queue", "rclone"):
        assert word in done.stdout
    for command in ("run", "check", "submit"):
        assert "--config" in subprocess.run([COPIER, command, "-h"], capture_output=True, text=True, check=True).stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, click.testing, medusa_copier.cli as c; click.testing.CliRunner().invoke(c.main, ['--help']);"
        "print([m for m in ('aiohttp', 'aio_pika', 'msgspec', 'structlog', 'yaml', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_missing_configuration_is_named() -> None:
    done = subprocess.run([COPIER, "run", "--config", "nowhere.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: nowhere.yaml: can't be read: No such file or directory\n"


def test_submit_waits_for_the_response_and_has_the_right_exit_status(served: World) -> None:
    (served.src / "a.txt").write_text("hello")
    done = served.command("submit", "src:a.txt", "dst:b.txt", "--wait", "--pass-through", '{"id": 7}')
    assert (done.returncode, done.stderr) == (0, "")
    response = json.loads(done.stdout)
    assert (response["status"], response["rclone_status"], response["pass_through"]) == (
        "success",
        0,
        {"id": 7},
    )
    assert (served.dst / "b.txt").read_text() == "hello"
    done = served.command("submit", "src:missing", "dst:b.txt", "--wait")
    assert done.returncode == 1
    assert json.loads(done.stdout)["rclone_status"] == 3


def test_submit_without_wait_leaves_the_request_on_the_queue(world: World) -> None:
    (world.src / "a.txt").write_text("hello")
    done = world.command("submit", "src:a.txt", "dst:b.txt")
    assert done.returncode == 0
    assert len(done.stdout.strip()) == 32
    assert not (world.dst / "b.txt").exists()
    with world.service():
        eventually((world.dst / "b.txt").exists)


def test_submit_hands_the_pass_through_on_as_it_was_written(served: World) -> None:
    (served.src / "a.txt").write_text("hello")
    written = '{"b":1.10,"a":1e400,"b":2}'
    done = served.command("submit", "src:a.txt", "dst:b.txt", "--wait", "--pass-through", written)
    assert f'"pass_through":{written}' in done.stdout


def test_submit_names_the_requests_without_a_response_when_the_time_is_over(world: World) -> None:
    (world.src / "a.txt").write_text("hello")
    (world.directory / "requests.jsonl").write_bytes(b"\n".join(copyto("src:a.txt", f"dst:{i}") for i in range(2)))
    done = world.command("submit", "--from", "requests.jsonl", "--wait", "--timeout", "0.5")
    assert (done.returncode, done.stdout) == (124, "")
    said, *ids = done.stderr.splitlines()
    assert said == (
        "Error: the time is over. No response yet to these requests. They stay with the queue or the service; "
        "is one running?"
    )
    assert [len(request_id) for request_id in ids] == [32, 32]
    with world.service():
        eventually(lambda: [entry["event"] for entry in world.log()].count("request_finished") == 2)
        served = {entry["request_id"] for entry in world.log() if "request_id" in entry}
    assert served == set(ids)
    assert all((world.dst / str(i)).exists() for i in range(2))


def test_submit_reports_what_it_had_no_time_to_submit(world: World) -> None:
    (world.directory / "requests.jsonl").write_bytes(b"\n".join(copyto("src:a", f"dst:{i}") for i in range(300)))
    done = world.command("submit", "--from", "requests.jsonl", "--wait", "--timeout", "1")
    assert done.returncode == 124
    *named, last = done.stderr.splitlines()
    assert last == "What came after them was not submitted."
    assert len(named) == 1 + 256


def test_a_time_that_is_long_enough_changes_nothing(served: World) -> None:
    (served.src / "a.txt").write_text("hello")
    done = served.command("submit", "src:a.txt", "dst:b.txt", "--wait", "--timeout", "60")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["status"] == "success"


def test_submit_ends_quietly_when_nobody_reads_what_it_prints(world: World) -> None:
    (world.directory / "requests.jsonl").write_bytes(b"\n".join([copyto("src:a", "dst:a")] * 3))
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [COPIER, "submit", "--config", "copier.yaml", "--from", "requests.jsonl"]
    with os.fdopen(write_end) as unread:
        done = subprocess.run(
            command, cwd=world.directory, stdout=unread, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_submit_from_a_file_of_many(served: World, tmp_path: Path) -> None:
    for i in range(20):
        (served.src / f"{i}").write_text(str(i))
    lines = [copyto(f"src:{i}", f"dst:{i}", i) for i in range(20)] + [b"", b"Not JSON"]
    (tmp_path / "requests.jsonl").write_bytes(b"\n".join(lines))
    done = served.command("submit", "--from", "requests.jsonl", "--wait")
    assert done.returncode == 1
    responses = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(r["pass_through"] for r in responses if r["status"] == "success") == list(range(20))
    assert [r["message"] for r in responses if r["status"] == "failure"] == ["Invalid Request"]
    assert [(served.dst / f"{i}").read_text() for i in range(20)] == [str(i) for i in range(20)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "ROOT:KEY ROOT:KEY, or --from FILE"),
        (("src:a",), "ROOT:KEY ROOT:KEY, or --from FILE"),
        (("src", "dst:b"), "'src' is not ROOT:KEY"),
        (("src:a", "dst:b", "--pass-through", "{"), "--pass-through is not JSON"),
        (("src:a", "dst:b", "--pass-through", "NaN"), "--pass-through is not JSON"),
        (("src:a", "dst:\udcff"), "ROOT:KEY must be UTF-8"),
        (("src:a", "dst:b", "--from", "copier.yaml"), "--from goes without"),
        (("--from", "nowhere"), "nowhere"),
        (("src:a", "dst:b", "--timeout", "5"), "--timeout goes with --wait"),
        (("src:a", "dst:b", "--wait", "--timeout", "0"), "--timeout"),
    ],
)
def test_submit_reports_what_is_wrong_with_its_arguments(world: World, arguments: tuple[str, ...], words: str) -> None:
    done = world.command("submit", *arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_check_prints_a_line_for_everything_and_has_the_right_exit_status(world: World) -> None:
    done = world.command("check")
    assert done.returncode == 1
    lines = {line[:20].strip(): line[21:] for line in done.stdout.splitlines()}
    assert list(lines) == ["config", "broker", "rclone", "root src", "root dst", "root ghost"]
    assert [name for name, line in lines.items() if line.startswith("FAILED")] == ["root ghost"]
    assert "ghost:" in lines["root ghost"]
    assert "section" in lines["root ghost"]
    world.write_config(roots={name: {"rclone_config": name} for name in ("src", "dst")})
    assert world.command("check").returncode == 0


def test_check_names_what_is_wrong_with_the_configuration(world: World) -> None:
    world.write_config(server={"nam": "copier"})
    done = world.command("check")
    assert done.returncode == 1
    assert "server.nam: unknown key; did you mean 'name'?" in done.stdout


def test_check_reports_an_unreachable_broker_and_a_missing_root(world: World) -> None:
    world.dst.rmdir()
    world.write_config(amqp={"incoming_queue": "i", "connection": {"port": 1, "password": "hunter2"}})
    done = world.command("check")
    assert done.returncode == 1
    failed = [line[:20].strip() for line in done.stdout.splitlines() if "FAILED" in line]
    assert failed == ["broker", "root dst", "root ghost"]
    assert "hunter2" not in done.stdout + done.stderr


def test_check_leaves_nothing_behind(world: World, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    world.write_config(roots={"dst": {"rclone_config": "dst"}, "src": {"rclone_config": "src", "access": "read"}})
    done = world.command("check")
    lines = {line[:20].strip(): line[21:] for line in done.stdout.splitlines()}
    assert (done.returncode, sorted(tmp_path.rglob("*"))) == (0, before)
    assert "the service makes it" in lines["broker"]
    assert "(read-write, written)" in lines["root dst"]
    assert lines["root src"].endswith("(read)")
    assert "written" not in world.command("check", "--no-write").stdout


def test_check_reports_a_root_that_can_not_be_written(world: World, tmp_path: Path) -> None:
    """``ro`` is a web server: it can be read, and rclone can't write it."""
    with serving("http", tmp_path / "web") as web:
        with (tmp_path / "rclone.conf").open("a") as config:
            config.write(web.section("ro"))
        world.write_config(roots={"ro": {"rclone_config": "ro:"}})
        done = world.command("check")
        assert done.returncode == 1
        assert "can't be written" in done.stdout
        assert "set access: read" in done.stdout
        world.write_config(roots={"ro": {"rclone_config": "ro:", "access": "read"}})
        assert world.command("check").returncode == 0


@pytest.mark.parametrize("access", ["read", "read-write"])
def test_check_reports_a_root_that_can_not_be_listed(world: World, tmp_path: Path, access: str) -> None:
    world.src.chmod(0o333)
    world.write_config(
        roots={"src": {"rclone_config": "src", "access": access}, "dst": {"rclone_config": "dst"}},
        rclone={"path": str(rclone_without_rights(tmp_path))},
    )
    done = world.command("check")
    world.src.chmod(0o755)
    assert done.returncode == 1
    assert re.search(r"^root src +FAILED +src: .*permission denied; let this user list it$", done.stdout, re.MULTILINE)
    assert re.search(r"^root dst +ok ", done.stdout, re.MULTILINE)


def test_check_warns_of_sftp_servers_whose_host_key_is_not_checked(world: World, tmp_path: Path) -> None:
    (tmp_path / "sftp/sub").mkdir(parents=True)
    with serving("sftp", tmp_path / "sftp") as server:
        keys = [file.read_text() for file in (tmp_path / "cache/serve-sftp").glob("*.pub")]
        known = tmp_path / "known_hosts"
        known.write_text("".join(f"[127.0.0.1]:{server.port} {key}" for key in keys))
        with (tmp_path / "rclone.conf").open("a") as config:
            config.write(server.section("nas"))
            config.write(server.section("known", known_hosts_file=str(known)))
            config.write(section("behind", type="alias", remote="nas:sub"))
        login = f"user={USER},pass={obscured(SECRET)}"
        roots = {
            "known": "known:",
            "known here": f"nas,known_hosts_file='{known}':",
            "nas": "nas:",
            "behind": "behind:",
            "by string": f":sftp,host=127.0.0.1,port={server.port},{login}:",
        }
        world.write_config(roots={name: {"rclone_config": fs} for name, fs in roots.items()})
        done = world.command("check")
    rows = [line for line in done.stdout.splitlines() if line.startswith("root ")]
    assert done.returncode == 0, done.stdout
    states = {line[5:20].strip(): line[21:].split()[0] for line in rows}
    assert states == {"known": "ok", "known here": "ok", "nas": "WARN", "behind": "WARN", "by string": "WARN"}
    assert rows[3].count("the remote nas checks no host key") == 1
    assert ":sftp in the root checks no host key" in rows[4]
    assert "set known_hosts_file" in rows[4]


def test_check_waits_for_all_roots_at_once_and_no_longer_than_the_timeout(world: World, tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        names = [f"dead{number}" for number in range(4)]
        with (tmp_path / "rclone.conf").open("a") as config:
            config.writelines(section(name, type="webdav", url=url, vendor="other") for name in names)
        world.write_config(roots={name: {"rclone_config": f"{name}:"} for name in ["dst", *names]})
        started = time.monotonic()
        done = world.command("check", "--timeout", "2")
    assert time.monotonic() - started < 20
    assert done.returncode == 1
    assert done.stdout.count("no answer within 2 s") == 4
    assert "(read-write, written)" in done.stdout


def test_check_reports_whether_a_service_runs(served: World) -> None:
    eventually(lambda: "server_started" in [entry["event"] for entry in served.log()])
    assert "1 service runs" in served.command("check").stdout


def submit_from(directory: Path, config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    directory.mkdir(exist_ok=True)
    command = [COPIER, "submit", *arguments, "--config", str(config)]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)


def test_submit_finds_the_queue_of_the_service_from_any_directory(served: World, tmp_path: Path) -> None:
    (served.src / "a.txt").write_text("hello")
    eventually((tmp_path / "run" / "queue.db").exists)
    done = submit_from(tmp_path / "elsewhere", tmp_path / "copier.yaml", "src:a.txt", "dst:b.txt", "--wait")
    assert (done.returncode, done.stderr) == (0, "")
    assert (served.dst / "b.txt").read_text() == "hello"
    assert not list((tmp_path / "elsewhere").iterdir())


def test_submit_finds_the_queue_where_the_configuration_is_in_a_directory_of_its_own(
    served: World, tmp_path: Path
) -> None:
    """As in the readme: ``config/medusa_copier.yaml``, and the service runs in the directory above."""
    (served.src / "a.txt").write_text("hello")
    eventually((tmp_path / "run" / "queue.db").exists)
    (tmp_path / "config").mkdir()
    config = tmp_path / "config" / "copier.yaml"
    config.write_text((tmp_path / "copier.yaml").read_text())
    for directory in ("elsewhere", "config"):
        assert submit_from(tmp_path / directory, config, "src:a.txt", "dst:b.txt", "--wait").returncode == 0


def test_submit_makes_no_queue_that_no_service_may_look_at(world: World, tmp_path: Path) -> None:
    done = submit_from(tmp_path / "elsewhere", tmp_path / "copier.yaml", "src:a.txt", "dst:b.txt")
    assert done.returncode == 1
    assert f"no queue yet at {tmp_path}/elsewhere/run/queue.db, {tmp_path}/run/queue.db" in done.stderr
    assert "write the path from / down, or start the service first" in done.stderr
    for directory in (tmp_path, tmp_path / "elsewhere"):
        (directory / "run").mkdir()
        (directory / "run" / "queue.db").touch()
    done = submit_from(tmp_path / "elsewhere", tmp_path / "copier.yaml", "src:a.txt", "dst:b.txt")
    assert "several queues that it may mean" in done.stderr


def test_responses_takes_what_waits_on_the_outgoing_queue(served: World) -> None:
    (served.src / "a.txt").write_text("hello")
    for number in range(3):
        served.command("submit", "src:a.txt", f"dst:{number}", "--pass-through", str(number))
    eventually(lambda: [entry["event"] for entry in served.log()].count("request_finished") == 3)
    done = served.command("responses")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(json.loads(line)["pass_through"] for line in done.stdout.splitlines()) == [0, 1, 2]
    assert served.command("responses").stdout == ""


HOSTILE = "A\x1b[2J\x9b31m\u202e\u2028Z"
"""What a terminal would obey."""


def is_harmless(text: str) -> bool:
    return text.replace("\n", "").isprintable()


async def test_responses_shows_what_clients_and_others_wrote_harmlessly(world: World) -> None:
    bodies = [HOSTILE.encode(), b"\xff\xfe", b"", json.dumps({"key": HOSTILE}, ensure_ascii=False, indent=1).encode()]
    broker = EmbeddedBroker(EmbeddedSection(path=world.directory / "run/queue.db"), max_in_flight=1)
    await broker.open()
    for body in bodies:
        await broker.publish(body, ReplyAddress())
    await broker.close()
    done = world.command("responses")
    assert is_harmless(done.stdout)
    lines = done.stdout.splitlines()
    assert len(lines) == len(bodies)
    assert lines[0] == "A\\x1b[2J\\x9b31m\\u202e\\u2028Z"
    assert json.loads(lines[3]) == {"key": HOSTILE}


def test_submit_and_check_show_names_harmlessly(served: World) -> None:
    done = served.command("submit", f"src:{HOSTILE}", f"{HOSTILE}:a", "--wait")
    assert is_harmless(done.stdout)
    assert "Unrecognized root" in done.stdout
    served.write_config(roots={HOSTILE: {"rclone_config": f"/none/{HOSTILE}"}})
    done = served.command("check")
    assert done.returncode == 1
    assert "root A\\x1b[2J" in done.stdout
    assert "/none/A\\x1b[2J" in done.stdout
    assert is_harmless(done.stdout + done.stderr)
    served.write_config(roots={"a": {HOSTILE: HOSTILE}})
    assert is_harmless(served.command("check").stdout)
    done = served.command("submit", "a:b", "c:d")
    assert (done.returncode, is_harmless(done.stderr)) == (1, True)


def test_an_unforeseen_error_keeps_its_traceback_harmlessly(tmp_path: Path) -> None:
    code = """from medusa_copier.cli.options import clear_errors
with clear_errors():
    raise ValueError("A\\x1b[2J secret_access_key=hunter2")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ValueError: A\\x1b[2J" in done.stderr
    assert is_harmless(done.stderr)
    assert "hunter2" not in done.stderr


def test_run_serves_the_other_roots_when_a_root_has_no_remote(served: World) -> None:
    (served.src / "a.txt").write_text("hello")
    assert served.command("submit", "src:a.txt", "dst:b.txt", "--wait").returncode == 0
    done = served.command("submit", "ghost:a.txt", "dst:b.txt", "--wait")
    response = json.loads(done.stdout)
    assert (response["status"], response["rclone_status"]) == ("failure", 1)
    assert "ghost" in response["message"]
    assert [e["root"] for e in served.log() if e["event"] == "rclone_remote_missing"] == ["ghost"]


def test_sigterm_ends_the_service_with_status_zero(world: World) -> None:
    with world.service() as process:
        eventually(lambda: any(e["event"] == "server_started" for e in world.log()) or None)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert world.log()[-1]["event"] == "server_stopped"


def test_logs_go_to_stdout_as_json_when_asked(world: World) -> None:
    world.write_config(log={"destination": "stdout", "show_requests": True, "show_responses": True})
    (world.src / "a.txt").write_text("hello")
    with world.service():
        assert world.command("submit", "src:a.txt", "dst:b.txt", "--wait").returncode == 0
    events = [json.loads(line) for line in output(world.directory).splitlines()]
    of_request = [e for e in events if e["event"] in {"request_body", "response_body", "request_finished"}]
    assert [e["event"] for e in of_request] == ["request_body", "response_body", "request_finished"]
    assert len({e["request_id"] for e in of_request}) == 1
    assert '"copyto"' in of_request[0]["body"]
    assert not (world.directory / "log").exists()


def test_a_flag_that_rclone_does_not_know_is_named(world: World) -> None:
    world.write_config(rclone={"flags": {"bandwidth": "1M"}})
    done = world.command("run")
    assert done.returncode == 1
    assert "bandwidth" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_remote_that_would_compare_less_fails_the_start_and_check(world: World) -> None:
    with (world.directory / "rclone.conf").open("a") as config:
        config.write("[sloppy]\ntype = alias\nremote = /srv\noverride.size_only = true\n")
    world.write_config(roots={"dst": {"rclone_config": "dst"}, "sloppy": {"rclone_config": "sloppy:x"}})
    reason = r"the remote sloppy of \S+/rclone\.conf has override\.size_only, which can't be set: .*; remove it"
    checked = world.command("check")
    assert checked.returncode == 1
    assert re.search(r"^root dst +ok ", checked.stdout, re.MULTILINE)
    assert re.search(rf"^root sloppy +FAILED +sloppy:x {reason}", checked.stdout, re.MULTILINE)
    started = world.command("run")
    assert started.returncode == 1
    assert re.search(rf"the root sloppy can't be used: {reason}", started.stderr)


def test_submit_has_an_option_for_everything_in_a_message(served: World) -> None:
    (served.src / "films").mkdir()
    for name in ("1.mov", "2.tmp"):
        (served.src / "films" / name).write_text("hello")
    options = ("--action", "copy", "--exclude", "*.tmp", "--verify", "checksum", "--manifest", "dst:films.jsonl")
    named = ("--request-id", "films-1", "--label", "ticket=7")
    done = served.command("submit", "src:films", "dst:films", *options, *named, "--wait")
    response = json.loads(done.stdout)
    assert (done.returncode, response["copied"]["files"], response["pass_through"]) == (0, 1, {"ticket": "7"})
    assert response["verified"]["method"] == "checksum"
    assert (served.dst / "films.jsonl").exists()
    assert {entry.get("request_id") for entry in served.log() if entry["event"] == "request_finished"} == {"films-1"}
    whole = json.dumps(json.loads(copyto("src:films/1.mov", "dst:pretty")), indent=2)
    piped = [COPIER, "submit", "--config", "copier.yaml", "--from", "-", "--wait"]
    done = subprocess.run(
        piped, cwd=served.directory, input=whole, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "success")
