"""What may happen to a served model: replicas and gateways are killed or hang, versions change or do not start, too much comes at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from infra.errors import InputError
from infra.settings import PROJECT, child_environment
from tasks.serving.config import Served

from .made_server import Gateway, alive, make_model, running, served, until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]
NUM, TOKENS = 24, 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("other"), seed=2)


def ask(gateway: Gateway, place: int, **more: Any) -> str:
    """One answer of the official client, which does not try again by itself."""
    with (
        httpx.Client(trust_env=False, timeout=120) as http,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, http_client=http) as client,
    ):
        asked: dict[str, Any] = {"model": "tiny", "prompt": f"read the file {place}", "max_tokens": TOKENS, "seed": place, **more}
        if place % 2:
            return "".join(event.choices[0].text for event in client.completions.create(**asked, stream=True) if event.choices)
        return str(client.completions.create(**asked).choices[0].text)


def under_load(gateway: Gateway, meanwhile: Callable[[], None], num: int = NUM, **more: Any) -> list[str]:
    """The answers of so many clients at a time, half of them streams, while something happens."""

    with ThreadPoolExecutor(num) as pool:
        asked = [pool.submit(ask, gateway, place, **more) for place in range(num)]
        meanwhile()
        return [one.result() for one in asked]


def test_a_killed_replica_loses_no_request_and_no_stream(folder: str, tmp_path: Path) -> None:
    """Those that wait, those that have begun, and streams of which the client has a part: all are answered as if nothing had been."""
    with running({"tiny": lambda: served(folder)}, tmp_path, replicas=2, queue_timeout_s=120) as gateway:
        until(lambda: all(one["state"] == "ready" for one in gateway.replicas()))
        expected = under_load(gateway, lambda: None)
        assert len(set(expected)) == NUM

        def kill() -> None:
            for number in range(2):  # for a while nobody is left
                until(lambda: gateway.replicas()[number]["in_flight"] > 3)  # noqa: B023
                os.kill(gateway.replicas()[number]["pid"], signal.SIGKILL)

        found = under_load(gateway, kill)
        assert [place for place, text in enumerate(found) if text != expected[place]] == []
        assert gateway.metric("gristmill_retried_total") > 3
        until(lambda: all(one["state"] == "ready" for one in gateway.replicas()))


def test_a_request_that_ends_every_replica_is_given_up(folder: str, tmp_path: Path) -> None:
    with running({"tiny": lambda: served(folder)}, tmp_path, max_tries=2, restart_after_s=0.1) as gateway:

        def kill() -> None:
            before = 0
            for _ in range(2):
                victim = until(lambda: [one for one in gateway.replicas() if one["in_flight"] and one["pid"] != before])[0]  # noqa: B023
                before = victim["pid"]
                os.kill(before, signal.SIGKILL)

        with pytest.raises(openai.InternalServerError) as caught:
            under_load(gateway, kill, num=1, max_tokens=150)
        assert caught.value.status_code == 502 and caught.value.code == "replicas_lost"
        assert ask(gateway, 0)


def test_a_replica_that_hangs_gets_nothing_new_and_is_replaced(folder: str, tmp_path: Path) -> None:
    limits: dict[str, Any] = {"replicas": 2, "silent_after_s": 1.5, "dead_after_s": 6.0}
    with running({"tiny": lambda: served(folder)}, tmp_path, **limits) as gateway:
        until(lambda: all(one["state"] == "ready" for one in gateway.replicas()))
        victim = gateway.replicas()[0]
        os.kill(victim["pid"], signal.SIGSTOP)
        until(lambda: gateway.replicas()[0]["state"] == "silent")
        assert all(under_load(gateway, lambda: None, num=6))
        until(lambda: gateway.replicas()[0]["pid"] != victim["pid"] and gateway.replicas()[0]["state"] == "ready")
        assert not alive(victim["pid"])


def test_another_version_takes_over_without_a_lost_request(folder: str, other_folder: str, tmp_path: Path) -> None:
    now = [served(folder)]
    with running({"tiny": lambda: now[0]}, tmp_path, poll_s=0.2, queue_size=500) as gateway:
        before, pid = ask(gateway, 0), gateway.replicas()[0]["pid"]

        def move() -> None:
            now[0] = served(other_folder, version="v2")
            until(lambda: gateway.health()["models"]["tiny"]["version"] == "v2")

        answers: list[str] = []
        end = threading.Event()

        def keep_asking() -> None:
            while not end.is_set():
                answers.append(ask(gateway, 0))

        threads = [threading.Thread(target=keep_asking) for _ in range(6)]
        for thread in threads:
            thread.start()
        asked_before = len(under_load(gateway, move))
        end.set()
        for thread in threads:
            thread.join()
        after = ask(gateway, 0)
        assert asked_before == NUM and before != after and set(answers) == {before, after}
        assert sum(one["status"] != 200 for one in gateway.lines()) == 0
        until(lambda: not alive(pid))
        assert {one["version"] for one in gateway.lines()} == {"v1", "v2"}


def test_a_version_that_does_not_start_leaves_the_old_one_at_work(folder: str, tmp_path: Path) -> None:
    now: list[Any] = [served(folder)]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")

    def resolve() -> Served:
        if isinstance(now[0], Exception):
            raise now[0]
        found: Served = now[0]
        return found

    with running({"tiny": resolve}, tmp_path, poll_s=0.2) as gateway:
        before = ask(gateway, 0)
        now[0] = served(str(tmp_path / "broken"), version="v2")
        note = until(lambda: gateway.health()["models"]["tiny"]["note"])
        assert note.startswith("v2 does not start, so v1 goes on") and "safetensors" in note
        assert ask(gateway, 0) == before and gateway.health()["status"] == "ok"
        now[0] = InputError("the registry is away")
        until(lambda: "the registry is away" in gateway.health()["models"]["tiny"]["note"])
        assert ask(gateway, 0) == before


def test_a_model_that_does_not_start_at_all_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="safetensors"), running({"tiny": lambda: served(str(tmp_path))}, tmp_path):
        pass


def test_too_much_at_once_is_told_to_come_back(folder: str, tmp_path: Path) -> None:
    with running({"tiny": lambda: served(folder)}, tmp_path, queue_size=2) as gateway:
        codes: list[tuple[int, str]] = []

        def one(place: int) -> None:
            body = {"model": "tiny", "prompt": "read", "max_tokens": 100, "seed": place}
            answer = httpx.post(f"{gateway.url}/v1/completions", json=body, timeout=120, trust_env=False)
            codes.append((answer.status_code, answer.headers.get("retry-after", "")))

        threads = [threading.Thread(target=one, args=(place,)) for place in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {code for code, _ in codes} == {200, 503} and all(after for code, after in codes if code == 503)
        assert sum(code == 200 for code, _ in codes) >= 10  # eight places and two that wait


@pytest.mark.parametrize(
    ("limit", "status"), [("queue_timeout_s", 503), ("first_token_timeout_s", 504), ("total_timeout_s", 504)]
)
def test_patience_has_an_end(folder: str, tmp_path: Path, limit: str, status: int) -> None:
    """The one replica is stopped in its tracks: what waits, what has begun, and what takes too long is answered all the same."""
    calm: dict[str, Any] = {"silent_after_s": 50, "dead_after_s": 100, limit: 1.0}
    if limit == "queue_timeout_s":
        calm["silent_after_s"] = 0.5
    with running({"tiny": lambda: served(folder)}, tmp_path, **calm) as gateway:
        pid = gateway.replicas()[0]["pid"]
        os.kill(pid, signal.SIGSTOP)
        if limit == "queue_timeout_s":
            until(lambda: gateway.replicas()[0]["state"] == "silent")
        body = {"model": "tiny", "prompt": "read", "max_tokens": 100}
        answers = [
            httpx.post(f"{gateway.url}/v1/completions", json=body | {"stream": one}, timeout=30, trust_env=False)
            for one in (False, True)
        ]
        assert [one.status_code for one in answers] == [status] * 2
        assert [one.json()["error"]["code"] for one in answers] == [limit.removesuffix("_s")] * 2
        os.kill(pid, signal.SIGCONT)


def start_command(folder: str, home: Path, *more: str) -> tuple[subprocess.Popen[str], str]:
    """`gristmill serve` as a process, and its address once it says so."""
    command = [sys.executable, "-m", "flows", "serve", f"tiny={folder}", "--port", "0", *more]
    environment = child_environment(GRISTMILL_HOME=str(home), OMP_NUM_THREADS="1")
    process = subprocess.Popen(command, env=environment, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("serving tiny on http://127.0.0.1:"), line + (process.stderr.read() if process.stderr else "")
    return process, line.split()[3].rstrip(";")


def test_a_killed_gateway_leaves_no_replica_behind(folder: str, tmp_path: Path) -> None:
    process, url = start_command(folder, tmp_path, "--replicas", "2")
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 2 and httpx.get(f"{url}/health", trust_env=False).status_code == 200
    process.kill()
    process.wait()
    until(lambda: not any(alive(one.pid) for one in children), 10)


def test_asked_to_stop_it_lets_running_requests_end(folder: str, tmp_path: Path) -> None:
    process, url = start_command(folder, tmp_path)
    body = {"model": "tiny", "prompt": "read", "max_tokens": 150, "seed": 1, "stream": True, "stop": ["nowhere in it"]}
    with httpx.Client(trust_env=False, timeout=60) as http, http.stream("POST", f"{url}/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{url}/health", trust_env=False)
        assert [one for one in lines if one][-1] == "data: [DONE]"
    assert process.wait(30) == 0


def test_who_does_not_end_in_time_is_told_so(folder: str, tmp_path: Path) -> None:
    process, url = start_command(
        folder, tmp_path, "--set", "stop_s=0.5", "--set", "dead_after_s=100", "--set", "silent_after_s=50"
    )
    replica = psutil.Process(process.pid).children(recursive=True)[0]
    body = {"model": "tiny", "prompt": "read", "max_tokens": 150, "seed": 1, "stream": True}
    with httpx.Client(trust_env=False, timeout=60) as http, http.stream("POST", f"{url}/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        replica.suspend()
        process.send_signal(signal.SIGTERM)
        assert '"code":"stopping"' in [one for one in lines if one][-1]
    assert process.wait(30) == 0
    until(lambda: not alive(replica.pid), 10)
