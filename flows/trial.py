"""One trial of a sweep as a job on a Dask worker: an ordinary training, watched by the study's pruner.

The training is a process of its own (tasks/learn/job.py); a pruned one is ended and leaves no version. Whatever ends the worker, the
next one goes on at the training's checkpoint, for the trial's version follows from its values.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.study import Study
from flows.sweep_config import TRAINING, Choice, SweepConfig
from infra import dataset, lineage, mending, retention, storage, tracking
from infra.curves import Line, heard
from infra.dataset import ShardSet
from infra.errors import GristmillError, InputError
from infra.settings import settings
from models.tokeniser import TokeniserConfig
from tasks.evaluate import evaluate
from tasks.learn.comparison import figures_of
from tasks.learn.config import HISTORY, EvaluateConfig, TrainConfig
from tasks.learn.job import TrainingDied
from tasks.pretrain import pretrain
from tasks.tokenise import tokenise

log = logging.getLogger("gristmill")


@dataclass(frozen=True)
class Place:
    """Where a sweep keeps its trials: all that a worker needs to find them."""

    name: str
    journal: str
    """The study's file, which all workers see."""
    key: str
    """What its runs in MLflow are found by."""
    parent_run_id: str
    """Its own run there; empty without MLflow."""
    settings: SweepConfig
    max_steps: int
    least_steps: int
    """Which a trial gets before it may be ended."""

    def study(self) -> Study:
        """The trials."""
        return Study(Path(self.journal), self.name, self.settings, self.max_steps, self.least_steps)


@dataclass(frozen=True)
class Job:
    """One trial, whole."""

    place: Place
    number: int
    params: Mapping[str, Choice]
    given: ShardSet
    """Tokens; or documents, where a trial makes tokens of its own."""
    tokenising: TokeniserConfig | None
    training: TrainConfig
    scoring: EvaluateConfig | None
    """None: the objective is the training's own."""


class Pruned(GristmillError):
    """The trial is not worth its end."""


def work(job: Job) -> int:
    """Train, and tell the study what came of it; gives the trial's number.

    Values that cannot be trained, or need more memory than there is, fail alone and do not end the sweep.
    """
    study, place, started = job.place.study(), job.place, time.monotonic()
    key = {"gristmill.sweep": place.key, "sweep.trial": str(job.number)}
    run = tracking.run(f"trial {job.number} of {place.name}", tags={"flow": "sweep"}, key=key, parent_run_id=place.parent_run_id)
    with run as track:
        if track is not None:
            track.params(job.params)
        try:
            value, model = _objective(job, study, track)
        except Pruned as pruned:
            study.finish(job.number, "pruned", why=str(pruned))
            _forget(job)
        except (InputError, TrainingDied) as error:
            study.finish(job.number, "failed", why=str(error))
        else:
            _keep(place, model)
            study.finish(job.number, "complete", value, version=f"{model.step}/{model.version}", path=model.path)
        if track is not None:
            _tell(track, study, job, time.monotonic() - started)
    return job.number


def _objective(job: Job, study: Study, track: tracking.Track | None) -> tuple[float, ShardSet]:
    """The objective of a trial and its model.

    Raises:
        Pruned: it was ended before.
        InputError: it cannot be trained or scored as its values ask for.
        TrainingDied: its process was ended from outside, twice.
    """
    tokens = _tokens(job)

    def listen(line: Line) -> None:
        step, loss = line["step"], line.get("valid_loss")
        if step is None or loss is None:
            return
        study.report(job.number, int(step), loss)
        if step < job.training.max_steps and study.hopeless(job.number):
            raise Pruned(f"not worth its end at step {int(step)}, by its validation loss {loss:.4g}")

    with heard(listen):
        try:
            made = pretrain.run([tokens], job.training)
        except TrainingDied as died:
            log.warning("trial %d: %s\nonce more, from its checkpoint", job.number, died)
            made = pretrain.run([tokens], job.training)
    rows = storage.read_json(made.shards.file(HISTORY))
    for row in rows:
        if row["valid_loss"] is not None:
            study.report(job.number, row["step"], row["valid_loss"])  # of a model that was there
    if track is not None:
        track.dataset(tokens, "input")
        track.dataset(made.shards, "output")
        if made.loaded:
            track.history(rows, "step")
    if job.scoring is None:
        return float(made.shards.manifest().facts[TRAINING]), made.shards
    return _scored(job, made.shards, tokens), made.shards


def _scored(job: Job, model: ShardSet, tokens: ShardSet) -> float:
    assert job.scoring is not None
    name, wanted = job.place.settings.objective, job.place.settings.better
    figures = {one.name: one for one in figures_of([evaluate.run([model, tokens], job.scoring).shards])}
    found = figures.get(name)
    if found is None or found.value is None:
        raise InputError(f"objective {name}: not among the figures of the evaluation; these are: {', '.join(figures)}")
    if found.better != wanted:
        raise InputError(f"objective {name}: better is {found.better}, and a sweep took it for {wanted}; give another figure")
    return found.value


def _tokens(job: Job) -> ShardSet:
    return job.given if job.tokenising is None else tokenise.run([job.given], job.tokenising).shards


def pinned_by(name: str) -> str:
    """Why the models of a sweep are pinned."""
    return f"sweep {name}"


def _keep(place: Place, model: ShardSet) -> None:
    """Pin the model, which no run refers to, until the sweep has its best."""
    record = lineage.record(model.path)
    assert record is not None
    if record.id not in {one["id"] for one in retention.pins()}:  # else somebody has a reason of their own
        retention.pin(record, pinned_by(place.name))


def _forget(job: Job) -> None:
    """Remove the checkpoints of a training that nobody goes on with."""
    version = dataset.version_of(pretrain.recipe([_tokens(job)], job.training))
    folder = storage.join(settings().store, pretrain.name, version)
    with mending.only_maker(folder, pretrain.name):
        if not storage.exists(storage.join(folder, dataset.MANIFEST)):
            storage.remove(folder)
    shutil.rmtree(settings().checkpoints / version, ignore_errors=True)


def _tell(track: tracking.Track, study: Study, job: Job, seconds: float) -> None:
    found = study.trials()[job.number]
    told: dict[str, Any] = {"sweep.state": found.state, **{name: str(value) for name, value in found.told.items()}}
    track.tags(told)
    track.metrics({"seconds": seconds, **({"objective": found.value} if found.value is not None else {})})
