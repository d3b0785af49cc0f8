"""What the tests of flows share: a Dask cluster, and an MLflow store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

from infra.cluster import DaskConfig


@pytest.fixture(scope="session")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskConfig]:
    """Two worker processes for all tests that compare with what one process makes: starting them anew each time takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRISTMILL_HOME", str(tmp_path_factory.mktemp("workers")))
        cluster = LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, scheduler_kwargs={"dashboard_address": ":0"}
        )
    with cluster:
        yield DaskConfig(kind="address", address=cluster.scheduler_address)


@pytest.fixture
def mlflow_store(home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A real MLflow store in a file of the test's own home, with no server before it."""
    home.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("GRISTMILL_MLFLOW_URL", f"sqlite:///{home}/mlflow.db")
    monkeypatch.setenv("MLFLOW_ARTIFACT_ROOT", str(home / "artifacts"))
    monkeypatch.chdir(home)  # where a store without a server puts artifacts
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db", registry_uri=f"sqlite:///{home}/mlflow.db")
