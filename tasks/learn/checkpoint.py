"""Checkpoints that are there whole or not at all: written under a temporary name, synced, renamed.

`checkpoint-NNNNNNNN/` holds `model/`, a Hugging Face folder (safetensors, config, tokeniser) that `AutoModelForCausalLM` and
`AutoTokenizer` load, and beside it `optimizer.pt` and `state.json`, which is all that training needs to go on bit for bit.
The folder is on a local disk. The newest two are kept: the last good one stays while the next is renamed.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from transformers import PreTrainedModel

from infra import storage
from infra.errors import InputError

PREFIX = "checkpoint-"
TEMPORARY_PREFIX = ".tmp-"
KEEP = 2
TOKENISER_FILES = frozenset({"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"})


class BadCheckpoint(InputError):
    """A checkpoint that cannot be read."""


def save(
    folder: Path,
    step: int,
    *,
    model: PreTrainedModel,
    tokeniser_folder: str,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
) -> Path:
    """Write the checkpoint of `step` and remove all but the newest `KEEP`; `state` must be JSON."""
    final = folder / f"{PREFIX}{step:08d}"
    temporary = folder / f"{TEMPORARY_PREFIX}{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary / "model")
    for name in storage.list_folder(tokeniser_folder):
        if name in TOKENISER_FILES:
            (temporary / "model" / name).write_bytes(storage.read_bytes(storage.join(tokeniser_folder, name)))
    torch.save({"optimizer": optimizer.state_dict(), "random": _random_state()}, temporary / "optimizer.pt")
    (temporary / "state.json").write_text(json.dumps(state), "utf-8")
    _sync(temporary)
    temporary.rename(final)
    _sync_one(folder)
    for old in _complete(folder)[:-KEEP]:
        shutil.rmtree(old)
    return final


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, None where there is none; what a kill left half-written is removed."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}{PREFIX}*"):
        shutil.rmtree(leftover)
    found = _complete(folder)
    return found[-1] if found else None


def read_state(path: Path) -> dict[str, Any]:
    """The `state` that was saved.

    Raises:
        BadCheckpoint: it is missing or not JSON.
    """
    try:
        return json.loads((path / "state.json").read_text("utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise BadCheckpoint(f"{path}: cannot be read ({error}); remove it to go on from the one before") from error


def restore(path: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
    """Put saved weights, optimiser state and random state into place.

    Raises:
        BadCheckpoint: a file is missing, cut off, or of another model.
    """
    try:
        load_model(model, path / "model" / "model.safetensors")
        saved = torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
        optimizer.load_state_dict(saved["optimizer"])
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError, pickle.UnpicklingError) as error:
        raise BadCheckpoint(f"{path}: cannot be read ({error}); remove it to go on from the one before") from error
    torch.set_rng_state(saved["random"]["cpu"])
    if torch.cuda.is_available() and saved["random"]["cuda"]:
        torch.cuda.set_rng_state_all(saved["random"]["cuda"])


def _complete(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{PREFIX}*"))


def _random_state() -> dict[str, Any]:
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync_one(path)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
