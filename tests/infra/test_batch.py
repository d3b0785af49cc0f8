"""Workers asked of SLURM and Kubernetes: what would be submitted, line by line; a stand-in sbatch runs the script for real."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import psutil
import pytest

from infra import batch
from infra.batch import BatchError, KubernetesConfig, SlurmConfig
from infra.cluster import DaskConfig, Pool
from infra.settings import PROJECT

# what sbatch does, on this machine: a copy of the script as a job of its own, and the job's number
SBATCH = """#!/bin/sh
cp "$1" "$JOBS/script"
setsid sh "$JOBS/script" > "$JOBS/out" 2>&1 &
echo $! >> "$JOBS/pids"
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
kill -- -"$1"
"""


def test_a_slurm_script_asks_for_what_the_configuration_says_and_starts_one_worker_per_core(home: Path) -> None:
    config = SlurmConfig(
        queue="cpu-long",
        account="corpus",
        cores=8,
        memory="32GiB",
        walltime="1-12:00:00",
        gpus=2,
        directives=("--qos=high", "--exclusive"),
        setup=("module load python/3.11", "export OMP_NUM_THREADS=1"),
        python="/shared/venv/bin/python",
        log_folder="/shared/logs",
    )
    worker = (
        "/shared/venv/bin/python -m distributed.cli.dask_worker tcp://10.0.0.5:8786 --name gristmill --nthreads 1 "
        "--memory-limit 4.00GiB --nworkers 8 --nanny --death-timeout 60 --local-directory ${TMPDIR:-/tmp}"
    )
    assert [line.strip() for line in batch.slurm_script(config, "tcp://10.0.0.5:8786").splitlines() if line.strip()] == [
        "#!/usr/bin/env bash",
        "#SBATCH -J gristmill-dask",
        "#SBATCH -e /shared/logs/gristmill-dask-%J.err",
        "#SBATCH -o /shared/logs/gristmill-dask-%J.out",
        "#SBATCH -p cpu-long",
        "#SBATCH -A corpus",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=32G",
        "#SBATCH -t 1-12:00:00",
        "#SBATCH --gres=gpu:2",
        "#SBATCH --qos=high",
        "#SBATCH --exclusive",
        "module load python/3.11",
        "export OMP_NUM_THREADS=1",
        f"cd {PROJECT}",
        worker,
    ]


@pytest.mark.parametrize("line", ["", "--qos=a\nrm -rf /", " --qos=a"])
def test_a_directive_is_one_line(line: str) -> None:
    with pytest.raises(ValueError, match="directives"):
        SlurmConfig(directives=(line,))


def test_without_sbatch_the_error_says_where_to_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BatchError, match="no sbatch on this machine"):
        batch.slurm_cluster(SlurmConfig(), 1)


@pytest.mark.parametrize(("extra", "module"), [("slurm", "dask_jobqueue.slurm"), ("kubernetes", "dask_kubernetes.operator")])
def test_a_missing_extra_is_named(extra: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BatchError, match=rf"needs the extra \[{extra}\]: pip install"):
        batch.slurm_script(SlurmConfig(), "tcp://h:1") if extra == "slurm" else batch.kubernetes_spec(KubernetesConfig(), 1)


@pytest.fixture
def slurm(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine with sbatch and scancel; gives the folder of what they did."""
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("JOBS", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    yield tmp_path
    for pid in (tmp_path / "pids").read_text().split():
        if psutil.pid_exists(int(pid)):
            os.killpg(int(pid), 9)


def test_shards_are_computed_by_the_workers_of_a_submitted_job_and_the_job_ends_with_the_pool(slurm: Path) -> None:
    pool = Pool(DaskConfig.model_validate({"kind": "slurm", "workers": 1, "slurm": {"cores": 2, "memory": "2GiB"}}))
    assert pool.num_workers == 2
    try:
        assert sorted(result for _, result in pool.run(abs, [-3, -2, -1])) == [1, 2, 3]
        (job,) = (int(pid) for pid in (slurm / "pids").read_text().split())
        assert "--nworkers 2" in (slurm / "script").read_text()
    finally:
        pool.close()
    psutil.wait_procs([psutil.Process(job)] if psutil.pid_exists(job) else [], timeout=20)
    assert not psutil.pid_exists(job) or psutil.Process(job).status() == psutil.STATUS_ZOMBIE


CONFIG = KubernetesConfig(image="registry.example/gristmill:1.0", gpus=1, secret="keys", memory="8Gi", cores=2)


def test_the_pods_and_the_service_of_a_kubernetes_cluster_are_what_kubernetes_takes() -> None:
    spec = batch.kubernetes_spec(CONFIG, 3)
    assert (spec["apiVersion"], spec["kind"], spec["spec"]["worker"]["replicas"]) == ("kubernetes.dask.org/v1", "DaskCluster", 3)
    parts = {
        "Pod": [spec["spec"][role]["spec"] for role in ("worker", "scheduler")],
        "Service": [spec["spec"]["scheduler"]["service"]],
    }
    for kind, found in parts.items():
        for one in found:
            resource = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "one"}, "spec": one}
            kubernetes_validate.validate(resource, "1.32", strict=True)


def test_the_pods_of_a_kubernetes_cluster_start_commands_that_this_release_of_dask_has() -> None:
    worker, scheduler = (_container(role) for role in ("worker", "scheduler"))
    assert worker["args"][:4] == ["dask", "worker", "--nthreads", "1"]
    assert scheduler["args"][:2] == ["dask", "scheduler"]
    assert worker["resources"]["limits"] == {"cpu": "2.0", "memory": "8Gi", "nvidia.com/gpu": "1"}
    assert "nvidia.com/gpu" not in scheduler["resources"]["limits"]
    assert {"secretRef": {"name": "keys"}} in worker["envFrom"] and not worker["env"]


@pytest.mark.parametrize("role", ["worker", "scheduler"])
def test_the_pods_of_a_kubernetes_cluster_are_such_as_a_restricted_namespace_takes(role: str) -> None:
    allowed = _container(role)["securityContext"]
    assert allowed["runAsNonRoot"] and allowed["allowPrivilegeEscalation"] is False
    assert allowed["seccompProfile"] == {"type": "RuntimeDefault"} and allowed["capabilities"] == {"drop": ["ALL"]}


def test_a_kubernetes_cluster_needs_an_image() -> None:
    with pytest.raises(BatchError, match=r"dask\.kubernetes\.image: empty"):
        batch.kubernetes_spec(KubernetesConfig(), 1)


def _container(role: str) -> dict[str, Any]:
    return dict(batch.kubernetes_spec(CONFIG, 3)["spec"][role]["spec"]["containers"][0])
