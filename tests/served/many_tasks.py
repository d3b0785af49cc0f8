"""A flow of many small tasks that tells MLflow of each: `python many_tasks.py NAME COUNT`, beside others of its kind."""

from __future__ import annotations

import sys
import time

from mlflow import MlflowClient
from prefect import flow, task
from prefect.cache_policies import NO_CACHE


@task(cache_policy=NO_CACHE)
def number(index: int) -> int:
    """As little as a task can do."""
    return index


@flow(name="many-tasks")
def many(name: str, count: int) -> int:
    """Run `count` tasks, eight at a time, and log a metric for each."""
    client = MlflowClient()
    run = client.create_run(client.create_experiment(name), run_name=name).info.run_id
    total = 0
    for start in range(0, count, 8):
        for future in [number.submit(index) for index in range(start, min(start + 8, count))]:
            value = future.result()
            client.log_metric(run, "number", value, step=value)
            total += value
    client.set_terminated(run)
    return total


if __name__ == "__main__":
    begun = time.monotonic()
    assert many(sys.argv[1], int(sys.argv[2])) == sum(range(int(sys.argv[2])))
    print(f"{sys.argv[1]}: {time.monotonic() - begun:.0f} s")
