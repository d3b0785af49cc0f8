"""A step: a named, versioned, resumable piece of work. In a flow a call of it is one Prefect task; outside it is a plain call.

`@step` reads the function's own signature: its `ShardSet` parameters are the inputs, `config` is the part of the recipe, `out` is
where results go. The version follows from the recipe, so a step whose version is complete is loaded and not run: that is what makes
retry, rerun and a second run cheap, with no cache beside the data itself. In Prefect such a task run ends as `Cached`.
Prefect, MLflow and the energy meter are imported only inside a flow, so workers and `gristmill step` start without them.
"""

from __future__ import annotations

import inspect
import logging
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from infra import dataset, ledger, mending, storage
from infra.cluster import Item, map_shards
from infra.dataset import Counts, FileEntry, Manifest, Outcome, Receipt, ShardSet
from infra.errors import InputError
from infra.settings import settings
from infra.versions import code_of, code_version

log = logging.getLogger("gristmill")

RECIPE = "recipe.json"
"""The recipe of a version, written before its first shard."""
ASIDE = "aside"
"""Folder of intermediate results, which are removed when the version is complete."""
BESIDE = "beside"
"""Folder of what belongs to a version and cannot be made again, and the key of such files in `run.json`."""
INPUT_PREFIX = "input"
"""Folders of these names below an `--output` hold what a single step's plain input files became."""

Fingerprint = Callable[[Any], Mapping[str, Any]]


@dataclass
class Output:
    """Where a step leaves its results: its folder, its shards, its other files and its facts."""

    folder: str
    version: str
    receipts: list[Receipt] = field(default_factory=list)
    files: list[FileEntry] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    volatile: dict[str, Any] = field(default_factory=dict)
    counts: Counts | None = None
    scratch: list[Path] = field(default_factory=list)
    """Local folders that a next try could go on from; removed when the version is complete."""

    def map(
        self, work: Callable[[Item], Outcome], items: Sequence[Item], what: str = "shards", *, by_document: bool = False
    ) -> list[Receipt]:
        """Make the version's shards: one per item, in parallel, resuming at those that are missing.

        Args:
            by_document: whether a document can be left out of an item without harm to the others, if it ends its workers.
        """
        self.receipts = map_shards(work, items, self.folder, what, by_document=by_document)
        self.files += [file for receipt in self.receipts for file in receipt.files]
        return self.receipts

    def map_aside(self, phase: str, work: Callable[[Item], Outcome], items: Sequence[Item]) -> list[dataset.ShardRef]:
        """Make intermediate shards of a step that needs several passes; their facts are summed into those of the version.

        They are removed when the version is complete.
        """
        folder = self.aside(phase)
        receipts = map_shards(work, items, folder, phase)
        self.sum_facts(receipts)
        return dataset.shard_refs(folder, receipts)

    def map_beside(self, phase: str, work: Callable[[Item], Outcome], items: Sequence[Item]) -> list[dataset.ShardRef]:
        """As `map_aside`, but what is made stays: it cannot be made again, such as the log of a crawl."""
        folder = storage.join(self.folder, BESIDE, phase)
        receipts = map_shards(work, items, folder, phase)
        self.sum_facts(receipts)
        return dataset.shard_refs(folder, receipts)

    def keep_beside(self, *names: str) -> None:
        """Note files that belong to the version but hold volatile facts (dates, offsets): in `run.json`, not in the digest."""
        noted = self.volatile.setdefault(BESIDE, [])
        noted += [dataset.file_entry(self.folder, name).model_dump() for name in names]

    def map_files(self, phase: str, work: Callable[[Item], Outcome], items: Sequence[Item]) -> list[dataset.ShardRef]:
        """As `map_aside`, but what is made belongs to the version: files beside its shards, in a folder of the phase's name."""
        folder = storage.join(self.folder, phase)
        receipts = map_shards(work, items, folder, phase)
        self.sum_facts(receipts)
        self.files += [FileEntry(name=f"{phase}/{one.name}", digest=one.digest, num_bytes=one.num_bytes) for one in receipts]
        return dataset.shard_refs(folder, receipts)

    def aside(self, *names: str) -> str:
        """A folder for intermediate results."""
        return storage.join(self.folder, ASIDE, *names)

    def sum_facts(self, receipts: Sequence[Receipt]) -> None:
        """Add up the facts of the shards into facts of the version."""
        for receipt in receipts:
            for name, value in receipt.facts.items():
                self.facts[name] = self.facts.get(name, 0) + value

    def keep_file(self, name: str) -> None:
        """Count a file written below the folder as part of the version."""
        self.files.append(dataset.file_entry(self.folder, name))


