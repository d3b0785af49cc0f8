"""What a version says of an alignment: its figures before and after, with their items. Imports no torch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from infra import storage
from infra.dataset import Outcome, write_shard
from tasks.learn import figures, posttrain
from tasks.learn.align_config import FIGURES
from tasks.learn.comparison import figure_of
from tasks.learn.config import ITEMS, SCORES
from tasks.learn.figures import StepOutput
from tasks.learn.tuning_told import AFTER, ENDS


def keep(result: Mapping[str, Any], work: Path, out: StepOutput) -> pa.Table:
    """Keep the figures that a job left in `work`, as facts, too; they as SCORES, to be judged."""
    for name in (SCORES, ITEMS):
        with (work / FIGURES / name).open("rb") as made, storage.open_write(storage.join(out.folder, name)) as kept:
            shutil.copyfileobj(made, kept)
        out.keep_file(name)
    told: list[Any] = storage.read_json(storage.join(out.folder, SCORES))["figures"]
    scores = figures.table(map(figure_of, told))
    out.receipts = [write_shard(out.folder, 0, Outcome(scores))]
    out.counts = posttrain.counts(result)
    out.facts = posttrain.facts(result)
    out.facts |= {f"{one['name']}{end}": one[end[1:]] for one in told if one["name"].startswith(AFTER) for end in ENDS}
    return scores
