from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import plots

LIMIT_BYTES = 60_000
NAMES = ["histogram", "bars", "lines", "intervals", "points", "bundle", "differences"]


def draw() -> dict[str, str]:
    rng = np.random.default_rng(1)
    steps = np.arange(20_000)
    noisy = 8 * np.exp(-steps / 3000) + 2 + rng.normal(0, 0.2, len(steps))
    return {
        "histogram": plots.histogram(rng.lognormal(7, 1, 30_000), 60, "Lengths", "characters"),
        "bars": plots.bars([f"step {i}" for i in range(25)], rng.random(25) * 1000, "Seconds"),
        "intervals": plots.intervals(
            ["rule · group", "other $rule"], [9.2, 0.8], [(7.1, 11.6), (0.4, 1.7)], "Ratios", "times", strong=[True, False]
        ),
        "points": plots.points(
            {"a": ([0.001, 0.1], [3.0, 90.0]), "$b": ([0.01], [4.0])},
            "Objective",
            "rate",
            "nats",
            log=True,
            line=("best", [0, 1], [3, 3]),
        ),
        "bundle": plots.bundle(
            {"best": [(steps, noisy)], "early": [], "others": [(steps[:9], noisy[:9])] * 3}, "All", "step", "nats"
        ),
        "differences": plots.intervals(
            ["no-filter", "other $rule"],
            [0.31, -0.01],
            [(0.2, 0.42), (-0.05, 0.03)],
            "Differences",
            "bits",
            [True, False],
            0.0,
            logarithmic=False,
        ),
        "lines": plots.lines({"train": (steps, noisy), "valid": (steps[::500], noisy[::500])}, "Loss", "step", "nats"),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return draw()


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_one_small_named_svg_that_loads_nothing(name: str, drawn: dict[str, str]) -> None:
    svg = drawn[name]
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg") and root.get("role") == "img" and root.get("aria-label") and root.get("viewBox")
    assert len(svg.encode()) < LIMIT_BYTES
    for element in root.iter():
        for attribute, value in element.attrib.items():
            assert not attribute.endswith(("href", "src")) or value.startswith("#")
    # text stays text in the page's own typeface
    assert "<text" in svg and "font-family" not in svg


@pytest.mark.parametrize("name", NAMES)
def test_every_colour_is_the_pages_so_that_light_and_dark_both_read(name: str, drawn: dict[str, str]) -> None:
    assert not re.search(r"(?:fill|stroke): ?#", drawn[name])
    assert "var(--series-1" in drawn[name]


def test_equal_input_gives_equal_bytes(drawn: dict[str, str]) -> None:
    assert draw() == drawn


def test_figures_on_one_page_share_no_id(drawn: dict[str, str]) -> None:
    ids = [found for svg in drawn.values() for found in re.findall(r'\bid="([^"]+)"', svg)]
    assert ids and len(ids) == len(set(ids))
    for svg in drawn.values():
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= set(re.findall(r'\bid="([^"]+)"', svg))


def test_counted_bins_draw_the_same_bars_as_the_values_themselves() -> None:
    values, edges = [1.0, 1.5, 2.5, 2.6, 2.7, 9.0], [1.0, 2.0, 3.0, 10.0]
    counts, _ = np.histogram(values, edges)
    assert plots.histogram(values, edges, "t", "x") == plots.histogram(edges[:-1], edges, "t", "x", list(counts))


@pytest.mark.parametrize(
    ("edges", "logarithmic"),
    [(list(np.geomspace(10, 10_000, 20)), True), (list(range(10, 200, 10)), False), (list(range(0, 200, 10)), False)],
)
def test_edges_that_grow_by_a_factor_give_a_logarithmic_axis(edges: list[float], logarithmic: bool) -> None:
    svg = plots.histogram(edges[:-1], edges, "t", "x", [1] * (len(edges) - 1))
    bars = re.findall(r'<path d="M ([\d.]+) [\d.]+ L ([\d.]+) [^"]*" clip-path="[^"]*" style="fill: var\(--series-1', svg)
    widths = [float(right) - float(left) for left, right in bars]
    assert len(widths) == len(edges) - 1
    assert plots._is_geometric(edges) is logarithmic
    # on the axis that suits its edges every bar is equally wide
    assert max(widths) - min(widths) < 0.1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3000))
def test_a_thinned_line_keeps_its_ends_its_highest_and_its_lowest_point(values: list[float]) -> None:
    y = np.array(values)
    xs, ys = plots._thinned(np.arange(len(y)), y)
    assert len(xs) <= plots.MAX_POINTS
    assert (xs[0], xs[-1]) == (0, len(y) - 1)
    assert ys.min() == y.min() and ys.max() == y.max()
    assert (np.diff(xs) > 0).all() and (y[xs] == ys).all()


def test_letters_from_the_data_stay_letters() -> None:
    svg = plots.bars(["<b>&$x$", "plain"], [1, 2], 'a "title" <i>')
    text = [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]
    assert "<b>&$x$" in text


def test_more_lines_than_can_be_told_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="5 series"):
        plots.lines({str(i): ([0, 1], [0, 1]) for i in range(5)}, "t", "x", "y")


def test_places_are_marked_by_upright_lines_and_named_once() -> None:
    series = {"train": ([0, 10], [2.0, 1.0])}
    svg = plots.lines(series, "t", "step", "nats", {"kept": [8.0], "skipped": [2.0, 4.0, 5.0]})
    words = [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]
    assert {"train", "kept", "skipped"} <= set(words) and words.count("skipped") == 1
    drawn = re.findall(r'<path d="M ([\d.]+) ([\d.]+) L ([\d.]+) ([\d.]+) *" clip-path="[^"]*" style="[^"]*var\(--muted', svg)
    upright = sorted(float(left) for left, _, right, _ in drawn if left == right)
    assert len(upright) == 4
    # at equal distances where the places are
    assert (upright[1] - upright[0]) == pytest.approx(2 * (upright[2] - upright[1]), rel=0.01)
    # a line alone is what the axis says
    assert "train" not in plots.lines(series, "t", "step", "nats")
