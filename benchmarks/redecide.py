"""A million stored rows of signals judged again: `gristmill step filter` and `gristmill compare-filters`, whole processes.

    python -m benchmarks.redecide [--rows N] [--profile NAME]

The rows are signals of Debian's documentation, drawn with a seed and each number changed by up to a thousandth, so that Parquet cannot
store them as copies; no text is read or stored.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from benchmarks.signals import PACKAGES, texts_of
from infra.cluster import DaskConfig, pool
from infra.dataset import Outcome
from infra.settings import settings
from infra.steps import Output, Step
from tasks.text.language import identify
from tasks.text.signals import measure

LIMIT_S = 10.0
ROWS_PER_SHARD = 62_500


class DrawConfig(BaseModel):
    """How many rows there are."""

    model_config = ConfigDict(frozen=True)

    num_rows: int


def drawn(index: int, measured: pa.Table) -> Outcome:
    """One shard of rows like those of `measured`."""
    random = np.random.default_rng(index)
    rows = measured.take(random.integers(0, measured.num_rows, ROWS_PER_SHARD))
    for at, field in enumerate(rows.schema):
        if pa.types.is_float32(field.type):
            noise = (1 + random.uniform(-1e-3, 1e-3, ROWS_PER_SHARD)).astype(np.float32)
            rows = rows.set_column(at, field.name, pa.array(rows[field.name].to_numpy() * noise))
    ids = pa.array([f"{index * ROWS_PER_SHARD + row:032x}" for row in range(ROWS_PER_SHARD)])
    keys = {"doc_id": ids, "content_id": ids, "url": ids, "host": ids, "source": pa.repeat("debian", ROWS_PER_SHARD)}
    return Outcome(pa.table({**keys, **{name: rows[name] for name in rows.column_names}}))


def signals(config: DrawConfig, out: Output) -> None:
    """Rows as the step of this name would leave them."""
    texts = pa.array(texts_of(PACKAGES))
    language, score = identify(texts, settings().language_model)
    measured = measure(texts, language=language).append_column("language", language).append_column("language_score", score)
    out.map(partial(drawn, measured=measured), range(config.num_rows // ROWS_PER_SHARD))


SIGNALS = Step(signals, "signals", lambda config: {})


def timed(*words: str) -> float:
    """Seconds of one command."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "flows", *words], check=True, stdout=subprocess.DEVNULL, env=dict(os.environ))  # noqa: TID251
    return time.monotonic() - started


def main() -> None:
    """Measure and print, beside the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--profile", default="fineweb-code")
    given = parser.parse_args()
    from benchmarks.redecide import SIGNALS, DrawConfig  # a recipe names the module of its step, which __main__ is not

    with tempfile.TemporaryDirectory(prefix="gristmill-bench-") as home:
        stored, verdicts = str(Path(home) / "signals"), str(Path(home) / "verdicts")
        with pool(DaskConfig(kind="none")):
            made = SIGNALS.run([], DrawConfig(num_rows=given.rows), stored).shards
        size = sum(file.stat().st_size for file in Path(stored).rglob("*.parquet"))
        columns = made.shards()[0].read().num_columns
        print(f"{made.counts.kept:,} rows of {columns} columns, {size / 1e6:,.0f} MB")
        took = timed("step", "filter", "--input", stored, "--output", verdicts, "--set", f"profile={given.profile}")
        judged = "met" if took <= LIMIT_S else "MISSED"
        print(f"gristmill step filter --set profile={given.profile}: {took:.1f} s, at most {LIMIT_S:g} s: {judged}")
        took = timed("compare-filters", given.profile, "gopher", "--of", stored)
        print(f"gristmill compare-filters {given.profile} gopher: {took:.1f} s")


if __name__ == "__main__":
    main()
