"""What the tests of flows share: a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator

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
