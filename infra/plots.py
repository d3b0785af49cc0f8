"""Small figures as SVG text, to be put inline into a page: no file, no script, no font, nothing loaded.

Colours are CSS variables of the page (with a fallback), the background is transparent and letters take the page's typeface, so a
figure reads in light and in dark. Equal input gives equal bytes. About 0.1 s a figure, 1 s for the first (matplotlib's import).
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import numpy as np

MAX_POINTS = 400
WIDTH_INCHES = 6.4
# stand-ins that matplotlib can draw with; `_finish` puts the page's variables in their place
INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = ("#040404", "#050505", "#060606", "#070707")
DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1, 2)))
FORMS = ("o", "x", "s", "^")
FAR_APART = 4.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""
VARIABLES = {
    INK: "var(--ink, #333)",
    MUTED: "var(--muted, #777)",
    GRID: "var(--line, #ccc)",
    SERIES[0]: "var(--series-1, #1f6f8b)",
    SERIES[1]: "var(--series-2, #c2703d)",
    SERIES[2]: "var(--series-3, #6b7f3a)",
    SERIES[3]: "var(--series-4, #7d5a9b)",
}


def histogram(
    values: Sequence[float],
    bins: int | Sequence[float],
    title: str,
    xlabel: str,
    counts: Sequence[float] | None = None,
) -> str:
    """How often values fall into bins. `title` is the accessible name; the page writes the caption.

    Args:
        values: the values; or, with `counts`, one value in each bin (its left edge).
        bins: number of equal bins, or their edges; edges that grow by a constant factor give a logarithmic axis.
        counts: how many values each bin holds, when they were counted elsewhere.
    """
    with _figure(title, 2.5) as (axes, parts):
        axes.hist(values, bins=bins, weights=counts, color=SERIES[0], rwidth=0.92)
        if not isinstance(bins, int) and _is_geometric(bins):
            axes.set_xscale("log")
        axes.set_xlabel(xlabel)
        axes.grid(axis="y", color=GRID, linewidth=0.6)
        axes.yaxis.set_major_formatter(_thousands)
        axes.xaxis.set_major_formatter(_thousands)
    return parts[0]


def bars(labels: Sequence[str], values: Sequence[float], title: str) -> str:
    """Horizontal bars, first label on top, each with its value written at its end."""
    with _figure(title, 0.4 + 0.32 * max(len(labels), 1)) as (axes, parts):
        places = range(len(labels))
        drawn = axes.barh(places, values, color=SERIES[0], height=0.62)
        # an invalid $ would be read as mathematics
        axes.set_yticks(places, [label.replace("$", r"\$") for label in labels])
        axes.bar_label(
            drawn, labels=[f"{value:,.4g}" if value < 1000 else f"{value:,.0f}" for value in values], padding=4, color=MUTED
        )
        axes.invert_yaxis()
        axes.set_xticks([])
        axes.margins(x=0.14)
        axes.spines["bottom"].set_visible(False)
    return parts[0]


def pairs(labels: Sequence[str], before: Sequence[float], after: Sequence[float], names: tuple[str, str], title: str) -> str:
    """Two horizontal bars for each label, first label on top: shares (0 to 1) of `before` above those of `after`."""
    with _figure(title, 0.9 + 0.44 * max(len(labels), 1)) as (axes, parts):
        places = np.arange(len(labels))
        for values, name, shift, colour in ((before, names[0], -0.2, SERIES[1]), (after, names[1], 0.2, SERIES[0])):
            drawn = axes.barh(places + shift, values, color=colour, height=0.36, label=name)
            axes.bar_label(drawn, labels=[f"{value:.1%}" for value in values], padding=4, color=MUTED, fontsize=9)
        axes.set_yticks(places, [label.replace("$", r"\$") for label in labels])
        axes.invert_yaxis()
        axes.set_xticks([])
        axes.margins(x=0.14)
        axes.spines["bottom"].set_visible(False)
        axes.legend(frameon=False, labelcolor=INK, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return parts[0]


def intervals(
    labels: Sequence[str],
    middles: Sequence[float],
    ends: Sequence[tuple[float, float]],
    title: str,
    xlabel: str,
    strong: Sequence[bool] = (),
    reference: float | None = 1.0,
    *,
    logarithmic: bool = True,
) -> str:
    """A forest plot, first label on top: each middle with the two ends of its interval, beside a line at `reference` where there is one.

    Args:
        strong: for each label, whether it is drawn filled and in the second colour; by default none is.
        logarithmic: whether the axis is, as for ratios.
    """
    with _figure(title, 0.7 + 0.3 * max(len(labels), 1)) as (axes, parts):
        if reference is not None:
            axes.axvline(reference, color=MUTED, linewidth=1, linestyle=DASHES[1])
        for place, (middle, (low, high)) in enumerate(zip(middles, ends, strict=True)):
            filled = bool(strong) and strong[place]
            colour = SERIES[1] if filled else SERIES[0]
            axes.plot([low, high], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
            axes.plot(middle, place, marker="o", markersize=6, color=colour, markerfacecolor=colour if filled else "none")
        axes.set_yticks(range(len(labels)), [label.replace("$", r"\$") for label in labels])
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlabel(xlabel)
        axes.grid(axis="x", color=GRID, linewidth=0.6)
        if logarithmic:
            places = [*(end for both in ends for end in both), *([] if reference is None else [reference])]
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(_few_of_a_decade(max(places), min(places)))
            axes.xaxis.set_minor_formatter("")
        else:
            axes.locator_params(axis="x", nbins=6)
        axes.xaxis.set_major_formatter(_thousands)
    return parts[0]


def _few_of_a_decade(high: float, low: float) -> Any:
    """Ticks whose labels do not meet: 1, 2, 5, 10 …, or, over a wide range, the powers of ten."""
    from matplotlib.ticker import LogLocator

    return LogLocator(base=10, subs=(1, 2, 5) if high < 100 * low else (1,))


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    xlabel: str,
    ylabel: str,
    marks: Mapping[str, Sequence[float]] | None = None,
) -> str:
    """Lines by name, told apart by colour and dash; a line over MAX_POINTS keeps the lowest and highest of each stretch.

    Args:
        marks: by name, places on the x axis that a thin upright line marks.

    Raises:
        ValueError: more lines than can be told apart.
    """
    if len(series) > len(SERIES):
        raise ValueError(f"lines: {len(series)} series in one figure; at most {len(SERIES)} can be told apart")
    with _figure(title, 2.9) as (axes, parts):
        for (name, (x, y)), color, dash in zip(series.items(), SERIES, DASHES, strict=False):
            xs, ys = _thinned(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
            axes.plot(xs, ys, label=name, color=color, linestyle=dash, linewidth=1.6, marker="o" if len(xs) == 1 else None)
        for (name, places), dash in zip((marks or {}).items(), (DASHES[1], DASHES[2]), strict=False):
            for number, place in enumerate(places):
                axes.axvline(place, label=f"_{name}" if number else name, color=MUTED, linestyle=dash, linewidth=1)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.grid(color=GRID, linewidth=0.6)
        axes.xaxis.set_major_formatter(_thousands)
        axes.yaxis.set_major_formatter(_thousands)
        if len(series) + len(marks or {}) > 1:  # a single line is what the axis says
            axes.legend(frameon=False, labelcolor=INK)
    return parts[0]


def points(
    groups: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    xlabel: str,
    ylabel: str,
    *,
    log: bool = False,
    names: Sequence[str] = (),
    line: tuple[str, Sequence[float], Sequence[float]] | None = None,
) -> str:
    """Points in groups, told apart by colour and form; the y axis is logarithmic where it has to be for all to be told apart.

    Args:
        log: whether the x axis is logarithmic.
        names: words for the places 0, 1, 2 … of the x axis, where it has no numbers.
        line: its name, and a stair that goes from point to point.

    Raises:
        ValueError: more groups than can be told apart.
    """
    if len(groups) > len(FORMS):
        raise ValueError(f"points: {len(groups)} groups in one figure; at most {len(FORMS)} can be told apart")
    with _figure(title, 2.9) as (axes, parts):
        if line:
            name, x, y = line
            axes.step(x, y, where="post", label=name, color=MUTED, linewidth=1.2)
        for (name, (x, y)), colour, form in zip(groups.items(), SERIES, FORMS, strict=False):
            filled = colour if form != "x" else None
            axes.plot(x, y, label=name, color=colour, marker=form, linestyle="none", markersize=6, markerfacecolor=filled)
        if log:
            axes.set_xscale("log")
            values = [value for x, _ in groups.values() for value in x]
            axes.xaxis.set_major_locator(_few_of_a_decade(max(values), min(values)))
            axes.xaxis.set_minor_formatter("")
        axes.xaxis.set_major_formatter(_thousands)
        if names:
            axes.set_xticks(range(len(names)), [name.replace("$", r"\$") for name in names])
            axes.set_xlim(-0.5, len(names) - 0.5)
        _far_apart(axes, [value for _, y in groups.values() for value in y])
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.grid(color=GRID, linewidth=0.6)
        if len(groups) + bool(line) > 1:
            axes.legend(frameon=False, labelcolor=INK)
    return parts[0]


def bundle(curves: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]], title: str, xlabel: str, ylabel: str) -> str:
    """Many lines in groups: the first group is drawn strong and above the others, the others thin, each with its form at its ends.

    Raises:
        ValueError: more groups than can be told apart.
    """
    if len(curves) > len(FORMS):
        raise ValueError(f"bundle: {len(curves)} groups in one figure; at most {len(FORMS)} can be told apart")
    with _figure(title, 2.9) as (axes, parts):
        for place, ((name, many), colour, form) in enumerate(zip(curves.items(), SERIES, FORMS, strict=False)):
            for number, (x, y) in enumerate(many):
                xs, ys = _thinned(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
                width, above = (2.0, 3) if place == 0 else (1.0, 2)
                axes.plot(
                    xs, ys, label=f"_{name}" if number else name, color=colour, linewidth=width, zorder=above,
                    marker=form, markevery=[len(xs) - 1], markersize=6,
                )  # fmt: skip
        _far_apart(axes, [value for many in curves.values() for _, y in many for value in y])
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.grid(color=GRID, linewidth=0.6)
        axes.xaxis.set_major_formatter(_thousands)
        axes.legend(frameon=False, labelcolor=INK)
    return parts[0]


def _far_apart(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic y axis where one far value would make all others look equal."""
    if values and min(values) > 0 and max(values) > FAR_APART * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(_few_of_a_decade(max(values), min(values)))
        axes.yaxis.set_minor_formatter("")
        axes.tick_params(axis="y", which="minor", length=0)
    axes.yaxis.set_major_formatter(_thousands)


