"""pretrain: train a causal or masked model on the token shards; a kill costs at most the steps since the last checkpoint."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra import storage, tracking
from infra.curves import Curves
from infra.dataset import Counts, ShardSet
from infra.errors import InputError
from infra.progress import report
from infra.settings import child_environment, settings
from infra.steps import BESIDE, Output, step
from infra.versions import code_version
from models import presets
from tasks.learn.config import HISTORY, MODEL, SKIPPED, SPEED, TOKENISER, TrainConfig
from tasks.learn.costs import cost
from tasks.learn.job import Job, run
from tasks.learn.tokens import open_shards

if TYPE_CHECKING:
    # what the process runs that trains is code of this step; nothing of it is imported here
    from tasks.learn import training  # noqa: F401

log = logging.getLogger("gristmill")

CURVES = "tensorboard"
COPY_BYTES = 4 << 20
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
    facts = tokens.manifest().facts
    valid_split = _valid_split(facts)
    splits = {"train": facts["splits"]["train"], "valid": facts["splits"][valid_split]}
    # looked at here and once, not by each rank; what is damaged is made again
    open_shards(tokens, [index for indices in splits.values() for index in indices])
    work = _work_folder(out)
    with closing(Curves(work / CURVES, tracking.current())) as curves, tracking.system_metrics():
        job = Job(
            tokens=tokens.folder,
            splits=splits,
            tokeniser=tokens.file(TOKENISER),
            config=config,
            folder=str(work),
            cache=str(settings().machine),
            provenance={"tokens": tokens.version, "tokens digest": tokens.digest},
            code_version=code_version(),
            owner=os.getpid(),
        )
        note = ""

        def on_log(line: dict[str, float | None]) -> None:
            nonlocal note
            curves.add(line)
            note = _in_words(line)

        result = run(
            job, child_environment(), on_log=on_log, on_step=lambda at: report(at, config.max_steps, "training steps", note)
        )
    report(result["steps"], result["steps"], "training steps", note)
    log.info("pretrain: device %s (%s)", result["device"], result["device_reason"])
    _keep_model(Path(result["model_folder"]), MODEL, out)
    if result["other_folder"]:
        _keep_model(Path(result["other_folder"]), OTHER[config.keep], out)
    rows = [{name: value for name, value in line.items() if name not in VOLATILE} for line in result["history"]]
    _keep_speed(result["history"], out)
    _keep_curves(work / CURVES, out)
    for name, kept in ((HISTORY, rows), (SKIPPED, result["skipped"])):
        storage.write_json(storage.join(out.folder, name), kept)
        out.keep_file(name)
    out.counts = Counts(total=facts["num_tokens.train"], kept=facts["num_tokens.train"])
    out.facts = {**_facts(config, result), "valid_split": valid_split}
    used = _used(config, result)
    out.volatile |= used
    if (track := tracking.current()) is not None:
        track.metrics({name: value for name, value in used.items() if isinstance(value, int | float)})


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


def _in_words(line: dict[str, float | None]) -> str:
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


def _work_folder(out: Output) -> Path:
    """A local folder for checkpoints that the next try finds again: beside the version, or as the settings say when storage is remote."""
    if storage.is_local(out.folder):
        folder = Path(out.aside("checkpoints"))
    else:
        folder = settings().checkpoints / out.version
        out.scratch.append(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _keep_speed(history: Sequence[Mapping[str, Any]], out: Output) -> None:
    """Seconds, tokens per second, MFU and memory of each line of history."""
    name = f"{BESIDE}/{SPEED}"
    rows = [{key: line[key] for key in ("step", *VOLATILE)} for line in history]
    storage.write_json(storage.join(out.folder, name), rows)
    out.keep_beside(name)


def _keep_curves(folder: Path, out: Output) -> None:
    """TensorBoard's files, of every try; they hold times, so they lie beside the version."""
    for file in sorted(folder.iterdir()):
        name = f"{BESIDE}/{CURVES}/{file.name}"
        storage.write_bytes(storage.join(out.folder, name), file.read_bytes())
        out.keep_beside(name)


def _keep_model(trained: Path, folder: str, out: Output) -> None:
    for file in sorted(trained.iterdir()):
        name = f"{folder}/{file.name}"
        with file.open("rb") as weights, storage.open_write(storage.join(out.folder, name)) as kept:
            shutil.copyfileobj(weights, kept, COPY_BYTES)  # never whole in memory
        out.keep_file(name)
