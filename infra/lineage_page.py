"""The lineage graph to look at: layers from source to model as inline SVG on one page that needs nothing else, and as Mermaid text.

A node lies below all it came from; edges that other edges tell already are left out. The order within a layer follows the
neighbours' (Sugiyama's barycentres, four sweeps). Equal graphs give equal bytes. 100 versions take about 0.1 s; the page scrolls,
so a phone shows it in full size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from infra.graph import SHOWN, Graph, Node
from infra.report import page_environment

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 172, 46, 18, 40, 12
BEND_WIDTH = 14  # of an edge that passes a layer
SWEEPS = 4
SHORT = 8
PATH = "M{0} {1}C{0} {3},{2} {3},{2} {4}"


@dataclass(frozen=True)
class Box:
    """A drawn node: its upper left corner in pixels, and its two lines."""

    node: Node
    x: float
    y: float
    title: str
    line: str


@dataclass(frozen=True)
class Drawing:
    """A laid out graph."""

    width: int
    height: int
    boxes: Sequence[Box]
    paths: Sequence[str]


def render(graph: Graph, title: str, lead: str = "") -> str:
    """The page as text."""
    by_kind = {kind: [node for _, node in sorted(graph.nodes.items()) if node.kind == kind] for kind in (*SHOWN, "run")}
    order = {name: number for number, name in enumerate(graph.order())}
    by_kind["version"].sort(key=lambda node: order[node.id])
    return (
        page_environment()
        .get_template("lineage.html")
        .render(title=title, lead=lead, drawing=draw(graph), kinds=by_kind, rows=_rows(graph, by_kind["version"]), words=_words)
    )


def mermaid(graph: Graph) -> str:
    """The same as Mermaid's text, which many wikis and READMEs draw."""
    names = {name: f"n{number}" for number, name in enumerate(graph.order())}
    shapes = {"source": '[("{}")]', "suite": '{{{{"{}"}}}}', "version": '["{}"]', "model": '(["{}"])'}
    lines = ["flowchart TD"]
    for name, short in names.items():
        title, line = _lines(graph.nodes[name])
        text = f"{title}<br/>{line}".replace('"', "#quot;")
        lines.append(f"  {short}{shapes[graph.nodes[name].kind].format(text)}")
    lines += [f"  {names[parent]} --> {short}" for name, short in names.items() for parent in graph.parents(name)]
    return "\n".join(lines) + "\n"


def draw(graph: Graph) -> Drawing:
    """Places for all nodes and bends for all edges."""
    order = graph.order()
    layer: dict[str, int] = {}
    for name in order:
        layer[name] = 1 + max((layer[parent] for parent in graph.parents(name)), default=-1)
    for name in reversed(order):  # a source stands just above what first read it
        if not graph.parents(name) and (below := graph.children(name)):
            layer[name] = min(layer[child] for child in below) - 1
    rows: list[list[str]] = [[] for _ in range(1 + max(layer.values(), default=0))]
    for name in order:
        rows[layer[name]].append(name)
    routes = _routes(graph, order, layer, rows)
    links = [(above, below) for route in routes for above, below in pairwise(route)]
    _sort(rows, links)
    x = _spread(rows, links)
    width = max((x[name] + _width(name) for row in rows for name in row), default=0) + MARGIN
    boxes = [Box(graph.nodes[name], x[name], _top(layer[name]), *_lines(graph.nodes[name])) for name in order]
    paths = [_path(route, x, layer[route[0]]) for route in routes]
    return Drawing(round(width), round(_top(len(rows)) - GAP_Y + MARGIN), boxes, paths)


def _routes(graph: Graph, order: Sequence[str], layer: Mapping[str, int], rows: list[list[str]]) -> list[list[str]]:
    """Every edge as the places it goes through; a bend is added to each layer that it passes."""
    routes = []
    for name in order:
        for parent in graph.parents(name):
            bends = [f"\0{parent}\0{name}\0{level}" for level in range(layer[parent] + 1, layer[name])]
            for level, bend in enumerate(bends, layer[parent] + 1):
                rows[level].append(bend)
            routes.append([parent, *bends, name])
    return routes


