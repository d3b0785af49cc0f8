"""sft: tune a model on conversations; a kill costs at most the steps since the last checkpoint."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from infra import trainings
from infra.dataset import ShardSet
from infra.steps import Output, step
from tasks.learn import posttrain
from tasks.learn.sft_config import SftConfig

if TYPE_CHECKING:
    # what the process runs that trains is code of this step; nothing of it is imported here
    from tasks.learn import posttraining  # noqa: F401
    from tasks.learn import sft as adapter  # noqa: F401


@step(schema="model", fingerprint=posttrain.quantiser)
def sft(model: ShardSet, conversations: ShardSet, config: SftConfig, out: Output) -> None:
    """Learn the assistant's words of the training split, and say how likely those of the test split were before and are after."""
    work = trainings.work_folder(out)
    job = posttrain.post_job("sft", config, work, models={"model": model}, rows={"conversations": conversations})
    result = trainings.followed(partial(posttrain.run, job), work, posttrain.in_words)
    trainings.keep_result(result, work, out, **posttrain.KEPT)
    out.counts = posttrain.counts(result)
    out.facts = posttrain.facts(result)
    trainings.keep_used(posttrain.used(config, result), out)
