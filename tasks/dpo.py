"""dpo: align a model by preference pairs; held-out accuracy, implicit rewards and what it writes, before and after (docs/align.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expectations.figures import suite_file
from infra.dataset import ShardSet
from infra.steps import Output, step
from tasks.learn import aligned
from tasks.learn.align_config import DpoConfig

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
    aligned.align("dpo", {"model": model}, {"preferences": preferences}, config, out)
