"""The page of a sweep loads nothing, tells every trial and its figures, and leaves out what there is none of."""

from __future__ import annotations

import dataclasses
import re

import pytest

from infra.sweep_page import Axis, Row, Sweep, render

ROWS = [
    Row(0, {"rate": 0.001, "kind": "sgd"}, "complete", 5.0, {4: 6.0, 8: 5.0}),
    Row(1, {"rate": 0.01, "kind": "adamw"}, "complete", 4.0, {4: 4.5, 8: 4.0}),
    Row(2, {"rate": 1.0, "kind": "<b>"}, "pruned", None, {4: 77.0}, "not worth its end"),
    Row(3, {"rate": 0.1, "kind": None}, "failed", None, {}, "no such <thing>"),
]
SWEEP = Sweep(
    name="mine",
    objective="valid_loss",
    higher_is_better=False,
    facts={"data": "publish/1"},
    space={"rate": Axis(True, True), "kind": Axis(False, False)},
    rows=ROWS,
    best=1,
    sets="--set rate=0.01 --set kind=adamw",
    importances={"rate": 0.9, "kind": 0.1},
    whole_loss=True,
)


def cells(page: str) -> list[list[str]]:
    """The table of trials, as text."""
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    rows = re.findall(r'<tr(?: class="open")?>(.*?)</tr>', body)
    return [[re.sub("<[^>]+>", "", one).strip() for one in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_every_trial_is_told_and_nothing_is_loaded() -> None:
    page = render(SWEEP)
    assert cells(page) == [
        ["0", "0.001", "sgd", "5", "8", "complete"],
        ["1", "0.01", "adamw", "4", "8", "complete best"],
        ["2", "1", "&lt;b&gt;", "–", "4", "pruned"],
        ["3", "0.1", "None", "–", "0", "failed"],
    ]
    assert "no such &lt;thing&gt;" in page and SWEEP.sets in page
    assert not re.search(r"<script|<link|@import|(?:src|href)=\"(?!#)", page) and render(SWEEP) == page
    # by trial, curves, importance, and one for each key
    assert page.count("<svg") == 5


@pytest.mark.parametrize(("higher", "wanted"), [(False, [9.0, 7.0, 7.0]), (True, [9.0, 9.0, 10.0])])
def test_the_best_so_far_follows_the_way_that_is_better(higher: bool, wanted: list[float]) -> None:
    rows = [Row(number, {"rate": 0.1}, "complete", value, {4: 1.0}) for number, value in enumerate((9.0, 7.0, 10.0))]
    sweep = dataclasses.replace(SWEEP, rows=rows, space={"rate": Axis(True, False)}, higher_is_better=higher, whole_loss=False)
    page = render(sweep)
    line = next(one for one in re.findall(r'<path d="(M[^"]*)"[^>]*?stroke: var\(--muted[^>]*>', page) if one.count("L") >= 3)
    heights = [float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", line)]
    order = sorted(set(wanted), reverse=True)  # the page counts from above
    ranks = [sorted(set(heights)).index(height) for height in dict.fromkeys(heights)]
    assert ranks == [order.index(value) for value in dict.fromkeys(wanted)]


def test_of_a_sweep_without_results_only_its_trials_are_shown() -> None:
    page = render(dataclasses.replace(SWEEP, rows=ROWS[3:], best=None, sets="", importances={}))
    assert "<svg" not in page and "Best values" not in page and len(cells(page)) == 1
