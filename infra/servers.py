"""The servers of one machine: Prefect, MLflow, and a worker for each of the queues `cpu` and `gpu`, as plain child processes.

`up` starts what is not running and waits until it answers; `down` stops them; `status` asks each one. What runs, with process ids,
addresses and log files, is in `servers.json` below the home folder. Everything binds to 127.0.0.1 unless a setting says otherwise.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
from pydantic import BaseModel, ConfigDict

from infra import storage
from infra.errors import GristmillError
from infra.settings import PROJECT, Settings, child_environment, set_for_children, settings

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 15.0
QUEUES = ("cpu", "gpu")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServerError(GristmillError):
    """A server that cannot be started; the message names it, its log and what to do."""


class Server(BaseModel):
    """A process of ours."""

    model_config = ConfigDict(frozen=True)

    name: str
    pid: int
    started: float
    """Time the process was created, as the system tells it: a reused process id has another one."""
    url: str = ""
    log: str = ""
    api: str = ""
    """Of a worker, the Prefect API it asks for work."""

    def alive(self) -> bool:
        """Whether this very process still runs."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) < 2 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def up(tell: Callable[[str], None]) -> dict[str, Server]:
    """Start what is not running; returns all servers, healthy.

    Raises:
        ServerError: one of them did not come up.
    """
    now = settings()
    _refuse_open_bind(now)
    running = known()
    for name, start in (("prefect", _start_prefect), ("mlflow", _start_mlflow)):
        if _address(now, name):
            _require_answer(name, _address(now, name))
            tell(f"{name}: using {_address(now, name)}, as the settings say")
        elif not (name in running and running[name].alive()):
            running[name] = start(now, tell)
            tell(f"{name}: started at {running[name].url} (log {running[name].log})")
            _remember(running)
    for name in ("prefect", "mlflow"):
        if not _address(now, name):
            _wait_for(running[name])
    adopt(running)
    return running


def up_workers(tell: Callable[[str], None]) -> dict[str, Server]:
    """Start a Prefect process worker on each queue that the settings give to this machine; the work pool must exist."""
    now, running = settings(), known()
    for queue in (queue for queue in QUEUES if queue in now.queues):
        name = f"worker-{queue}"
        if name in running and running[name].alive():
            if running[name].api == now.prefect_api_url:
                continue
            _stop(running[name])  # it listens to a server that is no longer the one in use
        command = [
            *(sys.executable, "-m", "prefect", "worker", "start", "--type", "process"),
            *("--pool", now.work_pool, "--work-queue", queue, "--name", f"{queue} on {socket.gethostname()}"),
        ]
        running[name] = _spawn(now, name, command, "").model_copy(update={"api": now.prefect_api_url})
        tell(f"{name}: started (log {running[name].log})")
        _remember(running)
    return running


def down(tell: Callable[[str], None]) -> None:
    """Stop everything that `up` started, workers first."""
    running = known()
    for name in sorted(running, key=lambda name: not name.startswith("worker")):
        if _stop(running[name]):
            tell(f"{name}: stopped")
    _remember({})


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Keep a second `up` of the same home folder waiting, so that nothing is started twice."""
    path = settings().home / "servers.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the system gives it back when this process ends, however it ends
        yield


def known() -> dict[str, Server]:
    """The servers that were started here, running or not."""
    path = str(settings().home / "servers.json")
    raw = storage.read_json(path) if storage.exists(path) else {}
    return {name: Server.model_validate(value) for name, value in raw.items()}


def adopt(running: dict[str, Server] | None = None) -> None:
    """Point this process and its children at the running servers, where the settings do not name others."""
    now, running = settings(), running if running is not None else known()
    for name, variables, suffix in (
        ("prefect", ("GRISTMILL_PREFECT_API_URL", "PREFECT_API_URL"), "/api"),
        ("mlflow", ("GRISTMILL_MLFLOW_URL", "MLFLOW_TRACKING_URI"), ""),
    ):
        address = _address(now, name)
        if not address and name in running and running[name].alive():
            address = running[name].url + suffix
        if address:
            for variable in variables:
                set_for_children(variable, address)


def healthy(server: Server) -> bool:
    """Whether the process runs and, if it serves HTTP, answers."""
    return server.alive() and (not server.url or _answers(server.url + _health_path(server.name)))


def free_port(host: str, wanted: int) -> int:
    """`wanted` if nothing listens there, else the next free port."""
    for port in range(wanted, min(wanted + 100, 65536)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise ServerError(f"no free port from {wanted} on {host}; set GRISTMILL_PREFECT_PORT or GRISTMILL_MLFLOW_PORT")


def _start_prefect(now: Settings, tell: Callable[[str], None]) -> Server:
    port = _port(now, "Prefect", now.prefect_port, tell)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", now.host, "--port", str(port)]
    url = f"http://{now.host}:{port}"
    address = _with_driver(now.prefect_database, "asyncpg")
    database = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": address} if address else {}
    return _spawn(now, "prefect", command, url, PREFECT_SERVER_API_HOST=now.host, PREFECT_UI_API_URL=f"{url}/api", **database)


def _start_mlflow(now: Settings, tell: Callable[[str], None]) -> Server:
    port = _port(now, "MLflow", now.mlflow_port, tell)
    folder = now.home / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", now.host, "--port", str(port), "--workers", "1"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    # by the environment and not on the command line: a password there could be read by everybody on the machine
    database = _with_driver(now.mlflow_database, "psycopg2") or f"sqlite:///{folder / 'mlflow.db'}"
    return _spawn(now, "mlflow", command, f"http://{now.host}:{port}", MLFLOW_BACKEND_STORE_URI=database)


def _with_driver(address: str, driver: str) -> str:
    """A PostgreSQL address that names the driver we ship: SQLAlchemy's own choice is another one, and each server needs its own."""
    return address.replace("postgresql://", f"postgresql+{driver}://", 1)


