"""A finished training, by the name of its model: its tokens, and the order in which its samples came.

The order is not stored. It follows from the model's recipe, by the code that training itself asks; that it is the training's own is proved
by the fingerprint which training left in the model's facts. No torch is needed. Costs the table of the tokens' documents and what the plan
of `tasks.learn.packing` costs; the tokens themselves are not read, but of a masked model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
from pydantic import ValidationError

from flows.lineage import with_registry
from infra import dataset, ledger, lineage, storage
from infra.dataset import RUN, Manifest, ShardSet, folder_of, open_version
from infra.errors import InputError
from infra.graph import Graph
from infra.settings import settings
from infra.storage import StorageError
from infra.versions import code_of
from models import presets, tokeniser
from tasks.learn import tokens
from tasks.learn.config import TOKENISER, TrainConfig
from tasks.learn.packing import Ints
from tasks.learn.sampler import ORDER, Sampler, of_training
from tasks.learn.tokens import TokenShard

PRETRAIN, SKIPPED = "pretrain", "skipped.json"
LEARNED, OUTLIER, LATER = "learned", "skipped", "later"
"""What a step did to the model: nothing where it was an outlier; and where the model is that of an earlier step, nothing either."""


class Documents(NamedTuple):
    """The documents of a split, as they come in its shards."""

    ids: pa.Array
    source: pa.Array
    num_tokens: Ints
    shard: Ints
    """Number of the shard in its version."""
    offset: Ints
    """Of the first token in the shard."""


@dataclass(frozen=True)
class Training:
    """A finished training, and what its samples are."""

    model: ShardSet
    tokens: ShardSet
    published: pads.Dataset | None
    """The documents that the tokens were made of; None: they are gone."""
    config: TrainConfig
    sampler: Sampler
    train: Documents
    held_out: Mapping[str, Documents]
    """What was not trained on, by split."""
    steps: int
    kept_step: int
    """The step whose weights the model has."""
    skipped: Mapping[int, Mapping[str, Any]]
    """Steps that changed nothing."""
    masked: bool
    doubts: Sequence[str]
    """Why the order may not be that of the training; empty where it is proved."""

    @property
    def name(self) -> str:
        """As lineage names the model."""
        return f"{self.model.step}/{self.model.version}"

    @property
    def splits(self) -> dict[str, Documents]:
        """All documents of its tokens, by split."""
        return {"train": self.train, **self.held_out}

    @property
    def num_samples(self) -> int:
        """Samples of all its steps."""
        return self.steps * self.config.samples_per_step

    def effect(self, step: int) -> str:
        """What a step did to the model."""
        return OUTLIER if step in self.skipped else LEARNED if step <= self.kept_step else LATER

    def as_json(self) -> dict[str, Any]:
        """What every answer begins with."""
        return {
            "model": self.name,
            "digest": self.model.digest,
            "tokens": f"{self.tokens.step}/{self.tokens.version}",
            "steps": self.steps,
            "kept_step": self.kept_step,
            "samples_per_step": self.config.samples_per_step,
            "goes_on_from": self.config.model.from_checkpoint,
            "order": "assumed" if self.doubts else "proved",
        }


def find(what: str, warn: Callable[[str], None]) -> ShardSet:
    """The trained version that a word on the command line means.

    Args:
        what: a version or digest or its beginning, a registered model (name, name:version, name@alias), a run, a folder, or `latest`.
        warn: told what could not be asked.

    Raises:
        InputError: none, or several, or it is something else.
    """
    if Path(what).is_dir():
        return open_version(str(Path(what).resolve()))
    if what == "latest":
        entries = (entry for run in reversed(ledger.runs()) for entry in ledger.entries(run))
        newest = next((entry for entry in entries if entry.step == PRETRAIN), None)
        if newest is None:
            raise InputError(
                f"latest: no run in {settings().store} has trained a model; `gristmill run` or `gristmill run train` does"
            )
        return newest.shards()
    graph = lineage.of_store()
    if not (found := lineage.find(graph, what)):
        graph = with_registry(graph, warn)
        found = lineage.find(graph, what)
    trained = sorted({path for one in found for path in _trained(graph, one)})
    if len(trained) == 1:
        return open_version(folder_of(trained[0]))
    if trained:
        names = ", ".join(sorted(graph.nodes[one].label for one in found))
        raise InputError(f"{what}: these are {len(trained)} models ({names}); give one, as name:VERSION or name@champion")
    if found:
        raise InputError(
            f"{what}: {graph.nodes[found[0]].label} is no model that was trained in steps, or is not in this store any more; give a "
            "version of pretrain, a registered model or a run that trained one. `gristmill lineage` says what came of something"
        )
    raise InputError(
        f"{what}: no model, version or run of that name in {settings().store}; `gristmill lineage` takes the same names"
    )


def training_of(model: ShardSet) -> Training:
    """What a trained version read.

    Raises:
        InputError: it was not trained in steps, its tokens are gone, or it was trained in an order that this code does not give.
    """
    manifest = model.manifest()
    name = f"{model.step}/{model.version}"
    if model.schema_name != "model" or "tokens" not in manifest.recipe["inputs"]:
        raise InputError(
            f"{name}: holds {model.schema_name}, and no model that was trained in steps; give a version of {PRETRAIN}"
        )
    config = _config(manifest)
    made_of = _tokens(model, manifest.recipe["inputs"]["tokens"])
    splits, facts, shards = made_of.manifest().facts["splits"], manifest.facts, made_of.shards()
    tables = {split: [(index, shards[index].read()) for index in indices] for split, indices in splits.items()}
    masked = _masked(model, config)
    sampler = of_training(
        [_shard(made_of, index, docs, with_tokens=masked) for index, docs in tables["train"]],
        config,
        roles=tokeniser.roles(made_of.file(TOKENISER)),
        context_length=int(facts["data"]["context_length"]),
        masked=masked,
    )
    return Training(
        model=model,
        tokens=made_of,
        published=_published(made_of),
        config=config,
        sampler=sampler,
        train=_documents(tables["train"]),
        held_out={split: _documents(parts) for split, parts in tables.items() if split != "train"},
        steps=facts["steps"],
        kept_step=facts["kept_step"],
        skipped={one["step"]: one for one in storage.read_json(model.file(SKIPPED))},
        masked=masked,
        doubts=_doubts(model, sampler, facts["steps"] * config.samples_per_step),
    )


def _trained(graph: Graph, name: str) -> list[str]:
    """Paths of the trained versions that a node means."""
    node = graph.nodes[name]
    if node.kind == "run":
        return [entry.path for entry in ledger.entries(node.facts["run"]) if entry.step == PRETRAIN]
    if node.kind not in ("version", "model"):
        return []
    versions = [graph.nodes[one].facts for one in graph.up([name]) | {name} if graph.nodes[one].facts.get("schema") == "model"]
    return [one["path"] for one in versions if one["digest"] == node.facts["digest"]]


def _config(manifest: Manifest) -> TrainConfig:
    other = f"{manifest.step}/{manifest.version}: was trained by another release"
    if "data" not in manifest.facts:
        raise InputError(f"{other}, which did not note what its samples were made of; what it read cannot be told")
    try:
        return TrainConfig.model_validate(manifest.recipe["config"])
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InputError(f"{other}, whose configuration means nothing here ({wrong}); ask that release") from error


def _tokens(model: ShardSet, named: str) -> ShardSet:
    try:
        found: ShardSet = dataset.opened_inputs(model)["tokens"]
    except (StorageError, InputError) as error:
        raise InputError(
            f"{model.step}/{model.version}: what it read follows from {named.partition('@')[0]}, which is not in the store as it was "
            f"({error}); `gristmill rerun RUN` makes what a run has lost, and `gristmill pin` keeps a model with all it came from"
        ) from error
    return found


def _published(made_of: ShardSet) -> pads.Dataset | None:
    try:
        found: ShardSet = dataset.opened_inputs(made_of)["dataset"]
    except (StorageError, InputError):
        return None
    return dataset.dataset(found.folder)


def _masked(model: ShardSet, config: TrainConfig) -> bool:
    """Asked of the model itself, for the checkpoint that it went on from may be gone."""
    if config.model.from_checkpoint:
        return presets.masked(config.model.model_copy(update={"from_checkpoint": model.folder}))
    return presets.masked(config.model)


def _shard(made_of: ShardSet, index: int, docs: pa.Table, *, with_tokens: bool) -> TokenShard:
    """Only what a masked model guesses follows from the tokens themselves; else their number is enough."""
    if with_tokens:
        return tokens.read_shard(made_of.folder, index)
    return TokenShard(np.broadcast_to(np.uint16(0), docs["num_tokens"].to_numpy().sum()), docs)


def _documents(tables: Sequence[tuple[int, pa.Table]]) -> Documents:
    def joined(column: str, kind: pa.DataType) -> pa.Array:
        return pa.chunked_array([chunk for _, docs in tables for chunk in docs[column].chunks], kind).combine_chunks()

    return Documents(
        ids=joined("doc_id", pa.string()),
        source=joined("source", pa.string()),
        num_tokens=joined("num_tokens", pa.int32()).to_numpy(),
        shard=np.repeat([index for index, _ in tables], [docs.num_rows for _, docs in tables]).astype(np.int64),
        offset=joined("offset", pa.int64()).to_numpy(),
    )


def _doubts(model: ShardSet, sampler: Sampler, num_samples: int) -> list[str]:
    """Why the order may be another than that of the training.

    Raises:
        InputError: it is.
    """
    manifest = model.manifest()
    name, told = f"{model.step}/{model.version}", manifest.facts["data"]
    trained_by = storage.read_json(model.file(RUN)).get("code_version", "not known")
    now = {**sampler.facts_of(num_samples), ORDER: sampler.fingerprint()}
    if others := [key for key, value in now.items() if told.get(key, value) != value]:
        raise InputError(
            f"{name}: its training read its samples in another order than this code does ({', '.join(others)}: not as the training noted), "
            f"so this code cannot tell what it read; ask the code that trained it, version {trained_by}"
        )
    if ORDER not in told and manifest.recipe["code"] != code_of("tasks.pretrain")[0]:
        return [
            f"{name}: was trained by other code (version {trained_by}) that left no fingerprint of its order; what is told is the order "
            "that today's code gives it"
        ]
    return []
