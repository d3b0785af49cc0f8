"""contrast: preference pairs made of a corpus: to a document's title its own first paragraph is preferred before a worse answer."""

from __future__ import annotations

from functools import partial

from infra.dataset import ShardSet
from infra.steps import Output, step
from tasks.text.titled import ContrastConfig, pairs, shards_of, titles_of


@step(schema="preferences")
def contrast(dataset: ShardSet, config: ContrastConfig, out: Output) -> None:
    """Pair the answer of each document with a title with a worse one; every row names its document.

    Raises:
        InputError: the dataset has no splits.
    """
    shards = shards_of(dataset)
    out.sum_facts(out.map(partial(pairs, config=config, in_training=titles_of(shards)), shards))
