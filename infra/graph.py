"""A graph of what came from what: plain data with walks up and down, and the fewest edges that tell it.

Data goes along some edges; others say who made something, from which code and config. Equal graphs give equal orders, whatever the order
in which they were put together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

Kind = Literal["source", "suite", "version", "model", "run", "code", "config"]
EdgeKind = Literal["read", "input", "judged by", "registered", "checks", "made", "loaded", "code", "config", "compared with"]
DATA: tuple[EdgeKind, ...] = ("read", "input", "judged by", "registered")
"""Edges along which data goes."""
CHECKS: EdgeKind = "checks"
"""From a check to what it judged: followed upwards only, since what came of the data did not come of the check."""
COMPARED: EdgeKind = "compared with"
"""From a version to the check of a later one that held it beside it: nothing came of it there, so no walk follows."""
SHOWN: tuple[Kind, ...] = ("source", "suite", "version", "model")
"""Kinds that data goes through; runs, code and configs only say how a version was made."""


@dataclass(frozen=True)
class Node:
    """Something that took part; `note` is what a question about it found."""

    id: str
    kind: Kind
    label: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Edge:
    """`source` is what `target` came from, by `kind`."""

    source: str
    target: str
    kind: EdgeKind


@dataclass(frozen=True)
class Graph:
    """Nodes by id, and the edges between them."""

    nodes: Mapping[str, Node]
    edges: Sequence[Edge]

    def up(self, starts: Iterable[str]) -> set[str]:
        """`starts` and all they came from, with who made it, from which code and config."""
        return self._with_makers(self._closure(self._versions_of(starts), self._above))

    def down(self, starts: Iterable[str]) -> set[str]:
        """`starts` and all that came of them, with who made it, from which code and config."""
        return self._with_makers(self._closure(self._versions_of(starts), self._below))

    def part(self, ids: Collection[str]) -> Graph:
        """Only these nodes."""
        inside = set(ids)
        edges = [edge for edge in self.edges if edge.source in inside and edge.target in inside]
        return Graph({name: node for name, node in self.nodes.items() if name in inside}, edges)

    def noted(self, notes: Mapping[str, str]) -> Graph:
        """The same with notes on some nodes."""
        return Graph(
            {name: dataclasses.replace(one, note=notes.get(name, one.note)) for name, one in self.nodes.items()}, self.edges
        )

    def parents(self, target: str) -> list[str]:
        """What a node directly came from; an input that came through another input is left out."""
        return self.direct[target]

    def children(self, source: str) -> list[str]:
        """What directly came of a node; see `parents`."""
        return [target for target, above in self.direct.items() if source in above]

    @cached_property
    def direct(self) -> dict[str, list[str]]:
        """The fewest edges that tell the same: {node: its parents that are not also ancestors of another parent}."""
        order = self.order()
        place = {name: number for number, name in enumerate(order)}
        given: dict[str, set[str]] = {name: set() for name in order}
        for edge in self.edges:
            if edge.kind in DATA:
                given[edge.target].add(edge.source)
        ancestors: dict[str, int] = {}  # as bits, by place in the order
        kept: dict[str, list[str]] = {}
        for name in order:
            beyond = bits = 0
            for parent in given[name]:
                beyond |= ancestors[parent]
                bits |= ancestors[parent] | 1 << place[parent]
            ancestors[name] = bits
            kept[name] = sorted((one for one in given[name] if not beyond >> place[one] & 1), key=lambda one: place[one])
        return kept

    def order(self) -> list[str]:
        """What data goes through, each after all it came from."""
        above: dict[str, set[str]] = {name: set() for name, node in self.nodes.items() if node.kind in SHOWN}
        below: dict[str, list[str]] = {name: [] for name in above}
        for edge in self.edges:
            if edge.kind in DATA and edge.source not in above[edge.target]:
                above[edge.target].add(edge.source)
                below[edge.source].append(edge.target)
        ready = sorted(name for name, parents in above.items() if not parents)
        waiting = {name: len(parents) for name, parents in above.items()}
        for name in ready:  # grows while it is read
            for child in sorted(below[name]):
                waiting[child] -= 1
                if not waiting[child]:
                    ready.append(child)
        return ready

    def to_json(self) -> dict[str, Any]:
        """Plain data; equal graphs give equal text."""
        nodes = [dataclasses.asdict(self.nodes[name]) for name in sorted(self.nodes)]
        edges = sorted(
            (dataclasses.asdict(edge) for edge in self.edges), key=lambda one: (one["source"], one["target"], one["kind"])
        )
        return {"format": 1, "nodes": nodes, "edges": edges}

    @cached_property
    def _above(self) -> dict[str, set[str]]:
        return self._neighbours((*DATA, CHECKS), upwards=True)

    @cached_property
    def _below(self) -> dict[str, set[str]]:
        return self._neighbours(DATA, upwards=False)

    def _neighbours(self, kinds: Collection[EdgeKind], *, upwards: bool) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for edge in self.edges:
            if edge.kind in kinds:
                here, there = (edge.target, edge.source) if upwards else (edge.source, edge.target)
                found.setdefault(here, set()).add(there)
        return found

    def _versions_of(self, starts: Iterable[str]) -> set[str]:
        """A run, code or config stands for the versions that it had a part in."""
        given = set(starts)
        makers = {name for name in given if self.nodes[name].kind not in SHOWN}
        return given | {edge.target for edge in self.edges if edge.source in makers}

    def _with_makers(self, ids: set[str]) -> set[str]:
        return ids | {edge.source for edge in self.edges if edge.target in ids and self.nodes[edge.source].kind not in SHOWN}

    @staticmethod
    def _closure(starts: set[str], neighbours: Mapping[str, set[str]]) -> set[str]:
        found, todo = set(starts), list(starts)
        while todo:
            new = neighbours.get(todo.pop(), set()) - found
            found |= new
            todo += new
        return found
