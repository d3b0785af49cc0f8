"""Locks: one maker at a time, for threads, processes and machines; a dead holder does not keep the others waiting."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import httpx
import pytest

from infra import locks
from infra.locks import LockLost, held

PROJECT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys, time
from infra import locks
locks.RENEW_S, locks.LEASE_S = 0.3, 2.0
with locks.held(sys.argv[1], "the first run", print):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextmanager
def s3_server(log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A real S3 server with a bucket `locks`, whose address is in the environment: its process and `s3://locks`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as file, pytest.MonkeyPatch.context() as patch:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=file, stderr=file
        )
        try:
            end = time.monotonic() + 60
            while not _answers(url):
                assert time.monotonic() < end and process.poll() is None
                time.sleep(0.1)
            assert httpx.put(f"{url}/locks", trust_env=False).status_code == 200
            for name, value in {
                "AWS_ENDPOINT_URL": url,
                "AWS_ACCESS_KEY_ID": "mill",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_DEFAULT_REGION": "us-east-1",
            }.items():
                patch.setenv(name, value)
            yield process, "s3://locks"
        finally:
            process.kill()
            process.wait(20)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as (_, url):
        yield url


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code < 500
    except httpx.HTTPError:
        return False


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.soak)])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A version's folder on a disk and in an object store, with leases that end soon."""
    monkeypatch.setattr(locks, "RENEW_S", 0.3)
    monkeypatch.setattr(locks, "LEASE_S", 2.0)
    monkeypatch.setattr(locks, "POLL_S", 0.1)
    if request.param == "local":
        return str(tmp_path / "version")
    return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


def holder(folder: str, seconds: float) -> subprocess.Popen[str]:
    """Another process that has the lock."""
    words = [sys.executable, "-c", HOLDER, folder, str(seconds)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(PROJECT)})
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_only_one_of_many_is_inside_at_a_time(folder: str) -> None:
    inside, most = 0, 0

    def enter(number: int) -> None:
        nonlocal inside, most
        with held(folder, f"run {number}", lambda words: None):
            inside += 1
            most = max(most, inside)
            time.sleep(0.05)
            inside -= 1

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (inside, most) == (0, 1)


def test_who_waits_is_told_for_whom_and_gets_its_turn(folder: str) -> None:
    other = holder(folder, 3.5)  # longer than a lease lives unrenewed
    told: list[str] = []
    with held(folder, "the second run", told.append) as check:
        check()
        assert other.wait(20) == 0
    assert told == [f"the first run (process {other.pid} on {os.uname().nodename})"]


def test_a_holder_that_was_killed_keeps_nobody_waiting_for_ever(folder: str) -> None:
    other = holder(folder, 60)
    os.kill(other.pid, signal.SIGKILL)
    other.wait(10)
    began = time.monotonic()
    with held(folder, "the second run", lambda words: None):
        assert time.monotonic() - began < 15


def test_a_holder_that_slept_too_long_finds_that_it_lost_its_lease(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RENEW_S", 0.3)
    monkeypatch.setattr(locks, "LEASE_S", 1.0)
    folder = f"{bucket}/slept"
    with held(folder, "the first run", lambda words: None) as check:
        system, name = locks.storage.locate(f"{folder}/{locks.NAME}")
        system.pipe_file(name, b'{"lease": "of another", "who": "x", "pid": 1, "host": "y"}')  # as who took it over would
        time.sleep(1)
        with pytest.raises(LockLost, match="may have taken over"):
            check()
    assert system.exists(name)  # it is the other one's to release


@pytest.mark.soak
def test_a_holder_whose_store_is_away_for_longer_than_a_lease_stops_and_for_less_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "RENEW_S", 0.2)
    monkeypatch.setattr(locks, "LEASE_S", 2.0)
    monkeypatch.setattr(locks.storage, "REQUESTS", 2)  # a store that refuses is left after a second
    monkeypatch.setattr(locks.storage, "CALLS", 1)
    forget_servers()
    with s3_server(tmp_path / "log") as (server, url), held(f"{url}/away", "the first run", lambda words: None) as check:
        server.send_signal(signal.SIGSTOP)
        time.sleep(1)
        check()
        server.send_signal(signal.SIGCONT)
        time.sleep(2.5)
        check()
        server.kill()  # from here on connections are refused, which is no OSError of Python's
        time.sleep(2.5)
        with pytest.raises(LockLost, match="may have taken over"):
            check()
    forget_servers()


def forget_servers() -> None:
    """Let the next use of the store ask the environment for its address."""
    locks.storage._file_system.cache_clear()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_folder_that_is_removed_while_somebody_waits_has_a_new_lock(tmp_path: Path) -> None:
    folder = tmp_path / "version"
    with held(str(folder), "the first run", lambda words: None):
        waited = threading.Event()
        entered = threading.Event()

        def second() -> None:
            with held(str(folder), "the second run", lambda words: waited.set()):
                assert (folder / locks.NAME).exists()
                entered.set()

        thread = threading.Thread(target=second)
        thread.start()
        assert waited.wait(10)
        (folder / locks.NAME).unlink()
        folder.rmdir()
    thread.join(10)
    assert entered.is_set()
