"""Copies stand beside training documents alone, say what they are, are trained on and never measured on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from expectations.counts import combine
from expectations.gate import load_suite, validate_shard
from expectations.schemas import ENLARGED, PUBLISHED, SPLIT
from infra import dataset, ids, storage
from infra.cluster import DaskConfig, pool
from infra.dataset import Outcome, ShardRef, ShardSet
from infra.errors import InputError
from models.tokeniser import TokeniserConfig
from tasks.augment import AugmentConfig, augment, augment_shard
from tasks.publish import PublishConfig, publish
from tasks.tokenise import tokenise

from . import english
from .driver import commands
from .made_store import make

ALL = AugmentConfig(swap=0.5, noise=0.3, paraphrase=0.4)
NUM_DOCUMENTS = 300


def row(number: int, text: str, split: str, language: str = "en") -> dict[str, Any]:
    made = dict.fromkeys(SPLIT.names)
    name = ids.digest_of(str(number))
    made |= {"doc_id": name, "content_id": ids.content_id(text), "source": "web", "url": f"http://h{number % 5}.example/{number}"}
    made |= {"host": f"h{number % 5}.example", "text": text, "text_digest": ids.text_digest(text), "language": language}
    return {**made, "language_score": 0.9, "cluster": name, "split": split}


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(sorted(rows, key=lambda one: one["doc_id"]), SPLIT)


def corpus() -> list[dict[str, Any]]:
    """English on five hosts, one of them held out; some with contractions, some with nothing that can be swapped, some German."""
    made = []
    for n in range(NUM_DOCUMENTS):
        text = english.text(n).replace("She ", "He ") if n % 2 else english.text(n)
        text += " They don't know." if n % 3 == 0 else ""
        made.append(row(n, "No word here of that kind" if n % 10 == 9 else text, "test" if n % 5 == 0 else "train"))
    made += [row(1000 + n, f"he man boy, sagte niemand {n}", "train", "de") for n in range(20)]
    return made


def split_version(rows: list[dict[str, Any]]) -> ShardSet:
    return make("split", table(rows), schema="split_documents", facts={"unit": "host"})


def rows_of(version: ShardSet) -> list[dict[str, Any]]:
    return [one for shard in version.shards() for one in shard.read().to_pylist()]


@pytest.fixture
def made(home: Path) -> ShardSet:
    return augment(split_version(corpus()), config=ALL)


def test_copies_say_what_they_are_and_originals_are_as_they_came(made: ShardSet) -> None:
    found, before = rows_of(made), {one["doc_id"]: one for one in corpus()}
    originals = [one for one in found if one["augmented"] is None]
    assert [{name: one[name] for name in SPLIT.names} | {"language_score": 0.9} for one in originals] == sorted(
        before.values(), key=lambda one: one["doc_id"]
    )
    copies = [one for one in found if one["augmented"]]
    assert {one["augmented"] for one in copies} == {"swap", "noise", "paraphrase"}
    assert len({one["doc_id"] for one in found}) == len(found) and [one["doc_id"] for one in found] == sorted(
        one["doc_id"] for one in found
    )
    for one in copies:
        source = before[one["augmented_from"]]
        assert source["split"] == one["split"] == "train" and one["text"] != source["text"]
        assert (one["cluster"], one["url"], one["source"]) == (source["cluster"], source["url"], source["source"])
        assert one["text_digest"] == ids.text_digest(one["text"]) and one["content_id"] == ids.content_id(one["text"])
        assert one["augmented"] == "noise" or source["language"] == "en"
        assert one["doc_id"] == ids.digest_of("augmented", one["augmented"], source["doc_id"])
    facts = made.manifest().facts
    for kind, share in (("swap", 0.5), ("noise", 0.3), ("paraphrase", 0.4)):
        own = [one for one in copies if one["augmented"] == kind]
        assert facts[f"num_augmented.{kind}"] == len(own) <= facts[f"num_tried.{kind}"]
        assert facts[f"num_tried.{kind}"] == pytest.approx(share * 260, abs=4 * (260 * share * (1 - share)) ** 0.5)
        assert facts[f"num_changed_words.{kind}"] >= len(own)
    assert facts["num_augmented"] == len(copies)


def test_the_version_holds_by_its_schema_and_suite(made: ShardSet) -> None:
    suite = load_suite("augmented_documents")
    [shard] = made.shards()
    assert shard.read().schema == ENLARGED
    checks = combine([validate_shard(shard.read(), suite)], suite)
    assert checks and [one for one in checks if not one.success] == []
    wrong = shard.read().to_pylist()
    wrong[0] |= {"split": "test", "augmented": "noise"}
    checks = combine([validate_shard(pa.Table.from_pylist(wrong, ENLARGED), suite)], suite)
    assert [one.expectation for one in checks if not one.success] == ["expect_column_values_to_be_null"]


WORDS = ["He", "she", "said", "that", "they", "don't", "know", "her", "book.", "Every", "word.", "12", "é"]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.sampled_from(["train", "test"])), max_size=8), st.integers(0, 9))
def test_no_copy_is_of_a_held_out_document_or_has_its_text(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[list[str], str]], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    rows = [row(n, " ".join(words), split) for n, (words, split) in enumerate(texts)]
    receipt = dataset.write_shard(str(folder), 0, Outcome(table(rows)))
    test = [one["text_digest"] for one in rows if one["split"] == "test"]
    dataset.write_table(str(folder / "held.parquet"), pa.table({"text_digest": pa.array(test, pa.string())}))
    shard = ShardRef(str(folder / receipt.name), receipt.digest, 0, receipt.num_rows)
    config = AugmentConfig(swap=1, noise=1, paraphrase=1, noise_rate=1, seed=seed)
    found = augment_shard(shard, config, str(folder / "held.parquet")).kept.to_pylist()
    held_out = {one["doc_id"] for one in rows if one["split"] == "test"}
    copies = [one for one in found if one["augmented"]]
    assert not [one for one in copies if one["augmented_from"] in held_out or one["split"] != "train"]
    assert not {one["text"] for one in copies} & {one["text"] for one in rows if one["split"] == "test"}
    assert [one["doc_id"] for one in found if one["augmented"] is None] == sorted(one["doc_id"] for one in rows)


def test_a_copy_with_the_text_of_a_held_out_document_is_left_out_and_counted(home: Path) -> None:
    rows = [row(1, "He came home.", "train"), row(2, "She came home.", "test"), row(3, "He left.", "train")]
    version = augment(split_version(rows), config=AugmentConfig(swap=1))
    assert [one["text"] for one in rows_of(version) if one["augmented"]] == ["She left."]
    facts = version.manifest().facts
    assert (facts["num_tried.swap"], facts["num_augmented.swap"], facts["num_held_out_texts.swap"]) == (2, 1, 1)


def test_any_shards_and_workers_give_the_same_copies(home: Path, made: ShardSet) -> None:
    rows = sorted(corpus(), key=lambda one: one["doc_id"])
    folder = storage.join(str(home), "parts")
    cuts = [table(rows[at : at + 50]) for at in range(0, len(rows), 50)]
    receipts = [dataset.write_shard(folder, index, Outcome(cut)) for index, cut in enumerate(cuts)]
    recipe = {"step": "split", "inputs": {}, "config": {}}
    dataset.seal(
        folder, step="split", schema_name="split_documents", recipe=recipe, receipts=receipts, files=[], facts={"unit": "host"}
    )
    parts = dataset.open_version(folder)
    with pool(DaskConfig(workers=2)):
        many = augment(parts, config=ALL)
    by_id = {one["doc_id"]: one for one in rows_of(made)}
    assert {one["doc_id"]: one for one in rows_of(many)} == by_id
    assert many.manifest().facts == made.manifest().facts
    assert augment(parts, config=ALL) == many  # loaded
    other = augment(parts, config=ALL.model_copy(update={"seed": 1}))
    assert {one["doc_id"] for one in rows_of(other)} != by_id.keys()


def test_copies_are_published_and_trained_on_and_the_held_out_split_is_the_same_with_and_without(
    home: Path, made: ShardSet
) -> None:
    divided = split_version(corpus())
    plain = publish(divided, [], config=PublishConfig())
    more = publish(made, [divided], config=PublishConfig())
    read = {name: rows_of(one) for name, one in (("plain", plain), ("more", more))}
    splits = {name: one.manifest().facts["splits"] for name, one in (("plain", plain), ("more", more))}
    assert plain.shards()[0].read().schema.names == PUBLISHED.names
    assert more.shards()[0].read().schema.names == [*PUBLISHED.names, "augmented", "augmented_from"]
    tests = {
        name: [row["doc_id"] for index in splits[name]["test"] for row in one.shards()[index].read().to_pylist()]
        for name, one in (("plain", plain), ("more", more))
    }
    assert tests["plain"] == tests["more"] and len(tests["more"]) == 60
    assert more.manifest().facts["held_out_by"] == plain.manifest().facts["held_out_by"] == "host"
    assert len(read["more"]) - len(read["plain"]) == made.manifest().facts["num_augmented"]
    with storage.open_read(more.file("README.md")) as handle:
        card = handle.read().decode()
    num_swaps = sum(one["augmented"] == "swap" for one in read["more"])
    assert f"{num_swaps:,} with identity words swapped (gender)" in card and "none in `test`" in card
    with storage.open_read(plain.file("README.md")) as handle:
        assert "ugmented" not in handle.read().decode()
    tokens = {name: tokenise(one, config=TokeniserConfig(vocab_size=500)) for name, one in (("plain", plain), ("more", more))}
    counted = {name: one.manifest().facts["num_tokens.train"] for name, one in tokens.items()}
    assert counted["more"] > 1.3 * counted["plain"]
    held = tokens["more"].manifest().facts["splits"]["test"]
    ids_held = {one for index in held for one in tokens["more"].shards()[index].read()["doc_id"].to_pylist()}
    assert ids_held == set(tests["more"])


def test_what_cannot_be_made_is_refused_with_what_to_do(home: Path) -> None:
    for raw, said in (
        ({}, "there is nothing to make: give a share above 0 for one of swap, noise, paraphrase, or leave `augment` out"),
        ({"swap": 0.1, "axes": ["sex"]}, "axes: no axis 'sex' in the swap lists; these are: gender, religion"),
        ({"swap": 0.1, "swap_lists": ["xx"]}, "no swap lists 'xx': neither a file nor one of en"),
    ):
        with pytest.raises(ValidationError, match=said):
            AugmentConfig.model_validate(raw)
    whole = make("redact", table(corpus()).drop_columns(["split"]), schema="clustered_documents")
    with pytest.raises(InputError, match=r"augment: these documents are not split.*run `gristmill step split` on them first"):
        augment(whole, config=ALL)


def test_the_command_augments_what_the_command_split(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    source, folders = home / "rows.jsonl", [str(home / name) for name in ("split", "augment", "publish")]
    lines = [json.dumps({"text": english.text(n), "url": f"http://h{n % 5}.example/{n}"}) for n in range(60)]
    source.write_text("\n".join(lines))
    ended = commands(
        home,
        ["step", "split", "-i", str(source), "-o", folders[0], "-w", "1", "--set", "test_share=0.2"],
        ["step", "augment", "-i", folders[0], "-o", folders[1], "-w", "1", "--set", "swap=1", "--set", "noise=0.5"],
        ["step", "publish", "-i", folders[1], "-o", folders[2], "-w", "1"],
        ["step", "augment", "-i", str(source), "-o", str(home / "no"), "-w", "1", "--set", "swap=1"],
    )
    assert [one.code for one in ended] == [0, 0, 0, 2], ended
    assert "num_augmented.swap" in ended[1].output and "are not split" in ended[3].output
    assert "with identity words swapped" in (Path(folders[2]) / "README.md").read_text()
