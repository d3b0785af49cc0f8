"""quantise: a model in int8 for CPUs, with its perplexity, its speed and its size before and after."""

from __future__ import annotations

from pathlib import Path

from expectations.verdict import GateFailed
from infra import scratch, storage, trainings
from infra.dataset import Counts, ShardSet
from infra.steps import Output, step
from tasks.learn.compress_config import QuantiseConfig
from tasks.learn.config import MODEL


@step(schema="model")
def quantise(model: ShardSet, tokens: ShardSet, config: QuantiseConfig, out: Output) -> None:
    """Keep the model in int8: a quarter of its size, faster on a CPU, and a little worse, by how much its facts say.

    `tokens` are of the model's tokeniser; their test split is what the perplexity is measured on.

    Raises:
        InputError: the tokens are of another tokeniser, or the model has nothing that could be int8.
        GateFailed: it loses more than `config` allows.
    """
    from models import int8
    from tasks.learn import compression
    from tasks.learn.scorer import Scorer
    from tasks.learn.tokens import check_tokeniser

    check_tokeniser("quantise", model, tokens)
    shards, scoring = compression.held_out(tokens), config.held_out
    with storage.local_folder(model.file(MODEL)) as folder, scratch.folder("model") as temporary:
        work, before = Path(temporary), Scorer(folder, scoring)
        num_int8 = int8.write(before.model, work)
        compression.carry_tokeniser(folder, work)
        after = Scorer(work, scoring)
        perplexities = [compression.perplexity(one, shards, scoring) for one in (before, after)]
        _within(config, *perplexities)
        sizes = [compression.weight_bytes(one) for one in (folder, work)]
        trainings.keep_model(work, MODEL, out)
    out.counts = Counts(total=1, kept=1)
    out.facts = {
        **compression.told_of(model),
        "precision": "int8",
        "num_int8": num_int8,
        "before.perplexity": perplexities[0],
        "after.perplexity": perplexities[1],
        "perplexity_ratio": perplexities[1] / perplexities[0],
        "before.weight_bytes": sizes[0],
        "after.weight_bytes": sizes[1],
    }
    trainings.keep_used(compression.speeds(before.model, after.model, config.speed, scoring.num_threads), out)


def _within(config: QuantiseConfig, before: float, after: float) -> None:
    limit = config.max_perplexity_ratio
    if limit is not None and after > limit * before:
        raise GateFailed(
            f"quantise: in int8 the held-out perplexity is {after:.4g}, {after / before:.4g} times that of {before:.4g} before; allowed by "
            f"quantise.max_perplexity_ratio: {limit:.4g}. Serve the model as it is, or allow the loss there"
        )
