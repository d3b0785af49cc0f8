"""Steps that only wait, so that what is left of their time is the mill's own; used by `benchmarks/orchestration.py`."""

from __future__ import annotations

import time
from functools import partial

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from infra.dataset import Outcome
from infra.steps import Output, Step


class SleepConfig(BaseModel):
    """How much a step does."""

    model_config = ConfigDict(frozen=True)

    number: int = 0
    """Makes versions of their own."""
    shards: int = 4
    seconds: float = 0.0
    """Waited per shard."""


def wait(index: int, seconds: float) -> Outcome:
    """One shard of one row, after a while."""
    time.sleep(seconds)
    return Outcome(pa.table({"doc_id": [f"{index:032x}"]}))


def sleep(config: SleepConfig, out: Output) -> None:
    """Shards that wait."""
    out.map(partial(wait, seconds=config.seconds), range(config.shards))


SLEEP = Step(sleep, "sleep", lambda config: {})