def _sort(rows: list[list[str]], links: Sequence[tuple[str, str]]) -> None:
    """Order each layer by the mean place of its neighbours, downwards and upwards in turn."""
    above, below = _both_ways(links)
    for sweep in range(SWEEPS):
        neighbours = below if sweep % 2 else above
        place = {name: number for row in rows for number, name in enumerate(row)}
        for row in reversed(rows) if sweep % 2 else rows:
            row.sort(key=lambda name: _mean([place[one] for one in neighbours.get(name, ())], place[name]))
            place.update({name: number for number, name in enumerate(row)})


def _spread(rows: Sequence[Sequence[str]], links: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Left edges: each as near the middle of its neighbours as the others of its layer allow."""
    above, below = _both_ways(links)
    x = {name: float(number) * (BOX_WIDTH + GAP_X) for row in rows for number, name in enumerate(row)}
    for sweep in range(2 * SWEEPS):
        neighbours = below if sweep % 2 else above
        for row in reversed(rows) if sweep % 2 else rows:
            wanted = [
                _mean([x[one] + _width(one) / 2 for one in neighbours.get(name, ())], x[name] + _width(name) / 2)
                - _width(name) / 2
                for name in row
            ]
            x.update(zip(row, _apart(row, wanted), strict=True))
    left = min(x.values(), default=0.0)
    return {name: round(value - left + MARGIN, 1) for name, value in x.items()}


def _apart(row: Sequence[str], wanted: Sequence[float]) -> list[float]:
    """Places near the wanted ones in which nothing overlaps: the mean of pushing all to the right and all to the left."""
    right, left = list(wanted), list(wanted)
    for at in range(1, len(row)):
        right[at] = max(right[at], right[at - 1] + _width(row[at - 1]) + GAP_X)
    for at in range(len(row) - 2, -1, -1):
        left[at] = min(left[at], left[at + 1] - _width(row[at]) - GAP_X)
    return [(one + other) / 2 for one, other in zip(right, left, strict=True)]


def _both_ways(links: Sequence[tuple[str, str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for parent, child in links:
        above.setdefault(child, []).append(parent)
        below.setdefault(parent, []).append(child)
    return above, below


def _path(route: Sequence[str], x: Mapping[str, float], first: int) -> str:
    parts: list[str] = []
    for level, (above, below) in enumerate(pairwise(route), first):
        start = _top(level) + BOX_HEIGHT
        end = _top(level + 1)
        if parts:  # straight past the boxes of the layer
            parts.append(f"V{start}")
        middle = (start + end) / 2
        parts.append(PATH.format(x[above] + _width(above) / 2, start, x[below] + _width(below) / 2, middle, end))
    return "".join(parts)


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _width(name: str) -> int:
    return BEND_WIDTH if name.startswith("\0") else BOX_WIDTH


def _top(level: int) -> int:
    return MARGIN + level * (BOX_HEIGHT + GAP_Y)


def _lines(node: Node) -> tuple[str, str]:
    """The two lines of a box."""
    facts = node.facts
    if node.kind == "version":
        line = f"{facts['version'][:SHORT]} · " + (f"{facts['rows_kept']:,} kept" if "rows_kept" in facts else facts["state"])
        return facts["step"], line
    if node.kind == "model":
        return node.label, ", ".join(facts.get("aliases", ())) or "model"
    if node.kind == "suite":
        return node.label, f"suite · {facts['digest'][:SHORT]}"
    return node.label, f"source · {facts.get('kind', '')}"


def _rows(graph: Graph, versions: Sequence[Node]) -> list[dict[str, Any]]:
    """What the page's table says of each version."""
    makers: dict[str, dict[str, str]] = {}
    for edge in sorted(graph.edges, key=lambda edge: (edge.kind != "made", edge.source)):  # of its runs the one that made it
        if edge.kind in ("code", "made", "loaded"):
            word = graph.nodes[edge.source].label.partition(" ")[2]
            makers.setdefault(edge.target, {}).setdefault("code" if edge.kind == "code" else "run", word)
    configs = {edge.target: graph.nodes[edge.source].facts for edge in graph.edges if edge.kind == "config"}
    return [{"node": node, **makers.get(node.id, {}), "config": _words(configs.get(node.id, {}))} for node in versions]


def _words(facts: Mapping[str, Any], limit: int = 400) -> str:
    """`key value` pairs, cut to `limit` characters."""
    shown = {key: value for key, value in facts.items() if value not in (None, "", [], {}, ())}
    text = ", ".join(
        f"{key} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}" for key, value in shown.items()
    )
    return text if len(text) <= limit else text[:limit] + " …"