def _port(now: Settings, name: str, wanted: int, tell: Callable[[str], None]) -> int:
    port = free_port(now.host, wanted)
    if port != wanted:
        tell(f"{name}: port {wanted} is taken, using {port}")
    return port


def _spawn(now: Settings, name: str, command: list[str], url: str, **extra: str) -> Server:
    log = now.home / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = child_environment(**extra)
    if name == "prefect":  # the server must not take itself for a client of another one
        environment.pop("PREFECT_API_URL", None)
    with log.open("ab") as sink:
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
        )
    return Server(name=name, pid=process.pid, started=psutil.Process(process.pid).create_time(), url=url, log=str(log))


def _wait_for(server: Server) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _answers(server.url + _health_path(server.name)):
        if not server.alive():
            raise ServerError(f"{server.name}: ended while starting; its last words:\n{_tail(server.log)}")
        if time.monotonic() > deadline:
            raise ServerError(f"{server.name}: no answer at {server.url} within {START_TIMEOUT_S:.0f} s; see {server.log}")
        time.sleep(0.3)


def _require_answer(name: str, address: str) -> None:
    """A server that runs elsewhere must answer before anything is sent to it."""
    if not _answers(address.removesuffix("/api") + _health_path(name)):
        raise ServerError(
            f"{name}: no answer at {address}, which GRISTMILL_{'PREFECT_API_URL' if name == 'prefect' else 'MLFLOW_URL'} names"
        )


def _health_path(name: str) -> str:
    return "/api/health" if name == "prefect" else "/health"


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _stop(server: Server) -> bool:
    """Ask the server and its children to end, then make them; False if nothing of it was left."""
    left = _group(server)
    found = bool(left)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if left:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, number)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            left = _group(server)
    return found


def _group(server: Server) -> list[psutil.Process]:
    """What lives in the process group that the server leads, or led before it died."""
    members = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == server.pid and process.info["status"] != psutil.STATUS_ZOMBIE:
                if process.pid == server.pid and not server.alive():
                    return []  # another process has its number
                members.append(process)
    return members


def _address(now: Settings, name: str) -> str:
    return now.prefect_api_url if name == "prefect" else now.mlflow_url


def _refuse_open_bind(now: Settings) -> None:
    if now.host not in LOOPBACK:
        raise ServerError(
            f"GRISTMILL_HOST={now.host}: these servers have no password; keep them on 127.0.0.1 and put a proxy with authentication "
            "before them, or run your own and set GRISTMILL_PREFECT_API_URL and GRISTMILL_MLFLOW_URL"
        )


def _remember(running: dict[str, Server]) -> None:
    storage.write_json(str(settings().home / "servers.json"), {name: server.model_dump() for name, server in running.items()})


def _tail(path: str, num_lines: int = 15) -> str:
    return "\n".join(Path(path).read_text(errors="replace").splitlines()[-num_lines:])
