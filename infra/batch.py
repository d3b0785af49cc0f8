"""Dask workers as jobs of SLURM or pods of Kubernetes; the scheduler of a SLURM cluster is in the flow's process, that of Kubernetes a pod.

What is submitted follows from the configuration alone (`slurm_script`, `kubernetes_spec`), so that it can be looked at before. Workers must
find this same checkout: another code version is an error. Both need an extra, [slurm] and [kubernetes].
"""

from __future__ import annotations

import shutil
import sys
import uuid
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from infra.errors import GristmillError
from infra.settings import PROJECT, settings

DirectiveLine = Annotated[str, Field(pattern=r"^\S[^\n]*$")]
"""One line of a job script."""


class BatchError(GristmillError):
    """A cluster that cannot be asked for workers from here; the message says what is missing."""


class SlurmConfig(BaseModel):
    """One job of SLURM; `dask.workers` says how many."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue: str = ""
    """Partition (`sbatch -p`). Empty: SLURM's default."""
    account: str = ""
    """Account that is charged (`sbatch -A`). Empty: SLURM's default."""
    cores: int = Field(4, ge=1)
    """Cores of a job; each has one worker process with one thread."""
    memory: str = "16GiB"
    """Memory of a job, shared evenly by its workers."""
    walltime: str = Field("04:00:00", pattern=r"^(\d+-)?\d{1,2}:\d{2}:\d{2}$")
    """Longest time of a job, hours:minutes:seconds. Shards of a job that ends go to others, or wait for the next."""
    gpus: int = Field(0, ge=0)
    """GPUs of a job (`--gres=gpu:N`)."""
    directives: tuple[DirectiveLine, ...] = ()
    """More lines for sbatch, without `#SBATCH`, for example `--qos=long`."""
    setup: tuple[DirectiveLine, ...] = ()
    """Shell lines before the workers start, for example `module load python/3.11`."""
    python: str = ""
    """Interpreter of the workers, on a file system that the nodes share. Empty: the flow's own."""
    interface: str = ""
    """Network interface of the scheduler and the workers, for example ib0. Empty: the one of the default route."""
    log_folder: str = ""
    """Folder of the jobs' logs, on a file system that the nodes share. Empty: `logs/slurm` below GRISTMILL_HOME."""


class KubernetesConfig(BaseModel):
    """One worker pod of a DaskCluster, which the Dask operator in the cluster looks after; `dask.workers` says how many."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str = ""
    """Image of the scheduler and the workers, made from infra/deploy/Dockerfile at this same checkout, with a tag or digest."""
    name: str = Field("gristmill", pattern=r"^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$")
    """Name of the cluster, to which each run adds a suffix of its own."""
    namespace: str = "gristmill"
    """Namespace of its pods."""
    cores: float = Field(1, gt=0)
    """CPUs that a worker asks for; it has one thread."""
    memory: str = Field("4Gi", pattern=r"^\d+(Ki|Mi|Gi|Ti)$")
    """Memory of a worker: what it asks for and where it is stopped."""
    gpus: int = Field(0, ge=0)
    """GPUs of a worker (nvidia.com/gpu)."""
    config_map: str = "gristmill"
    """ConfigMap whose keys are the workers' environment (GRISTMILL_STORAGE…). Empty: none."""
    secret: str = ""
    """Secret whose keys are the workers' environment (AWS_SECRET_ACCESS_KEY…). Empty: none."""


def slurm_cluster(config: SlurmConfig, num_jobs: int) -> Any:
    """A Dask cluster whose workers are asked of SLURM; they come when their jobs start.

    Raises:
        BatchError: the extra or sbatch is missing.
    """
    if shutil.which("sbatch") is None:
        raise BatchError("dask.kind slurm: there is no sbatch on this machine; start the run on a login node of the cluster")
    cluster = _slurm_class()(**_slurm_options(config))
    cluster.scale(jobs=num_jobs)
    return cluster


def slurm_script(config: SlurmConfig, scheduler: str) -> str:
    """The script of one job whose workers join the scheduler at this address."""
    return str(_slurm_class().job_cls(scheduler, name="gristmill", **_slurm_options(config)).job_script())


def kubernetes_cluster(config: KubernetesConfig, num_workers: int) -> Any:
    """A Dask cluster of pods; it goes when it is closed.

    Raises:
        BatchError: the extra or the image is missing.
    """
    spec = kubernetes_spec(config.model_copy(update={"name": f"{config.name}-{uuid.uuid4().hex[:8]}"}), num_workers)
    from dask_kubernetes.operator import KubeCluster

    return KubeCluster(namespace=config.namespace, custom_cluster_spec=spec, quiet=True)


def kubernetes_spec(config: KubernetesConfig, num_workers: int) -> dict[str, Any]:
    """The DaskCluster resource."""
    try:
        from dask_kubernetes.operator import make_cluster_spec
    except ImportError as error:
        raise BatchError(_missing("kubernetes")) from error
    if not config.image:
        raise BatchError(
            "dask.kubernetes.image: empty; name the image that was made from infra/deploy/Dockerfile at this checkout"
        )
    asked = {"cpu": str(config.cores), "memory": config.memory}
    spec: dict[str, Any] = make_cluster_spec(
        name=config.name, image=config.image, n_workers=num_workers, resources={"requests": asked, "limits": asked}, env=[]
    )
    worker, scheduler = (spec["spec"][role]["spec"]["containers"][0] for role in ("worker", "scheduler"))
    # the scripts dask-worker and dask-scheduler, which the operator's template names, went with distributed 2026.6
    worker["args"] = ["dask", "worker", "--nthreads", "1", *worker["args"][1:]]
    scheduler["args"] = ["dask", "scheduler", *scheduler["args"][1:]]
    if config.gpus:
        worker["resources"] = {"requests": asked, "limits": asked | {"nvidia.com/gpu": str(config.gpus)}}
    sources = [{"configMapRef": {"name": config.config_map}}] if config.config_map else []
    sources += [{"secretRef": {"name": config.secret}}] if config.secret else []
    for container in (worker, scheduler):
        container["envFrom"] = sources
        container["securityContext"] = {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
    return spec


def _slurm_class() -> Any:
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        raise BatchError(_missing("slurm")) from error
    return SLURMCluster


def _slurm_options(config: SlurmConfig) -> dict[str, Any]:
    gpus = [f"--gres=gpu:{config.gpus}"] if config.gpus else []
    return {
        "queue": config.queue or None,
        "account": config.account or None,
        "cores": config.cores,
        "processes": config.cores,
        "memory": config.memory,
        "walltime": config.walltime,
        "job_name": "gristmill-dask",
        "job_extra_directives": [*gpus, *config.directives],
        "job_script_prologue": [*config.setup, f"cd {PROJECT}"],
        "python": config.python or sys.executable,
        "interface": config.interface or None,
        "log_directory": config.log_folder or str(settings().home / "logs" / "slurm"),
        "local_directory": "${TMPDIR:-/tmp}",
    }


def _missing(extra: str) -> str:
    return f"dask.kind {extra}: needs the extra [{extra}]: pip install -c constraints.txt '.[{extra}]'"
