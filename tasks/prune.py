"""prune: a model without its least weights, units or blocks, and a table of what each sparsity costs in perplexity."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra import scratch, storage, trainings
from infra.dataset import Counts, ShardSet
from infra.errors import InputError
from infra.orchestration import show_table
from infra.steps import Output, step
from tasks.learn.compress_config import PruneConfig
from tasks.learn.config import MODEL

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.learn.scorer import Scorer

TABLE = "sparsity.json"
"""The table, row by row."""


@step(schema="model")
def prune(model: ShardSet, tokens: ShardSet, config: PruneConfig, out: Output) -> None:
    """Measure the held-out perplexity at each sparsity, and keep the model of one of them.

    `tokens` are of the model's tokeniser: their test split is scored, and documents of their training split show what is used least.

    Raises:
        InputError: the tokens are of another tokeniser, or the model is none that can be pruned in this way.
    """
    from tasks.learn import compression, pruning
    from tasks.learn.scorer import Scorer
    from tasks.learn.tokens import check_tokeniser

    check_tokeniser("prune", model, tokens)
    shards = compression.held_out(tokens)
    with storage.local_folder(model.file(MODEL)) as folder, scratch.folder("model") as temporary:
        work, scorer = Path(temporary), Scorer(folder, config.held_out)
        if not pruning.matrices(scorer.model):
            raise InputError("prune: the model has no matrices of float weights; give the one that an int8 model was made of")
        original, texts = scorer.model, _texts(tokens, scorer, config)
        rows: list[dict[str, Any]] = []
        for sparsity in (0.0, *config.asked):
            scorer.model = _pruned(original, config.method, sparsity, texts)
            if sparsity == config.kept:
                kept = scorer.model
                kept.save_pretrained(work)
            perplexity = compression.perplexity(scorer, shards, config.held_out)
            rows.append(_row(sparsity, scorer.model, perplexity, rows))
        compression.carry_tokeniser(folder, work)
        sizes = [compression.weight_bytes(one) for one in (folder, work)]
        trainings.keep_model(work, MODEL, out)
        trainings.keep_json(TABLE, rows, out)
    out.counts = Counts(total=1, kept=1)
    out.facts = {**compression.told_of(model), **_facts(rows, config, sizes)}
    if config.smaller:
        trainings.keep_used(compression.speeds(original, kept, config.speed, config.held_out.num_threads), out)
    shown = [{name: f"{value:,.4g}" for name, value in row.items()} for row in rows]
    show_table("sparsity", shown, f"perplexity by sparsity, method {config.method}")


def _pruned(original: PreTrainedModel, method: str, sparsity: float, texts: Sequence[Sequence[int]]) -> PreTrainedModel:
    """A copy without so much of it."""
    from tasks.learn import pruning

    model = copy.deepcopy(original)
    if not sparsity:
        return model
    if method == "width":
        pruning.narrow(model, sparsity, texts)
    elif method == "depth":
        pruning.shorten(model, sparsity, texts)
    else:
        pruning.zero(model, method, sparsity)  # type: ignore[arg-type]
    return model


def _texts(tokens: ShardSet, scorer: Scorer, config: PruneConfig) -> list[list[int]]:
    """The beginnings of training documents, for the methods that look at what is used."""
    from tasks.learn.tokens import open_shards

    found: list[list[int]] = []
    if not config.smaller:
        return found
    for index in tokens.manifest().facts["splits"]["train"]:
        [shard] = open_shards(tokens, [index])
        left = config.calibration_documents - len(found)
        for start, length in zip(shard.offsets[:left].tolist(), shard.lengths[:left].tolist(), strict=True):
            found.append([scorer.opening, *shard.tokens[start : start + min(length, scorer.context_length) - 1].tolist()])
        if len(found) >= config.calibration_documents:
            break
    return found


def _row(sparsity: float, model: PreTrainedModel, perplexity: float, above: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from tasks.learn import pruning

    return {
        "sparsity": sparsity,
        "zeros": pruning.zeros_of(model),
        "num_parameters": int(model.num_parameters()),
        "perplexity": perplexity,
        "perplexity_ratio": perplexity / above[0]["perplexity"] if above else 1.0,
    }


def _facts(rows: Sequence[dict[str, Any]], config: PruneConfig, sizes: Sequence[int]) -> dict[str, Any]:
    whole, kept = rows[0], next(row for row in rows if row["sparsity"] == config.kept)
    return {
        "method": config.method,
        "sparsity": config.kept,
        "zeros": kept["zeros"],
        "num_parameters": kept["num_parameters"],
        "before.num_parameters": whole["num_parameters"],
        "after.num_parameters": kept["num_parameters"],
        "before.perplexity": whole["perplexity"],
        "after.perplexity": kept["perplexity"],
        "perplexity_ratio": kept["perplexity_ratio"],
        "before.weight_bytes": sizes[0],
        "after.weight_bytes": sizes[1],
        **{f"perplexity.at.{row['sparsity']:g}": row["perplexity"] for row in rows},
    }
