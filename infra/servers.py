"""The servers of one machine: Prefect, MLflow, and a worker for each of the queues `cpu` and `gpu`, as plain child processes.

`up` starts what is not running and waits until it answers; `down` stops them; `status` asks each one. What runs, with process ids,
addresses and log files, is in `servers.json` below the home folder. Everything binds to 127.0.0.1 unless a setting says otherwise. `serve`
is for containers and batch jobs: one of them in the foreground, in place of this process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import httpx
import psutil
from pydantic import BaseModel, ConfigDict

from infra import auth, launch, storage
from infra.errors import GristmillError
from infra.launch import Launch
from infra.settings import PROJECT, Settings, set_for_children, settings

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 15.0
QUEUES = ("cpu", "gpu")
PLANS = {"prefect": launch.prefect_server, "mlflow": launch.mlflow_server}
# what only answers to those who are logged in
GUARDED = {"prefect": "/api/admin/version", "mlflow": "/api/2.0/mlflow/experiments/get?experiment_id=0"}


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
    launch.refuse_open_bind(now)
    running = known()
    for name, plan in PLANS.items():
        if _address(now, name):
            _require_answer(name, _address(now, name))
            tell(f"{name}: using {_address(now, name)}, as the settings say")
        elif not (name in running and running[name].alive()):
            running[name] = _spawn(now, plan(now, _port(now, name, tell)))
            tell(f"{name}: started at {running[name].url} (log {running[name].log})")
            _remember(running)
    for name in PLANS:
        if not _address(now, name):
            _wait_for(running[name])
        _require_admission(now, name, _address(now, name) or running[name].url)
    if now.login:
        tell(f"log in to both as {now.login.user} with the password in {now.auth_file}; Prefect's page wants user:password")
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
        running[name] = _spawn(now, launch.worker(now, queue)).model_copy(update={"api": now.prefect_api_url})
        tell(f"{name}: started (log {running[name].log})")
        _remember(running)
    return running


def serve(name: str) -> NoReturn:
    """Become the server `prefect` or `mlflow`, or the worker of a queue, until somebody ends it.

    Raises:
        ServerError: a worker finds no Prefect or MLflow server, or is not let in.
        LaunchError: a server that must not be started as the settings say.
    """
    now = settings()
    if name in PLANS:
        launch.refuse_open_bind(now)
        wanted = PLANS[name](now, now.prefect_port if name == "prefect" else now.mlflow_port)
    else:
        wanted = launch.worker(now, name, now.worker_health_port)
    os.chdir(PROJECT)
    os.execve(wanted.command[0], wanted.command, wanted.environment())


def require_servers() -> None:
    """Both servers must run, here or elsewhere, and let this process in.

    Raises:
        ServerError: one of them does not.
    """
    adopt()
    now = settings()
    for name in PLANS:
        if not _address(now, name):
            raise ServerError(f"{name}: none was started here; set GRISTMILL_{_variable(name)}, or start it with `gristmill up`")
        _require_answer(name, _address(now, name))
        _require_admission(now, name, _address(now, name))


def down(tell: Callable[[str], None]) -> None:
    """Stop everything that `up` started: workers, the runs that outlived them, servers."""
    running = known()
    workers = [name for name in running if name.startswith("worker")]
    _stop_all(workers, running, tell)
    if num_runs := _stop_runs():
        tell(f"runs: {num_runs} had lost their worker and are stopped; try them again with gristmill rerun, after up")
    _stop_all([name for name in running if name not in workers], running, tell)
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


def _port(now: Settings, name: str, tell: Callable[[str], None]) -> int:
    wanted = now.prefect_port if name == "prefect" else now.mlflow_port
    port = free_port(now.host, wanted)
    if port != wanted:
        tell(f"{name}: port {wanted} is taken, using {port}")
    return port


def _spawn(now: Settings, what: Launch) -> Server:
    log = now.home / "logs" / f"{what.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        process = subprocess.Popen(
            what.command,
            cwd=PROJECT,
            env=what.environment(),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    created = psutil.Process(process.pid).create_time()
    return Server(name=what.name, pid=process.pid, started=created, url=what.url, log=str(log))


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
        raise ServerError(f"{name}: no answer at {address}, which GRISTMILL_{_variable(name)} names")


def _require_admission(now: Settings, name: str, address: str) -> None:
    """A server must let us in, or a run would fail at its first step."""
    url = address.removesuffix("/api") + GUARDED[name]
    try:
        answer = httpx.get(url, headers=now.login.header if now.login else {}, timeout=30, trust_env=False)
    except httpx.HTTPError as error:
        raise ServerError(
            f"{name}: {address} broke off the log-in ({type(error).__name__}); is it overloaded? try again"
        ) from error
    if answer.status_code != 401:
        return
    told = f"with the user and password in {now.auth_file}" if now.login else f"without a log-in; set {auth.VARIABLE}"
    mend = "; a user that MLflow knows keeps the password it was made with, see docs/security.md" if name == "mlflow" else ""
    raise ServerError(f"{name}: {address} does not let us in {told}{mend if now.login else ''}")


def _variable(name: str) -> str:
    return "PREFECT_API_URL" if name == "prefect" else "MLFLOW_URL"


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


def _stop_all(names: Iterable[str], running: Mapping[str, Server], tell: Callable[[str], None]) -> None:
    for name in names:
        if _stop(running[name]):
            tell(f"{name}: stopped")


def _stop_runs() -> int:
    """End the flow runs of this home that outlived their worker, while Prefect can still be told; gives their number.

    A worker that is asked to end ends its runs; one that is killed leaves them, each in a process group of its own.
    """
    home = str(settings().home / "prefect")
    found = []
    for process in psutil.process_iter(["environ"]):
        environment = process.info["environ"] or {}  # none: another user's
        if environment.get("PREFECT_HOME") == home and environment.get("PREFECT__FLOW_RUN_ID"):
            found.append((process, environment["PREFECT__FLOW_RUN_ID"]))
    inside = {process.pid for process, _ in found}
    for process, _ in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.ppid() not in inside:  # what a run started, such as its cluster, it ends itself
                process.terminate()
    _, left = psutil.wait_procs([process for process, _ in found], timeout=STOP_TIMEOUT_S)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return len({run for _, run in found})


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


def _remember(running: dict[str, Server]) -> None:
    storage.write_json(str(settings().home / "servers.json"), {name: server.model_dump() for name, server in running.items()})


def _tail(path: str, num_lines: int = 15) -> str:
    return "\n".join(Path(path).read_text(errors="replace").splitlines()[-num_lines:])
