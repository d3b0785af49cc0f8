"""Copies stand beside training documents alone, say what they are, are trained on and never measured on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from expectations.counts import combine
from expectations.gate import load_suite, validate_shard
from expectations.schemas import AUGMENTED, ENLARGED, PUBLISHED, SPLIT
from infra import dataset, ids, storage
from infra.cluster import DaskConfig, pool
from infra.dataset import Outcome, ShardSet
from infra.errors import InputError
from models.tokeniser import TokeniserConfig
from tasks.augment import AugmentConfig, augment, check_copies, files_read
from tasks.publish import PublishConfig, publish
from tasks.report import render_run
from tasks.text.pii import MASKS, RedactConfig, redact
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
    return make(
        "split", table(rows), schema="split_documents", config={"rows": ids.digest_of(repr(rows))}, facts={"unit": "host"}
    )


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
    wrong[0] |= {"split": "validation", "augmented": "noise"}
    checks = combine([validate_shard(pa.Table.from_pylist(wrong, ENLARGED), suite)], suite)
    assert [one.expectation for one in checks if not one.success] == ["expect_column_values_to_be_null"]


# few, so that the copy of one document is often the text of another
SENTENCES = ["He left.", "She left.", "he don't", "she do not", "they don't know", "they do not know", "Stop."]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(SENTENCES), st.sampled_from(["train", "validation", "test"])), max_size=8),
    st.integers(0, 9),
)
@example([("He left.", "train"), ("She left.", "train")], 0)
@example([("He left.", "train"), ("She left.", "test")], 0)
@example([("He left.", "train"), ("She left.", "validation")], 0)
def test_no_copy_is_of_a_held_out_document_or_has_the_text_of_any(home: Path, texts: list[tuple[str, str]], seed: int) -> None:
    rows = [row(n, text, split) for n, (text, split) in enumerate(texts)]
    made = augment(split_version(rows), config=AugmentConfig(swap=1, noise=1, paraphrase=1, noise_rate=1, seed=seed))
    found, facts = rows_of(made), made.manifest().facts
    held_out = {one["doc_id"] for one in rows if one["split"] != "train"}
    copies = [one for one in found if one["augmented"]]
    assert not [one for one in copies if one["augmented_from"] in held_out or one["split"] != "train"]
    assert not {one["text"] for one in copies} & {one["text"] for one in rows}
    assert [one["doc_id"] for one in found if one["augmented"] is None] == sorted(one["doc_id"] for one in rows)
    train, held = ([text for text, split in texts if (split == "train") is inside] for inside in (True, False))
    others = {"He left.": "She left.", "She left.": "He left.", "he don't": "she don't", "she do not": "he do not"}
    swaps = [others[text] for text in train if text in others]
    assert facts.get("num_held_out_texts.swap", 0) == sum(text in held for text in swaps)
    assert facts.get("num_training_texts.swap", 0) == sum(text in train and text not in held for text in swaps)
    assert facts.get("num_augmented.swap", 0) == sum(text not in train + held for text in swaps)


def test_a_copy_with_the_text_of_a_held_out_document_is_left_out_and_counted(home: Path) -> None:
    rows = [row(1, "He came home.", "train"), row(2, "She came home.", "test"), row(3, "He left.", "train")]
    version = augment(split_version(rows), config=AugmentConfig(swap=1))
    assert [one["text"] for one in rows_of(version) if one["augmented"]] == ["She left."]
    facts = version.manifest().facts
    assert (facts["num_tried.swap"], facts["num_augmented.swap"], facts["num_held_out_texts.swap"]) == (2, 1, 1)


def test_a_copy_with_the_text_of_another_training_document_is_left_out_and_counted(home: Path) -> None:
    rows = [row(1, "He left home.", "train"), row(2, "She left home.", "train"), row(3, "He left.", "train")]
    version = augment(split_version(rows), config=AugmentConfig(swap=1))
    assert [one["text"] for one in rows_of(version) if one["augmented"]] == ["She left."]
    facts = version.manifest().facts
    assert (facts["num_augmented.swap"], facts["num_training_texts.swap"], facts["num_held_out_texts.swap"]) == (1, 2, 0)


MASKED = "She wrote to email@example.com, <mail address> or 22.214.171.124; he asked whoever@he.example.org about her father."


def test_addresses_and_masks_are_the_same_bytes_in_every_copy(home: Path) -> None:
    texts = [f"{MASKED} They don't know number {n}, mailing me@site.is not working." for n in range(40)]
    texts += [f"Colours 2001:fase::1 and 2606:4700::1111 beside 2001:dead:beef::{n} fade." for n in range(40)]
    texts += [f"{MASKED} \uffff {n}" for n in range(3)]
    masks = (*MASKS, "<mail address>")
    config = AugmentConfig(swap=1, noise=1, noise_rate=1, paraphrase=1, masks=masks)
    version = augment(split_version([row(n, text, "train") for n, text in enumerate(texts)]), config=config)
    copies, facts = [one for one in rows_of(version) if one["augmented"]], version.manifest().facts
    assert {one["augmented"] for one in copies} == {"swap", "noise", "paraphrase"}
    before = {ids.digest_of(str(n)): text for n, text in enumerate(texts)}
    kept = ("email@example.com", "<mail address>", "22.214.171.124", "whoever@he.example.org", "me@site.is", "2606:4700::1111")
    for one in copies:
        for name in kept:
            assert one["text"].count(name) == before[one["augmented_from"]].count(name), (name, one["text"])
        given, made = (redact(pa.array([text]), RedactConfig()) for text in (before[one["augmented_from"]], one["text"]))
        assert all(given[1][kind].tolist() == made[1][kind].tolist() for kind in ("email", "ip"))
        assert one["text"] != before[one["augmented_from"]] and "\uffff" not in one["text"]
    assert sum("email@example.com" in one["text"] for one in copies) >= 80
    # a letter mistyped can make an address of what was none: "2001:fase::1" that of "2001:fade::1"
    assert 0 < facts["num_addresses.noise"] < 40


def test_in_a_run_the_masks_of_redact_stay_too() -> None:
    config = AugmentConfig(swap=1).beside(RedactConfig(email_replacement="<mail>"))
    assert config.masks == (*MASKS, "<mail>") and config.swap == 1


def test_a_copy_outside_train_is_never_written(home: Path) -> None:
    rows = table([row(1, "He left.", "test")])
    for name, value in zip(AUGMENTED.names, ("swap", "0" * 32), strict=True):
        rows = rows.append_column(name, pa.array([value]))
    with pytest.raises(AssertionError, match=f"1 copies outside `train`, the first {ids.digest_of('1')} in test"):
        check_copies(rows)
    made = augment(split_version([row(1, "He left.", "train")]), config=AugmentConfig(swap=1))
    with pytest.raises(InputError, match="there are copies among these documents already"):
        augment(made, config=AugmentConfig(swap=1))


def swap_list(path: Path, language: str, axis: str, pair: tuple[str, str]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = [{"name": axis, "sources": ["x"], "pairs": [list(pair)]}]
    path.write_text(yaml.safe_dump({"language": language, "sources": ["x: none"], "axes": axes}))
    return str(path)


def test_own_lists_of_other_axes_swap_nothing_and_each_is_part_of_the_recipe(home: Path) -> None:
    german = swap_list(home / "de" / "mine.yaml", "de", "age", ("alt", "jung"))
    french = swap_list(home / "fr" / "mine.yaml", "fr", "gender", ("il", "elle"))
    config = AugmentConfig(swap=1, swap_lists=("en", german, french))
    rows = [row(1, "alt", "train", "de"), row(2, "il dort", "train", "fr"), row(3, "he left", "train")]
    version = augment(split_version(rows), config=config)
    assert sorted(one["text"] for one in rows_of(version) if one["augmented"]) == ["elle dort", "she left"]
    before = files_read(config)
    assert {"swaps de", "swaps en", "swaps fr"} <= before.keys()
    swap_list(home / "de" / "mine.yaml", "de", "age", ("alt", "neu"))
    assert {name for name, digest in files_read(config).items() if digest != before[name]} == {"swaps de"}
    english = swap_list(home / "mine.yaml", "en", "gender", ("alpha", "beta"))
    with pytest.raises(ValidationError, match="more than one list of en"):
        AugmentConfig(swap=1, swap_lists=("en", english))


def test_any_shards_and_workers_give_the_same_copies(home: Path, made: ShardSet, two_workers: DaskConfig) -> None:
    rows = sorted(corpus(), key=lambda one: one["doc_id"])
    folder = storage.join(str(home), "parts")
    cuts = [table(rows[at : at + 50]) for at in range(0, len(rows), 50)]
    receipts = [dataset.write_shard(folder, index, Outcome(cut)) for index, cut in enumerate(cuts)]
    recipe = {"step": "split", "inputs": {}, "config": {}}
    dataset.seal(
        folder, step="split", schema_name="split_documents", recipe=recipe, receipts=receipts, files=[], facts={"unit": "host"}
    )
    parts = dataset.open_version(folder)
    with pool(two_workers):
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
    assert f"{num_swaps:,} with identity words swapped (gender)" in card and "all in `train`" in card
    assert "| augment |" not in card
    told = storage.read_json(more.file("croissant.json"))["rai:dataPreprocessingProtocol"]
    assert told[-1].startswith("Augmented (version `") and not [words for words in told if words.startswith("augment:")]
    shown = render_run("", [divided, made, more])
    assert "0 documents taken in, 320 published, with" in shown
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


GERMAN = "Der alte Bote sagte gestern, dass he und man hier keine englischen Wörter sind, sondern Nummer {} von vielen."


@pytest.mark.soak
def test_the_command_augments_what_the_command_split(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    source, folders = home / "rows.jsonl", [str(home / name) for name in ("split", "augment", "publish")]
    lines = [json.dumps({"text": english.text(n), "url": f"http://h{n % 5}.example/{n}"}) for n in range(60)]
    lines += [json.dumps({"text": GERMAN.format(n), "url": f"http://h{n % 5}.example/de/{n}"}) for n in range(20)]
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
    made = pa.concat_tables([shard.read() for shard in dataset.open_version(folders[1]).shards()]).to_pylist()
    swaps = [one["text"] for one in made if one["augmented"] == "swap"]
    assert swaps and not [text for text in swaps if "sagte" in text]
