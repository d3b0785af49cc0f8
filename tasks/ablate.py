"""ablate: which variant of a corpus makes the better model, from the scores of the same model trained on each with the same seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from infra import storage
from infra.dataset import Counts, ShardSet
from infra.errors import InputError
from infra.steps import Output, step
from tasks.learn.config import HISTORY

ABLATION, PAGE = "ablation.json", "ablation.html"
METRICS = (
    "heldout.bits_per_byte",
    "heldout.pseudo_bits_per_byte",
    "heldout.bits_per_byte.half.clean",
    "heldout.accuracy",
    "heldout.masked_accuracy",
    "calibration.brier",
    "tasks.*",
    "reasoning.*.accuracy",
)
"""What is compared if nobody says: few, for of forty metrics of equal models two lie beyond noise by chance. No perplexity, whose logarithm
bits per byte are here."""
MAX_EPOCHS = 4
"""Times that text may be repeated before the next time teaches less than new text (Muennighoff et al. 2023, section 6)."""


class VariantConfig(BaseModel):
    """One of the versions that are compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    differs: str = ""
    """In what it differs from the baseline, for people to read."""


class AblateConfig(BaseModel):
    """What the models were trained with, and what of their scores is compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: tuple[VariantConfig, ...] = Field(min_length=2)
    """The baseline first."""
    seeds: tuple[int, ...] = Field(min_length=2)
    """Of the trainings of each variant."""
    metrics: tuple[str, ...] = METRICS
    """Names of figures, or patterns with `*`, in the order in which they are told."""


@step(schema="ablation")
def ablate(
    documents: list[ShardSet],
    tokens: list[ShardSet],
    models: list[ShardSet],
    scores: list[ShardSet],
    config: AblateConfig,
    out: Output,
) -> None:
    """Means over seeds with their intervals, differences from the baseline over seeds and items, and a page.

    Args:
        documents: one of each variant, as `withhold` made it.
        tokens: one of each.
        models: variant by variant, seed by seed.
        scores: of these models, one or more of each, in their order.

    Raises:
        InputError: the models were not trained or scored in the same way.
    """
    from infra import ablation_page
    from tasks.learn.ablation import effects
    from tasks.learn.comparison import measured

    _require_equal(documents, tokens, models, config)
    num, each = len(config.seeds), len(scores) // len(models)
    of_models = [measured(scores[at : at + each]) for at in range(0, len(scores), each)]
    names = [one.name for one in config.variants]
    found = effects(names, [of_models[at : at + num] for at in range(0, len(models), num)], config.metrics)
    if not found:
        raise InputError(f"ablate: none of {', '.join(config.metrics)} was measured of all models; choose others with --metric")
    steps, curves = _curves(models, num)
    told: dict[str, Any] = {
        "seeds": list(config.seeds),
        "steps": models[0].manifest().facts["steps"],
        "tokens": models[0].manifest().facts["tokens"],
        "parameters": models[0].manifest().facts["num_parameters"],
        "held_out": documents[0].manifest().facts["num_documents.test"],
        "held_out_by": documents[0].manifest().facts["held_out_by"],
        "variants": [
            _variant(*one, models[0].manifest().facts["tokens"]) for one in zip(config.variants, documents, tokens, strict=True)
        ],
        "effects": [one.as_json() for one in found],
        "curves": {"steps": steps, "valid_loss": dict(zip(names, curves, strict=True))},
        "models": dict(
            zip(names, ([one.path for one in models[at : at + num]] for at in range(0, len(models), num)), strict=True)
        ),
    }
    told["warnings"] = warnings(told["variants"])
    storage.write_json(storage.join(out.folder, ABLATION), told)
    storage.write_bytes(storage.join(out.folder, PAGE), ablation_page.render(told).encode())
    for name in (ABLATION, PAGE):
        out.keep_file(name)
    out.counts = Counts(total=len(found), kept=len(found))
    out.facts = {f"{one.variant}.{one.metric}": one.mean for one in found}
    out.facts |= {f"{one.variant}.{one.metric}.difference": one.difference for one in found if one.difference is not None}


def epochs(num_tokens_read: int, num_tokens: int) -> float:
    """How often a training reads its data."""
    return num_tokens_read / max(num_tokens, 1)


def warnings(variants: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each variant whose text is repeated too often for the amount of text not to matter."""
    return [
        f"{one['name']}: its {one['tokens']:,} tokens are read {one['epochs']:.1f} times; above {MAX_EPOCHS} a variant with more text has "
        "an advantage that is not its filter's: train fewer steps, or on more text"
        for one in variants
        if one["epochs"] > MAX_EPOCHS
    ]


def _variant(config: VariantConfig, documents: ShardSet, tokens: ShardSet, read: int) -> dict[str, Any]:
    facts, counts = documents.manifest().facts, documents.manifest().counts
    num_tokens = tokens.manifest().facts["num_tokens.train"]
    return {
        "name": config.name,
        "differs": config.differs,
        "version": f"{documents.step}/{documents.version}",
        "documents": facts["num_documents.train"],
        "withheld": dict(counts.dropped),
        "tokens": num_tokens,
        "epochs": epochs(read, num_tokens),
    }


def _require_equal(
    documents: Sequence[ShardSet], tokens: Sequence[ShardSet], models: Sequence[ShardSet], config: AblateConfig
) -> None:
    """What must be the same for all: tokeniser, held-out documents, model, data order, steps, seeds."""
    num = len(config.seeds)
    if not len(documents) == len(tokens) == len(config.variants) or len(models) != num * len(config.variants):
        raise InputError("ablate: takes documents and tokens of each variant, and a model of each variant and seed")
    recipes = [one.manifest().recipe["config"] for one in models]
    seeds = [recipe["seed"] for recipe in recipes]
    if seeds != [*config.seeds] * len(config.variants) or any({**one, "seed": 0} != {**recipes[0], "seed": 0} for one in recipes):
        raise InputError("ablate: the models were not trained by one configuration with the same seeds")
    steps = [one.manifest().facts["steps"] for one in models]
    if len(set(steps)) > 1:
        raise InputError(
            f"ablate: the trainings ended after {', '.join(map(str, steps))} steps; without early_stopping they are equal"
        )
    words = {file.digest for one in tokens for file in one.manifest().files if file.name.endswith("/tokenizer.json")}
    if len(words) > 1:
        raise InputError("ablate: the variants have several tokenisers")
    if len({one.manifest().recipe["inputs"]["held_out"] for one in documents}) > 1:
        raise InputError("ablate: the variants are scored on the test splits of several versions")


def _curves(models: Sequence[ShardSet], num_seeds: int) -> tuple[list[int], list[list[float]]]:
    """The steps at which the validation loss was looked at, and for each variant its means over seeds, in nats per token."""
    histories = [[line for line in json.loads(one.read_file(HISTORY)) if line["valid_loss"] is not None] for one in models]
    losses = np.array([[line["valid_loss"] for line in history] for history in histories], np.float64)
    means = losses.reshape(-1, num_seeds, losses.shape[1]).mean(1)
    return [int(line["step"]) for line in histories[0]], means.tolist()