def _thousands(value: float, _position: int) -> str:
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _is_geometric(edges: Sequence[float]) -> bool:
    found = np.asarray(edges, dtype=float)
    if len(found) < 3 or found[0] <= 0:
        return False
    ratios = found[1:] / found[:-1]
    # counted edges are often rounded to whole numbers
    return bool(ratios.min() > 1.02 and ratios.max() / ratios.min() < 1.25)


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(x) <= MAX_POINTS:
        return x, y
    keep = {0, len(x) - 1}
    for stretch in np.array_split(np.arange(len(x)), MAX_POINTS // 2 - 1):
        keep |= {int(stretch[np.argmin(y[stretch])]), int(stretch[np.argmax(y[stretch])])}
    chosen = sorted(keep)
    return x[chosen], y[chosen]


@contextmanager
def _figure(title: str, height_inches: float) -> Iterator[tuple[Any, list[str]]]:
    """Axes to draw on; after the block the list holds the SVG."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "gristmill",
        "font.size": 10.5,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "axes.edgecolor": GRID,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.axisbelow": True,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "xtick.minor.size": 0,
        "axes.formatter.use_mathtext": False,
    }
    parts: list[str] = []
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        yield axes, parts
        sink = io.StringIO()
        FigureCanvasSVG(figure).print_svg(sink, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        parts.append(_finish(sink.getvalue(), title))


def _finish(svg: str, title: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<style type="text/css">.*?</style>', "", svg, flags=re.DOTALL)
    # the letters are the page's: no family, and sizes stay in the figure's own units
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    for stand_in, variable in VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    # group ids say nothing and would repeat from figure to figure; those that are referred to get the figure's own prefix
    svg = re.sub(r'<g id="[^"]*"(/?)>', r"<g\1>", svg).replace("<g/>", "")
    svg = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", svg)
    prefix = hashlib.blake2b((title + svg).encode(), digest_size=4).hexdigest()
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>f{prefix}-", svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    label = escape(title, quote=True)
    head = re.match(r"<svg[^>]*>", svg)
    assert head is not None
    box = re.search(r'viewBox="[^"]*"', head.group())
    assert box is not None
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    opening = f'<svg {names} {box.group()} role="img" aria-label="{label}" class="figure"><title>{label}</title>'
    return opening + svg[head.end() :].strip()
