"""`gristmill lineage`: from a version, model, run, source, suite or document to what it came from and what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from typing import Literal

from infra import ledger, lineage, lineage_page, tracking
from infra.errors import InputError
from infra.graph import SHOWN, Graph, Node
from infra.lineage import Record
from infra.settings import settings
from infra.whereabouts import whereabouts
from tasks.web.urls import UrlError, canonical

Format = Literal["tree", "mermaid", "html", "json"]


def tell(what: str, *, up: bool, down: bool, form: Format, warn: Callable[[str], None]) -> str:
    """The lineage of `what` as text.

    Args:
        what: see `infra.lineage.find`; or a document's URL, doc_id or content_id; or `latest`, the newest run.
        up: show what it came from.
        down: show what came of it.
        warn: told what could not be asked.

    Raises:
        InputError: nothing of that name is known.
    """
    versions = lineage.records()
    graph = with_registry(lineage.graph_of(versions, ledger.runs()), warn)
    wanted = ledger.find_run(what) if what == "latest" else what
    if starts := lineage.find(graph, wanted):
        ids = (graph.up(starts) if up else set()) | (graph.down(starts) if down else set())
        part, title = graph.part(ids), " · ".join(graph.nodes[name].label for name in starts)
        shown = [name for name in starts if graph.nodes[name].kind in SHOWN]
    else:
        part, shown = _of_document(what, graph, versions, up=up, down=down)
        title = what
    if form == "json":
        return json.dumps({"what": what, "found": starts or shown, **part.to_json()}, indent=1, ensure_ascii=False)
    if form == "html":
        return lineage_page.render(part, title)
    if form == "mermaid":
        return lineage_page.mermaid(part)
    if starts and shown:
        return "\n".join(_tree(part, shown, up=up, down=down))
    # a document, run, code or config has no place in the graph: its tree begins where data came in, or ends where it is looked up from
    if not down:
        ends = shown or [name for name in part.order() if not part.children(name)]
        return "\n".join(_tree(part, ends, up=True, down=False))
    return "\n".join(_tree(part, [name for name in part.order() if not part.parents(name)], up=False, down=True))


def with_registry(graph: Graph, warn: Callable[[str], None]) -> Graph:
    """With aliases, where an MLflow server is known and answers."""
    if not tracking.enabled():
        return graph
    if not tracking.reachable():
        warn(f"MLflow does not answer at {settings().mlflow_url}: models are shown without their aliases")
        return graph
    return lineage.with_registry(graph, tracking.registered_models())


def _of_document(what: str, graph: Graph, versions: list[Record], *, up: bool, down: bool) -> tuple[Graph, list[str]]:
    """What holds or held the document, with notes; and where it came in."""
    found = whereabouts(spellings(what), graph, versions)
    if not found.documents:
        raise InputError(
            f"{what}: no version, model, run, source, suite or document of that name in {settings().store}; "
            "give a version or digest (4 characters at least), name:version of a model, or a document's URL or doc_id"
        )
    ids = (set(found.notes) if down else set()) | set(found.entrances)
    if up:
        ids |= graph.up(found.entrances)
    makers = {edge.source for edge in graph.edges if edge.target in ids and graph.nodes[edge.source].kind not in SHOWN}
    return graph.part(ids | makers).noted(found.notes), list(found.entrances)


def spellings(what: str) -> list[str]:
    """What a document may go by: the word as it is and, of a URL, its canonical form."""
    try:
        return [what, canonical(what)]
    except UrlError:
        return [what]  # an id


def _tree(graph: Graph, starts: Collection[str], *, up: bool, down: bool) -> Iterator[str]:
    makers: dict[str, list[str]] = {}
    for edge in graph.edges:
        if edge.kind in ("code", "config", "made"):
            makers.setdefault(edge.target, []).append(graph.nodes[edge.source].label)
    for name in starts:
        yield _words(graph.nodes[name], makers)
        for heading, wanted, following in (("came from", up, graph.parents), ("came of it", down, graph.children)):
            if wanted and following(name):
                yield heading
                yield from _branches(graph, name, following, makers, set(), "")
    if up and (checks := [node for _, node in sorted(graph.nodes.items()) if node.kind == "suite"]):
        yield "judged by"
        yield from (f"└─ {_words(node, makers)}" for node in checks)


def _branches(
    graph: Graph, name: str, following: Callable[[str], list[str]], makers: dict[str, list[str]], told: set[str], before: str
) -> Iterator[str]:
    """A line per node, deeper ones further right; a node that was told already is only named."""
    around = following(name)
    for number, one in enumerate(around):
        last = number == len(around) - 1
        yield f"{before}{'└─' if last else '├─'} " + (
            f"{graph.nodes[one].label} (see above)" if one in told else _words(graph.nodes[one], makers)
        )
        if one not in told:
            told.add(one)
            yield from _branches(graph, one, following, makers, told, before + ("   " if last else "│  "))


def _words(node: Node, makers: dict[str, list[str]]) -> str:
    facts, words = node.facts, [node.label]
    if node.kind == "version":
        words.append(f"digest {facts['digest'][:12]}")
        words.append(
            f"{facts['rows_kept']:,} kept, {facts['rows_dropped']:,} dropped" if "rows_kept" in facts else facts["state"]
        )
        words += sorted(makers.get(node.id, []))
    elif node.kind == "model":
        words += [*facts.get("aliases", ()), f"weights {facts['digest'][:12]}"]
    elif node.kind == "suite":
        words.append(f"suite, digest {facts['digest'][:12]}")
    else:
        words.append(f"{node.kind} {facts.get('kind', '')}".strip())
    return " · ".join([*words, *([node.note] if node.note else [])])