@dataclass(frozen=True)
class Result:
    """A step's version, and whether it was found complete instead of made."""

    shards: ShardSet
    loaded: bool
    seconds: float
    resumed_shards: int = 0


class Step:
    """A step function with its recipe; see the module's words."""

    def __init__(self, function: Callable[..., None], schema: str, fingerprint: Fingerprint) -> None:
        self.function = function
        self.name = function.__name__
        self.schema = schema
        self.fingerprint = fingerprint
        parameters = inspect.signature(function, eval_str=True).parameters
        self.input_names = [name for name in parameters if name not in ("config", "out")]
        self.config_type: type[BaseModel] = parameters["config"].annotation
        self.__doc__ = function.__doc__

    def __call__(self, *inputs: ShardSet | Sequence[ShardSet], config: BaseModel) -> ShardSet:
        """The step's version for these inputs, loaded or made; one Prefect task when a flow is running."""
        from infra.orchestration import in_flow, run_as_task

        if in_flow():
            return run_as_task(self, inputs, config)
        result = self.run(inputs, config)
        ledger.enter(ledger.Entry.of(result.shards, loaded=result.loaded, seconds=result.seconds))
        return result.shards

    def recipe(self, inputs: Sequence[ShardSet | Sequence[ShardSet]], config: BaseModel) -> dict[str, Any]:
        """Everything the version follows from."""
        code, libraries = code_of(self.function.__module__)
        return {
            "step": self.name,
            "inputs": {name: _names(given) for name, given in zip(self.input_names, inputs, strict=True)},
            "config": config.model_dump(mode="json", exclude=dataset.guards(type(config))),
            "files": dict(self.fingerprint(config)),
            "code": code,
            "libraries": libraries,
        }

    def run(self, inputs: Sequence[ShardSet | Sequence[ShardSet]], config: BaseModel, folder: str | None = None) -> Result:
        """Load the version if it is complete, else make what is missing of it.

        Args:
            inputs: one per input parameter.
            folder: where to put it; by default below the storage root, by step and version.
        """
        started = time.monotonic()
        recipe = self.recipe(inputs, config)
        version = dataset.version_of(recipe)
        folder = folder or storage.join(settings().store, self.name, version)
        if (manifest := mending.complete(folder, version)) is not None:
            return _loaded(folder, manifest, started)
        with mending.only_maker(folder, self.name) as still_held:
            if (manifest := mending.complete(folder, version, mend=True)) is not None:  # by whoever had the lock before
                return _loaded(folder, manifest, started)
            _claim(folder, recipe, version)
            resumed = len(_visible(storage.join(folder, "shards")))
            began = datetime.now(UTC)
            out = self._make(inputs, config, folder, version)
            seconds = time.monotonic() - started
            still_held()
            elsewhere = {dataset.name_of(one): one.folder for one in dataset.flattened(inputs) if one.path == one.folder}
            out.volatile |= {dataset.ELSEWHERE: elsewhere} if elsewhere else {}
            if unnamed := config.model_dump(mode="json", include=dataset.guards(type(config))):
                out.volatile[dataset.SETTINGS] = unnamed
            _write_run(folder, began, seconds, resumed, out.volatile)
            manifest = dataset.seal(
                folder,
                step=self.name,
                schema_name=self.schema,
                recipe=recipe,
                receipts=out.receipts,
                files=out.files,
                facts=out.facts,
                counts=out.counts,
            )
            storage.remove(out.aside())
            for scratch in out.scratch:
                shutil.rmtree(scratch, ignore_errors=True)
        counts = manifest.counts
        log.info(
            "%s: %d in, %d kept, %d dropped, %.1f s", self.name, counts.total, counts.kept, counts.total - counts.kept, seconds
        )
        return Result(dataset.shard_set(folder, manifest), loaded=False, seconds=seconds, resumed_shards=resumed)

    def _make(self, inputs: Sequence[ShardSet | Sequence[ShardSet]], config: BaseModel, folder: str, version: str) -> Output:
        """Run the function; a shard that it finds damaged is made again and the function goes on."""
        mended: list[str] = []
        while True:
            out = Output(folder, version)
            try:
                self.function(*inputs, config=config, out=out)
            except dataset.ShardCorrupt as corrupt:
                if corrupt.path in mended:
                    raise
                mended.append(corrupt.path)
                mending.mend(corrupt, folder, list(dataset.flattened(inputs)), remake)
            else:
                out.volatile |= {"mended": mended} if mended else {}
                return out


