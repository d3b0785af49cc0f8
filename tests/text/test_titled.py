"""Questions made of titles: who asks, who answers, on which side, from which document; and which documents ask nothing, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from expectations.schemas import CONVERSATIONS, PREFERENCES, PUBLISHED
from infra import dataset, storage
from infra.dataset import Outcome, ShardSet
from infra.errors import InputError
from infra.steps import Result
from tasks.contrast import contrast
from tasks.question import question
from tasks.text import titled
from tasks.text.titled import ContrastConfig, TitledConfig

Documents = Sequence[tuple[str, str | None, str]]
"""(doc_id, title, text) of each."""


def published(folder: Path, splits: Mapping[str, Sequence[Documents]] | None) -> ShardSet:
    """A dataset of documents by split, each split in some shards; without splits where there are None."""
    shards = [(split, documents) for split, some in (splits or {"": [[]]}).items() for documents in some]
    receipts = []
    for index, (_, documents) in enumerate(shards):
        rows = [
            {"doc_id": name, "source": "plays", "url": f"http://plays/{name}", "title": title, "text": text}
            for name, title, text in documents
        ]
        table = pa.Table.from_pylist([{name: row.get(name) for name in PUBLISHED.names} for row in rows], schema=PUBLISHED)
        receipts.append(dataset.write_shard(str(folder), index, Outcome(table)))
    found = {split: [at for at, (name, _) in enumerate(shards) if name == split] for split in splits or ()}
    recipe = {"step": "publish", "inputs": {}, "config": {}, "files": {}, "code": "0" * 12, "libraries": {}}
    storage.write_json(storage.join(str(folder), dataset.RUN), {})
    facts = {"splits": found} if splits else {}
    dataset.seal(str(folder), step="publish", schema_name="published", recipe=recipe, receipts=receipts, files=[], facts=facts)
    return dataset.open_version(str(folder))


def kept(result: Result) -> list[dict[str, Any]]:
    return [row for shard in result.shards.shards() for row in shard.read().to_pylist()]


def rules(result: Result) -> dict[str, str]:
    """Why each document that makes no row makes none."""
    found = dataset.dataset(result.shards.folder, rejects=True)
    return {row["doc_id"]: row["rule"] for row in (found.to_table().to_pylist() if found else ())}


def sentence(about: str) -> str:
    return f"This tells how {about} is done.\nAnd what comes of it."


def asked(folder: Path, splits: Mapping[str, Sequence[Documents]] | None, **config: Any) -> Result:
    return question.run([published(folder / "documents", splits)], TitledConfig(**config), str(folder / "made"))


def contrasted(folder: Path, splits: Mapping[str, Sequence[Documents]], **config: Any) -> Result:
    return contrast.run([published(folder / "documents", splits)], ContrastConfig(**config), str(folder / "made"))


def test_titles_ask_and_first_paragraphs_answer_on_the_side_of_their_document(tmp_path: Path) -> None:
    splits = {
        "train": [[("b", " Baking ", f"\n \n{sentence('baking')}"), ("a", "Brewing", sentence("brewing"))]],
        "validation": [[("c", "Carving", sentence("carving"))]],
        "test": [[("d", "Dyeing", sentence("dyeing"))], []],
    }
    made = asked(tmp_path, splits, question="What is {title}?")
    rows = {row["origin"]: row for row in kept(made)}
    assert {name: row["split"] for name, row in rows.items()} == {"a": "train", "b": "train", "d": "test"}
    assert rows["b"]["messages"] == [
        {"role": "user", "content": "What is Baking?"},
        {"role": "assistant", "content": "This tells how baking is done."},
    ]
    assert {(row["source"], row["task"]) for row in rows.values()} == {("plays", "title")}
    assert len({row["row_id"] for row in rows.values()}) == 3
    manifest = made.shards.manifest()
    assert manifest.schema_name == "conversations" and manifest.facts == {"rows.train": 2, "rows.test": 1}
    assert all(shard.read().schema.equals(CONVERSATIONS) for shard in made.shards.shards())


def test_every_document_that_asks_nothing_has_its_reason(tmp_path: Path) -> None:
    documents = [
        ("fine", "Baking", sentence("baking")),
        ("none", None, sentence("nothing")),
        ("blank", "  ", sentence("nothing")),
        ("echo", "This tells how baking is done.", "This  tells how baking is done.\nMore of it."),
        ("short", "Short", "Too short."),
        ("long", "Long", "long " * 200 + "."),
        ("list", "List", "Flour, water, salt, and time"),
        ("empty", "Empty", " \n "),
    ]
    made = asked(tmp_path, {"train": [documents], "test": [[]]})
    expected = {
        **{"none": "no_title", "blank": "no_title", "echo": "title_alone", "short": "answer_length"},
        **{"long": "answer_length", "list": "no_sentence", "empty": "answer_length"},
    }
    assert rules(made) == expected
    counts = made.shards.counts
    assert (counts.total, counts.kept) == (8, 1) and sum(counts.dropped.values()) == 7
    [told] = [one for one in dataset.dataset(made.shards.folder, rejects=True).to_table().to_pylist() if one["doc_id"] == "short"]
    assert told["detail"] == "the first paragraph has 10 characters; asked are 20 to 600"
    assert told["url"] == "http://plays/short" and told["source"] == "plays" and told["excerpt"] == "Too short."


@pytest.mark.parametrize("same", ["Baking", " baking", "BAKING"])
def test_a_title_that_training_documents_have_asks_no_test_question(tmp_path: Path, same: str) -> None:
    splits = {
        "train": [[("a", "Baking", sentence("baking"))], [("b", "Brewing", sentence("brewing"))]],
        "validation": [[("v", "Dyeing", sentence("dyeing"))]],
        "test": [[("c", same, sentence("another way")), ("d", "Dyeing", sentence("dyeing"))]],
    }
    made = asked(tmp_path, splits)
    asked_by = {side: {row["origin"] for row in kept(made) if row["split"] == side} for side in ("train", "test")}
    # validation documents ask nothing, so a title of theirs may
    assert asked_by == {"train": {"a", "b"}, "test": {"d"}}
    assert rules(made) == {"c": "asked_in_training"}


def test_equal_titles_in_training_ask_twice(tmp_path: Path) -> None:
    made = asked(tmp_path, {"train": [[("a", "Baking", sentence("baking")), ("b", "Baking", sentence("bread"))]], "test": [[]]})
    assert {row["origin"] for row in kept(made)} == {"a", "b"} and not rules(made)


THREE = {
    "train": [
        [("a", "Baking", sentence("baking")), ("b", "Brewing", sentence("brewing")), ("c", "Carving", sentence("carving"))]
    ],
    "test": [[("d", "Dyeing", sentence("dyeing")), ("e", "Etching", sentence("etching"))]],
}


@pytest.mark.parametrize("worse", ["run_on", "other"])
def test_a_document_prefers_its_own_answer_before_a_worse_one(tmp_path: Path, worse: str) -> None:
    made = contrasted(tmp_path, THREE, worse=worse)
    rows = {row["origin"]: row for row in kept(made)}
    assert rows.keys() == {"a", "b", "c", "d", "e"} and {rows[name]["split"] for name in "de"} == {"test"}
    answers = {name: row["chosen"] for name, row in rows.items()}
    # the next document of the shard, in order of doc_id, and after the last one the first
    for name, other in zip("abcde", "bcaed", strict=True):
        assert rows[name]["rejected"] == (answers[other] if worse == "other" else f"{answers[name]} {answers[other]}")
    assert [turn["content"] for turn in rows["d"]["prompt"]] == ["What does “Dyeing” say?"]
    assert made.shards.manifest().schema_name == "preferences" and made.shards.manifest().facts == {
        "rows.train": 3,
        "rows.test": 2,
    }
    assert all(shard.read().schema.equals(PREFERENCES) for shard in made.shards.shards())


def test_the_worse_answer_is_never_of_the_same_words_or_the_same_title(tmp_path: Path) -> None:
    documents = [
        ("a", "Baking", sentence("baking")),
        ("b", "Bread", sentence("baking")),  # answers as a does
        ("c", "Baking", sentence("ovens")),  # asks as a does
        ("d", "Dyeing", sentence("dyeing")),
    ]
    rows = {row["origin"]: row for row in kept(contrasted(tmp_path, {"train": [documents], "test": [[]]}, worse="other"))}
    answers = {name: row["chosen"] for name, row in rows.items()}
    assert {name: row["rejected"] for name, row in rows.items()} == {
        **{"a": answers["d"], "b": answers["c"]},
        **{"c": answers["d"], "d": answers["a"]},
    }


class Counted(str):
    """A text that counts how often it is compared."""

    times = 0

    def __eq__(self, other: object) -> bool:
        Counted.times += 1
        return str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), max_size=12))
def test_the_other_document_is_the_next_round_the_shard_with_another_title_and_another_answer(
    named: list[tuple[str, str]],
) -> None:
    asked = [{"place": place, "title": title, "answer": answer} for place, (title, answer) in enumerate(named)]
    wanted = []
    for place, one in enumerate(asked):
        round_it = asked[place + 1 :] + asked[:place]
        wanted.append(next((two for two in round_it if two["title"] != one["title"] and two["answer"] != one["answer"]), None))
    assert titled._others(asked) == wanted


@pytest.mark.parametrize("same", ["answer", "title"])
def test_documents_that_are_all_alike_cost_no_more_than_others(same: str) -> None:
    asked = [{"title": Counted(place), "answer": Counted(place)} | {same: Counted("same")} for place in range(300)]
    Counted.times = 0
    assert titled._others(asked) == [None] * 300
    assert Counted.times < 300 * 60  # of each with each it would be 90,000


def test_without_another_answer_there_is_no_pair(tmp_path: Path) -> None:
    splits = {
        "train": [[("a", "Baking", sentence("baking")), ("b", "Bread", sentence("baking"))]],
        "test": [[("d", "Dyeing", sentence("dyeing"))]],
    }
    made = contrasted(tmp_path, splits)
    assert rules(made) == dict.fromkeys("abd", "no_other_answer") and not kept(made)
    assert made.shards.counts.dropped == {"no_other_answer": 3}


def test_the_same_documents_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    turned = {split: [list(reversed(documents)) for documents in some] for split, some in THREE.items()}
    for maker, config in ((asked, {}), (contrasted, {"worse": "other"})):
        one, other = (maker(tmp_path / maker.__name__ / name, splits, **config) for name, splits in (("1", THREE), ("2", turned)))
        assert one.shards.digest == other.shards.digest


def test_a_dataset_without_splits_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="has no splits, so nothing can be held out; give a dataset that `split` or `publish` made"
    ):
        asked(tmp_path, None)


@pytest.mark.parametrize("wrong", ["What?", "{title} or {title}", "{title} by {author}"])
def test_a_question_must_have_a_place_for_the_title_and_no_other(wrong: str) -> None:
    with pytest.raises(ValidationError, match="must hold"):
        TitledConfig(question=wrong)
