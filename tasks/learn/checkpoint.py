"""Checkpoints that are there whole or not at all: written under a temporary name, synced, renamed.

`checkpoint-NNNNNNNN/` holds `model/`, a Hugging Face folder (safetensors, config, tokeniser) that transformers loads, and beside it
`optimizer.safetensors` (and `average.safetensors`), and `state.json`: all that training needs to go on bit for bit, with the data, the
configuration and the code that it came from. `best-NNNNNNNN/` holds a model only. Nothing is pickled. The folder is on a local disk. The
newest two checkpoints are kept: the last good one stays while the next is renamed. So are the best models that these know of.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from infra import storage
from infra.errors import InputError
from models.tokeniser import FILES

PREFIX, BEST_PREFIX = "checkpoint-", "best-"
TEMPORARY_PREFIX = ".tmp-"
KEEP = 2
Tensors = Mapping[str, torch.Tensor]


class BadCheckpoint(InputError):
    """A checkpoint that cannot be read."""


def save(
    folder: Path,
    step: int,
    *,
    model: PreTrainedModel,
    weights: Tensors,
    tokeniser_folder: str,
    moments: Tensors,
    average: Tensors | None,
    state: dict[str, Any],
) -> Path:
    """Write the checkpoint of `step` and remove all but the newest `KEEP`; `state` must be JSON.

    `model` tells how its whole `weights` are saved; `moments` are the optimiser's, `average` the moving average of the weights.
    """
    final = folder / f"{PREFIX}{step:08d}"
    temporary = _begun(final)
    write_model(temporary / "model", model, weights, tokeniser_folder)
    save_file(dict(moments), temporary / "optimizer.safetensors")
    if average is not None:
        save_file(dict(average), temporary / "average.safetensors")
    (temporary / "state.json").write_text(json.dumps(state), "utf-8")
    _finished(temporary, final)
    for old in complete(folder)[:-KEEP]:
        shutil.rmtree(old)
    return final


def save_best(
    folder: Path, step: int, *, model: PreTrainedModel, weights: Tensors, tokeniser_folder: str, needed: Collection[int] = ()
) -> Path:
    """Write the model of `step` as the best one so far; those before go, but for the steps that are `needed`."""
    final = folder / f"{BEST_PREFIX}{step:08d}"
    temporary = _begun(final)
    write_model(temporary / "model", model, weights, tokeniser_folder)
    shutil.rmtree(final, ignore_errors=True)
    _finished(temporary, final)
    stay = {final, *(best(folder, one) for one in needed)}
    for other in folder.glob(f"{BEST_PREFIX}*"):
        if other not in stay:
            shutil.rmtree(other)
    return final


def best(folder: Path, step: int) -> Path:
    """Where the best model lies, of which it is known that it was saved at `step`."""
    return folder / f"{BEST_PREFIX}{step:08d}"


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, None where there is none."""
    found = complete(folder)
    return found[-1] if found else None


def complete(folder: Path) -> list[Path]:
    """All complete checkpoints, the newest last."""
    return sorted(folder.glob(f"{PREFIX}*"))


def tidy(folder: Path) -> None:
    """Remove what a kill left half-written."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        shutil.rmtree(leftover)


def read_state(path: Path) -> dict[str, Any]:
    """The `state` that was saved.

    Raises:
        BadCheckpoint: it is missing or not JSON.
    """
    try:
        return json.loads((path / "state.json").read_text("utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise unreadable(path, error) from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint's model by name, shared ones once.

    Raises:
        BadCheckpoint: a file is missing or cut off.
    """
    index = path / "model" / "model.safetensors.index.json"
    names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values())) if index.exists() else ["model.safetensors"]
    found: dict[str, torch.Tensor] = {}
    for name in names:
        found |= _read(path, f"model/{name}")
    return found


def read_moments(path: Path) -> dict[str, torch.Tensor]:
    """What the optimiser remembered, as it was given to `save`."""
    return _read(path, "optimizer.safetensors")


def read_average(path: Path) -> dict[str, torch.Tensor]:
    """The moving average of the weights, as it was given to `save`."""
    return _read(path, "average.safetensors")


def _read(path: Path, name: str) -> dict[str, torch.Tensor]:
    try:
        return load_file(path / name)
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> BadCheckpoint:
    """The error of a checkpoint of which a file cannot be read, or is another model's."""
    return BadCheckpoint(f"{path}: cannot be read ({error}); remove it to go on from the one before")


def write_model(folder: Path, model: PreTrainedModel, weights: Tensors, tokeniser_folder: str) -> None:
    """Write a Hugging Face folder: config, whole `weights`, tokeniser."""
    model.save_pretrained(folder, state_dict=dict(weights))
    for name in storage.list_folder(tokeniser_folder):
        if name in FILES:
            (folder / name).write_bytes(storage.read_bytes(storage.join(tokeniser_folder, name)))


def _begun(final: Path) -> Path:
    temporary = final.with_name(f"{TEMPORARY_PREFIX}{final.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def _finished(temporary: Path, final: Path) -> None:
    for path in [*temporary.rglob("*"), temporary]:
        _sync(path)
    temporary.rename(final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
