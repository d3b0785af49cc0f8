"""The page of served traffic: each feature of a model's requests before and now, and which have drifted. One HTML file that loads nothing.

Plain facts, drawn by `drift.html`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from infra import plots
from infra.report import page_environment

MOST_BARS = 12


@dataclass(frozen=True)
class Feature:
    """One feature in both spans, as shares."""

    name: str
    about: str
    before: Mapping[str, float]
    now: Mapping[str, float]
    distance: float | None
    p: float | None
    drifted: bool

    @property
    def figure(self) -> str:
        """Its values: numbers in their order, others with those of most requests first; what is rarer is put together."""
        values = sorted({*self.before, *self.now}, key=lambda one: (-max(self.before.get(one, 0), self.now.get(one, 0)), one))
        shown, rest = values[:MOST_BARS], values[MOST_BARS:]
        if not rest and all(one[:1].isdigit() for one in shown):
            shown.sort(key=lambda one: float(one.partition("-")[0]))
        before, now = ([side.get(value, 0.0) for value in shown] for side in (self.before, self.now))
        if rest:
            shown = [*shown, f"{len(rest)} others"]
            before.append(sum(self.before.get(value, 0.0) for value in rest))
            now.append(sum(self.now.get(value, 0.0) for value in rest))
        return plots.pairs(shown, before, now, ("before", "now"), f"{self.name}: shares of requests before and now")


@dataclass(frozen=True)
class Model:
    """A model's requests."""

    name: str
    num_before: int
    num_now: int
    versions: str
    """Which version answered, before and now."""
    features: Sequence[Feature]


@dataclass(frozen=True)
class Page:
    """What the page tells."""

    spans: Mapping[str, str]
    """Label → the spans of time, the log, what counts as drift."""
    models: Sequence[Model]
    num_drifted: int


def render(page: Page) -> str:
    """The page as text; equal facts give equal text."""
    return page_environment().get_template("drift.html").render(page=page)
