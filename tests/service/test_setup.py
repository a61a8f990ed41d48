"""Commands that print or write what others need: each output is given to whom it is for."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from medusa_copier.cli import main
from medusa_copier.commands.init import configuration
from medusa_copier.commands.systemd import Wanted, unit
from medusa_copier.settings import CopierSettings
from simple_queue_server.settings import loader
from tests.support.processes import COPIER
from tests.support.rabbitmq import RabbitNode

MAX_EXPOSED = 3.0


def copier(directory: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COPIER, *arguments],
        cwd=directory,
        env=environ or None,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_check_is_happy_with_what_init_wrote_and_a_second_one_leaves_it(tmp_path: Path) -> None:
    for name in ("masters", "access"):
        (tmp_path / name).mkdir()
    roots = ("--root", "masters=masters", "--root", f"access={tmp_path / 'access'}")
    done = copier(tmp_path, "init", "--broker", "embedded", *roots)
    assert (done.returncode, done.stderr) == (0, "")
    file = tmp_path / "config" / "medusa_copier.yaml"
    written = file.read_text()
    assert (file.stat().st_mode & 0o777) == 0o640
    assert copier(tmp_path, "check").returncode == 0
    again = copier(tmp_path, "init", "--broker", "sqs", *roots)
    assert again.returncode == 1
    assert "is there already; remove it first" in again.stderr
    assert file.read_text() == written


def test_check_is_happy_with_what_init_wrote_for_a_rabbitmq(tmp_path: Path, rabbitmq: RabbitNode) -> None:
    connection = ["host=127.0.0.1", f"port={rabbitmq.port}", "password=${MQ_PASSWORD}"]
    options = [word for each in connection for word in ("--connection", each)]
    assert copier(tmp_path, "init", "--broker", "amqp", "--root", f"here={tmp_path}", *options).returncode == 0
    done = copier(tmp_path, "check", MQ_PASSWORD="guest", HOME=str(tmp_path), PATH="/usr/bin:/bin")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.parametrize("broker", ["amqp", "sqs", "embedded"])
def test_what_is_commented_out_is_right_too(broker: str) -> None:
    text = configuration(broker, ["a b=s3:bucket/${x}", "no=/srv/no"], name="on", connection=[])
    bare = re.sub(r"^( *)# (?=[\w-]+:|  flags)", r"\1", text, flags=re.MULTILINE).replace("    {}\n", "")
    assert set(yaml.safe_load(bare)) >= {"server", broker, "log", "roots", "rclone", "rclone_config_path"}
    variables = {"MQ_PASSWORD": "p", "AWS_ACCESS_KEY_ID": "k"}
    parsed = [loader.parse(each, CopierSettings, source=broker, environ=variables) for each in (text, bare)]
    assert parsed[0].server == parsed[1].server, "a line that is commented out shows a default"
    for settings in parsed:
        assert (settings.server.name, settings.roots["a b"].fs, settings.roots["no"].fs) == (
            "on",
            "s3:bucket/${x}",
            "/srv/no",
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--broker", "embedded", "--root", "masters"), "write NAME=PLACE"),
        (("--broker", "embedded", "--root", "a=/b", "--connection", "host=x"), "doesn't go with --broker embedded"),
        (("--broker", "amqp", "--root", "a=/b", "--connection", "hots=x"), "did you mean 'hosts'"),
    ],
)
def test_init_reports_an_error_and_writes_nothing(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = copier(tmp_path, "init", *arguments)
    assert done.returncode != 0
    assert words in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A directory whose name would mean something else to systemd, with a configuration in it."""
    odd = tmp_path / 'a 50% "$odd" directory'
    odd.mkdir()
    (odd / "copier.yaml").write_text(
        "server: {name: copier, shutdown_grace_s: 99.5}\nrclone_config_path: rclone.conf\n"
        "log: {destination: /var/log/copier/copier.log}\n"
        "roots: {read: {rclone_config: /srv, access: read}, write: {rclone_config: 'remote:'}}\n"
    )
    (odd / "bare.yaml").write_text("server: {name: copier}\nroots: {read: {rclone_config: /srv}}\n")
    (odd / "rclone.conf").write_text(f"[remote]\ntype = alias\nremote = {odd}/write\n")
    return odd


def verified(path: Path) -> tuple[str, float]:
    """What ``systemd-analyze verify`` complains about, and how exposed the unit is."""
    checked = subprocess.run(
        ["systemd-analyze", "verify", path], capture_output=True, text=True, timeout=60, check=False
    )
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    (exposure,) = re.findall(r"exposure level for \S+: ([\d.]+)", rated.stdout)
    assert checked.returncode == 0
    return checked.stderr, float(exposure)


def test_systemd_takes_the_unit_and_finds_it_safe(odd: Path, tmp_path: Path) -> None:
    done = copier(odd, "systemd", "--config", "copier.yaml", "--user", "daemon", "--environment-file", "secrets")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "medusa-copier.service"
    path.write_text(done.stdout)
    complaints, exposure = verified(path)
    assert complaints == ""
    assert exposure <= MAX_EXPOSED
    assert "\nTimeoutStopSec=130\n" in done.stdout
    lines = set(done.stdout.splitlines())
    assert {"Type=notify", "Restart=on-failure", "WantedBy=multi-user.target", "KillMode=mixed"} <= lines
    assert {"Wants=network-online.target", "TimeoutStartSec=infinity"} <= lines
    writable = re.findall(r'^ReadWritePaths="-(.*)"$', done.stdout, re.MULTILINE)
    here = str(odd).replace("%", "%%").replace('"', '\\"')
    assert writable == [here, f"{here}/write"]
    assert "\nReadWritePaths=-/var/log/copier\n" in done.stdout


def test_systemd_takes_the_template(tmp_path: Path) -> None:
    template = tmp_path / "medusa-copier@.service"
    wanted = Wanted(Path("/etc/copier/%i.yaml"), "daemon", tmp_path, None, [Path("/srv/access")], template=True)
    template.write_text(unit(wanted))
    instance = tmp_path / "medusa-copier@films.service"
    instance.symlink_to(template.name)
    complaints, exposure = verified(instance)
    assert complaints == ""
    assert exposure <= MAX_EXPOSED
    assert "--config /etc/copier/%i.yaml" in template.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--template",), "must have %i"),
        (("--template", "--config", "/etc/%i.yaml"), "--writable"),
        (("--config", "bare.yaml", "--user", "nobody-has-this-name"), "no such user"),
    ],
)
def test_systemd_reports_what_is_missing(odd: Path, arguments: tuple[str, ...], words: str) -> None:
    done = copier(odd, "systemd", *arguments)
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(shell: str) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    assert f"_MEDUSA_COPIER_COMPLETE={shell}_complete" in done.output


def test_bash_completes_commands_options_and_roots(odd: Path) -> None:
    program = Path(COPIER)
    for words, expected in (
        ("medusa-copier sub", "submit"),
        ("medusa-copier submit --ver", "--verify"),
        ("medusa-copier submit --config copier.yaml wr", "write:"),
    ):
        script = (
            f'export PATH="{program.parent}:$PATH"; source <(medusa-copier completion bash); COMP_WORDS=({words}); '
            "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _medusa_copier_completion medusa-copier; echo ${COMPREPLY[@]}"
        )
        done = subprocess.run(["bash", "-c", script], cwd=odd, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout.split() == [expected], done.stderr
