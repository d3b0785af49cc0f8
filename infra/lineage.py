"""What came from what: sources, dataset versions, suites, models and runs as one graph, read from the store alone.

Every manifest names its inputs (`step/version@digest`), its config and its code; the ledger names the runs. So no server is asked, and an
input that was removed is still named by those made from it. 1,000 versions on a local disk are read in about a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from infra import ledger, storage
from infra.dataset import MANIFEST, RUN, folder_of
from infra.errors import InputError
from infra.graph import CHECKS, COMPARED, Edge, EdgeKind, Graph, Node
from infra.ids import digest_of
from infra.settings import settings

NO_STEPS = ("runs", "corpora", "pins")
"""Folders of the store that hold no versions."""
PREVIOUS = "previous"
"""Parameter of a step whose input is only compared with: nothing of it goes into what the step makes."""
MIN_PREFIX = 4
READERS = 16  # a manifest on an object store is one slow request


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
    folder = folder_of(path)
    if not storage.exists(storage.join(folder, MANIFEST)):
        return None
    made = storage.join(folder, RUN)
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
            given = [names for parameter, names in one.inputs.items() if parameter != PREVIOUS]
            todo += [name for names in given for name in names if name not in found]
    return list(found.values())


def graph_of(versions: Iterable[Record], runs: Iterable[str]) -> Graph:
    """The graph of these versions; a run counts where it has entered one of them."""
    nodes: dict[str, Node] = {}
    edges: dict[Edge, None] = {}
    named: dict[str, Node] = {}  # inputs that are not among the versions
    for one in versions:
        recipe = one.manifest["recipe"]
        nodes[one.id] = Node(one.id, "version", f"{one.manifest['step']} {one.manifest['version']}", _facts(one))
        for parameter, parent, digest in _inputs(recipe):
            named[parent] = Node(parent, "version", parent.replace("/", " "), _gone(parent, digest))
            edges[Edge(parent, one.id, COMPARED if parameter == PREVIOUS else "input")] = None
        for node, kind in _givers(one):
            nodes[node.id] = node
            edges[Edge(node.id, one.id, kind)] = None
            if kind == "judged by" and (judged := next(iter(one.inputs.values()), [])):
                edges[Edge(one.id, judged[0], CHECKS)] = None
        for registered in _registered(one):
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

    `what` is a version or digest or its beginning (4 characters at least), also as `step/version`, a model (`name`, `name:version`,
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
    step, slash, begins = what.rpartition("/")
    if len(begins) < MIN_PREFIX:
        return []
    begin = {
        one.id: full
        for one in graph.nodes.values()
        for full in _names(one)
        if full.startswith(begins) and (not slash or one.id.startswith(f"{step}/"))
    }
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


def _inputs(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(parameter, id, digest) of every input."""
    todo = list(recipe.get("inputs", {}).items())
    for parameter, given in todo:  # grows while it is read
        if isinstance(given, list):
            todo += [(parameter, one) for one in given]
        else:
            name, _, digest = given.partition("@")
            yield parameter, name, digest


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
    listed = [one for key in ("sources", "positive", "negative") for one in config.get(key) or []]
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


def _registered(one: Record) -> list[Mapping[str, Any]]:
    """The models that a version registered: one, or a list of them."""
    noted = one.made.get("registered") or []
    return noted if isinstance(noted, list) else [noted]


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
