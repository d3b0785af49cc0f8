"""Mills that start once for all who ask for the same and are stopped, whatever happens."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

# test folders are no packages, so what they share is found by path
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "flows"))

from backends import S3, Postgres, postgres_cluster, s3_server
from served_mill import Mill, free_port, strict_suite, tiny_config, watch_the_network


def how_long(fixture_name: str, config: pytest.Config) -> Literal["module", "session"]:
    """Scope of a mill: the slow proofs share one; without them one file alone wants it, and its servers would work on beside the rest."""
    return "module" if "not soak" in config.option.markexpr else "session"


@pytest.fixture(scope="session")
def demo_port() -> int:
    """Port of the demo site: part of its URLs, so one for all runs whose digests are compared."""
    return free_port()


@pytest.fixture(scope=how_long)
def new_mill(tmp_path_factory: pytest.TempPathFactory, demo_port: int) -> Iterator[Callable[..., Mill]]:
    """Make mills; all are stopped in the end."""
    made: list[Mill] = []

    def make(extra: Mapping[str, str] | None = None, **changes: Any) -> Mill:
        folder = tmp_path_factory.mktemp("mill")
        made.append(Mill(folder / "home", tiny_config(folder, demo_port, **changes), free_port(), free_port(), dict(extra or {})))
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            one.cli("down")


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL cluster of one test's own."""
    with postgres_cluster() as found:
        yield found


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3]:
    """An S3 server of one test's own, with a bucket `corpus`."""
    with s3_server(tmp_path / "s3.log") as found:
        yield found


@pytest.fixture
def auth_file(tmp_path: Path) -> Path:
    """A file with a user and a random password, readable by its owner alone."""
    path = tmp_path / "auth"
    path.touch(mode=0o600)
    path.write_text(f"miller:auth-{secrets.token_hex(16)}\n")
    return path


@pytest.fixture(scope=how_long)
def mill(new_mill: Callable[..., Mill], tmp_path_factory: pytest.TempPathFactory, lineage_server: Any) -> Mill:
    """A mill whose servers run, whose every process notes what it asks of the network, and whose steps tell a lineage server."""
    told = {"GRISTMILL_OPENLINEAGE_URL": lineage_server.url}
    made = new_mill(watch_the_network(tmp_path_factory.mktemp("watch")) | told)
    started = made.cli("up")
    assert started.returncode == 0, started.stdout + started.stderr + made.logs()
    return made


@pytest.fixture(scope=how_long)
def undisturbed(mill: Mill) -> str:
    """A run of the tiny pipeline that nothing disturbed: what the others are compared with."""
    said = mill.run()
    assert said.returncode == 0, said.stdout + said.stderr + mill.logs()
    return mill.newest_run()


@pytest.fixture(scope=how_long)
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite file with one expectation that cannot hold."""
    return strict_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope=how_long)
def failed(mill: Mill, suite: Path) -> tuple[Any, str]:
    """A run that the gate stops: what the command said, and the run's id."""
    said = mill.run(f"validate.suite={suite}")
    return said, mill.newest_run()


@pytest.fixture(scope=how_long)
def failed_page(mill: Mill, failed: tuple[Any, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report page of that run, before it is tried again."""
    path = tmp_path_factory.mktemp("failed") / "page.html"
    said = mill.cli("report", failed[1], "--output", str(path))
    assert said.returncode == 0, said.stderr
    return path.read_text()


@pytest.fixture(scope=how_long)
def retried(mill: Mill, suite: Path, failed: tuple[Any, str], failed_page: str) -> str:
    """The same run, tried again after the suite was mended."""
    raw = json.loads(suite.read_text())
    suite.write_text(json.dumps({**raw, "expectations": raw["expectations"][:-1]}))
    mill.retry(failed[1])
    run = mill.ended(failed[1], attempt=2)
    assert run["state_name"] == "Completed", run["state"]["message"] + mill.logs()
    return failed[1]
