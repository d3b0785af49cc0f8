"""What probes found: figures, the items that they come from, and rows to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from expectations.schemas import ITEMS
from infra.dataset import Counts, Outcome, write_shard
from tasks.learn import figures
from tasks.learn.figures import Better, Figure, Floats, Form, StepOutput, figure, items


class Findings:
    """Filled by one probe after another."""

    def __init__(self, examples: int, seed: int) -> None:
        self.figures: list[Figure] = []
        self.tables: list[pa.Table] = []
        self.examples: dict[str, list[dict[str, Any]]] = {}
        self.notes: dict[str, str] = {}
        """What was not probed, or how, and why."""
        self._num_examples, self._seed = examples, seed

    def measure(
        self,
        name: str,
        names: Sequence[str],
        amounts: Floats,
        weights: Floats | None = None,
        *,
        form: Form = "mean",
        better: Better,
        unit: str = "",
        group: Sequence[str] | str = "",
    ) -> Figure:
        """Add the figure of items; see `figures.figure`."""
        made = figure(name, amounts, weights, form=form, better=better, unit=unit, seed=self._seed)
        self.add(made, names, amounts, weights, group)
        return made

    def add(
        self, made: Figure, names: Sequence[str], amounts: Floats, weights: Floats | None = None, group: Sequence[str] | str = ""
    ) -> None:
        """Add a figure whose interval is not that of its items."""
        self.figures.append(made)
        self.tables.append(items(made.name, names, amounts, weights, group))

    def show(self, kind: str, rows: Sequence[dict[str, Any]]) -> None:
        """Keep the first rows of a kind to read."""
        if rows and self._num_examples:
            self.examples[kind] = list(rows[: self._num_examples])

    def items(self) -> pa.Table:
        """ITEMS of all figures."""
        return pa.concat_tables([ITEMS.empty_table(), *self.tables])

    def keep(self, out: StepOutput) -> pa.Table:
        """Write figures, items and rows to read as a step's version, whose facts are the figures; they as SCORES, to be judged."""
        for name in figures.write(out.folder, self.figures, self.tables, {"notes": self.notes, "examples": self.examples}):
            out.keep_file(name)
        table = figures.table(self.figures)
        out.receipts = [write_shard(out.folder, 0, Outcome(table))]
        num = sum(one.n for one in self.figures)
        out.counts = Counts(total=num, kept=num)
        out.facts = {one.name: one.value for one in figures.headline(self.figures) if one.value is not None}
        return table
