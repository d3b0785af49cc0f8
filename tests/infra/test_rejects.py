"""Rejects are drawn alike however they lie in shards, of rare rules as of common ones, and read with the text the step was given."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from infra import dataset, ids, rejects, storage
from infra.dataset import EXCERPT_CHARS, Outcome, ShardSet, rejects_table
from infra.rejects import Reject
from infra.settings import settings

COMMON, RARE = "common", "rare"


def rows(num: int = 400) -> list[dict[str, Any]]:
    """Documents of which every hundredth falls under RARE, all others under COMMON."""
    return [
        {
            "doc_id": ids.doc_id("web", f"http://a.example/{n}", ""),
            "url": f"http://a.example/{n}",
            "source": "web" if n % 4 else "mail",
            "rule": RARE if n % 100 == 7 else COMMON,
            "value": float(n),
            "threshold": 0.5,
        }
        for n in range(num)
    ]


def version(name: str, shards: list[list[dict[str, Any]]], kept: list[pa.Table] | None = None, inputs: Any = None) -> ShardSet:
    folder = storage.join(settings().store, "filter" if kept is None else "extract", name)
    nothing = pa.table({"doc_id": pa.array([], pa.string())})
    receipts = [
        dataset.write_shard(folder, index, Outcome(kept[index] if kept else nothing, rejects_table(some) if some else None))
        for index, some in enumerate(shards)
    ]
    recipe = {"step": "filter", "inputs": inputs or {}, "config": {}, "files": {}, "code": name, "libraries": {}}
    step = "filter" if kept is None else "extract"
    manifest = dataset.seal(folder, step=step, schema_name="documents", recipe=recipe, receipts=receipts, files=[], facts={})
    return dataset.shard_set(folder, manifest)


def cut(many: list[dict[str, Any]], num_shards: int, seed: int) -> list[list[dict[str, Any]]]:
    mixed = random.Random(seed).sample(many, len(many))
    return [mixed[n::num_shards] for n in range(num_shards)]


def test_the_same_is_drawn_for_any_shards_in_any_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = rejects.draw(version("one", [rows()]), 5)
    monkeypatch.setattr(rejects, "BATCH_ROWS", 16)
    for num_shards, seed in ((1, 3), (7, 1), (7, 2)):
        assert rejects.draw(version(f"{num_shards}-{seed}", cut(rows(), num_shards, seed)), 5) == one
    assert [(some.rule, some.count, len(some.samples)) for some in one] == [(COMMON, 396, 5), (RARE, 4, 4)]
    assert one[0].by_source == {"web": 296, "mail": 100}


def test_other_seeds_draw_others_and_over_many_seeds_each_alike_often(home: Path) -> None:
    made = version("seeds", cut(rows(), 3, 0))
    drawn: Counter[str] = Counter()
    for seed in range(100):
        first = rejects.draw(made, 20, seed=seed)[0].samples
        assert len({one.doc_id for one in first}) == 20
        drawn.update(one.doc_id for one in first)
    # 2,000 draws of 396: 5.05 on average; binomially 4.8e-7 of them beyond 19, as many below 0
    assert max(drawn.values()) < 20 and len(drawn) > 380
    assert rejects.draw(made, 3, seed=-1) == rejects.draw(made, 3, seed=-1) != rejects.draw(made, 3)


def test_rows_of_one_id_are_drawn_by_the_seed_too_and_alike_however_they_lie(home: Path) -> None:
    """As the bad lines of a file that is ingested, which all have its id: what differs is one of url, detail and excerpt."""
    for name in ("url", "detail", "excerpt"):
        told = "line {:03} of " + "a long name " * (n := 9)
        bad = [
            {"doc_id": "f" * 32, "source": "web", "rule": RARE, name: told.format(line) + "é" * (line % n)} for line in range(200)
        ]
        one, other = (version(f"{name}-{seed}", cut(bad, 3, seed)) for seed in (1, 2))
        draws = [rejects.draw(one, 5, seed=seed)[0].samples for seed in range(10)]
        assert draws == [rejects.draw(other, 5, seed=seed)[0].samples for seed in range(10)]
        assert len({sample for some in draws for sample in some}) > 30  # 50 draws of 200: 44 on average


def test_a_seed_may_be_any_integer(home: Path) -> None:
    made = version("any", [rows()])
    huge = 99999999999999999999
    assert rejects.draw(made, 3, seed=huge) == rejects.draw(made, 3, seed=huge) != rejects.draw(made, 3)
    assert rejects.draw(made, 3, seed=-huge) != rejects.draw(made, 3, seed=huge)


def test_a_rule_and_a_source_leave_out_the_others_and_none_is_drawn_of_none(home: Path) -> None:
    made = version("some", cut(rows(), 2, 0))
    [rare] = rejects.draw(made, 9, rule=RARE, source="web")
    assert rare.count == len(rare.samples) == len([row for row in rows() if row["rule"] == RARE and row["source"] == "web"])
    assert {one.source for one in rare.samples} == {"web"}
    assert rejects.draw(made, 9, rule="no such") == []
    assert [(one.count, one.samples) for one in rejects.draw(made, 0)] == [(396, []), (4, [])]
    assert rejects.draw(version("nothing", [[]]), 3) == []


def test_a_text_is_the_nearest_that_was_given_and_cut_and_gone_texts_are_empty(home: Path) -> None:
    many = rows(20)
    long = "ü" * (EXCERPT_CHARS + 50)
    texts = pa.table({"doc_id": [row["doc_id"] for row in many[:-1]], "text": [long + row["url"] for row in many[:-1]]})
    documents = version("documents", [[], []], [texts[:9], texts[9:]])
    without_texts = [texts.select(["doc_id"])]
    measured = version("measured", [[]], without_texts, {"documents": [f"{documents.folder}@{documents.digest}", "extract/gone"]})
    carried = {**many[0], "excerpt": "as the step carried it"}
    made = version("filtered", [[carried, *many[1:]]], inputs={"signals": f"{measured.folder}@{measured.digest}"})
    by_id = {one.doc_id: one for dropped in rejects.draw(made, 99) for one in dropped.samples}
    assert by_id[many[0]["doc_id"]].text == "as the step carried it"
    assert by_id[many[1]["doc_id"]].text == long[:EXCERPT_CHARS]
    assert by_id[many[-1]["doc_id"]].text == ""
    assert isinstance(by_id[many[1]["doc_id"]], Reject) and by_id[many[1]["doc_id"]].value == 1.0
