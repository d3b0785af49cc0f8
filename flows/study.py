"""The door of Optuna: which values are tried next, which trainings are not worth their end, and which keys mattered.

The study is a journal, one file that several processes append to (it works on NFS, too). Optuna does not store the state of its samplers,
so each trial's sampler is made anew from (seed, number of the trial) and asked about a copy of the trials so far: what is tried follows
from the seed and from what has been found, whatever was interrupted. A trial enters the journal whole, in one line.
"""

from __future__ import annotations

import itertools
import json
import logging
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from flows.sweep_config import Choice, Range, SweepConfig
from infra.errors import InputError
from infra.ids import digest_of

State = Literal["running", "complete", "pruned", "failed"]
STATES: Mapping[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
RANDOM_TRIALS = 5
"""Trials before TPE begins to learn from them. Optuna's 10 are more than most sweeps here have in all."""
UNPRUNED_TRIALS = 3
"""Trials that finish before the median of the others ends one."""
REDUCTION = 3
"""Hyperband: one in so many goes on (Li et al. 2018, section 3.6: 3 or 4)."""
MIN_FOR_IMPORTANCE = 4
"""Finished trials below which nothing is said of what mattered."""


@dataclass(frozen=True)
class Trial:
    """One training of a sweep."""

    number: int
    params: Mapping[str, Choice]
    state: State
    value: float | None
    """The objective; None if it did not come to that."""
    losses: Mapping[int, float]
    """Validation loss by step, as far as it went."""
    told: Mapping[str, Any]
    """`version` of the model, or `why` it failed."""

    @property
    def step(self) -> int:
        """The last step whose validation loss is known."""
        return max(self.losses, default=0)


class Study:
    """The trials of a sweep in their journal."""

    def __init__(self, path: Path, name: str, settings: SweepConfig, max_steps: int, least_steps: int) -> None:
        self.settings = settings
        self._space = {key: _distribution(values) for key, values in settings.space.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with _quiet():
            self._study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(path))),
                study_name=name,
                direction=self._direction,
                pruner=_pruner(settings, max_steps, least_steps),
                load_if_exists=True,
            )

    @property
    def _direction(self) -> Literal["maximize", "minimize"]:
        return "maximize" if self.settings.better == "higher" else "minimize"

    @property
    def _sign(self) -> float:
        """Pruners take a trial's reports for its objective: where higher is better, a loss is reported as its negative."""
        return -1.0 if self.settings.better == "higher" else 1.0

    def agree(self, spec: Mapping[str, Any]) -> None:
        """Note what the sweep is, the first time; later it must be the same.

        Raises:
            InputError: it is another one.
        """
        text = {name: json.dumps(value, sort_keys=True) for name, value in spec.items()}
        known = self._study.user_attrs.get("spec")
        if known is None:
            self._study.set_user_attr("spec", text)
        elif other := [name for name in text if known.get(name) != text[name]]:
            raise InputError(
                f"sweep {self._study.study_name}: was begun with another {' and '.join(other)}; its trials cannot be compared with those. "
                "Give another name, or what it was begun with"
            )

    def kept(self, name: str, value: Any) -> Any:
        """A fact of the sweep: this value the first time, later what it was then."""
        if name not in self._study.user_attrs:
            self._study.set_user_attr(name, value)
        return self._study.user_attrs[name]

    def trials(self) -> list[Trial]:
        """All trials, by number."""
        return [_trial(one, self._sign) for one in self._study.get_trials(deepcopy=False)]

    def begin(self) -> Trial | None:
        """Choose the next trial and enter it; None where a grid has no values left."""
        known = self._study.get_trials(deepcopy=False)
        params = self._grid_point(len(known)) if self.settings.sampler == "grid" else self._proposed(known)
        if params is None:
            return None
        with _quiet():
            self._study.add_trial(
                FrozenTrial(
                    number=-1,
                    trial_id=-1,
                    state=TrialState.RUNNING,
                    value=None,
                    datetime_start=datetime.now(),
                    datetime_complete=None,
                    params=dict(params),
                    distributions=self._space,
                    user_attrs={},
                    system_attrs={},
                    intermediate_values={},
                )
            )
        return self.trials()[len(known)]

    def report(self, number: int, step: int, loss: float) -> None:
        """Note the validation loss of a trial at a step; what is noted already stays."""
        trial = self._study.get_trials(deepcopy=False)[number]
        if not trial.state.is_finished() and step not in trial.intermediate_values:
            self._live(trial).report(self._sign * loss, step)

    def hopeless(self, number: int) -> bool:
        """Whether the trial, as far as it has reported, is not worth its end."""
        trial = self._study.get_trials(deepcopy=False)[number]
        return self._live(trial).should_prune()

    def finish(self, number: int, state: State, value: float | None = None, **told: Any) -> None:
        """End a trial; one that is ended already stays as it is."""
        trial = self._study.get_trials(deepcopy=False)[number]
        if trial.state.is_finished():
            return
        for name, fact in told.items():
            self._live(trial).set_user_attr(name, fact)
        ends = {word: known for known, word in STATES.items()}
        with _quiet():
            self._study.tell(number, value if state == "complete" else None, ends[state], skip_if_finished=True)

    def importances(self) -> dict[str, float]:
        """Share of the objective's variance that each key explains, largest first (fANOVA, Hutter et al. 2014); empty for few trials."""
        finished = [one for one in self.trials() if one.state == "complete"]
        varied = [key for key in self._space if len({one.params[key] for one in finished}) > 1]
        if len(finished) < MIN_FOR_IMPORTANCE or len({one.value for one in finished}) < 2 or not varied:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.settings.seed)
        with _quiet():
            return dict(optuna.importance.get_param_importances(self._study, evaluator=evaluator, params=varied))

    def _proposed(self, known: Sequence[FrozenTrial]) -> Mapping[str, Choice]:
        """What the sampler would try next, asked in memory."""
        with _quiet():
            seed = int(digest_of("sweep", str(self.settings.seed), str(len(known)))[:8], 16)
            sampler = (
                optuna.samplers.RandomSampler(seed)
                if self.settings.sampler == "random"
                else optuna.samplers.TPESampler(
                    seed=seed, n_startup_trials=RANDOM_TRIALS, constant_liar=self.settings.parallel > 1
                )
            )
            copied = optuna.create_study(
                study_name=self._study.study_name, sampler=sampler, direction=self._direction, pruner=self._study.pruner
            )
            copied.add_trials(known)
            return copied.ask(self._space).params

    def _grid_point(self, number: int) -> Mapping[str, Choice] | None:
        """The combination of a number, in an order that follows from the seed: a grid that is stopped early has been everywhere."""
        points = list(itertools.product(*(values.grid for values in self.settings.space.values())))
        random.Random(self.settings.seed).shuffle(points)
        return dict(zip(self.settings.space, points[number], strict=True)) if number < len(points) else None

    def _live(self, trial: FrozenTrial) -> optuna.Trial:
        return optuna.Trial(self._study, trial._trial_id)


