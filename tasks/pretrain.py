"""pretrain: train a causal or masked model on the token shards; a kill costs at most the steps since the last checkpoint."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra import storage, trainings
from infra.dataset import Counts, ShardSet
from infra.errors import InputError
from infra.settings import child_environment, settings
from infra.steps import Output, step
from infra.versions import code_version
from models import presets
from tasks.learn.compress_config import Teacher
from tasks.learn.config import HISTORY, MODEL, SKIPPED, SPEED, TOKENISER, TrainConfig
from tasks.learn.costs import cost
from tasks.learn.job import Job, run
from tasks.learn.tokens import open_shards

if TYPE_CHECKING:
    # what the process runs that trains is code of this step; nothing of it is imported here
    from tasks.learn import training  # noqa: F401

log = logging.getLogger("gristmill")

OTHER = {"best": "last", "last": "best"}
"""Folder of the weights that are not the model, by which are."""
# what the clock decides is no part of a version: these go beside it, into SPEED
VOLATILE = ("seconds", "tokens_per_s", "mfu", "peak_bytes")


def files_read(config: TrainConfig) -> dict[str, str]:
    """The weights of a checkpoint that is continued are part of the recipe."""
    return dict(presets.digests(config.model))


@step(schema="model", fingerprint=files_read)
def pretrain(tokens: ShardSet, config: TrainConfig, out: Output) -> None:
    """Train on the training split, watching the loss on the validation split; resumes at its newest checkpoint.

    Tokens without a validation split, as of a corpus that was too small for one, are watched on the test split.
    """
    train(tokens, config, out)


def train(
    tokens: ShardSet, config: TrainConfig, out: Output, teacher: Teacher | None = None, taught_by: Mapping[str, str] | None = None
) -> None:
    """What the steps that learn from token shards do: train in a process of its own, and keep the model with its history.

    Args:
        teacher: what the model learns from beside the data.
        taught_by: of which versions that is; a resume must find the same.
    """
    facts = tokens.manifest().facts
    valid_split = _valid_split(facts)
    splits = {"train": facts["splits"]["train"], "valid": facts["splits"][valid_split]}
    # looked at here and once, not by each rank; what is damaged is made again
    open_shards(tokens, [index for indices in splits.values() for index in indices])
    work = trainings.work_folder(out)
    job = Job(
        tokens=tokens.folder,
        splits=splits,
        tokeniser=tokens.file(TOKENISER),
        config=config,
        teacher=teacher,
        folder=str(work),
        cache=str(settings().machine),
        provenance={"tokens": tokens.version, "tokens digest": tokens.digest, **(taught_by or {})},
        code_version=code_version(),
        owner=os.getpid(),
    )
    result = trainings.followed(partial(run, job, child_environment()), work, _in_words, config.max_steps)
    log.info("training: device %s (%s)", result["device"], result["device_reason"])
    trainings.keep_model(Path(result["model_folder"]), MODEL, out)
    if result["other_folder"]:
        trainings.keep_model(Path(result["other_folder"]), OTHER[config.keep], out)
    trainings.keep_history(result["history"], (HISTORY, SPEED), VOLATILE, out)
    trainings.keep_curves(work, out)
    trainings.keep_json(SKIPPED, result["skipped"], out)
    out.counts = Counts(total=facts["num_tokens.train"], kept=facts["num_tokens.train"])
    out.facts = {**_facts(config, result), "valid_split": valid_split}
    trainings.keep_used(_used(config, result), out)


def _used(config: TrainConfig, result: dict[str, Any]) -> dict[str, Any]:
    """What the training took of which machines; the electricity is that of the try that ended it, and estimated."""
    return {
        "machines": result["machines"],
        "device": result["device"],
        "device_reason": result["device_reason"],
        "precision": result["precision"],
        "training_seconds": round(result["seconds"], 2),
        "tokens_per_s": round(result["tokens_per_s"], 1),
        "mfu": round(result["mfu"], 4),
        "peak_bytes": result["peak_bytes"],
        "training_joules_estimated": round(result["energy_joules_estimated"], 1),
        **cost(
            result["seconds"], result["energy_joules_estimated"], config.costs, config.ranks if result["device"] == "cuda" else 1
        ),
    }


def _in_words(line: Mapping[str, float | None]) -> str:
    """How it goes, for who waits."""
    loss, rate, mfu, peak = (line[name] or 0.0 for name in ("train_loss", "tokens_per_s", "mfu", "peak_bytes"))
    return f"loss {loss:.3f} · {rate:,.0f} tokens/s · MFU {mfu:.0%} · {storage.byte_words(int(peak))}"


def _facts(config: TrainConfig, result: dict[str, Any]) -> dict[str, Any]:
    return {
        "family": presets.family(config.model),
        "objective": "masked" if presets.masked(config.model) else "causal",
        "num_parameters": result["num_parameters"],
        "train_loss": result["train_loss"],
        "valid_loss": result["valid_loss"],
        "steps": result["steps"],
        "kept_step": result["kept_step"],
        "stopped_early": result["stopped_early"],
        "steps_skipped": len(result["skipped"]),
        "tokens": result["tokens"],
        "epochs": round(result["steps"] * config.samples_per_step / result["data"]["num_samples"], 3),
        "training_flops": result["flops_per_token"] * result["tokens"],
        "data": result["data"],
    }


def _valid_split(facts: Mapping[str, Any]) -> str:
    """The split whose loss is looked at: the validation split, or the test split where that has no token.

    Raises:
        InputError: there is nothing to train on, or nothing to look at.
    """
    looked_at = "validation" if facts.get("num_tokens.validation") else "test"
    for name in ("train", looked_at):
        if not facts.get(f"num_tokens.{name}"):
            raise InputError(
                f"pretrain: the {name} split has no token; give more documents, or hold out other shares (split.test_share, "
                "split.validation_share)"
            )
    return looked_at
