"""What ``python -m build`` makes, alone in an environment of its own: a working command, with its rclone."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made of the source distribution."""
    directory = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--outdir", str(directory), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = directory.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The ``bin`` directory of a new virtual environment with nothing but the package in it."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    install(venv / "bin", str(wheel))
    return venv / "bin"


def install(where: Path, what: str) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(where / "python")]
    command = [*pip, "install", "--quiet", "--disable-pip-version-check", "--no-compile", what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(300)
def test_the_installed_command_works_with_its_own_rclone(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    config = {"server": {"name": "copier"}, "roots": {"here": {"rclone_config": str(tmp_path / "here")}}}
    (tmp_path / "copier.yaml").write_text(yaml.safe_dump(config))
    command = [str(installed / "medusa-copier"), "check", "--config", "copier.yaml"]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert str(installed / "rclone") in done.stdout


@pytest.mark.timeout(300)
def test_a_broker_whose_extra_is_not_installed_is_named_with_the_remedy(installed: Path, tmp_path: Path) -> None:
    config = {
        "server": {"name": "copier"},
        "sqs": {"incoming_queue": "in"},
        "roots": {"here": {"rclone_config": str(tmp_path)}},
    }
    (tmp_path / "copier.yaml").write_text(yaml.safe_dump(config))
    command = [str(installed / "medusa-copier"), "submit", "here:a", "here:b", "--config", "copier.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'medusa-copier[sqs]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_both_packages_are_marked_as_typed(installed: Path) -> None:
    packages = "('medusa_copier', 'simple_queue_server')"
    code = f"import importlib.resources as r; print([(r.files(p) / 'py.typed').is_file() for p in {packages}])"
    done = subprocess.run(
        [str(installed / "python"), "-I", "-c", code], cwd="/", capture_output=True, text=True, check=True
    )
    assert done.stdout == "[True, True]\n"


@pytest.mark.timeout(300)
def test_the_wheel_runs_the_demo(installed: Path, wheel: Path, tmp_path: Path) -> None:
    install(installed, f"{wheel}[http]")
    command = [str(installed / "python"), "-I", str(ROOT / "demo" / "demo.py")]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_dependency_is_among_the_pinned_ones() -> None:
    """A name added to pyproject.toml and not compiled is found here, and not on the next new machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    needed = {
        "runtime.txt": project["project"]["dependencies"],
        "dev.txt": [each for group in (project["dependency-groups"]["dev"], *extras) for each in group],
        "bench.txt": project["dependency-groups"]["bench"],
    }
    for file, requirements in needed.items():
        pinned = {line.partition("==")[0].lower() for line in (ROOT / "requirements" / file).read_text().splitlines()}
        names = {re.split(r"[\[<>=;~! ]", requirement)[0].lower() for requirement in requirements}
        assert names <= pinned, f"run `make lock`: requirements/{file} lacks {sorted(names - pinned)}"
