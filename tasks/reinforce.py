"""reinforce: align a model by the rewards of what it writes, checked or judged by a reward model (docs/align.md)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from expectations.figures import judged, suite_file
from infra import trainings
from infra.dataset import ShardSet
from infra.errors import InputError
from infra.steps import Output, step
from tasks.learn import aligned, posttrain
from tasks.learn.align_config import ReinforceConfig

if TYPE_CHECKING:
    # what the process runs that trains is code of this step; nothing of it is imported here
    from tasks.learn import posttraining  # noqa: F401
    from tasks.learn import reinforce as adapter  # noqa: F401


def files_read(config: ReinforceConfig) -> dict[str, str]:
    """The suite is part of the recipe, and what holds weights in four bits."""
    return suite_file(config.suite) | posttrain.quantiser(config)


@step(schema="model", fingerprint=files_read)
def reinforce(model: ShardSet, problems: ShardSet, reward_model: list[ShardSet], config: ReinforceConfig, out: Output) -> None:
    """Write answers, reward them, and make the better ones likelier: RLOO or GRPO. `reward_model` is none, or one.

    Raises:
        InputError: nothing rewards the problems, none fits the model, or what judges is no reward model.
        GateFailed: the figures are not what the suite asks for.
    """
    if len(reward_model) > 1:
        raise InputError(f"reinforce: takes one reward model at most (got {len(reward_model)})")
    for one in reward_model:
        if one.schema_name != "reward_model":
            raise InputError(f"reinforce: {one.folder}: is no reward model but {one.schema_name}; make one with step reward")
    judges = dict(zip(["reward_model"], reward_model, strict=False))
    work = trainings.work_folder(out)
    job = posttrain.post_job("reinforce", config, work, models={"model": model, **judges}, rows={"problems": problems})
    result = trainings.followed(partial(posttrain.run, job), work, posttrain.in_words)
    trainings.keep_result(result, work, out, **posttrain.KEPT)
    scores = aligned.keep(result, work, out)
    trainings.keep_used(posttrain.used(config, result), out)
    out.facts |= judged("reinforce", scores, out.facts, config.suite)
