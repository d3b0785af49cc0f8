"""Prefect and MLflow on a real PostgreSQL instead of SQLite."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from backends import Postgres
from served_mill import STEPS, Mill

pytestmark = [pytest.mark.soak, pytest.mark.timeout(360, func_only=True)]


def on_postgres(postgres: Postgres) -> dict[str, str]:
    """The settings of a mill whose two servers keep their state there."""
    postgres.create("prefect", "mlflow")
    return {"GRISTMILL_PREFECT_DATABASE": postgres.url("prefect"), "GRISTMILL_MLFLOW_DATABASE": postgres.url("mlflow")}


def test_the_pipeline_runs_with_both_servers_on_postgres(new_mill: Callable[..., Mill], postgres: Postgres) -> None:
    mill = new_mill(on_postgres(postgres))
    said = mill.run()
    assert said.returncode == 0, said.stdout + said.stderr + mill.logs()
    run_id = mill.newest_run()
    assert mill.states(run_id) == dict.fromkeys(STEPS, "Completed")
    assert not list(mill.home.rglob("*.db"))
    for name, table in (("prefect", "task_run"), ("mlflow", "runs")):
        assert postgres.ask(name, f"SELECT count(*) FROM {table}")[0][0] >= len(STEPS)
    assert mill.cli("down").returncode == 0  # before the database goes
