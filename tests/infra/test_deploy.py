"""The files of infra/deploy hold what they promise: valid, every image pinned, every secret from a file, every service watched."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from flows.__main__ import app
from infra import auth
from infra.settings import PROJECT, Settings

DEPLOY = PROJECT / "infra" / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
KUSTOMIZATION = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
MANIFESTS: list[dict[str, Any]] = [
    one for name in KUSTOMIZATION["resources"] for one in yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text())
]
SERVICES: dict[str, Any] = COMPOSE["services"]
ONCE = {
    name
    for one in SERVICES.values()
    for name, how in one.get("depends_on", {}).items()
    if how["condition"].endswith("successfully")
}
PODS = {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in MANIFESTS if "template" in one.get("spec", {})}
SETTINGS = {f"GRISTMILL_{name.upper()}{suffix}" for name in Settings.model_fields for suffix in ("", "_FILE")}
OTHERS = {"AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_SHARED_CREDENTIALS_FILE", "PGDATA"}
POSTGRES = {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD_FILE"}


def named(manifests: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}


def containers() -> dict[str, dict[str, Any]]:
    """Every container of Compose and Kubernetes, by a name for messages."""
    pods = {f"kubernetes {name}": pod["containers"][0] for name, pod in PODS.items()}
    return {f"compose {name}": one for name, one in SERVICES.items()} | pods


def environment(container: dict[str, Any]) -> dict[str, str]:
    if "environment" in container:
        return dict(container["environment"])
    own = {one["name"]: one["value"] for one in container.get("env", [])}
    refs = [one["configMapRef"]["name"] for one in container.get("envFrom", [])]
    return own | {name: value for ref in refs for name, value in named(MANIFESTS, "ConfigMap")[ref]["data"].items()}


def test_compose_is_valid() -> None:
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_a_manifest_is_valid(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, "1.32", strict=True)


def test_kustomize_takes_the_manifests() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl here")
    done = subprocess.run(["kubectl", "kustomize", str(DEPLOY / "kubernetes")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert len(built) == len(MANIFESTS)
    assert {one["metadata"].get("namespace", "gristmill") for one in built} == {"gristmill"}


def test_docker_takes_the_compose_file() -> None:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no docker compose here")
    done = subprocess.run(
        ["docker", "compose", "-f", str(DEPLOY / "compose.yaml"), "--profile", "gpu", "config", "--quiet"],
        env={"GRISTMILL_UID": "1000", "GRISTMILL_GID": "1000"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_image_is_pinned_and_ours_has_the_version_of_the_project() -> None:
    bases = re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    images = [one["image"] for one in containers().values()] + bases
    assert all(re.fullmatch(r"[a-z/]+:\d+\.\d+[-.a-z0-9]*(@sha256:[0-9a-f]{64})?", image) for image in images), images
    version = re.search(r'^version = "(.+)"', (PROJECT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version and {image for image in images if image.startswith("gristmill")} == {f"gristmill:{version[1]}"}
    torch = re.search(r"^torch==(.+)$", (PROJECT / "constraints.txt").read_text(), re.MULTILINE)
    assert torch and f"torch=={torch[1]}" in (DEPLOY / "Dockerfile").read_text()


def test_every_variable_is_one_that_somebody_reads() -> None:
    for name, one in containers().items():
        known = POSTGRES | {"PGDATA"} if "postgres" in one["image"] else SETTINGS | OTHERS
        assert set(environment(one)) <= known, name
    script = (DEPLOY / "gpu-worker.sbatch").read_text()
    assert set(re.findall(r"\bGRISTMILL_[A-Z_]+", script)) <= SETTINGS


def test_every_secret_is_a_file_and_no_password_stands_in_the_files() -> None:
    for name, one in containers().items():
        for variable, value in environment(one).items():
            if re.search(r"PASSWORD|SECRET|AUTH|CREDENTIALS|DATABASE|KEY_ID", variable):
                assert variable.endswith("_FILE") and str(value).startswith("/run/secrets/"), f"{name}: {variable}"
    assert all(set(one) == {"file"} for one in COMPOSE["secrets"].values())
    assert "Secret" not in {one["kind"] for one in MANIFESTS}
    for path in DEPLOY.rglob("*"):
        text = path.read_text() if path.is_file() and "secrets" not in path.parts[-2:-1] else ""
        assert not re.search(r"://\w+:(?!%s)[^@\s/]+@", text), path
        assert not re.search(r"(?i)(password|secret_access_key)\s*[:=]\s*['\"]?[a-z0-9]{4,}", text), path


def test_every_secret_that_is_asked_for_is_made_and_reaches_its_container(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "secrets.sh", tmp_path)
    subprocess.run(["sh", str(tmp_path / "secrets.sh")], check=True, capture_output=True)
    made = {path.name for path in (tmp_path / "secrets").iterdir()}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "secrets").iterdir()} == {0o600}
    assert auth.read_login(tmp_path / "secrets" / "auth").user == "miller"
    assert {Path(one["file"]).name for one in COMPOSE["secrets"].values()} == made == set(COMPOSE["secrets"])
    for name, one in SERVICES.items():
        asked = {Path(value).name for value in environment(one).values() if str(value).startswith("/run/secrets/")}
        assert asked <= set(one.get("secrets", [])), name
    for name, pod in PODS.items():
        items = {item["key"] for volume in pod["volumes"] for item in volume.get("secret", {}).get("items", [])}
        asked = {
            Path(value).name for value in environment(pod["containers"][0]).values() if str(value).startswith("/run/secrets/")
        }
        shared = {"auth", "aws-credentials"} & asked  # every pod has the map; a server without storage needs no keys
        assert items <= made and asked - shared <= items, name
    again = subprocess.run(["sh", str(tmp_path / "secrets.sh")], capture_output=True, text=True, check=False)
    assert again.returncode == 2 and "is there already" in again.stderr


def test_every_service_is_watched_and_waits_for_what_it_needs() -> None:
    assert {name for name, one in SERVICES.items() if "healthcheck" not in one} == ONCE == {"buckets"}
    for name, one in SERVICES.items():
        for needed, how in one.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if needed in ONCE else "service_healthy"
            assert how["condition"] == wanted, f"{name}: {needed}"
    for name, pod in PODS.items():
        assert "livenessProbe" in pod["containers"][0], name


def test_nothing_listens_beyond_this_machine_and_nothing_runs_as_root() -> None:
    ports = [port for one in SERVICES.values() for port in one.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)
    ours = [one for one in SERVICES.values() if one["image"].startswith("gristmill")]
    assert all(one["read_only"] and one["cap_drop"] == ["ALL"] and "GRISTMILL_UID" in one["user"] for one in ours)
    for name, pod in PODS.items():
        own = pod["containers"][0]["securityContext"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0, name
        assert not own["allowPrivilegeEscalation"] and own["capabilities"] == {"drop": ["ALL"]}, name
    assert {one.get("spec", {}).get("type", "ClusterIP") for one in named(MANIFESTS, "Service").values()} == {"ClusterIP"}


def test_every_claim_config_and_service_that_is_named_is_there() -> None:
    claims, services = named(MANIFESTS, "PersistentVolumeClaim"), named(MANIFESTS, "Service")
    used = {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in PODS.values()
        for volume in pod["volumes"]
        if len(volume) == 2 and "persistentVolumeClaim" in volume
    }
    assert used == set(claims)
    for service in services.values():
        assert service["spec"]["selector"]["app"] in PODS
    assert {"prefect", "mlflow", "scheduler"} <= set(services) & set(
        SERVICES
    )  # the names of flows/configs/cluster.yaml and of links


def test_gpus_are_asked_for_by_the_gpu_workers_alone() -> None:
    with_gpu = {name for name, pod in PODS.items() if "nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]}
    with_gpu |= {name for name, one in SERVICES.items() if "gpu" in str(one.get("deploy", {}))}
    assert with_gpu == {"worker-gpu"}
    script = (DEPLOY / "gpu-worker.sbatch").read_text()
    assert "#SBATCH --gres=gpu:1" in script and "exec .venv/bin/gristmill host gpu" in script
    assert subprocess.run(["bash", "-n", str(DEPLOY / "gpu-worker.sbatch")], check=False).returncode == 0


def test_every_command_is_one_that_gristmill_has() -> None:
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    given = [one["command"] for one in SERVICES.values() if one["image"].startswith("gristmill") and "entrypoint" not in one]
    given += [
        pod["containers"][0]["args"]
        for pod in PODS.values()
        if pod["containers"][0]["image"].startswith("gristmill") and "command" not in pod["containers"][0]
    ]
    assert given and {words[0] for words in given} == {"host"} <= known
    assert {words[1] for words in given} == {"prefect", "mlflow", "cpu", "gpu"}
