"""The container files, as far as they can be checked without an engine."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from medusa_copier.settings import CopierSettings
from simple_queue_server import load_settings

ROOT = Path(__file__).parents[2]
MANIFESTS = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
OWN_KINDS = {"Kustomization", "ScaledObject", "TriggerAuthentication"}
"""Kinds that Kubernetes itself doesn't have a schema for."""


def documents(file: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(file.read_text()) if each]


def one_of_kind(kind: str) -> dict[str, Any]:
    return next(each for file in MANIFESTS for each in documents(file) if each["kind"] == kind)


def test_the_dockerfile_is_sound() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([str(hadolint), str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_manifests_fit_the_schemas_of_kubernetes(file: Path) -> None:
    for document in documents(file):
        if document["kind"] not in OWN_KINDS:
            kubernetes_validate.validate(document, "1.31", strict=True)


def test_every_manifest_is_applied_but_one_of_the_scalers() -> None:
    applied = set(one_of_kind("Kustomization")["resources"])
    there = {file.name for file in MANIFESTS}
    assert there - applied == {"kustomization.yaml", "keda-sqs.yaml"}
    assert applied <= there


def test_the_image_of_the_manifests_is_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    container = one_of_kind("StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    assert container["image"].endswith(f":{version}")


def test_what_scales_the_copiers_names_things_that_are_there() -> None:
    copier, secret = one_of_kind("StatefulSet"), one_of_kind("Secret")
    for name in ("keda-rabbitmq.yaml", "keda-sqs.yaml"):
        scaled = next(each for each in documents(ROOT / "deploy/kubernetes" / name) if each["kind"] == "ScaledObject")
        target = scaled["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == (copier["kind"], copier["metadata"]["name"])
    authentication = documents(ROOT / "deploy/kubernetes/keda-rabbitmq.yaml")[0]
    for reference in authentication["spec"]["secretTargetRef"]:
        assert reference["key"] in secret["stringData"]


def test_a_copier_has_longer_to_end_than_its_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(one_of_kind("ConfigMap")["data"]["medusa_copier.yaml"], tmp_path, monkeypatch)
    spec = one_of_kind("StatefulSet")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] > settings.server.shutdown_grace_s
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    settings = loaded((ROOT / "deploy/compose/medusa_copier.yaml").read_text(), tmp_path, monkeypatch)
    assert compose["services"]["copier"]["stop_grace_period"] == "5m"
    assert settings.server.shutdown_grace_s < 300


def loaded(text: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> CopierSettings:
    for name in ("MQ_PASSWORD", "PG_PASSWORD"):
        monkeypatch.setenv(name, "a secret")
    file = directory / "medusa_copier.yaml"
    file.write_text(text)
    return load_settings(file, CopierSettings)


def test_the_files_that_compose_mounts_are_there() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    mounted = [
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    ]
    assert mounted
    assert [path for path in mounted if not (ROOT / path).exists()] == []


def test_the_image_has_all_that_its_files_are_copied_from() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        part
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for part in line.split()[1:-1]
    ]
    assert set(copied) == allowed


def test_the_documentation_builds_as_a_site_without_a_warning(tmp_path: Path) -> None:
    zensical = Path(sys.executable).parent / "zensical"
    site = (ROOT / "zensical.toml").read_text()
    (tmp_path / "zensical.toml").write_text(site)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    done = subprocess.run(
        [str(zensical), "build", "--strict"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    built = {file.stem for file in (tmp_path / "site").glob("*.html")}
    assert {file.stem for file in (ROOT / "docs").glob("*.md")} <= built
    named = tomllib.loads(site)["project"]["nav"]
    listed = {page for section in named for pages in section.values() for page in pages}
    assert {file.name for file in (ROOT / "docs").glob("*.md")} == listed
