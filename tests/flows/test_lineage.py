"""Lineage is told from the store alone: up to sources and suites, down to models, by any name, and for one document."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pyarrow as pa
import pytest

from flows.lineage import tell
from infra import ledger, lineage, storage
from infra.errors import InputError
from infra.graph import Edge, Graph, Node
from infra.settings import settings

from .driver import commands
from .made_store import corpus, make

PAGES = {"http://a.example/one": "one two three", "http://a.example/two": "alone", "http://b.example/": "four five six"}


def told(what: str, *, up: bool = True, down: bool = True, form: str = "tree") -> str:
    warned: list[str] = []
    text = tell(what, up=up, down=down, form=form, warn=warned.append)  # type: ignore[arg-type]
    assert not warned  # no server is known here, and none is asked
    return text


def nodes(what: str, **ways: bool) -> set[str]:
    return {node["id"] for node in json.loads(told(what, form="json", **ways))["nodes"]}


def of_kind(found: set[str], kind: str) -> set[str]:
    return {name for name in found if name.startswith(f"{kind}:")}


def test_from_a_model_back_to_sources_suites_code_config_and_run(home: Path) -> None:
    with ledger.run("first"):
        made = corpus(PAGES, model="mine:1")
        other = corpus({"http://c.example/": "seven eight"})
    found = nodes("mine:1", down=False)
    assert {f"{one.step}/{one.version}" for one in made.values()} <= found
    assert f"crawl/{other['crawl'].version}" not in found
    assert len(of_kind(found, "source")) == 1 and len(of_kind(found, "suite")) == 1
    assert "code:filter-aaaa" in found and len(of_kind(found, "config")) >= 4 and of_kind(found, "run") == {"run:first"}


def test_from_a_source_a_digest_or_a_suite_down_to_the_model_and_not_sideways(home: Path) -> None:
    made = corpus(PAGES, model="mine:1")
    assert "model:mine:1" in nodes("web", up=False)
    below = nodes(made["publish"].digest, up=False)
    assert "model:mine:1" in below and f"crawl/{made['crawl'].version}" not in below
    # what was judged did not come of the suite
    assert nodes("published", up=False) & {"model:mine:1", f"publish/{made['publish'].version}"} == set()


def test_what_was_only_compared_with_is_no_source_of_a_model_nor_did_anything_come_of_it(home: Path) -> None:
    old = corpus({"http://old.example/": "eight nine ten"}, payload="old")
    made = corpus(PAGES, model="mine:1", previous=old["publish"])
    assert not nodes("mine:1", down=False) & {f"{one.step}/{one.version}" for one in old.values()}
    assert f"publish/{made['publish'].version}" not in nodes(old["publish"].digest, up=False)
    edges = json.loads(told(made["publish"].version, form="json"))["edges"]
    assert "compared with" not in {edge["kind"] for edge in edges}  # it is not part of what is told of the new one
    assert "compared with" in {edge.kind for edge in lineage.of_store().edges}


@pytest.mark.parametrize("beginning", [4, 8, 16])
def test_a_version_or_digest_may_be_cut_short(home: Path, beginning: int) -> None:
    made = corpus(PAGES)["publish"]
    for name in (
        made.version[:beginning],
        made.digest[:beginning],
        f"publish/{made.version}",
        f"publish/{made.version[:beginning]}",
        f"publish/{made.digest[:beginning]}",
        f"publish/{made.version}@{made.digest}",
    ):
        assert f"publish {made.version} · digest" in told(name)


def test_the_beginning_of_several_names_is_told_and_a_name_of_nothing_too(home: Path) -> None:
    graph = lineage.graph_of([], [])
    two = {name: Node(name, "version", name, {"digest": digest}) for name, digest in (("a/abcd1", "x1"), ("a/abcd2", "x2"))}
    with pytest.raises(InputError, match=r"abcd: the beginning of 2 names \(a/abcd1, a/abcd2\); give more"):
        lineage.find(Graph(two, []), "abcd")
    assert lineage.find(graph, "abcd") == lineage.find(Graph(two, []), "b/abcd") == lineage.find(Graph(two, []), "a/abc") == []
    corpus(PAGES)
    with pytest.raises(InputError, match=r"nobody: no version, model, run, source, suite or document"):
        told("nobody")


def test_equal_bytes_of_two_recipes_are_both_found_by_their_digest(home: Path) -> None:
    one, two = corpus(PAGES, code="aaaa")["filter"], corpus(PAGES, code="bbbb")["filter"]
    assert one.digest == two.digest and one.version != two.version
    assert {f"filter/{one.version}", f"filter/{two.version}"} <= nodes(one.digest)


def test_a_url_leads_to_every_version_that_holds_the_page_and_says_where_others_dropped_it(home: Path) -> None:
    loose, strict = corpus(PAGES, model="loose:1"), corpus(PAGES, min_words=4, model="strict:1")
    text = told("http://A.example:80/one")  # not written as it is kept
    assert f"publish {loose['publish'].version}" in text and f"publish {strict['publish'].version}" not in text
    assert re.search(rf"filter {strict['filter'].version} .*dropped by min_words \(value 3, threshold 4\)", text)
    assert re.search(rf"tokenise {loose['tokenise'].version} .*holds it as 4 tokens in its train split", text)
    assert "loose:1" in text and "strict:1" not in text
    doc = json.loads(told("http://a.example/two", form="json"))
    notes = {node["id"]: node["note"] for node in doc["nodes"] if node["note"]}
    assert notes[f"filter/{loose['filter'].version}"] == "dropped by min_words (value 1, threshold 2)"
    assert not [name for name in notes if name.startswith(("publish/", "model:"))]


def test_what_a_document_or_run_came_from_is_told_as_such(home: Path) -> None:
    with ledger.run("first"):
        made = corpus(PAGES, model="mine:1")
    for what in ("http://a.example/one", "first"):
        lines = told(what, down=False).splitlines()
        assert "came of it" not in lines and "came from" in lines, lines
        crawl = next(at for at, line in enumerate(lines) if f"crawl {made['crawl'].version}" in line)
        source = next(at for at, line in enumerate(lines) if "source" in line and "web" in line)
        assert crawl < source
    assert "came of it" in told("http://a.example/one", up=False).splitlines()


def test_a_doc_id_leads_where_its_url_leads(home: Path) -> None:
    made = corpus(PAGES, model="mine:1")
    rows = made["publish"].shards()[0].read().to_pylist()
    for row in rows:
        assert nodes(row["doc_id"]) == nodes(row["url"]) >= {"model:mine:1"}


def test_an_edge_that_others_tell_is_left_out_of_the_tree_and_kept_in_the_json(home: Path) -> None:
    made = corpus(PAGES)
    graph = lineage.of_store()
    published, crawled = (f"{name}/{made[name].version}" for name in ("publish", "crawl"))
    assert graph.parents(published) == [f"filter/{made['filter'].version}"]
    assert Edge(crawled, published, "input") in graph.edges


def test_what_was_removed_is_still_named_by_what_came_of_it(home: Path) -> None:
    made = corpus(PAGES, model="mine:1")
    storage.remove(made["filter"].folder)
    text = told("mine:1", down=False)
    assert f"filter {made['filter'].version} · digest {made['filter'].digest[:12]} · not in this store" in text


def test_mermaid_has_a_line_for_each_node_and_edge(home: Path) -> None:
    corpus({"http://a.example/": 'a "quoted" text'}, model="mine:1")
    text = told("mine:1", down=False, form="mermaid")
    assert text.startswith("flowchart TD\n") and text.count('"') % 2 == 0
    graph = lineage.of_store()
    assert text.count(" --> ") == sum(len(graph.parents(name)) for name in graph.order())


@pytest.mark.soak
def test_1000_versions_are_answered_in_seconds(home: Path) -> None:
    row = pa.table({"doc_id": ["d"], "url": ["http://a.example/"]})
    for number in range(100):
        above = make("crawl", row, config={"snapshot": str(number), "sources": [{"kind": "site", "name": "web"}]})
        for step in ("extract", "signals", "filter", "rewrite", "dedup", "redact", "split", "publish", "tokenise"):
            above = make(step, row, inputs={"documents": above})
    started = time.monotonic()
    assert told(above.version).count("\n") >= 10
    assert len(nodes("http://a.example/")) > 1000
    assert time.monotonic() - started < 20


def test_the_command_writes_each_form_and_tells_what_it_cannot_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRISTMILL_HOME", str(tmp_path / "home"))
    made = corpus(PAGES, model="mine:1")
    assert settings().home == tmp_path / "home"
    page = tmp_path / "lineage.html"
    short = made["publish"].version[:6]
    tree, html, wrong = commands(
        tmp_path / "home",
        ["lineage", short, "--down"],
        ["lineage", "mine:1", "--format", "html", "--output", str(page)],
        ["lineage", "nobody"],
    )
    assert (tree.code, html.code, wrong.code) == (0, 0, 2)
    assert "mine:1" in tree.output and "crawl" not in tree.output
    assert html.output.strip() == str(page) and "<svg" in page.read_text() and "<script" not in page.read_text()
    assert wrong.output.startswith("nobody: no version")