def _trial(found: FrozenTrial, sign: float) -> Trial:
    return Trial(
        number=found.number,
        params=found.params,
        state=STATES[found.state],
        value=found.value if found.state == TrialState.COMPLETE else None,
        losses={step: sign * loss for step, loss in sorted(found.intermediate_values.items())},
        told=found.user_attrs,
    )


def _distribution(values: Range) -> BaseDistribution:
    if values.type == "categorical":
        return CategoricalDistribution(values.choices)
    low, high = values.ends
    if values.type == "int":
        return IntDistribution(int(low or 0), int(high or 0), log=values.log, step=int(values.step or 1))
    return FloatDistribution(float(low or 0), float(high or 0), log=values.log, step=values.step)


def _pruner(settings: SweepConfig, max_steps: int, least_steps: int) -> optuna.pruners.BasePruner:
    """Nothing is judged before `least_steps`: while the learning rate rises, a low one looks worse than it is."""
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS, n_warmup_steps=least_steps)
    if settings.pruner == "hyperband":
        least = min(least_steps, max_steps)
        return optuna.pruners.HyperbandPruner(min_resource=least, max_resource=max_steps, reduction_factor=REDUCTION)
    return optuna.pruners.NopPruner()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a line for each trial, and without the notice that a part of Optuna may change: its version is pinned."""
    optuna.logging.set_verbosity(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
