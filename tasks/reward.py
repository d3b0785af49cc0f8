"""reward: a model that says how much an answer is worth, from preference pairs, with its accuracy on held-out ones (docs/align.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expectations.figures import suite_file
from infra.dataset import ShardSet
from infra.steps import Output, step
from tasks.dpo import align
from tasks.learn.align_config import RewardConfig

if TYPE_CHECKING:
    # what the process runs that trains is code of this step; nothing of it is imported here
    from tasks.learn import posttraining  # noqa: F401
    from tasks.learn import reward as adapter  # noqa: F401


def files_read(config: RewardConfig) -> dict[str, str]:
    """The suite is part of the recipe."""
    return suite_file(config.suite)


@step(schema="reward_model", fingerprint=files_read)
def reward(model: ShardSet, preferences: ShardSet, config: RewardConfig, out: Output) -> None:
    """Train a reward model that begins as a causal model without its output head; a kill costs the steps since a checkpoint.

    Raises:
        InputError: no pair fits the model.
        GateFailed: the figures are not what the suite asks for.
    """
    align("reward", {"model": model}, {"preferences": preferences}, config, out)
