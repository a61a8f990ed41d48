"""Where logs go, and how they look."""

import json
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

CODE = """
import logging, structlog
from simple_queue_server import logs
from simple_queue_server.settings.sections import LogSection
logs.configure(LogSection({arguments}), "copier")
log = structlog.get_logger("ours")
with structlog.contextvars.bound_contextvars(request_id="id-1"):
    log.info("copied", key="grüße\\udc80", size_bytes=5, odd=object)
    try: 1 / 0
    except ZeroDivisionError: log.exception("crashed")
log.debug("too quiet")
logging.getLogger("aio_pika").warning("theirs %s", 1)
logging.getLogger("aio_pika").info("nobody wants to know")
"""


def logged(directory: Path, arguments: str = "") -> str:
    code = CODE.replace("{arguments}", arguments)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=directory, capture_output=True, text=True, check=True
    ).stdout


def check(lines: list[str]) -> None:
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events] == ["copied", "crashed", "theirs 1"]
    assert events[0]["request_id"] == "id-1"
    assert (events[0]["level"], events[0]["logger"], events[0]["size_bytes"]) == ("info", "ours", 5)
    assert "ZeroDivisionError" in events[1]["exception"]
    assert events[2]["logger"] == "aio_pika"


def test_logs_go_to_a_file_named_after_the_server_one_json_object_a_line(tmp_path: Path) -> None:
    assert logged(tmp_path) == ""
    check((tmp_path / "log" / "copier.log").read_text().splitlines())


def test_logs_go_to_stdout_or_another_file_when_asked(tmp_path: Path) -> None:
    check(logged(tmp_path, "destination='stdout'").splitlines())
    assert logged(tmp_path, "destination='deep/er/x.log'") == ""
    check((tmp_path / "deep" / "er" / "x.log").read_text().splitlines())
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warn", 2), ("error", 1), ("fatal", 0)])
def test_the_level_is_the_ruby_services(tmp_path: Path, level: str, count: int) -> None:
    assert len(logged(tmp_path, f"destination='stdout', level='{level}'").splitlines()) == count


def test_a_log_file_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("in the way")
    with pytest.raises(subprocess.CalledProcessError) as raised:
        logged(tmp_path)
    assert "log.destination: can't write log/copier.log" in raised.value.stderr


def on_terminal(directory: Path, code: str, stream: Literal["stdout", "stderr"]) -> str:
    """What a program writes to a terminal."""
    ours, theirs = pty.openpty()
    environ = os.environ | {"NO_COLOR": "1", "TERM": "dumb"}
    stdout, stderr = (theirs if stream == name else None for name in ("stdout", "stderr"))
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=directory, env=environ, stdout=stdout, stderr=stderr) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                text += os.read(ours, 65536)
            except OSError:  # the terminal's other end was closed: the end
                break
    os.close(ours)
    assert process.returncode == 0
    return text.decode()


def test_on_a_terminal_lines_are_readable(tmp_path: Path) -> None:
    text = on_terminal(tmp_path, CODE.replace("{arguments}", "destination='stdout'"), "stdout")
    assert "copied" in text
    assert "size_bytes=5" in text
    assert not text.lstrip().startswith("{")


HOSTILE = r"""
import logging, structlog
from simple_queue_server import logs
from simple_queue_server.settings.sections import LogSection
{configure}
log = structlog.get_logger("ours")
text = "A\x1b[2J\x9b31m\u202e\nZ"
log.error(text, key=text, many=[text], exact=text.encode())
try: raise ValueError(text + " --s3-secret-access-key=hunter2")
except ValueError:
    log.exception("broken")
    logging.getLogger("aio_pika").exception("theirs")
"""


@pytest.mark.parametrize(
    ("configure", "stream"),
    [
        ("logs.configure(LogSection(destination='stdout'), 'copier')", "stdout"),
        ("logs.configure(LogSection(), 'copier')", "stderr"),
        ("logs.configure_for_command()", "stderr"),
    ],
)
def test_nothing_that_a_client_names_moves_the_cursor_of_a_terminal(
    tmp_path: Path, configure: str, stream: Literal["stdout", "stderr"]
) -> None:
    text = on_terminal(tmp_path, HOSTILE.replace("{configure}", configure), stream).replace("\r\n", "\n")
    assert "A\\x1b[2J\\x9b31m\\u202e\\nZ" in text
    assert text.count("ValueError: A\\x1b") == 2
    assert text.replace("\n", "").isprintable()
    assert "hunter2" not in text


def test_a_full_disk_under_the_log_stops_nothing_and_is_reported_once(tmp_path: Path) -> None:
    code = CODE.replace("{arguments}", "destination='/dev/full'") + "\nprint('still here')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "still here\n"
    first, *lines = done.stderr.splitlines()
    assert first.startswith("the log can't be written to /dev/full and is written here until it can: [Errno 28]")
    check(lines)


