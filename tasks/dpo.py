"""dpo: align a model by preference pairs; held-out accuracy, implicit rewards and what it writes, before and after (docs/align.md)."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expectations.figures import judged, suite_file
from infra import storage, trainings
from infra.dataset import Counts, Outcome, ShardSet, write_shard
from infra.steps import Output, step
from tasks.learn import posttrain
from tasks.learn.align_config import FIGURES, AlignConfig, DpoConfig
from tasks.learn.comparison import figure_of
from tasks.learn.config import HISTORY, ITEMS, LEFT_OUT, MODEL, SCORES, SPEED
from tasks.learn.figures import table
from tasks.learn.posttrain import Method
from tasks.learn.tuning_told import AFTER, ENDS

if TYPE_CHECKING:
    # what the process runs that trains is code of this step; nothing of it is imported here
    from tasks.learn import dpo as adapter  # noqa: F401
    from tasks.learn import posttraining  # noqa: F401


def files_read(config: DpoConfig) -> dict[str, str]:
    """The suite is part of the recipe."""
    return suite_file(config.suite)


@step(schema="model", fingerprint=files_read)
def dpo(model: ShardSet, preferences: ShardSet, config: DpoConfig, out: Output) -> None:
    """Make preferred answers likelier than others, without going far from the model as it was; a kill costs the steps since a checkpoint.

    Raises:
        InputError: no pair fits the model.
        GateFailed: the figures are not what the suite asks for.
    """
    align("dpo", {"model": model}, {"preferences": preferences}, config, out)


def align(method: Method, models: Mapping[str, ShardSet], rows: Mapping[str, ShardSet], config: AlignConfig, out: Output) -> None:
    """Train by a method in a process of its own, keep what it gives, and judge its figures.

    Raises:
        InputError: training cannot start or go on, in its own words.
        GateFailed: the figures are not what the suite asks for.
    """
    work = trainings.work_folder(out)
    job = posttrain.post_job(method, config, work, models=models, rows=rows)
    result = trainings.followed(partial(posttrain.run, job), work, posttrain.in_words)
    trainings.keep_model(Path(result["model_folder"]), MODEL, out)
    trainings.keep_history(result["history"], (HISTORY, SPEED), posttrain.VOLATILE, out)
    trainings.keep_curves(work, out)
    trainings.keep_json(LEFT_OUT, result["left_out"], out)
    for name in (SCORES, ITEMS):
        with (work / FIGURES / name).open("rb") as made, storage.open_write(storage.join(out.folder, name)) as kept:
            shutil.copyfileobj(made, kept)
        out.keep_file(name)
    dropped = Counter(one["rule"] for one in result["left_out"])
    learnt = result["facts"]["rows"]
    out.counts = Counts(total=learnt + dropped.total(), kept=learnt, dropped=dict(sorted(dropped.items())))
    out.facts = posttrain.facts(result)
    trainings.keep_used(posttrain.used(config, result), out)
    figures: list[Any] = storage.read_json(storage.join(out.folder, SCORES))["figures"]
    scores = table(map(figure_of, figures))
    out.receipts = [write_shard(out.folder, 0, Outcome(scores))]
    out.facts |= {f"{one['name']}{end}": one[end[1:]] for one in figures if one["name"].startswith(AFTER) for end in ENDS}
    out.facts |= judged(method, scores, out.facts, config.suite)
