"""Where Gristmill lives on this machine: folders, ports, addresses. The only reader of environment variables.

Every setting is an environment variable `GRISTMILL_<NAME>`; the defaults suit one machine and need no file. `GRISTMILL_<NAME>_FILE`
names a file that holds the value instead, for those with a password in them. `settings()` is read afresh at each call, so that a child
process and its parent agree when the environment agrees. `child_environment()` is what every server, worker and Dask process is started
with: our settings, plus the switches that keep Prefect, MLflow, Great Expectations and Hugging Face from calling home.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from infra import auth
from infra.errors import GristmillError

PROJECT = Path(__file__).resolve().parent.parent
PREFIX = "GRISTMILL_"


class SettingsError(GristmillError, ValueError):
    """A setting that cannot be used; the message names the variable, the value and what to do."""


class Settings(BaseModel):
    """The settings of this process; every field is also the variable GRISTMILL_<FIELD>."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path = PROJECT / ".gristmill"
    """Folder of this installation's state: server databases, logs, process ids, and the store unless it is elsewhere."""
    storage: str = ""
    """Root of all dataset versions: a folder or an fsspec URL (s3://bucket/prefix). Empty: `<home>/store`."""
    resources: Path = PROJECT / ".resources"
    """Folder of files that `make setup` unpacks once: the fastText language model."""
    host: str = "127.0.0.1"
    """Address the servers bind to. Anything but loopback needs `auth_file`."""
    names: str = Field("", pattern=r"^[A-Za-z0-9.,-]*$")
    """Names under which others reach the servers when `host` is 0.0.0.0, comma-separated; links have the first. Empty: the host's own."""
    auth_file: Path | None = None
    """File of mode 0600 with one line `user:password`: both servers ask for it, and all of ours answer with it. Empty: no log-in."""
    prefect_port: int = Field(4200, ge=1, le=65535)
    """Port of the Prefect server; when taken, `gristmill up` takes the next free one and says so."""
    mlflow_port: int = Field(5000, ge=1, le=65535)
    """Port of the MLflow server; when taken, `gristmill up` takes the next free one and says so."""
    prefect_api_url: str = ""
    """Address of a Prefect API that runs elsewhere. Empty: the one that `gristmill up` started."""
    mlflow_url: str = ""
    """Address of an MLflow server that runs elsewhere. Empty: the one that `gristmill up` started."""
    openlineage_url: str = ""
    """Address of an OpenLineage server, to whose /api/v1/lineage every step's events are posted (extra [openlineage]). Empty: none."""
    prefect_database: str = ""
    """Database of the Prefect server, postgresql://user:password@host/name. Empty: SQLite below `home`, good for about three flows at
    a time."""
    mlflow_database: str = ""
    """Database of the MLflow server, postgresql://user:password@host/name (extra [postgres]). Empty: SQLite below `home`."""
    training: Path | None = None
    """Folder for the checkpoints of trainings whose storage is remote. A try on another machine goes on from them only if it sees this
    folder. Empty: `<home>/training`."""
    mlflow_artifacts: str = ""
    """Where the MLflow server keeps artifacts, a folder or s3://bucket/prefix; only that server needs its keys. Empty: below `home`."""
    keep_runs_days: int = Field(0, ge=0)
    """Days after which ended runs leave Prefect (by its server) and MLflow (by `gristmill tidy`). 0: kept for ever."""
    work_pool: str = "gristmill"
    """Name of the Prefect work pool with the queues `cpu` and `gpu`."""
    queues: str = Field("cpu,gpu", pattern=r"^(cpu|gpu|cpu,gpu|none)$")
    """Work queues that the workers started here serve: cpu,gpu; or `cpu` on one machine and `gpu` on another; `none`: no worker here."""
    api_key: str = ""
    """Key that `gristmill chat` sends to a gateway. Empty: none."""

    worker_health_port: int = Field(0, ge=0, le=65535)
    """Port of 127.0.0.1 where a worker started by `gristmill host` says whether it asks for work (/health). 0: none."""

    @field_validator("auth_file", "training", mode="before")
    @classmethod
    def _none_if_empty(cls, path: object) -> object:
        return path or None

    @field_validator("home", "resources", "auth_file", "training")
    @classmethod
    def _absolute_folder(cls, folder: Path | None) -> Path | None:
        return folder.expanduser().absolute() if folder else None  # servers and workers run in another folder

    @field_validator("storage", "mlflow_artifacts")
    @classmethod
    def _absolute_root(cls, root: str) -> str:
        return str(Path(root).expanduser().absolute()) if root and "://" not in root else root

    @property
    def store(self) -> str:
        """Root of all dataset versions, without a trailing slash."""
        return (self.storage or str(self.home / "store")).rstrip("/")

    @property
    def checkpoints(self) -> Path:
        """Where trainings whose storage is remote keep their checkpoints."""
        return self.training or self.home / "training"

    @property
    def machine(self) -> Path:
        """What was measured of machines that work here: the peak of their matrix products."""
        return self.home / "machine"

    @property
    def votes(self) -> Path:
        """What people say of answers that are served here."""
        return self.home / "votes"

    @property
    def chat(self) -> Path:
        """Who `gristmill chat` is when it votes, and what that person agreed to."""
        return self.home / "chat.json"

    @property
    def login(self) -> auth.Login | None:
        """The user and password of the servers; None where they ask for none.

        Raises:
            AuthError: the file cannot be read, or others can.
        """
        return auth.read_login(self.auth_file) if self.auth_file else None

    @property
    def language_model(self) -> Path:
        """The fastText language model lid.176.ftz, unpacked by `make setup`."""
        return self.resources / "lid.176.ftz"


