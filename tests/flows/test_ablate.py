"""`gristmill ablate`: damage is found, a change of nothing is not, no held-out document is trained on, and the command tells it all."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from expectations.schemas import AUGMENTED, PUBLISHED
from flows import ablate as ablation
from flows.ablate import Asked, Variant
from flows.config import RunConfig
from infra import dataset, ids, storage
from infra.dataset import Outcome, ShardSet
from infra.errors import InputError
from tasks.withhold import WithholdConfig, withhold

from . import english

BITS = "heldout.bits_per_byte"
NUM_TRAIN, NUM_TEST = 240, 60


def document(number: int, text: str = "", **fields: Any) -> dict[str, Any]:
    text = text or english.text(number)[:450]
    own = {"doc_id": ids.digest_of(str(number)), "content_id": ids.content_id(text), "text_digest": ids.text_digest(text)}
    return {**own, "text": text, "source": "web", "host": f"h{number}.example", "url": f"http://h{number}.example/", **fields}


def published(name: str, train: Sequence[Sequence[dict[str, Any]]], test: Sequence[dict[str, Any]], **facts: Any) -> ShardSet:
    """A published version of these training shards and one held out."""
    recipe = {"step": "publish", "inputs": {}, "config": {"title": name}}
    folder = storage.join(dataset.folder_of("publish"), dataset.version_of(recipe))
    schema = pa.schema([*PUBLISHED, *AUGMENTED])
    shards = [pa.Table.from_pylist(list(part), schema=schema) for part in (*train, test)]
    receipts = [dataset.write_shard(folder, number, Outcome(one)) for number, one in enumerate(shards)]
    splits = {"train": list(range(len(train))), "test": [len(train)]}
    told = {"splits": splits, **facts}
    dataset.seal(folder, step="publish", schema_name="published", recipe=recipe, receipts=receipts, files=[], facts=told)
    return dataset.open_version(folder)


def shuffled(text: str, seed: int) -> str:
    words = text.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)


def test_no_held_out_document_is_trained_on_under_whatever_name(home: Path) -> None:
    test = [document(n, host="held.example") for n in range(5)]
    named = {
        "held_out_document": document(50, doc_id=test[0]["doc_id"]),
        "held_out_copy": document(51, augmented="noise", augmented_from=test[1]["doc_id"]),
        "held_out_content": document(52, content_id=test[2]["content_id"]),
        "held_out_text": document(53, text=test[3]["text"], content_id=None),
        "held_out_host": document(54, host="held.example"),
    }
    # of unknown names none is that of another document
    unknown = [document(n, content_id=None, text_digest=None, host=None) for n in (60, 61)]
    clean = [*(document(n) for n in (70, 71)), document(72, augmented="noise", augmented_from=ids.digest_of("70"))]
    of_test = [*test, document(5, content_id=None, text_digest=None, host="held.example")]
    base = published("base", [[document(80)]], of_test, held_out_by="host")
    variant = published("variant", [[*named.values(), clean[0]], [*unknown, *clean[1:]]], [document(90)])
    made = withhold(variant, base, config=WithholdConfig())
    manifest, shards = made.manifest(), made.shards()
    assert manifest.counts.dropped == dict.fromkeys(named, 1)
    assert manifest.facts["splits"] == {"train": [0, 1], "test": [2]} and manifest.facts["held_out_by"] == "host"
    kept = {name for shard in shards[:2] for name in shard.read(["doc_id"])["doc_id"].to_pylist()}
    assert kept == {one["doc_id"] for one in (*unknown, *clean)}
    assert shards[2].read(["doc_id"])["doc_id"].to_pylist() == [one["doc_id"] for one in of_test]
    rejects = dataset.dataset(made.folder, rejects=True)
    assert rejects is not None
    rows = {row["doc_id"]: row for row in rejects.to_table().to_pylist()}
    assert {rows[one["doc_id"]]["rule"]: rows[one["doc_id"]]["detail"] for one in named.values()} == {
        "held_out_document": test[0]["doc_id"],
        "held_out_copy": test[1]["doc_id"],
        "held_out_content": test[2]["content_id"],
        "held_out_text": test[3]["text_digest"],
        "held_out_host": "held.example",
    }


def test_where_documents_were_held_out_and_not_hosts_a_host_is_no_reason(home: Path) -> None:
    base = published("base", [[document(1)]], [document(2, host="one.example")], held_out_by="cluster")
    made = withhold(published("variant", [[document(3, host="one.example")]], []), base, config=WithholdConfig())
    assert made.manifest().counts.dropped == {} and made.manifest().facts["held_out_by"] == "document"


def test_versions_that_cannot_be_compared_are_refused_in_words(home: Path) -> None:
    test = [document(n) for n in range(3)]
    base, bare = published("base", [[document(9)]], test), published("bare", [[document(9)]], [])
    with pytest.raises(InputError, match=r"has no test split.*split\.test_share"):
        withhold(base, bare, config=WithholdConfig())
    with pytest.raises(InputError, match="no training document is left"):
        withhold(published("all held out", [test], []), base, config=WithholdConfig())
    with pytest.raises(InputError, match="at least one variant, and two seeds"):
        ablation.ablate([Variant("base", base)], Asked(RunConfig()))
    with pytest.raises(InputError, match="two variants have the name"):
        ablation.of_versions([f"one={base.folder}", f"one={bare.folder}"])
    quiet = Asked(RunConfig()).tell
    for change, words in (
        ("lonely", "write NAME=dotted.key=value"),
        ("x=pretrain.max_steps=5", "pretrain is no part that makes the corpus"),
        ("baseline=filter.disabled=[]", "two variants have the name 'baseline'"),
    ):
        with pytest.raises(InputError, match=words):
            ablation.of_changes("small", [], [change], quiet)
    site = ["crawl.sources=[{kind: site, name: s, urls: [http://s.example/]}]", "ingest.sources=[]"]
    with pytest.raises(InputError, match="have no stored crawl of snapshot"):
        ablation.of_changes("small", site, ["x=filter.disabled=[]"], quiet)
