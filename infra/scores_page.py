"""The report's section on what was measured of a model: dimensions, groups, calibration, the champion beside it, the leaderboard.

Plain facts, drawn by `scores.html`; every part may be empty and is then left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from infra import plots
from infra.leaderboard import Row, Shown, best, columns

SHOWN_FIGURES = 6
"""Of a dimension, before the others are folded away."""
MAX_BOARD_VERSIONS = 8
MAX_BOARD_FIGURES = 12


@dataclass(frozen=True)
class Score:
    """One figure with its 95 % interval over `n` items; None where there was nothing to measure."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    better: str
    unit: str = ""
    small: bool = False
    """Whether it is too small to tell."""


@dataclass(frozen=True)
class Dimension:
    """A dimension of quality, and the figures that speak of it; none: it was not measured."""

    name: str
    scores: Sequence[Score] = ()


@dataclass(frozen=True)
class Beside:
    """One metric beside that of the champion, over the items of both."""

    name: str
    value: float | None
    champion: float | None
    difference: float | None
    low: float | None
    high: float | None
    n: int
    verdict: str


@dataclass(frozen=True)
class Compared:
    """The model beside the champion of its name."""

    champion: str
    rows: Sequence[Beside]
    refusals: Sequence[str] = ()
    """Why the gate would not promote it."""
    undecided: Sequence[str] = ()
    """What the gate lists and could not decide."""


@dataclass(frozen=True)
class Scores:
    """Everything that was measured of a model."""

    dimensions: Sequence[Dimension] = ()
    groups: Sequence[Score] = ()
    """Bits per byte of single sources, languages and halves."""
    reliability: Sequence[tuple[float, float]] = ()
    """Points (mean confidence, share of right predictions) of next tokens."""
    notes: Sequence[str] = ()
    compared: Compared | None = None
    board: Sequence[Row] = field(default_factory=list)
    """The versions of its name, the newest first."""
    shown: int = SHOWN_FIGURES


@dataclass(frozen=True)
class Board:
    """The leaderboard as it is drawn: a line for each figure, a cell for each version."""

    versions: Sequence[Row]
    lines: Sequence[tuple[str, Sequence[tuple[Shown | None, bool]]]]
    """Figure → its value in each version, and whether no other is better."""
    left_out: int
    """Versions that are not among them."""


def reliability(scores: Scores | None) -> str:
    """How often the likeliest token came, by how likely it was said to be, beside the diagonal."""
    if scores is None or not scores.reliability:
        return ""
    xs, ys = [x for x, _ in scores.reliability], [y for _, y in scores.reliability]
    series = {"model": (xs, ys), "ideal": ([0.0, 1.0], [0.0, 1.0])}
    return plots.lines(series, "Reliability of next-token predictions", "confidence", "share that was right")


def board(scores: Scores | None) -> Board | None:
    """The leaderboard; None for fewer than two versions."""
    if scores is None or len(scores.board) < 2:
        return None
    shown = scores.board[:MAX_BOARD_VERSIONS]
    lines = []
    for name in columns(shown)[:MAX_BOARD_FIGURES]:
        winners = best(shown, name)
        lines.append((name, [(row.figures.get(name), row.version in winners) for row in shown]))
    return Board(shown, lines, len(scores.board) - len(shown))
