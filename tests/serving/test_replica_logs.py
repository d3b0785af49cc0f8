"""Logs of replicas: each start has its own, and so many of those that ended are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.serving.config import ServeConfig, Served
from tasks.serving.replica_logs import KEPT_LOGS, ReplicaLogs, opened
from tasks.serving.server import _maker


def written(path: Path, text: str, at_s: int) -> Path:
    with opened(path) as file:
        file.write(text.encode())
    os.utime(path, (at_s, at_s))
    return path


def test_an_old_and_a_new_replica_of_one_place_write_to_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRISTMILL_HOME", str(tmp_path))
    make = _maker(ServeConfig(), 1)
    old, new = make(Served("a/b", "v1", "", "1"), 0), make(Served("a/b", "v2", "", "2"), 0)
    paths = [old._log, new._log]  # type: ignore[attr-defined]
    assert paths[0] != paths[1] and {one.parent for one in paths} == {tmp_path / "serving" / "logs"}
    for number, path in enumerate(paths):
        written(path, f"{number}", number)
    assert [one.read_text() for one in paths] == ["0", "1"]


def test_the_newest_logs_are_kept_and_those_that_somebody_writes_to(tmp_path: Path) -> None:
    logs = ReplicaLogs(tmp_path)
    at_work = logs.path("old", 0)
    with opened(at_work) as file:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=file)
    os.utime(at_work, (0, 0))  # the oldest of all, and the gateway's own handle is closed
    try:
        ended = [written(logs.path("name", number), "x", number) for number in range(1, KEPT_LOGS + 10)]
        assert at_work.exists() and len(list(tmp_path.iterdir())) == KEPT_LOGS + 1
        assert [path.exists() for path in ended] == [False] * 9 + [True] * KEPT_LOGS
    finally:
        process.communicate(b"\n")
    os.utime(at_work, (0, 0))
    ReplicaLogs(tmp_path).path("name", 99)
    assert not at_work.exists() and len(list(tmp_path.iterdir())) == KEPT_LOGS - 1  # room for the one that comes
