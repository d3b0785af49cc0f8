"""What a sweep tries: keys of the configuration with their ranges, checked against it before anything is trained.

From a file, from `--space key=low..high:log` on the command line, or from both. Imports neither Optuna nor torch.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from flows.config import RunConfig, load_or_default, read_yaml
from flows.keys import ConfigError, apply, parse
from tasks.learn.figures import Better

PARTS = ("pretrain", "tokenise")
"""Parts of the configuration that a trial can change; what is held out, and how models are scored, stays the same for all."""
TRAINING = "valid_loss"
"""The objective that training itself gives."""
FIGURES = ("heldout", "calibration", "robustness")
"""Families of figures that `evaluate` gives."""

Choice = bool | int | float | str | None


class Range(BaseModel):
    """The values of one key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["float", "int", "categorical"]
    """float and int: from `low` to `high`; categorical: one of `choices`."""
    low: float | None = None
    """Lowest value, included."""
    high: float | None = None
    """Highest value, included."""
    log: bool = False
    """Whether equal factors count as equal distances: for what is tried over powers of ten, such as learning rates."""
    step: float | None = Field(None, gt=0)
    """Distance of the values; a grid needs one. None: 1 for int, any value for float."""
    choices: tuple[Choice, ...] = ()
    """The values of a categorical key."""

    @model_validator(mode="after")
    def _fits_together(self) -> Range:
        if self.type == "categorical":
            if not self.choices or (self.low, self.high, self.step, self.log) != (None, None, None, False):
                raise ValueError("a categorical key has choices, and nothing else")
            return self
        if self.choices or self.low is None or self.high is None:
            raise ValueError(f"a key of type {self.type} has low and high, and no choices")
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} must not be above high {self.high:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0, and no step")
        whole = [one for one in (self.low, self.high, self.step or 1.0) if one == int(one)]
        if self.type == "int" and len(whole) < 3:
            raise ValueError("a key of type int has whole numbers")
        return self

    @property
    def ends(self) -> tuple[Choice, ...]:
        """The values that decide whether a configuration takes all of them: every choice, or the lowest and the highest."""
        return self.choices if self.type == "categorical" else (self._number(self.low), self._number(self.high))

    @property
    def grid(self) -> tuple[Choice, ...]:
        """All values, in order; empty where there are too many to name."""
        if self.type == "categorical":
            return self.choices
        if self.low is None or self.high is None or (self.step is None and (self.type == "float" or self.log)):
            return ()
        step = self.step or 1.0
        # 1e-9: what adding up a decimal step loses
        return tuple(self._number(self.low + at * step) for at in range(int((self.high - self.low) / step + 1e-9) + 1))

    def _number(self, value: float | None) -> float | int:
        assert value is not None
        return int(value) if self.type == "int" else float(value)


class SweepConfig(BaseModel):
    """A search for the best values of some keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: str = Field("", pattern=r"^[A-Za-z0-9._-]*$")
    """What it is called and found again by. Empty: named by what it tries, so that the same words go on with it."""
    config: str = ""
    """The configuration whose keys are tried: a YAML file, or the name of one that ships. Empty: the defaults."""
    set_: dict[str, Any] = Field(default_factory=dict, alias="set")
    """Keys of it that all trials have otherwise: {pretrain.max_steps: 200}."""
    data: str = "latest"
    """What is learnt from: a version of documents or tokens, a run, or `latest`. Documents are tokenised first."""
    space: dict[str, Range] = Field(min_length=1)
    """Dotted keys of `pretrain` and `tokenise`, with their values."""
    objective: str = TRAINING
    """What is best in the best trial: valid_loss, or a figure of `evaluate` such as heldout.bits_per_byte, each an evaluation more."""
    trials: int = Field(20, ge=1)
    """How many trainings, pruned and failed ones included. A larger number goes on with a finished sweep."""
    parallel: int = Field(1, ge=1)
    """How many of them at a time. With 1 the same seed gives the same trials, whatever interrupts it."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """tpe: where good trials were (Bergstra et al. 2011), after five random ones; grid: all combinations, in an order of their own."""
    pruner: Literal["median", "hyperband", "none"] = "median"
    """median: a trial ends that is worse than half of the others at the same step, once three have finished; hyperband: only the best
    third goes on, at steps that grow by three (Li et al. 2018); none: all go to their end."""
    seed: int = Field(1, ge=0, lt=2**32)
    """Decides which values are tried. The trainings' own seed is pretrain.seed."""

    @field_validator("objective")
    @classmethod
    def _known(cls, objective: str) -> str:
        family, dot, rest = objective.partition(".")
        if objective != TRAINING and not (dot and rest and family in FIGURES):
            raise ValueError(f"must be {TRAINING}, or a figure of `evaluate`: heldout.bits_per_byte, heldout.accuracy …")
        return objective

    @model_validator(mode="after")
    def _grid_has_ends(self) -> SweepConfig:
        if self.sampler == "grid" and (endless := [key for key, values in self.space.items() if not values.grid]):
            raise ValueError(f"sampler grid: {endless[0]} has no end of values; give it a step, or name choices")
        return self

    @model_validator(mode="after")
    def _comparable(self) -> SweepConfig:
        """Losses per token of other tokens say nothing of each other."""
        if any(key.startswith("tokenise.") for key in self.space) and (self.objective == TRAINING or self.pruner != "none"):
            raise ValueError(
                "keys of tokenise change what a token is, and the validation loss is per token: set objective heldout.bits_per_byte and "
                "pruner none"
            )
        return self

    @property
    def better(self) -> Better:
        """Which way the objective is better, by its name; every evaluation is asked whether that is so."""
        return "higher" if "accuracy" in self.objective else "lower"


class Sweep:
    """A checked sweep: its settings, and the configuration of every trial."""

    def __init__(self, settings: SweepConfig, base: RunConfig) -> None:
        self.settings, self.base = settings, base
        self._raw = base.model_dump(mode="json", by_alias=True)

    def config_of(self, params: Mapping[str, Choice], where: str = "sweep") -> RunConfig:
        """The configuration with these values.

        Raises:
            ConfigError: they do not go together.
        """
        raw = copy.deepcopy(self._raw)
        for key, value in params.items():
            apply(raw, f"{key}={json.dumps(value)}")
        config: RunConfig = parse(RunConfig, raw, where)
        return config

    @property
    def least_steps(self) -> int:
        """Steps that no trial is judged before: the first look at the validation loss, and the longest warm-up."""
        training, tried = self.base.pretrain, self.settings.space.get("pretrain.warmup_steps")
        return max([training.eval_every_steps, training.warmup_steps, *(int(one or 0) for one in (tried.ends if tried else ()))])

    def tries(self, part: str) -> bool:
        """Whether keys of this part are tried."""
        return any(key.startswith(f"{part}.") for key in self.settings.space)


def read(file: str, overrides: Mapping[str, Any], keys: Sequence[str], space: Sequence[str]) -> Sweep:
    """A sweep from a file and what the command line says beside it.

    Args:
        file: a YAML file, or empty.
        overrides: fields of SweepConfig that take the place of the file's.
        keys: `dotted.key=value` for all trials.
        space: `dotted.key=low..high`, with `:log` or `:step=…` behind it, or `dotted.key=this,that`.

    Raises:
        ConfigError: with one line per problem, `file: dotted.key: problem (got value)`.
    """
    raw = {**(read_yaml(Path(file)) if file else {}), **overrides}
    if space:
        raw["space"] = {**(raw.get("space") or {}), **dict(map(_range, space))}
    where = file or "sweep"
    if not raw.get("space"):
        raise ConfigError(f"{where}: space: nothing is tried; give keys, as in --space pretrain.learning_rate=1e-4..1e-2:log")
    settings: SweepConfig = parse(SweepConfig, raw, where)
    given = [f"{key}={json.dumps(value)}" for key, value in settings.set_.items()] + list(keys)
    sweep = Sweep(settings, load_or_default(settings.config, given))
    if problems := _problems(sweep, where):
        raise ConfigError("\n".join(problems))
    return sweep


def _problems(sweep: Sweep, where: str) -> list[str]:
    """What a configuration says to each end of each key, alone."""
    problems = []
    for key, values in sweep.settings.space.items():
        if key.partition(".")[0] not in PARTS:
            problems.append(
                f"{where}: space.{key}: a sweep tries keys of {' and '.join(PARTS)}; `set` changes others for all trials"
            )
            continue
        for value in values.ends:
            try:
                sweep.config_of({key: value}, f"{where}: space")
            except ConfigError as error:
                problems += str(error).splitlines()
    return list(dict.fromkeys(problems))


def _range(given: str) -> tuple[str, dict[str, Any]]:
    """(key, fields of Range) of the short form."""
    key, equals, text = given.partition("=")
    if not equals or not key.strip() or not text.strip():
        raise ConfigError(f"--space {given}: write dotted.key=low..high, with :log or :step=… behind it, or dotted.key=this,that")
    if ".." not in text:
        return key.strip(), {"type": "categorical", "choices": [_value(one) for one in text.split(",")]}
    span, *options = text.split(":")
    low, _, high = span.partition("..")
    fields: dict[str, Any] = {"low": _number(given, low), "high": _number(given, high)}
    for option in options:
        name, _, value = option.partition("=")
        if name not in ("log", "step") or (name == "log") == bool(value):
            raise ConfigError(f"--space {given}: {option!r} means nothing here; there are :log and :step=NUMBER")
        fields[name] = True if name == "log" else _number(given, value)
    whole = all(isinstance(one, int) for one in fields.values() if one is not True)
    return key.strip(), {"type": "int" if whole else "float", **fields}


def _value(text: str) -> Any:
    """As `--set` reads it, but that 1e-4 is a number, which in YAML it is not."""
    try:
        return float(text) if "e" in text.lower() else yaml.safe_load(text)
    except ValueError:
        return yaml.safe_load(text)


def _number(given: str, text: str) -> float | int:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"--space {given}: {text!r} is no number") from error
