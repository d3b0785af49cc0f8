"""Small versions of a trained model and of its scores, with the facts that the steps write, without training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from infra import dataset, storage
from infra.dataset import Outcome, ShardSet
from tasks.learn.config import TrainConfig
from tasks.learn.figures import Figure

FACTS: Mapping[str, Any] = {
    "family": "llama",
    "objective": "causal",
    "num_parameters": 158_016,
    "train_loss": 4.361,
    "valid_loss": 4.344,
    "steps": 540,
    "kept_step": 520,
    "stopped_early": True,
    "steps_skipped": 2,
    "tokens": 552_960,
    "epochs": 0.762,
    "training_flops": 577_555_660_800,
    "data": {
        "packing": "documents",
        "context_length": 64,
        "num_samples": 11_343,
        "num_documents": 130,
        "documents_cut": 128,
        "padding_share": 0.00004,
        **{"tokens.web": 443_957, "tokens.plays": 281_979},
        **{"share.web": 0.3, "share.plays": 0.7, "epochs.web": 0.415, "epochs.plays": 1.525},
    },
}
RUN: Mapping[str, Any] = {
    "device": "cpu",
    "device_reason": "asked for by the config",
    "precision": "bf16",
    "training_seconds": 82.23,
    "tokens_per_s": 6724.5,
    "mfu": 0.0323,
    "peak_bytes": 706_641_920,
    "training_joules_estimated": 2860.1,
    "cost": 0.00937507,
    "currency": "USD",
    "cost_basis": "0.02284 device-hours x 0.4 + 0.0007945 kWh x 0.3",
}


def trained(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
) -> ShardSet:
    """A version as `pretrain` makes it, in which only `model/config.json` stands for the model."""
    made = TrainConfig.model_validate({"max_steps": 600, **(config or {})}).model_dump(
        mode="json", exclude=dataset.guards(TrainConfig)
    )
    texts = {"model/config.json": "{}"}
    return _sealed(folder, "pretrain", "model", texts, {**FACTS, **(facts or {})}, made, RUN, files or {})


def scored(
    model: ShardSet, folder: Path, step: str, figures: Sequence[Figure] = (), facts: Mapping[str, Any] | None = None
) -> ShardSet:
    """A version of scores of a model as `evaluate`, `benchmark` or `probe` makes it."""
    told = {"figures": [one.as_json() for one in figures]} if figures else {}
    text = json.dumps(told)
    return _sealed(folder, step, "scores", {"scores.json": text}, facts or {}, {}, {}, {}, {"model": dataset.name_of(model)})


def _sealed(
    folder: Path,
    step: str,
    schema: str,
    texts: Mapping[str, str],
    facts: Mapping[str, Any],
    config: Mapping[str, Any],
    run: Mapping[str, Any],
    read: Mapping[str, str],
    inputs: Mapping[str, str] | None = None,
) -> ShardSet:
    for name, text in texts.items():
        storage.write_bytes(storage.join(str(folder), name), text.encode())
    receipt = dataset.write_shard(str(folder), 0, Outcome(pa.table({"doc_id": pa.array(["0" * 32])})))
    recipe = {
        "step": step,
        "inputs": dict(inputs or {}),
        "config": dict(config),
        "files": dict(read),
        "code": "0" * 12,
        "libraries": {},
    }
    entries = [dataset.file_entry(str(folder), name) for name in texts]
    storage.write_json(storage.join(str(folder), dataset.RUN), dict(run))
    dataset.seal(str(folder), step=step, schema_name=schema, recipe=recipe, receipts=[receipt], files=entries, facts=dict(facts))
    return dataset.open_version(str(folder))
