"""What people see of deduplication: the report, the card, trace and rejects of a corpus that grows and forgets; and its alarms."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.approval import describe
from flows.budget import BudgetExceeded
from flows.config import RunConfig
from flows.passport import trace_document
from flows.prepare import prepare
from flows.publish import publish
from flows.rejects import drawn
from infra import dataset, ledger, rejects, storage
from infra.dataset import ShardSet
from tasks.report import render_run

from . import english

NUM_TEXTS, NUM_NEAR, NUM_COPIES, NUM_AGAIN = 40, 8, 5, 6
SECRET = "The zanzibar heirloom was hidden below the ninth mill"


def edited(text: str, seed: int, num_words: int = 2) -> str:
    """The text with some words changed."""
    draw = random.Random(f"edited {seed}")
    words = text.split(" ")
    for place in draw.sample(range(len(words)), num_words):
        words[place] = draw.choice(english.NOUNS)
    return " ".join(words)


def row(text: str, url: str, source: str = "web") -> dict[str, str]:
    return {"text": text, "url": url, "source": source}


def first_crawl() -> list[dict[str, str]]:
    """Texts, and of some a near duplicate or a copy elsewhere; one host is to be taken down."""
    rows = [row(english.text(n), f"http://a.example/{n}") for n in range(NUM_TEXTS)]
    rows += [row(edited(english.text(n), n), f"http://near.example/{n}") for n in range(NUM_NEAR)]
    rows += [row(english.text(20 + n), f"http://copy.example/{n}") for n in range(NUM_COPIES)]
    return [*rows, row(f"{SECRET}. {english.text(900)}", "http://www.gone.example/secret")]


def second_crawl() -> list[dict[str, str]]:
    """Pages met again, near duplicates of the first crawl, a copy of what is taken down, and new texts."""
    again = [row(english.text(n), f"http://a.example/{n}") for n in range(NUM_AGAIN)]
    near = [row(edited(english.text(10 + n), 50 + n), f"http://new.example/{n}") for n in range(4)]
    new = [row(english.text(500 + n), f"http://new.example/fresh/{n}") for n in range(20)]
    return [*again, *near, *new, row(f"{SECRET}. {english.text(900)}", "http://mirror.example/secret")]


def run(home: Path, name: str, rows: list[dict[str, str]], **parts: Any) -> dict[str, ShardSet]:
    """Prepare and publish these rows as corpus `told`."""
    folder = home / "rows" / name
    if not folder.exists():  # its time is part of the recipe
        folder.mkdir(parents=True)
        (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    raw = {
        "name": "told",
        "dask": {"kind": "none"},
        "ingest": {"snapshot": name, "sources": [{"kind": "folder", "path": str(folder)}], "shard_bytes": 9000},
        "audit": None,
        **parts,
    }
    config = RunConfig.model_validate(raw)
    with ledger.run(parts.get("run", name)):
        prepared = prepare.fn(config)
        publish.fn(prepared, config)
    return {entry.step: entry.shards() for entry in ledger.entries(name)}


@dataclass
class Told:
    """Two crawls, and the second one again after a takedown."""

    first: dict[str, ShardSet]
    second: dict[str, ShardSet]
    third: dict[str, ShardSet]

    def page(self, name: str) -> str:
        return render_run(name, list(getattr(self, name).values()))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    home = tmp_path_factory.mktemp("told")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRISTMILL_HOME", str(home))
        first = run(home, "first", first_crawl())
        grow = {"index": {"base": "earlier"}}
        second = run(home, "second", second_crawl(), **grow)
        third = run(home, "third", second_crawl(), **grow, forget={"domains": ["gone.example"], "reason": "asked by its owner"})
        yield Told(first, second, third)


def test_x(told: Told) -> None:
    for name in ("first", "second", "third"):
        Path(f"/tmp/{name}.html").write_text(told.page(name))
        print(name, {s: (v.counts) for s, v in getattr(told, name).items()})
        print(getattr(told, name)["index"].manifest().facts)
    console = Console(file=io.StringIO(), width=200)
    for what in (
        "http://near.example/3",
        "http://www.gone.example/secret",
        "http://mirror.example/secret",
        "http://copy.example/1",
        "http://a.example/2",
    ):
        trace_document(what, "third", console)
    print(console.file.getvalue())
    print(storage.read_bytes(told.third["publish"].file("README.md")).decode())
    assert 0
