"""What was made of a model behind its pre-training, in words and rows: for the page of a run, the model card and the closing table.

Steps that change a model leave what they measured before and after as facts `before.NAME` and `after.NAME`, with the ends of a 95 %
interval as `….low` and `….high` and the number of items as `….n` where there are such. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from infra.dataset import Manifest

DONE = {
    "sft": "tuned on conversations",
    "dpo": "aligned with preferences (DPO)",
    "kto": "aligned with rated answers (KTO)",
    "reinforce": "reinforced by rewards",
    "distil": "distilled into a smaller one",
    "prune": "pruned",
    "quantise": "its weights rounded to int8",
}
"""What a step did to the model, by the step."""
LEARNT_FROM = ("conversations", "preferences", "ratings", "problems", "tokens")
"""Inputs that a step learns from or measures on; the first that it has is told."""
COUNT = "tokens"
"""What was measured on, equal before and after: no change."""
BEFORE, AFTER, ENDS = "before.", "after.", (".low", ".high", ".n")


class Change(NamedTuple):
    """One figure before and after a step."""

    step: str
    name: str
    before: float | None
    """None: there is no such thing before the step, as of what compares both models."""
    after: float
    low: float | None
    high: float | None
    """Ends of the 95 % interval of `after`; None: not known."""
    num_items: int | None

    @property
    def was(self) -> str:
        """The figure before, in words."""
        return "–" if self.before is None else number(self.before)

    @property
    def interval(self) -> str:
        """Ends of the interval in words; empty: not known."""
        return "" if self.low is None or self.high is None else f"{number(self.low)} to {number(self.high)}"


def changes(made: Sequence[Manifest]) -> list[Change]:
    """All figures that these steps measured after what they did, in their order."""
    return [change for one in made for change in changes_of(one.step, one.facts)]


def changes_of(step: str, facts: Mapping[str, Any]) -> list[Change]:
    """Those of one step, by its facts, or by what the clock said, which `run.json` has."""
    names = [name.removeprefix(AFTER) for name in facts if name.startswith(AFTER) and not name.endswith(ENDS)]
    return [
        Change(step, name, facts.get(BEFORE + name), facts[AFTER + name], *(facts.get(f"{AFTER}{name}{end}") for end in ENDS))
        for name in names
        if name != COUNT and all(isinstance(facts.get(when + name, 0), int | float) for when in (BEFORE, AFTER))
    ]


def story(made: Sequence[Manifest]) -> str:
    """What was done to the model, in a sentence's part; empty for nothing."""
    return ", then ".join(f"{DONE.get(one.step, one.step)}{_from(one)}" for one in made)


def _from(made: Manifest) -> str:
    given = next((made.recipe["inputs"][name] for name in LEARNT_FROM if name in made.recipe["inputs"]), None)
    return f" (`{given.partition('@')[0]}`)" if isinstance(given, str) else ""


def number(value: float) -> str:
    """Four digits are enough to compare by eye."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
