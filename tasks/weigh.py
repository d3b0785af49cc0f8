"""weigh: what a compressed model has lost, beside what the config allows; a loss above its limit stops the flow.

`compare` asks whether one model may take the place of another and lets pass what is not surely worse by one tolerance; here each figure
has a limit of its own, and the answer is an error. Both take their intervals from the same paired bootstrap.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from expectations.verdict import GateFailed
from infra import storage
from infra.dataset import Counts, ShardSet
from infra.errors import InputError
from infra.orchestration import show_table
from infra.steps import Output, step
from tasks.learn.comparison import Comparison, Scored, compare, measured, told

WEIGHED = "weighed.json"
TOLD_NAMES = 5


class WeighConfig(BaseModel):
    """What a model may lose by being compressed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limits: dict[str, float] = Field({"heldout.perplexity": 0.02, "tasks.*": 0.02}, min_length=1)
    """Largest loss by figure, or pattern with `*`; the first that fits counts. Of figures of which less is better it is a part of the
    original's value (0.02: a perplexity 1.02 times as high), of others their own unit (0.02: two of a hundred questions)."""
    refuse_undecided: bool = False
    """Whether a loss above its limit that may be noise, because its 95 % interval holds 0 or there are too few items, refuses, too. False:
    it is told, and passes."""

    @field_validator("limits")
    @classmethod
    def _no_gains(cls, limits: dict[str, float]) -> dict[str, float]:
        if wrong := [f"{name}: {limit}" for name, limit in limits.items() if not limit >= 0]:
            raise ValueError(f"a limit must be 0 or above (got {', '.join(wrong)})")
        return limits


@step(schema="comparison")
def weigh(compressed: list[ShardSet], original: list[ShardSet], config: WeighConfig, out: Output) -> None:
    """Losses of a compressed model with their intervals, each beside its limit.

    `compressed` and `original` are what evaluations left of each: versions with `scores.json` and `items.parquet`.

    Raises:
        GateFailed: it has lost more than is allowed, or was not measured in what is limited.
        InputError: nothing that is limited was measured.
    """
    one, other = measured(compressed), measured(original)
    rows = weighed(one, other, config)
    refused = [row for row in rows if row["verdict"] == "refused"]
    storage.write_json(storage.join(out.folder, WEIGHED), {"compressed": one.name, "original": other.name, "rows": rows})
    out.keep_file(WEIGHED)
    shown = [{"figure": row["name"], "verdict": row["verdict"], "loss": row["told"]} for row in rows]
    show_table("weighed", shown, f"{one.name} beside {other.name}")
    if refused:
        lines = "\n".join(
            f"  {row['told']}; allowed by weigh.limits[{row['limited_by']!r}]: {row['allowed']:.4g}" for row in refused
        )
        raise GateFailed(
            f"weigh: {one.name} has lost more than is allowed beside {other.name}:\n{lines}\ncompress less (a lower sparsity, int8 only, a "
            "longer distillation), or allow the loss there"
        )
    out.counts = Counts(total=len(rows), kept=len(rows))
    undecided = sum(row["verdict"] == "undecided" for row in rows)
    out.facts = {"gate": "passed" if undecided < len(rows) else "undecided", "num_weighed": len(rows), "num_undecided": undecided}
    out.facts |= {f"loss.{row['name']}": row["loss"] for row in rows if row["loss"] is not None}


def weighed(one: Scored, other: Scored, config: WeighConfig) -> list[dict[str, Any]]:
    """Each limited figure of the original: name, verdict (passed, refused, undecided), loss, allowed, limited_by, told.

    Raises:
        InputError: there is none.
    """
    limited = {name: pattern for name in sorted(other.figures) if (pattern := _pattern(name, config.limits))}
    if not limited:
        there = ", ".join(sorted(other.figures)[:TOLD_NAMES])
        raise InputError(
            f"weigh.limits: {', '.join(config.limits)}: no such figure was measured of {other.name} (there is {there} …)"
        )
    compared = {row.name: row for row in compare(one, other)}
    return [_row(name, compared.get(name), pattern, config, other) for name, pattern in limited.items()]


def _pattern(name: str, limits: Mapping[str, float]) -> str:
    return next((pattern for pattern in limits if fnmatchcase(name, pattern)), "")


def _row(name: str, row: Comparison | None, pattern: str, config: WeighConfig, other: Scored) -> dict[str, Any]:
    figure = other.figures[name]
    limit = config.limits[pattern]
    allowed = limit * abs(figure.value or 0.0) if figure.better in ("lower", "zero") else limit
    found = {"name": name, "allowed": allowed, "limited_by": pattern, "loss": None}
    if row is None:
        return found | {
            "verdict": "refused",
            "told": f"{name}: not measured of the compressed model; evaluate it in the same way",
        }
    if row.verdict in ("other settings", "other tokens"):
        return found | {"verdict": "refused", "told": f"{told(row)}; evaluate both in the same way"}
    loss = _loss(row)
    if loss is None or (loss > allowed and not _beyond_noise(row)):
        verdict = "refused" if config.refuse_undecided else "undecided"
    else:
        verdict = "refused" if loss > allowed else "passed"
    return found | {"verdict": verdict, "loss": loss, "told": told(row)}


def _loss(row: Comparison) -> float | None:
    """By how much the compressed model is worse; None where nobody can tell, or neither way is better."""
    if row.difference is None or row.better == "none":
        return None
    return -row.difference if row.better == "higher" else row.difference


def _beyond_noise(row: Comparison) -> bool:
    return row.damage is not None and row.damage[0] > 0
