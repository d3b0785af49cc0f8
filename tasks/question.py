"""question: conversations made of a corpus: the title of a document asks, its first paragraph answers."""

from __future__ import annotations

from functools import partial

from infra.dataset import ShardSet
from infra.steps import Output, step
from tasks.text.titled import TitledConfig, conversations, shards_of, titles_of


@step(schema="conversations")
def question(dataset: ShardSet, config: TitledConfig, out: Output) -> None:
    """Ask each document with a title for what it says first; every row names its document.

    Raises:
        InputError: the dataset has no splits.
    """
    shards = shards_of(dataset)
    out.sum_facts(out.map(partial(conversations, config=config, in_training=titles_of(shards)), shards))
