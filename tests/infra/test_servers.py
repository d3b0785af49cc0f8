"""The processes of one machine: what is stopped, and what is left alone."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from infra import servers
from infra.auth import write_secret
from infra.servers import Server, ServerError

# a server that starts a child, says its number, and stays; the child outlives it
WITH_A_CHILD = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRISTMILL_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def started() -> Iterator[tuple[subprocess.Popen[str], Server, psutil.Process]]:
    command = [sys.executable, "-c", WITH_A_CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        yield process, Server(name="prefect", pid=process.pid, started=psutil.Process(process.pid).create_time()), child
        for one in (process, child):
            if one.is_running() if isinstance(one, psutil.Process) else one.poll() is None:
                one.kill()


@pytest.fixture
def guarded() -> Iterator[str]:
    """A server that is well and lets nobody in."""

    class Guard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.endswith("health") else 401)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Guard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_lets_nobody_in_is_told_with_the_setting_that_helps(
    guarded: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRISTMILL_PREFECT_API_URL", f"{guarded}/api")
    with pytest.raises(ServerError, match=f"prefect: {guarded}/api does not let us in without a log-in; set GRISTMILL_AUTH_FILE"):
        servers.require_servers()
    write_secret(home / "auth", "miller:a-password-of-some-length")
    monkeypatch.setenv("GRISTMILL_AUTH_FILE", str(home / "auth"))
    with pytest.raises(ServerError, match=f"does not let us in with the user and password in {home / 'auth'}") as error:
        servers.require_servers()
    assert "a-password" not in str(error.value)


def test_a_worker_without_servers_says_what_to_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRISTMILL_PREFECT_API_URL", "GRISTMILL_MLFLOW_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ServerError, match="prefect: none was started here; set GRISTMILL_PREFECT_API_URL"):
        servers.require_servers()


def _stopped(server: Server) -> list[str]:
    servers._remember({server.name: server})
    said: list[str] = []
    servers.down(said.append)
    assert servers.known() == {}
    return said


@pytest.mark.parametrize("leader_is_dead", [False, True])
def test_down_stops_a_server_with_its_children_even_when_it_died_before_them(
    started: tuple[subprocess.Popen[str], Server, psutil.Process], leader_is_dead: bool
) -> None:
    process, server, child = started
    if leader_is_dead:
        process.kill()
        process.wait()
    assert _stopped(server) == ["prefect: stopped"]
    process.wait(timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_down_leaves_a_process_alone_that_has_the_number_of_a_server_of_the_past(
    started: tuple[subprocess.Popen[str], Server, psutil.Process],
) -> None:
    process, server, child = started
    assert _stopped(server.model_copy(update={"started": server.started - 3600})) == []
    assert process.poll() is None
    assert child.is_running()


def test_a_second_up_waits_for_the_first() -> None:
    order: list[str] = []

    def second() -> None:
        order.append("second asks")
        with servers.alone():
            order.append("second is in")

    with servers.alone():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(timeout=0.5)
        order.append("first leaves")
    thread.join(timeout=10)
    assert order == ["second asks", "first leaves", "second is in"]
