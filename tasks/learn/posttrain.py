"""Starts the process that trains on from a model, by one of several methods, and tells what it took. Imports no torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from infra import storage
from infra.dataset import Counts, ShardCorrupt, ShardSet, is_sound
from infra.errors import InputError
from infra.settings import child_environment, settings
from infra.versions import code_version
from tasks.learn import job
from tasks.learn.config import HISTORY, LEFT_OUT, MODEL, SPEED
from tasks.learn.costs import cost
from tasks.learn.job import Work
from tasks.learn.tuning_config import TuningConfig

Method = Literal["sft", "dpo", "kto", "reward", "reinforce"]
"""Each is a module of `tasks.learn` with `train(job, on_log, on_step)`."""
VOLATILE = ("seconds", "peak_bytes", "step_time")
"""What of a line of history the clock decides."""
KEPT: Mapping[str, Any] = {"model": MODEL, "history": (HISTORY, SPEED), "left_out": LEFT_OUT, "volatile": VOLATILE}
"""How `infra.trainings.keep_result` names what it keeps."""


class PostJob(Work):
    """Training on from a model."""

    module = "tasks.learn.posttraining"

    method: Method
    models: dict[str, str]
    """Folders of models by what they are for: `model` is the one that is trained; `reward_model`."""
    rows: dict[str, list[str]]
    """Parquet files of rows (expectations/schemas.py) by what they hold: `conversations`, `preferences`, `ratings`, `problems`."""
    config: dict[str, Any]
    """The method's own configuration, as JSON."""


def quantiser(config: TuningConfig) -> dict[str, str]:
    """What holds weights in four bits, for the recipe; it is no part of any other training's."""
    if config.lora is None or config.lora.base != "nf4" or importlib.util.find_spec("bitsandbytes") is None:
        return {}
    return {"bitsandbytes": importlib.metadata.version("bitsandbytes")}


def post_job(
    method: Method, config: TuningConfig, folder: Path, *, models: Mapping[str, ShardSet], rows: Mapping[str, ShardSet]
) -> PostJob:
    """The job of training on from `models["model"]`, once it is known that models and rows are whole: what is damaged is made again.

    Raises:
        ShardCorrupt: a file is not what its manifest says.
        InputError: a model does not write texts, or there are no rows.
    """
    for name in models.keys() - {"reward_model"}:
        _check_writes(name, models[name])
    for model in models.values():
        _check_sound(model)
    for name, version in rows.items():
        if not version.counts.kept:
            raise InputError(f"{method}: {name}: {version.folder}: holds no row, so there is nothing to learn from")
    versions = {**models, **rows}
    return PostJob(
        folder=str(folder),
        cache=str(settings().machine),
        provenance={name: f"{one.step}/{one.version}@{one.digest}" for name, one in versions.items()},
        code_version=code_version(),
        owner=os.getpid(),
        method=method,
        models={name: storage.join(model.folder, MODEL) for name, model in models.items()},
        rows={name: _whole(version) for name, version in rows.items()},
        config=config.model_dump(mode="json"),
    )


def run(job_given: PostJob, **hears: Any) -> dict[str, Any]:
    """Do the job and wait: what `tasks.learn.tuning.trained` gives and the method adds. For the rest see `tasks.learn.job.run`."""
    return job.run(job_given, one_gpu(child_environment()), **hears)


def one_gpu(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that sees one GPU of those that this one sees: TRL refuses to share several out within one process."""
    seen = environment.get("CUDA_VISIBLE_DEVICES", "0")
    return {**environment, "CUDA_VISIBLE_DEVICES": seen.partition(",")[0]}


def in_words(line: Mapping[str, float | None]) -> str:
    """How it goes, for who waits."""
    told = {"loss": line.get("train_loss"), "reward": line.get("reward"), "accuracy": line.get("rewards/accuracies")}
    return " · ".join(f"{name} {value:.3f}" for name, value in told.items() if value is not None)


def used(config: TuningConfig, result: Mapping[str, Any]) -> dict[str, Any]:
    """What the training took of which machine; the electricity is that of the try that ended it, and estimated."""
    return {
        "device": result["device"],
        "device_reason": result["device_reason"],
        "precision": result["precision"],
        "training_seconds": round(result["seconds"], 2),
        "peak_bytes": result["peak_bytes"],
        "training_joules_estimated": round(result["energy_joules_estimated"], 1),
        **cost(result["seconds"], result["energy_joules_estimated"], config.costs),
    }


def counts(result: Mapping[str, Any]) -> Counts:
    """Rows of the training split, learnt and left out."""
    dropped, learnt = Counter(one["rule"] for one in result["left_out"]), result["facts"]["rows"]
    return Counts(total=learnt + dropped.total(), kept=learnt, dropped=dict(sorted(dropped.items())))


def facts(result: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of every model that was trained on from another one."""
    return {
        **{name: result[name] for name in ("family", "objective", "num_parameters", "trained_parameters", "steps", "train_loss")},
        **result["facts"],
    }


def _check_writes(name: str, model: ShardSet) -> None:
    if model.schema_name != "model":
        raise InputError(f"{name}: {model.folder}: is no model but {model.schema_name}, made by {model.step}")
    facts = model.manifest().facts
    if (objective := facts.get("objective")) != "causal":
        raise InputError(f"{name}: {model.folder}: a {objective} model does not write texts; give a causal one")
    if (precision := facts.get("precision")) == "int8":
        raise InputError(
            f"{name}: {model.folder}: its weights are {precision}, which are not trained; give the model it was made of"
        )


def _check_sound(model: ShardSet) -> None:
    for file in model.manifest().files:
        if file.name.startswith(f"{MODEL}/") and not is_sound(model.folder, file.name, file.digest):
            raise ShardCorrupt(model.file(file.name), "its bytes are not those that the manifest names")


def _whole(version: ShardSet) -> list[str]:
    shards: Sequence[Any] = version.shards()
    for shard in shards:
        shard.read()
    return [shard.path for shard in shards if shard.num_rows]
