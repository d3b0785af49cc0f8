"""What all tests share: an own home per test session, and the seeded slice of the slow proofs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak-slice", type=int, default=None, metavar="SEED", help="run only a seeded slice of the soak tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
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