def _loaded(folder: str, manifest: Manifest, started: float) -> Result:
    storage.remove(storage.join(folder, ASIDE))  # what a kill right after the manifest left
    return Result(dataset.shard_set(folder, manifest), loaded=True, seconds=time.monotonic() - started)


def remake(damaged: ShardSet) -> None:
    """Make the missing files of a version again, from its own recipe, in its own folder.

    Raises:
        InputError: it cannot be made again as it was: its step is not of this flow, or its inputs, settings or code are others now.
    """
    if damaged.step not in STEPS:
        raise InputError(f"its step {damaged.step} is not part of this flow; run the flow that made it again")
    recipe = storage.read_json(storage.join(damaged.folder, RECIPE))
    step = STEPS[damaged.step]
    inputs = [dataset.opened(recipe["inputs"][name]) for name in step.input_names]
    config = step.config_type.model_validate({**recipe["config"], **_settings(damaged)})
    made = step.run(inputs, config, damaged.folder).shards
    if made.digest != damaged.digest:
        raise InputError(f"made again, its digest is {made.digest} and not {damaged.digest}; what it is made from has changed")


def _settings(version: ShardSet) -> Mapping[str, Any]:
    """What the recipe does not name of the configuration that a version was made with."""
    run = version.file(dataset.RUN)
    found: Mapping[str, Any] = storage.read_json(run).get(dataset.SETTINGS, {}) if storage.exists(run) else {}
    return found


STEPS: dict[str, Step] = {}
"""The steps that this process has imported: a version's recipe names the one that can make it again."""


def step(*, schema: str, fingerprint: Fingerprint = lambda config: {}) -> Callable[[Callable[..., None]], Step]:
    """Make a step of a function `(inputs…, *, config, out)`.

    Args:
        schema: name of the schema of its shards.
        fingerprint: names what the step reads besides its inputs (model files, local folders), as {name: digest}.
    """

    def made(function: Callable[..., None]) -> Step:
        STEPS[function.__name__] = Step(function, schema, fingerprint)
        return STEPS[function.__name__]

    return made


def _names(given: ShardSet | Sequence[ShardSet]) -> Any:
    if isinstance(given, ShardSet):
        return dataset.name_of(given)
    return [_names(one) for one in given]


def _claim(folder: str, recipe: dict[str, Any], version: str) -> None:
    """Mark an unfinished folder with its recipe, so that shards of two recipes never mix in one `--output`."""
    path = storage.join(folder, RECIPE)
    if storage.exists(path):
        found = dataset.version_of(storage.read_json(path))
        if found != version:
            raise dataset.VersionConflict(
                f"{folder}: holds unfinished work of another recipe ({found}) than this one ({version}); "
                "give another folder or remove this one"
            )
        return
    if any(not name.startswith(INPUT_PREFIX) for name in _visible(folder)):
        raise dataset.VersionConflict(f"{folder}: not empty and not a Gristmill version; give a new or empty folder")
    storage.write_json(path, recipe)


def _visible(folder: str) -> list[str]:
    """Names in a folder without what a kill left under a temporary name."""
    return [name for name in storage.list_folder(folder) if not name.startswith(".")]


def _write_run(folder: str, began: datetime, seconds: float, resumed: int, volatile: dict[str, Any]) -> None:
    storage.write_json(
        storage.join(folder, dataset.RUN),
        {
            "started": began.isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            "host": socket.gethostname(),
            "code_version": code_version(),
            "resumed_shards": resumed,
            **volatile,
        },
    )