def test_while_the_directory_of_the_log_is_gone_lines_go_to_standard_error(tmp_path: Path) -> None:
    code = (
        CODE.replace("{arguments}", "destination='logs/a.log'")
        + "\nimport os; os.rename('logs', 'logs.old'); logging.root.handlers[0]._looked_at = 0"
        + "\nlog.info('ours'); logging.getLogger('aio_pika').warning('theirs'); logging.warning('%d', 'no number')"
        + "\nos.mkdir('logs'); logging.root.handlers[0]._looked_at = 0"
        + "\nlogging.getLogger('aio_pika').warning('back'); log.info('and ours')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    first, ours, theirs, *_ = done.stderr.splitlines()
    assert "logs/a.log and is written here until it can: [Errno 2] No such file or directory" in first
    assert [json.loads(line)["event"] for line in (ours, theirs)] == ["ours", "theirs"]
    lines = (tmp_path / "logs" / "a.log").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["back", "and ours"]


def test_a_standard_error_that_cant_be_written_either_is_no_trouble(tmp_path: Path) -> None:
    code = CODE.replace("{arguments}", "destination='/dev/full'") + "\nopen('done', 'w').close()"
    subprocess.run(["sh", "-c", f'{sys.executable} -c "$0" 2>/dev/full', code], cwd=tmp_path, check=True)
    assert (tmp_path / "done").exists()


def test_a_log_file_that_was_moved_away_is_opened_anew(tmp_path: Path) -> None:
    code = (
        CODE.replace("{arguments}", "destination='a.log'")
        + "\nimport os; os.rename('a.log', 'a.log.1')"
        + "\nwhile not os.path.exists('a.log'):\n    log.info('after')"
        + "\nlogging.getLogger('aio_pika').warning('theirs')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=30)
    assert [json.loads(line)["event"] for line in (tmp_path / "a.log").read_text().splitlines()] == ["after", "theirs"]


def test_a_log_file_is_not_for_other_users_whatever_the_umask_and_its_mode_before(tmp_path: Path) -> None:
    log = tmp_path / "log" / "copier.log"
    log.parent.mkdir()
    log.touch()
    log.chmod(0o666)
    logged(tmp_path)
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    log.unlink()
    before = os.umask(0)
    try:
        logged(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(log.stat().st_mode) == 0o640


SECRETS = """
import logging, structlog
from simple_queue_server import logs
from simple_queue_server.settings.sections import LogSection
logs.configure(LogSection(), "copier")
secret = "s3,secret_access_key=hunter2:bucket"
structlog.get_logger("ours").warning("no", reason=f"failed for {secret}")
logging.getLogger("library").error("lost amqp://user:hunter2@host/")
try: raise ValueError(secret)
except ValueError: structlog.get_logger("ours").exception("broken")
"""


def test_a_warning_and_the_lines_of_an_exception_hold_no_secret(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", SECRETS], cwd=tmp_path, check=True)
    text = (tmp_path / "log" / "copier.log").read_text()
    assert len(text.splitlines()) == 3
    assert "hunter2" not in text


def test_on_a_terminal_a_failure_to_connect_is_shown_once_and_library_lines_without_their_records(
    tmp_path: Path,
) -> None:
    code = (
        "import logging; from simple_queue_server import logs\n"
        "from simple_queue_server.settings.sections import LogSection\n"
        "logs.configure(LogSection(), 'x')\n"
        "logging.getLogger('aiormq.connection').error('error when creating transport: %r', OSError(111))\n"
        "logging.getLogger('aiormq.connection').warning('Connection %r was blocked by: %r', 'c', 'memory')\n"
    )
    text = on_terminal(tmp_path, code, "stderr")
    assert "was blocked by" in text
    assert "creating transport" not in text
    assert "_record" not in text


LEVELS = """
import logging, structlog
from simple_queue_server import logs
from simple_queue_server.settings.sections import LogSection
logs.configure(LogSection(destination="stdout"), "copier")
ours, theirs = structlog.stdlib.get_logger("ours"), logging.getLogger("theirs")
bound = ours.bind(request_id="r")
for level in ("info", "debug", "error", "info"):
    logs.set_level(level)
    for log in (ours, bound, theirs):
        log.debug(f"{level} debug"), log.info(f"{level} info"), log.error(f"{level} error")
"""


def test_another_level_holds_for_loggers_that_were_made_before(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LEVELS], cwd=tmp_path, capture_output=True, text=True, check=True)
    events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    info = ["info info", "info error"] * 3
    assert events == [*info, *["debug debug", "debug info", "debug error"] * 3, *["error error"] * 3, *info]
