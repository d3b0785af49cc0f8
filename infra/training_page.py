"""The report's section on a training: its curves by step and by second, the step that is kept, outliers, sources, and what it took.

Plain facts, drawn by `training.html`; every part may be empty and is then left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from infra import plots

MAX_SKIPPED = 8
"""Skipped steps that are shown; all are in the version's file."""
MAX_DOCUMENTS = 2
"""Documents of a skipped step that are shown."""

Line = Mapping[str, float | None]
Points = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Skipped:
    """A step that changed nothing, because its loss (nats) or its gradient's norm was an outlier, and what it had read."""

    step: int
    loss: float
    norm: float
    documents: Sequence[str]

    @property
    def some(self) -> Sequence[str]:
        """The documents to show."""
        return self.documents[:MAX_DOCUMENTS]


@dataclass(frozen=True)
class Source:
    """A source of the samples: tokens that there are of it, its share of the samples read, times it was read, and its last losses."""

    name: str
    tokens: int
    share: float
    epochs: float
    train_loss: float | None = None
    valid_loss: float | None = None


@dataclass(frozen=True)
class Training:
    """What a training tells. Losses are nats per token."""

    lines: Sequence[Line]
    """By step: `step`, `train_loss`, `valid_loss`, `train_loss.<source>`, `lr`, `grad_norm`, `train_accuracy`, `valid_f1` …; and, where
    they were kept, `seconds`, `tokens_per_s`, `mfu`. None or absent: not measured at that step."""
    what: str = ""
    """What was trained, in words."""
    notes: Sequence[str] = ()
    """How it went and what it read, in words."""
    machine: Mapping[str, str] = field(default_factory=dict)
    """What it took, by label."""
    kept_step: int | None = None
    """The step whose weights are the model."""
    skipped: Sequence[Skipped] = ()
    sources: Sequence[Source] = ()

    @property
    def some_skipped(self) -> Sequence[Skipped]:
        """The skipped steps to show."""
        return self.skipped[:MAX_SKIPPED]


@dataclass(frozen=True)
class Plot:
    """A figure with its caption."""

    caption: str
    svg: str


def loss(training: Training | None) -> Plot | None:
    """Loss by step, with the step that is kept and those that were skipped; None where there is none."""
    series = _series(training, {"train": "train_loss", "valid": "valid_loss"}) if training else {}
    if training is None or not series:
        return None
    last = ", ".join(f"{name} {y[-1]:.4g}" for name, (_, y) in series.items())
    marks = {"kept": [float(training.kept_step)]} if training.kept_step else {}
    if training.skipped:
        marks["skipped"] = [float(one.step) for one in training.skipped]
    return Plot(
        f"Loss by optimiser step, in nats per token; the last: {last}",
        plots.lines(series, "Training and validation loss by step", "step", "nats per token", marks),
    )


def others(training: Training | None) -> Iterator[Plot]:
    """All other curves that there are points for."""
    if training is None:
        return
    # as many as can be told apart
    names = [one.name for one in training.sources[: len(plots.SERIES)]]
    for split, words in (("train", "Training"), ("valid", "Validation")):
        series = _series(training, {name: f"{split}_loss.{name}" for name in names})
        if len(series) > 1:
            most = " (those with the most tokens)" if len(names) < len(training.sources) else ""
            yield Plot(f"{words} loss by source{most}", plots.lines(series, f"{words} loss by source", "step", "nats per token"))
    shown: tuple[tuple[str, str, str, dict[str, str]], ...] = (
        (
            "Part of the targets that are the likeliest token (accuracy), and F1 as mean over the tokens of the vocabulary",
            "Accuracy and macro F1",
            "share",
            {"accuracy, train": "train_accuracy", "accuracy, valid": "valid_accuracy", "macro F1, valid": "valid_f1"},
        ),
        ("Learning rate", "Learning rate", "learning rate", {"learning rate": "lr"}),
        ("Norm of the gradient before it is clipped, mean since the line before", "Gradient norm", "norm", {"norm": "grad_norm"}),
    )
    for caption, title, unit, keys in shown:
        if series := _series(training, keys):
            yield Plot(caption, plots.lines(series, f"{title} by step", "step", unit))
    for caption, title, key, scale in (
        ("Tokens per second, by seconds in training steps", "tokens per second", "tokens_per_s", 1.0),
        (
            "MFU in percent: part of the measured peak of matrix products that the model's computed operations are",
            "MFU, %",
            "mfu",
            100.0,
        ),
    ):
        if series := _series(training, {title: key}, at="seconds", scale=scale):
            yield Plot(caption, plots.lines(series, f"{title} by time", "seconds", title))


def _series(training: Training, keys: Mapping[str, str], at: str = "step", scale: float = 1.0) -> dict[str, Points]:
    """Name → x and y of the lines that have both; without names that have no point."""
    found: dict[str, Points] = {}
    for name, key in keys.items():
        points = [
            (x, y * scale) for line in training.lines if (x := line.get(at)) is not None and (y := line.get(key)) is not None
        ]
        if points:
            found[name] = ([x for x, _ in points], [y for _, y in points])
    return found
