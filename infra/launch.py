"""What each server and worker is started with: its command, its address and its environment.

Secrets are in environments and in files of mode 0600 below the home folder, never in a command. Costs nothing until something is started.
"""

from __future__ import annotations

import importlib.util
import shutil
import socket
import sys
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field

from infra import auth
from infra.errors import GristmillError
from infra.settings import Settings, child_environment

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::")
DAY_S = 86_400
# of the servers alone; flows have no use for them
DATABASES = tuple(f"GRISTMILL_{name}_DATABASE{suffix}" for name in ("PREFECT", "MLFLOW") for suffix in ("", "_FILE"))


class LaunchError(GristmillError):
    """A server that must not or cannot be started as the settings say."""


class Launch(BaseModel):
    """A process to start."""

    model_config = ConfigDict(frozen=True)

    name: str
    command: tuple[str, ...]
    url: str = ""
    """Where it answers, as this machine and others reach it; empty for a worker."""
    extra: dict[str, str] = Field(default={}, repr=False)
    """Variables on top of those that every child has; passwords among them."""
    without: tuple[str, ...] = ()
    """Variables that it must not inherit."""

    def environment(self) -> dict[str, str]:
        """The process's whole environment."""
        return {name: value for name, value in child_environment(**self.extra).items() if name not in self.without}


def prefect_server(now: Settings, port: int) -> Launch:
    """The Prefect server with its UI."""
    url = _url(now, port)
    extra = {
        "PREFECT_SERVER_API_HOST": now.host,
        "PREFECT_UI_API_URL": f"{url}/api",
        # in memory, as is the default, a restart of the server ends every run that holds a slot: a training, a recrawl
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }
    if now.prefect_database:
        extra["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = with_driver(now.prefect_database, "asyncpg")
    if now.login:
        extra["PREFECT_SERVER_API_AUTH_STRING"] = now.login.pair
    if now.host not in LOOPBACK:
        extra["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = _origins(now, port)
    if now.keep_runs_days:
        extra["PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"] = "events,flow_runs"
        extra["PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"] = str(now.keep_runs_days * DAY_S)
    command = (sys.executable, "-m", "prefect", "server", "start", "--host", now.host, "--port", str(port))
    # the server must not take itself for a client of another one
    return Launch(name="prefect", command=command, url=url, extra=extra, without=("PREFECT_API_URL",))


def mlflow_server(now: Settings, port: int) -> Launch:
    """The MLflow server with its UI; artifacts go through it, so that its clients need no keys of the store behind it."""
    (now.home / "mlflow").mkdir(parents=True, exist_ok=True)
    extra = {"MLFLOW_BACKEND_STORE_URI": mlflow_database(now)}
    if now.host not in LOOPBACK:
        extra["MLFLOW_SERVER_ALLOWED_HOSTS"] = ",".join(f"{name}{suffix}" for name in _names(now) for suffix in ("", f":{port}"))
        extra["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] = _origins(now, port)
    asks = ("--app-name", "basic-auth") if now.login else ()
    command = (
        *(sys.executable, "-m", "mlflow", "server", "--host", now.host, "--port", str(port), "--workers", "1", *asks),
        *("--artifacts-destination", mlflow_artifacts(now)),
    )
    return Launch(name="mlflow", command=command, url=_url(now, port), extra=extra | _mlflow_login(now))


def worker(now: Settings, queue: str, health_port: int = 0) -> Launch:
    """A Prefect worker that runs each flow of a queue as a process; with a port it says there whether it asks for work."""
    command: tuple[str, ...] = (
        *(sys.executable, "-m", "prefect", "worker", "start", "--type", "process"),
        *("--pool", now.work_pool, "--work-queue", queue, "--name", f"{queue} on {socket.gethostname()}"),
    )
    extra = {"TMPDIR": str(_own_temporary_folder(now, queue))}
    if health_port:
        command = (*command, "--with-healthcheck")
        extra |= {"PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1", "PREFECT_WORKER_WEBSERVER_PORT": str(health_port)}
    return Launch(name=f"worker-{queue}", command=command, extra=extra, without=DATABASES)


def mlflow_database(now: Settings) -> str:
    """The address of MLflow's database, with a driver that we ship."""
    return with_driver(now.mlflow_database, "psycopg2") or f"sqlite:///{now.home / 'mlflow' / 'mlflow.db'}"


def mlflow_users(now: Settings) -> str:
    """The address of the database of MLflow's users: its own PostgreSQL, or a file beside its other one."""
    return with_driver(now.mlflow_database, "psycopg2") or f"sqlite:///{now.home / 'mlflow' / 'users.db'}"


def mlflow_artifacts(now: Settings) -> str:
    """Where MLflow's artifacts are."""
    return now.mlflow_artifacts or str(now.home / "mlflow" / "artifacts")


def with_driver(address: str, driver: str) -> str:
    """A PostgreSQL address that names the driver we ship: SQLAlchemy's own choice is another one, and each server needs its own."""
    return address.replace("postgresql://", f"postgresql+{driver}://", 1)


def refuse_open_bind(now: Settings) -> None:
    """Nothing is served beyond this machine without a password.

    Raises:
        LaunchError: the settings ask for that.
    """
    if now.host not in LOOPBACK and now.login is None:
        raise LaunchError(
            f"GRISTMILL_HOST={now.host}: beyond this machine the servers need a password; set {auth.VARIABLE} to a file of mode 0600 "
            "with one line `user:password`, and put a proxy with TLS before them, or keep them on 127.0.0.1"
        )


def _mlflow_login(now: Settings) -> dict[str, str]:
    if now.login is None:
        return {}
    if importlib.util.find_spec("flask_wtf") is None:
        raise LaunchError(f"{auth.VARIABLE}: MLflow's log-in needs the extra [auth]: pip install -c constraints.txt '.[auth]'")
    path = now.home / "mlflow" / "auth.ini"
    address = mlflow_users(now).replace("%", "%%")  # a percent sign means something in an ini file
    auth.write_secret(path, f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {address}\n")
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(path),
        "MLFLOW_AUTH_ADMIN_USERNAME": now.login.user,
        "MLFLOW_AUTH_ADMIN_PASSWORD": now.login.password.get_secret_value(),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": auth.kept_secret(now.home / "mlflow" / "session-key"),
    }


def _own_temporary_folder(now: Settings, queue: str) -> Path:
    """Where a worker notes the environment of each flow that it runs, passwords too; what a killed one left there goes."""
    folder = now.home / "tmp" / queue
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    for left in folder.glob("prefect-workspace-attempt-*"):
        shutil.rmtree(left, ignore_errors=True)
    return folder


def _url(now: Settings, port: int) -> str:
    host = now.host
    if host in EVERYWHERE:
        own = socket.gethostname()
        host = now.names.partition(",")[0] or (own if _resolves(own) else "127.0.0.1")
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _resolves(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, None))
    except OSError:
        return False


def _origins(now: Settings, port: int) -> str:
    """What a browser may name as the origin of a request: a server's own pages, plain or behind a proxy with TLS."""
    return ",".join(origin for name in _names(now) for origin in (f"http://{name}:{port}", f"https://{name}"))


def _names(now: Settings) -> list[str]:
    """The names and numbers under which a server that is open to others is reached."""
    numbers = [one.address for found in psutil.net_if_addrs().values() for one in found if one.family == socket.AF_INET]
    names = {now.host, "localhost", "127.0.0.1", socket.gethostname(), socket.getfqdn(), *numbers, *now.names.split(",")}
    return sorted(names - {*EVERYWHERE, "", "::1"})
