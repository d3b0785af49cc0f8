"""What came from what: sources, dataset versions, suites, models and runs as one graph, read from the store alone.

Every manifest names its inputs (`step/version@digest`), its config and its code; the ledger names the runs. So no server is asked, and an
input that was removed is still named by those made from it. 1,000 versions on a local disk are read in about a second.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from infra import ledger, storage
from infra.dataset import MANIFEST
from infra.errors import InputError
from infra.ids import digest_of
from infra.settings import settings

Kind = Literal["source", "suite", "version", "model", "run", "code", "config"]
EdgeKind = Literal["read", "input", "judged by", "registered", "checks", "made", "loaded", "code", "config"]
DATA: tuple[EdgeKind, ...] = ("read", "input", "judged by", "registered")
"""Edges along which data goes."""
CHECKS: EdgeKind = "checks"
"""From a check to what it judged: followed upwards only, since what came of the data did not come of the check."""
SHOWN: tuple[Kind, ...] = ("source", "suite", "version", "model")
"""Kinds that data goes through; runs, code and configs only say how a version was made."""
NO_STEPS = ("runs", "corpora", "pins")
"""Folders of the store that hold no versions."""
MIN_PREFIX = 4
READERS = 16  # a manifest on an object store is one slow request


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


@dataclass(frozen=True)
class Record:
    """A version as it lies in the store: its manifest and its `run.json`, as plain data."""

    path: str
    manifest: Mapping[str, Any]
    made: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Its node's id."""
        return f"{self.manifest['step']}/{self.manifest['version']}"

    @property
    def inputs(self) -> dict[str, list[str]]:
        """Parameter → ids of the versions given for it."""
        return {name: list(_ids(given)) for name, given in self.manifest["recipe"].get("inputs", {}).items()}


def of_store() -> Graph:
    """Everything in the store."""
    return graph_of(records(), ledger.runs())


def of_run(run: str) -> Graph:
    """One run: its versions, and all they came from."""
    return graph_of(chain([entry.path for entry in ledger.entries(run)]), [run])


def records() -> list[Record]:
    """All complete versions of the store."""
    with ThreadPoolExecutor(READERS) as pool:
        return [one for one in pool.map(record, version_paths()) if one is not None]


def version_paths() -> list[str]:
    """Folders of the store where versions are, complete or not, as paths below its root."""
    root = settings().store
    steps = [name for name in storage.list_folder(root) if name not in NO_STEPS and not name.startswith(".")]
    return [
        f"{step}/{name}" for step in steps for name in storage.list_folder(storage.join(root, step)) if not name.startswith(".")
    ]


def record(path: str) -> Record | None:
    """A version by its path; None where no complete one is."""
    folder = path if path.startswith("/") or "://" in path else storage.join(settings().store, path)
    if not storage.exists(storage.join(folder, MANIFEST)):
        return None
    made = storage.join(folder, "run.json")
    raw = storage.read_json(storage.join(folder, MANIFEST))
    return Record(path, raw, storage.read_json(made) if storage.exists(made) else {})


def chain(paths: Iterable[str]) -> list[Record]:
    """Versions and all that they came from, as far as they are in the store."""
    found: dict[str, Record] = {}
    todo = list(paths)
    while todo:
        path = todo.pop()
        one = record(path)
        if one is not None and one.id not in found:
            found[one.id] = one
            todo += [name for given in one.inputs.values() for name in given if name not in found]
    return list(found.values())


def graph_of(versions: Iterable[Record], runs: Iterable[str]) -> Graph:
    """The graph of these versions; a run counts where it has entered one of them."""
    nodes: dict[str, Node] = {}
    edges: dict[Edge, None] = {}
    named: dict[str, Node] = {}  # inputs that are not among the versions
    for one in versions:
        recipe = one.manifest["recipe"]
        nodes[one.id] = Node(one.id, "version", f"{one.manifest['step']} {one.manifest['version']}", _facts(one))
        for parent, digest in _inputs(recipe):
            named[parent] = Node(parent, "version", parent.replace("/", " "), _gone(parent, digest))
            edges[Edge(parent, one.id, "input")] = None
        for node, kind in _givers(one):
            nodes[node.id] = node
            edges[Edge(node.id, one.id, kind)] = None
            if kind == "judged by" and (judged := next(iter(one.inputs.values()), [])):
                edges[Edge(one.id, judged[0], CHECKS)] = None
        if registered := one.made.get("registered"):
            node = _model(registered)
            nodes[node.id] = node
            edges[Edge(one.id, node.id, "registered")] = None
    for run in runs:
        for node, edge in _entered(run, nodes):
            nodes[node.id] = node
            edges[edge] = None
    return Graph({**{name: node for name, node in named.items() if name not in nodes}, **nodes}, list(edges))


