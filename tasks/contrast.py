"""contrast: preference pairs made of a corpus: to a document's title its own first paragraph is preferred before another document's."""

from __future__ import annotations

from functools import partial

from infra.dataset import ShardSet
from infra.steps import Output, step
from tasks.text.titled import TitledConfig, pairs, shards_of, titles_of


@step(schema="preferences")
def contrast(dataset: ShardSet, config: TitledConfig, out: Output) -> None:
    """Pair the answer of each document with a title with that of another one; every row names its document.

    Raises:
        InputError: the dataset has no splits.
    """
    shards = shards_of(dataset)
    out.sum_facts(out.map(partial(pairs, config=config, in_training=titles_of(shards)), shards))
