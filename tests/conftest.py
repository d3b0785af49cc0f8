"""What all tests share: an own home per test session, and the seeded slice of the slow proofs."""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak-slice", type=int, default=None, metavar="SEED", help="run only a seeded slice of the soak tests")


# the longest files, longest first, for one that comes last leaves a process idle
LONGEST = (
    *("served/test_served", "flows/test_dedup", "flows/test_step_command", "learn/test_trainer", "flows/test_trim"),
    *("text/test_minhash", "infra/test_locks", "flows/test_classifiers", "flows/test_decontaminate", "flows/test_sweep"),
    *("flows/test_augment", "learn/test_parallel", "flows/test_audit", "flows/test_read_by", "flows/test_probe"),
    *("text/test_hostile_bytes", "text/test_repeats", "learn/test_asked_models", "learn/test_bias", "web/test_crawler"),
    *("learn/test_align", "learn/test_sft", "flows/test_compress", "serving/test_gateway", "learn/test_distillation"),
    *("flows/test_tune", "flows/test_align", "serving/test_preface", "serving/test_votes", "serving/test_ratings"),
    *("learn/test_memorisation", "flows/test_evaluate", "flows/test_crawl", "flows/test_bad_input", "infra/test_report"),
)


MEMORY = Path("/dev/shm")
MIN_FREE_BYTES = 4 << 30


def pytest_configure(config: pytest.Config) -> None:
    # what tests write lives for seconds: to have a disk keep it takes longer than to write it
    if MEMORY.exists() and min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available) >= MIN_FREE_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    # how long an example takes hangs on what else runs here; slow proofs draw more of them, and every run draws others
    slow = "not soak" not in config.option.markexpr
    hypothesis.settings.register_profile("ours", deadline=None, max_examples=200 if slow else 50)
    hypothesis.settings.load_profile("ours")
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # its thread changes the environment while others read that
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for their turn would burn what other tests could use
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # else files of many tests begin first, however short these are


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported stays, so looking for garbage in it costs seconds and finds none."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(f"{item.path.parent.name}/{item.path.stem}", len(order)))
    seed = config.getoption("--soak-slice")
    if seed is None:
        return
    soak = sorted((item for item in items if item.get_closest_marker("soak")), key=lambda item: item.nodeid)
    chosen = set(random.Random(seed).sample(soak, k=min(SLICE_SIZE, len(soak))))
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


SLICE_SIZE = 2


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A slice of which every test was skipped proves nothing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--soak-slice") is not None and reporter is not None and not reporter.stats.get("passed"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and store of this test's own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("GRISTMILL_HOME", str(folder))
    for name in ("GRISTMILL_STORAGE", "GRISTMILL_PREFECT_API_URL", "GRISTMILL_MLFLOW_URL"):
        monkeypatch.delenv(name, raising=False)
    return folder


class LineageServer(ThreadingHTTPServer):
    """Keeps the OpenLineage events that are posted to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.events: list[dict[str, Any]] = []
        self.paths: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Receiver(BaseHTTPRequestHandler):
    server: LineageServer

    def do_POST(self) -> None:
        self.server.paths.add(self.path)
        self.server.events.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *words: object) -> None:
        return None


@pytest.fixture(scope="session")
def lineage_server() -> Iterator[LineageServer]:
    """A lineage server of the tests' own."""
    with LineageServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
