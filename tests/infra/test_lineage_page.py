"""The drawing: nothing overlaps, every parent is above its children, and equal graphs give equal pages that load nothing."""

from __future__ import annotations

import random
import re
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from infra.graph import Edge, Graph, Node
from infra.lineage_page import BOX_HEIGHT, BOX_WIDTH, draw, mermaid, render


def version(number: int) -> Node:
    facts = {"step": f"step{number}", "version": f"{number:016x}", "digest": f"{number:032x}", "rows_kept": 10, "rows_dropped": 1}
    return Node(f"s/{number}", "version", f"step{number} {number:016x}", facts)


@st.composite
def graphs(draw_: st.DrawFn) -> Graph:
    size = draw_(st.integers(1, 25))
    pairs = draw_(st.sets(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), max_size=60))
    edges = [Edge(f"s/{min(pair)}", f"s/{max(pair)}", "input") for pair in sorted(pairs) if pair[0] != pair[1]]
    return Graph({f"s/{number}": version(number) for number in range(size)}, edges)


@settings(deadline=None)
@given(graphs())
def test_nothing_overlaps_and_parents_are_above(graph: Graph) -> None:
    drawn = draw(graph)
    places = {box.node.id: (box.x, box.y) for box in drawn.boxes}
    assert places.keys() == graph.nodes.keys()
    listed = sorted(places.values())
    assert all(abs(a[1] - b[1]) >= BOX_HEIGHT or abs(a[0] - b[0]) >= BOX_WIDTH for a in listed for b in listed if a != b)
    assert len(set(listed)) == len(listed)
    assert all(places[parent][1] < places[name][1] for name in places for parent in graph.parents(name))
    assert all(0 <= x <= drawn.width - BOX_WIDTH and 0 <= y <= drawn.height - BOX_HEIGHT for x, y in listed)


@settings(deadline=None)
@given(graphs())
def test_the_fewest_edges_reach_the_same(graph: Graph) -> None:
    given_: dict[str, set[str]] = {name: set() for name in graph.nodes}
    for edge in graph.edges:
        given_[edge.target].add(edge.source)

    def reached(name: str, above: dict[str, set[str]]) -> set[str]:
        return set().union(*({parent} | reached(parent, above) for parent in above[name]))

    fewest = {name: set(graph.parents(name)) for name in graph.nodes}
    if len(graph.nodes) <= 12:  # the plain walk visits every path
        assert all(reached(name, fewest) == reached(name, given_) for name in graph.nodes)
    for name in graph.nodes:
        direct = fewest[name]
        assert not any(one in graph.up([other]) for one in direct for other in direct if one != other)


@settings(deadline=None, max_examples=40)
@given(graphs(), st.randoms(use_true_random=False))
def test_equal_graphs_give_equal_pages_in_whatever_order_they_were_read(graph: Graph, chance: random.Random) -> None:
    names, edges = list(graph.nodes), list(graph.edges)
    chance.shuffle(names)
    chance.shuffle(edges)
    again = Graph({name: graph.nodes[name] for name in names}, edges)
    assert graph.to_json() == again.to_json()
    assert mermaid(graph) == mermaid(again)
    assert render(graph, "T") == render(again, "T")


def test_the_page_loads_nothing_runs_nothing_and_escapes_what_it_shows() -> None:
    node = version(1)
    sharp = Node("s/1", "version", "<script>alert(1)</script>", {**node.facts, "step": "<img src=x>"})
    page = render(Graph({"s/1": sharp}, []), "<b>title</b>")
    assert "<script" not in page and "<img" not in page and "<b>title" not in page
    assert not re.search(r"<[a-z][^>]*\s(?:src|href)=|@import|url\(", page)


def test_100_versions_are_drawn_within_a_second() -> None:
    edges = [Edge(f"s/{number // 2}", f"s/{number}", "input") for number in range(1, 100)]
    graph = Graph({f"s/{number}": version(number) for number in range(100)}, edges)
    started = time.monotonic()
    page = render(graph, "T")
    assert time.monotonic() - started < 2 and page.count("<rect") == 100