def settings() -> Settings:
    """The settings as the environment has them now.

    Raises:
        SettingsError: a variable holds a value that its setting does not take.
    """
    given = {name: os.environ[PREFIX + name.upper()] for name in Settings.model_fields if PREFIX + name.upper() in os.environ}
    for name in Settings.model_fields:
        if path := os.environ.get(f"{PREFIX}{name.upper()}_FILE"):
            given[name] = auth.read_secret(Path(path), f"{PREFIX}{name.upper()}_FILE")
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        got = "" if name.endswith("_database") else f" (got {given.get(name)!r})"  # there is a password in it
        raise SettingsError(
            f"environment: {PREFIX}{name.upper()}: {first['msg']}{got}; unset it or give a valid value"
        ) from error


def quiet_environment(home: Path) -> dict[str, str]:
    """The switches that every process of ours runs under: nothing calls home, state stays below `home`."""
    return {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "gristmill,tasks",
        "DASK_LOGGING__DISTRIBUTED": "warning",
        "DASK_DISTRIBUTED__ADMIN__TICK__LIMIT": "30s",
        # of two workers at rest these took 3.7 of 5.1 % of a core, for pages that nobody here can open
        "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "200ms",
        "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "false",
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "GX_ANALYTICS_ENABLED": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_CACHE": str(home / "datasets-cache"),
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONUNBUFFERED": "1",
    }


def adopt_quiet_environment() -> None:
    """Put the quiet switches into this process, before any framework is imported; what the user set stays."""
    for name, value in quiet_environment(settings().home).items():
        os.environ.setdefault(name, value)
    os.environ.update(_log_in())
    # a profile of the user's own must not redirect us, and a child must find the interpreter's scripts
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def set_for_children(name: str, value: str) -> None:
    """Set a variable that libraries in this process and its children read (PREFECT_API_URL, OMP_NUM_THREADS…)."""
    os.environ[name] = value


def child_environment(**extra: str) -> dict[str, str]:
    """A full environment for a child process: ours, the quiet switches, and `extra` on top."""
    return {**quiet_environment(settings().home), **os.environ, **_log_in(), **extra}


def _log_in() -> dict[str, str]:
    login = settings().login
    return login.for_clients() if login else {}
