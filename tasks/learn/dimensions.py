"""The dimensions of HELM (Liang et al. 2022, section 4) in one table, and what else was measured; what nobody measured is told, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra import storage
from infra.dataset import RUN, ShardSet
from tasks.learn.comparison import figures_of
from tasks.learn.figures import Figure, headline

DIMENSIONS: Mapping[str, tuple[str, ...]] = {
    "accuracy": ("heldout", "tasks", "reasoning"),
    "calibration": ("calibration",),
    "robustness": ("robustness",),
    "fairness": ("fairness",),
    "bias": ("bias",),
    "toxicity": ("toxicity",),
    "efficiency": ("efficiency",),
}
"""The seven, with the families of figures that speak of them."""
BEYOND = ("hallucination", "contamination", "memorisation", "privacy")
"""Families of which HELM has no dimension."""
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Dimension:
    """One row: its figures, those of all items alone."""

    name: str
    figures: Sequence[Figure]

    def as_json(self) -> dict[str, Any]:
        """The row; `measured` says whether anybody looked."""
        return {"dimension": self.name, "measured": bool(self.figures), "figures": [one.as_json() for one in self.figures]}


def dimensions(figures: Iterable[Figure], efficiency: Mapping[str, float] | None = None) -> list[Dimension]:
    """All rows: HELM's seven whether measured or not, then what was measured beyond them.

    Args:
        efficiency: what the clock and the machine decide (tokens_per_s, peak_memory_bytes), which is in no version's figures.
    """
    by_family: dict[str, list[Figure]] = {}
    for one in headline(figures):
        by_family.setdefault(one.name.partition(".")[0], []).append(one)
    counted = [
        Figure(f"efficiency.{name}", float(value), None, None, 1, "none", "") for name, value in (efficiency or {}).items()
    ]
    by_family.setdefault("efficiency", []).extend(counted)
    rows = [
        Dimension(name, [one for family in families for one in by_family.get(family, ())])
        for name, families in DIMENSIONS.items()
    ]
    return rows + [Dimension(family, by_family[family]) for family in BEYOND if family in by_family]


def of_versions(versions: Sequence[ShardSet]) -> list[Dimension]:
    """The table of these versions of scores, with what their facts and the clock say of efficiency."""
    efficiency: dict[str, float] = {}
    for version in versions:
        facts = version.manifest().facts
        efficiency |= {name.partition(".")[2]: value for name, value in facts.items() if name.startswith("efficiency.")}
        efficiency |= storage.read_json(version.file(RUN)).get("efficiency", {})
    return dimensions(figures_of(versions), efficiency)