def with_registry(graph: Graph, registered: Iterable[Mapping[str, Any]]) -> Graph:
    """The same with what the MLflow registry knows: aliases, tags, and models whose registration is not in the store.

    Args:
        registered: rows of `tracking.registered_models`.
    """
    nodes, edges = dict(graph.nodes), list(graph.edges)
    by_digest = {node.facts.get("digest"): name for name, node in nodes.items() if node.kind == "version"}
    for row in registered:
        name = f"model:{row['name']}:{row['version']}"
        known = nodes.get(name)
        made_of = by_digest.get(row["digest"])
        if known is None and made_of is None:
            continue  # of another store
        facts = {**(known.facts if known else {}), **{key: value for key, value in row.items() if value}}
        nodes[name] = Node(name, "model", f"{row['name']}:{row['version']}", facts)
        if known is None and made_of is not None:
            edges.append(Edge(made_of, name, "registered"))
    return Graph(nodes, edges)


def find(graph: Graph, what: str) -> list[str]:
    """Ids of the nodes that `what` names; empty if it names none.

    `what` is a version or digest or its beginning (4 characters at least), `step/version`, a model (`name`, `name:version`,
    `name@alias`), a run, or the name of a source or a suite.

    Raises:
        InputError: it is the beginning of several names.
    """
    exact = what.partition("@")[0]
    if exact in graph.nodes:
        return [exact]
    models = [node for node in graph.nodes.values() if node.kind == "model"]
    name, _, alias = what.partition("@")
    if alias and (found := [one.id for one in models if one.facts["name"] == name and alias in one.facts.get("aliases", ())]):
        return found
    if found := [one.id for one in models if what in (one.facts["name"], one.label)]:
        return found
    if found := [one.id for one in graph.nodes.values() if one.kind in ("source", "suite") and one.facts.get("name") == what]:
        return found
    if len(what) < MIN_PREFIX:
        return []
    begin = {one.id: full for one in graph.nodes.values() for full in _names(one) if full.startswith(what)}
    if len(set(begin.values())) > 1:
        some = ", ".join(sorted(begin)[:5])
        raise InputError(f"{what}: the beginning of {len(begin)} names ({some}{' …' if len(begin) > 5 else ''}); give more of it")
    return sorted(begin)


def _names(node: Node) -> Iterator[str]:
    yield node.id.rpartition("/" if node.kind == "version" else ":")[2]
    if node.kind == "version":
        yield node.facts["digest"]


def _ids(given: Any) -> Iterator[str]:
    for one in given if isinstance(given, list) else [given]:
        yield from _ids(one) if isinstance(one, list) else [one.partition("@")[0]]


def _inputs(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(id, digest) of every input."""
    todo = list(recipe.get("inputs", {}).values())
    for given in todo:  # grows while it is read
        if isinstance(given, list):
            todo += given
        else:
            name, _, digest = given.partition("@")
            yield name, digest


def _facts(one: Record) -> dict[str, Any]:
    manifest, recipe = one.manifest, one.manifest["recipe"]
    counts = manifest["counts"]
    return {
        "step": manifest["step"],
        "version": manifest["version"],
        "digest": manifest["digest"],
        "path": one.path,
        "schema": manifest["schema_name"],
        "rows_kept": counts["kept"],
        "rows_dropped": counts["total"] - counts["kept"],
        "dropped": counts["dropped"],
        "libraries": recipe.get("libraries", {}),
        **{name: one.made[name] for name in ("started", "seconds", "host", "device", "code_version") if name in one.made},
    }


def _gone(name: str, digest: str) -> dict[str, Any]:
    step, _, version = name.partition("/")
    return {"step": step, "version": version, "digest": digest, "state": "not in this store"}


def _givers(one: Record) -> Iterator[tuple[Node, EdgeKind]]:
    """What a version came from besides other versions: sources, a suite, code, config."""
    recipe = one.manifest["recipe"]
    config = recipe.get("config", {})
    listed = config.get("sources") or []
    for source in (given for given in listed if isinstance(given, dict)):
        name = str(source.get("name") or source.get("kind", "source"))
        facts = {"name": name, **{key: value for key, value in source.items() if value not in (None, "", [], {})}}
        yield Node(f"source:{name}:{_digest(source)}", "source", name, facts), "read"
    if suite := config.get("suite"):
        digest = str(recipe.get("files", {}).get(suite, ""))
        facts = {"name": suite, "digest": digest}
        yield Node(f"suite:{suite}:{digest[:16]}", "suite", suite.rpartition("/")[2], facts), "judged by"
    code = recipe.get("code", "")
    yield Node(f"code:{code}", "code", f"code {code}", {"step": recipe.get("step", "")}), "code"
    digest = _digest(config)
    yield Node(f"config:{digest}", "config", f"config {digest}", config), "config"


def _model(registered: Mapping[str, Any]) -> Node:
    name = f"{registered['name']}:{registered['version']}"
    return Node(f"model:{name}", "model", name, dict(registered))


def _entered(run: str, nodes: Mapping[str, Node]) -> Iterator[tuple[Node, Edge]]:
    about = ledger.about(run)
    facts = about.model_dump(exclude={"config"}) if about else {"run": run}
    for entry in ledger.entries(run):
        name = f"{entry.step}/{entry.version}"
        if name in nodes:
            node = Node(f"run:{run}", "run", f"run {run}", facts)
            yield node, Edge(node.id, name, "loaded" if entry.loaded else "made")


def _digest(value: Any) -> str:
    return digest_of("lineage", json.dumps(value, sort_keys=True, ensure_ascii=False))[:16]
