"""Databases and manifests are brought to this release, and those of a newer one are refused and left as they were."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from flows import upkeep
from flows.upkeep import UpkeepError
from infra import launch
from infra.dataset import MANIFEST_FORMAT
from infra.settings import settings

# of Prefect 3.0; this release has it behind it
OLD_REVISION = "2ac65f1758c2"


def say(said: list[str]) -> str:
    return "\n".join(said)


def test_manifests_of_this_release_pass_and_one_of_a_newer_is_named(home: Path) -> None:
    for step, version, found in (("filter", "a", MANIFEST_FORMAT), ("publish", "b", MANIFEST_FORMAT)):
        folder = home / "store" / step / version
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"format": found}))
    (home / "store" / "dedup" / "unfinished").mkdir(parents=True)
    said: list[str] = []
    upkeep.migrate(said.append)
    assert say(said) == f"manifests: 2 of format {MANIFEST_FORMAT}, which is this release's"
    newer = home / "store" / "publish" / "b" / "manifest.json"
    newer.write_text(json.dumps({"format": MANIFEST_FORMAT + 1}))
    with pytest.raises(UpkeepError, match=f"{newer}: manifest format {MANIFEST_FORMAT + 1}; .*update Gristmill"):
        upkeep.migrate(said.append)
    assert not (home / "backups").exists()


def test_an_address_in_an_error_has_no_password() -> None:
    told = upkeep._without_passwords("cannot reach postgresql+psycopg2://mill:pa55@db/x and s3://corpus")
    assert told == "cannot reach postgresql+psycopg2://mill:***@db/x and s3://corpus"


def revision(path: Path) -> str:
    with sqlite3.connect(path) as database:
        return str(database.execute("SELECT version_num FROM alembic_version").fetchone()[0])


@pytest.mark.soak
def test_old_databases_are_copied_and_upgraded_and_unknown_ones_are_refused(home: Path) -> None:
    now = settings()
    prefect, mlflow = home / "prefect" / "prefect.db", home / "mlflow" / "mlflow.db"
    prefect.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes", "--revision", OLD_REVISION]
    subprocess.run(command, env=launch.prefect_server(now, 1).environment(), check=True, capture_output=True)
    environment = launch.mlflow_server(now, 2).environment()
    subprocess.run([sys.executable, "-c", upkeep.UPGRADE_MLFLOW], env=environment, check=True, capture_output=True)
    assert revision(prefect) == OLD_REVISION
    current = revision(mlflow)
    said: list[str] = []
    upkeep.migrate(said.append)
    assert revision(prefect) not in ("", OLD_REVISION) and revision(mlflow) == current
    assert "prefect: the database is of this release" in say(said) and "mlflow: the database is of this release" in say(said)
    (backup,) = (home / "backups").iterdir()
    assert revision(backup / "prefect.db") == OLD_REVISION

    for path, name in ((prefect, "prefect"), (mlflow, "mlflow")):
        before = revision(path)
        with sqlite3.connect(path) as database:
            database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        with pytest.raises(
            UpkeepError, match=f"{name}: the database has revision ffffffffffff, which this release does not know"
        ):
            upkeep.migrate(said.append)
        assert revision(path) == "ffffffffffff"
        with sqlite3.connect(path) as database:
            database.execute("UPDATE alembic_version SET version_num = ?", (before,))
