"""`gristmill sweep`: search the values of some keys with which training goes best, by trainings side by side.

Trials are jobs on Dask, and runs in MLflow below that of the sweep. All that is known of them is in the study's journal below
`GRISTMILL_HOME/sweeps/NAME`, so the same words go on with a sweep that was interrupted: finished trials stay, those that ran go on at their
checkpoints. While it goes on the models of its trials are pinned; in the end that of the best one is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.config import RunConfig
from flows.keys import ConfigError
from flows.rejects import versions_of
from flows.study import Study, Trial
from flows.sweep_config import TRAINING, Sweep
from flows.trial import Job, Place, pinned_by, work
from infra import dataset, locks, retention, sweep_page, tracking
from infra.cluster import DaskConfig, Killed, Pool, pool
from infra.dataset import ShardSet, name_of
from infra.errors import InputError
from infra.ids import digest_of
from infra.settings import settings
from infra.versions import code_of
from tasks.tokenise import tokenise

PAGE = "sweep.html"
COLOURS = {"complete": "green", "pruned": "yellow", "failed": "red"}
NAME_CHARS = 10
"""Of the digest that names a sweep without a name."""
ALL_FAILED = 3
"""So many failures without a success are no matter of the values tried."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Found:
    """What a sweep found."""

    name: str
    sweep: Sweep
    data: str
    trials: Sequence[Trial]
    importances: Mapping[str, float]
    """Share of the objective's variance that a key explains; empty where there are too few trials."""
    page: Path
    url: str
    """Its run in MLflow; empty without."""

    @property
    def best(self) -> Trial | None:
        """The trial with the best objective, the earlier one of two equals."""
        finished = [one for one in self.trials if one.value is not None]
        sign = -1 if self.sweep.settings.better == "higher" else 1
        return min(finished, key=lambda one: (sign * (one.value or 0.0), one.number), default=None)

    @property
    def sets(self) -> str:
        """The best values, to be pasted behind a command."""
        return " ".join(f"--set {key}={_words(value)}" for key, value in self.best.params.items()) if self.best else ""

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data; the table is the same for the same seed and one trial at a time."""
        return {
            "sweep": self.name,
            "data": self.data,
            "objective": self.sweep.settings.objective,
            "better": self.sweep.settings.better,
            "best": self.best.number if self.best else None,
            "set": dict(self.best.params) if self.best else {},
            "importances": dict(self.importances),
            "trials": [
                {
                    **{name: getattr(one, name) for name in ("number", "state", "value", "step")},
                    "params": dict(one.params),
                    "losses": {str(step): loss for step, loss in one.losses.items()},
                    **one.told,
                }
                for one in self.trials
            ],
        }


def run(sweep: Sweep, tell: Tell) -> Found:
    """Run the trials that are missing, and draw the page.

    Args:
        sweep: what is tried, checked.
        tell: gets a line for each trial as it ends.

    Raises:
        InputError: there are no data of that name, the name is another sweep's, or nothing can be trained.
    """
    wanted = sweep.settings
    with pool(_dask(sweep)) as workers:
        given = _data(sweep)
        spec = _spec(sweep, given)
        name = wanted.name or digest_of(json.dumps(spec, sort_keys=True))[:NAME_CHARS]
        folder = settings().home / "sweeps" / name
        with locks.held(str(folder), f"sweep {name}", lambda holder: tell(f"sweep {name}: waits for {holder}")):
            key = {"gristmill.sweep": digest_of(str(folder))}
            with tracking.run(f"sweep {name}", tags={"flow": "sweep"}, key=key) as track:
                place = Place(
                    name=name,
                    journal=str(folder / "trials.journal"),
                    key=key["gristmill.sweep"],
                    parent_run_id=track.run_id if track else "",
                    settings=wanted,
                    max_steps=sweep.base.pretrain.max_steps,
                    least_steps=sweep.least_steps,
                )
                study = _begun(place, spec)
                _run_trials(sweep, place, study, given, workers, tell)
                found = Found(
                    name, sweep, name_of(given), study.trials(), study.importances(), folder / PAGE, track.url if track else ""
                )
                found.page.write_text(page(found), encoding="utf-8")
                if track is not None:
                    _track(track, found, given)
            if found.best is None:
                raise InputError(f"sweep {name}: no trial came to its end; trial 0: {found.trials[0].told.get('why', '')}")
            _keep_best(found)
    return found


def show(found: Found, console: Console) -> None:
    """The trials as a table, what mattered, and the best values to paste."""
    wanted = found.sweep.settings
    keys = list(wanted.space)
    table = Table(
        title=f"sweep {found.name}: {wanted.objective}, {wanted.better} is better",
        title_justify="left",
    )
    table.add_column("trial", justify="right")
    for key in keys:
        table.add_column(escape(key), justify="right", overflow="fold")
    for heading in ("objective", "steps"):
        table.add_column(heading, justify="right")
    table.add_column("state", overflow="fold")
    for one in found.trials:
        best = one is found.best
        value = "–" if one.value is None else f"{one.value:,.5g}"
        state = f"[{COLOURS.get(one.state, 'white')}]{one.state}[/]" + (" [bold]best[/]" if best else "")
        table.add_row(
            str(one.number),
            *(_short(one.params[key]) for key in keys),
            f"[bold]{value}[/]" if best else value,
            f"{one.step:,}",
            state,
        )
    console.print(table)
    for one in found.trials:
        if one.state == "failed":
            console.print(f"trial {one.number}: {one.told.get('why', '')}", highlight=False, markup=False, soft_wrap=True)
    if found.importances:
        shares = ", ".join(f"{key} {share:.0%}" for key, share in found.importances.items())
        console.print(f"what the objective's variance comes from (fANOVA): {shares}", highlight=False, soft_wrap=True)
    if found.best:
        console.print(f"model {found.best.told['version']}", highlight=False, soft_wrap=True)
        console.print(found.sets, highlight=False, markup=False, soft_wrap=True)
    console.print(str(found.page), *([found.url] if found.url else []), sep="\n", highlight=False, soft_wrap=True)


def page(found: Found) -> str:
    """The page of a sweep."""
    wanted = found.sweep.settings
    facts = {
        "data": found.data,
        "objective": f"{wanted.objective}, {wanted.better} is better",
        "sampler": f"{wanted.sampler}, seed {wanted.seed}",
        "pruner": wanted.pruner,
    }
    space = {key: sweep_page.Axis(values.type != "categorical", values.log) for key, values in wanted.space.items()}
    rows = [
        sweep_page.Row(one.number, dict(one.params), one.state, one.value, dict(one.losses), str(one.told.get("why", "")))
        for one in found.trials
    ]
    return sweep_page.render(
        sweep_page.Sweep(
            found.name, wanted.objective, wanted.better == "higher", facts, space, rows,
            best=found.best.number if found.best else None, sets=found.sets, importances=found.importances,
            whole_loss=wanted.objective == TRAINING,
        )
    )  # fmt: skip


def _dask(sweep: Sweep) -> DaskConfig:
    """Workers on this machine are as many as there are trials at a time; others are as the configuration has them."""
    config = sweep.base.dask
    return config.model_copy(update={"workers": sweep.settings.parallel}) if config.kind == "local" else config


def _data(sweep: Sweep) -> ShardSet:
    """The tokens of all trials; or the documents, where the trials make tokens of their own.

    Raises:
        InputError: there is nothing of that name that can be learnt from, or the documents of tokens are gone.
    """
    what = sweep.settings.data
    by_step = {one.step: one for one in versions_of(what)}
    tokens = by_step.get(tokenise.name)
    if tokens is not None and (sweep.tries("tokenise") or "publish" in by_step):
        documents = by_step.get("publish") or dataset.opened_inputs(tokens)["dataset"]
    elif tokens is not None:
        return tokens
    else:
        documents = by_step.get("publish") or next(reversed(by_step.values()))
    return documents if sweep.tries("tokenise") else tokenise.run([documents], sweep.base.tokenise).shards


def _spec(sweep: Sweep, given: ShardSet) -> dict[str, Any]:
    """All that decides what a trial gives: with another one of these, trials cannot be compared. By what means it is computed does not."""
    parts = ["pretrain", "tokenise", *(["evaluate"] if sweep.settings.objective != TRAINING else [])]
    configs = {part: getattr(sweep.base, part) for part in parts}
    return {
        "config": {part: one.model_dump(mode="json", exclude=dataset.guards(type(one))) for part, one in configs.items()},
        "data": name_of(given),
        **sweep.settings.model_dump(mode="json", include={"space", "objective", "sampler", "pruner", "seed"}),
        "code": {part: code_of(f"tasks.{part}")[0] for part in parts if part != "tokenise" or sweep.tries(part)},
    }


def _begun(place: Place, spec: Mapping[str, Any]) -> Study:
    """The study; one whose trials have all failed begins anew, for something else was wrong with it."""
    study = place.study()
    trials = study.trials()
    if trials and all(one.state == "failed" for one in trials):
        Path(place.journal).unlink()
        study = place.study()
    study.agree(spec)
    return study


def _run_trials(sweep: Sweep, place: Place, study: Study, given: ShardSet, workers: Pool, tell: Tell) -> None:
    """Keep as many trials going as may run at a time, until there are as many as asked for."""
    wanted = sweep.settings
    threads = study.kept("threads", _threads(sweep.base, wanted.parallel))

    def ended(number: int) -> None:
        trials = study.trials()
        one, done = trials[number], sum(other.state != "running" for other in trials)
        how = f"{wanted.objective} {one.value:.5g}" if one.value is not None else str(one.told.get("why", ""))
        tell(f"trial {number} {one.state}, {done} of {wanted.trials}: {how}")

    def due(running: Sequence[Job]) -> list[Job]:
        known = study.trials()
        jobs: list[Job] = []
        if len(known) >= ALL_FAILED and all(one.state == "failed" for one in known):
            raise InputError(
                f"sweep {place.name}: the first {len(known)} trials all failed; trial 0: {known[0].told.get('why', '')}"
            )
        busy = {job.number for job in running}
        left = [one for one in known if one.state == "running" and one.number not in busy]  # of an earlier start
        free = (1 if workers.config.kind == "none" else wanted.parallel) - len(running)
        while len(jobs) < free:
            one = left.pop(0) if left else study.begin() if len(study.trials()) < wanted.trials else None
            if one is None:
                break
            try:
                jobs.append(_job(sweep, place, one, given, threads))
            except ConfigError as error:  # values that do not go together; the whole part that they are in says no more
                study.finish(one.number, "failed", why=str(error).partition(" (got {")[0])
                ended(one.number)
        return jobs

    for job, outcome in workers.run_while_due(work, due):
        if isinstance(outcome, Killed):
            study.finish(job.number, "failed", why=f"ended every worker that took it: {outcome.why}")
        ended(job.number)


def _job(sweep: Sweep, place: Place, trial: Trial, given: ShardSet, threads: int) -> Job:
    config = sweep.config_of(trial.params, "its values")
    scores = config.evaluate.model_copy(update={"num_threads": config.evaluate.num_threads or threads})
    return Job(
        place=place,
        number=trial.number,
        params=trial.params,
        given=given,
        tokenising=config.tokenise if sweep.tries("tokenise") else None,
        training=config.pretrain.model_copy(update={"num_threads": config.pretrain.num_threads or threads}),
        scoring=None if sweep.settings.objective == TRAINING else scores,
    )


def _threads(config: RunConfig, parallel: int) -> int:
    """Threads of a trial: this machine's cores divided among those that run at a time; one where workers are elsewhere."""
    if config.dask.kind not in ("local", "none"):
        return 1
    return max(1, len(os.sched_getaffinity(0)) // (parallel * config.pretrain.ranks))


def _keep_best(found: Found) -> None:
    """Of the models only the best one's pin stays; the others are for `gristmill gc` to take."""
    best = found.best.told["version"] if found.best else ""
    for one in retention.pins():
        if one["why"] == pinned_by(found.name) and one["id"] != best:
            retention.unpin(str(one["id"]))


def _track(track: tracking.Track, found: Found, given: ShardSet) -> None:
    """The sweep's own run: what it found, and its page."""
    wanted = found.sweep.settings
    plain = wanted.model_dump(mode="json", exclude={"trials", "parallel"})  # which may grow, and parameters never change
    track.params(plain)
    states = [one.state for one in found.trials]
    track.metrics({f"trials.{state}": states.count(state) for state in dict.fromkeys(states)})
    track.metrics({f"importance.{key}": share for key, share in found.importances.items()})
    if found.best and found.best.value is not None:
        track.metrics({"objective": found.best.value})
        track.tags({"sweep.best": str(found.best.number), "sweep.set": found.sets, "version": str(found.best.told["version"])})
    track.dataset(given, "input")
    track.page(PAGE, found.page.read_text(encoding="utf-8"))


def _words(value: Any) -> str:
    """As `--set` takes it."""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"'{text}'" if " " in text else text


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
