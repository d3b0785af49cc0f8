"""Tokens per word and what else is said of a tokeniser, by hand and beside plain loops."""

from __future__ import annotations

import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import tokeniser
from models.tokeniser import Roles, TokeniserConfig
from tasks.learn import fertility, tokens
from tasks.learn.fertility import Group
from tasks.learn.tokens import BadTokens, TokenShard
from tasks.text import words


def documents(rows: list[tuple[str, str, str | None]]) -> pa.Table:
    names = [f"{number:032x}" for number in range(len(rows))]
    columns = {"doc_id": names, "text": [r[0] for r in rows], "source": [r[1] for r in rows], "language": [r[2] for r in rows]}
    return pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns]))


def groups_of(tables: list[pa.Table], folder: str, splits: list[str]) -> dict[tuple[str, str], Group]:
    roles = tokeniser.roles(folder)
    made = [
        fertility.measure(one, TokenShard(*tokens.encode_shard(one, folder)), roles, split)
        for one, split in zip(tables, splits, strict=True)
    ]
    return {(one.kind, one.name): one for one in fertility.summed(made, roles.vocab_size)}


def test_figures_by_hand() -> None:
    """Vocabulary of 10: 0 closes, 1 is unknown."""
    table = documents([("one two", "a", "en"), ("three", "b", "en"), ("é!", "a", None)])
    stream = np.array([2, 3, 4, 0, 1, 0, 1, 5, 0], np.uint16)
    docs = pa.table(
        {
            "doc_id": table["doc_id"],
            "source": table["source"],
            "offset": [0, 4, 6],
            "num_tokens": [4, 2, 3],
            "num_bytes": [7, 5, 3],
        }
    )
    sums = fertility.measure(table, TokenShard(stream, docs.cast(tokens.TOKEN_DOCS)), Roles(10, 0, None, 1), "train")
    found = {(one.kind, one.name): one for one in fertility.summed([sums], 10)}
    assert [*found] == [
        ("all", "all"), ("split", "train"), ("language", "en"), ("language", "not known"), ("source", "a"), ("source", "b"),
    ]  # fmt: skip
    whole = found["all", "all"]
    assert (whole.documents, whole.words, whole.num_bytes, whole.tokens, whole.unknown) == (3, 4, 15, 6, 2)
    assert (whole.fertility, whole.bytes_per_token, whole.unknown_rate) == (1.5, 2.5, 0.333333)
    assert whole.vocab_used == 0.5  # 1, 2, 3, 4, 5
    assert whole.small and whole.fertility_low is None
    english = found["language", "en"]
    assert (english.words, english.tokens, english.fertility, english.unknown_rate) == (3, 4, 1.333333, 0.25)
    assert english.vocab_used == 0.4
    assert (found["source", "a"].tokens, found["source", "b"].tokens) == (5, 1)


def test_no_words_give_no_fertility(tokeniser_folder: str) -> None:
    found = groups_of([documents([("!!!", "a", None), ("", "a", None)])], tokeniser_folder, ["train"])
    assert found["all", "all"].fertility is None and found["all", "all"].bytes_per_token == pytest.approx(1, abs=0.3)
    empty = groups_of([documents([("", "a", None)])], tokeniser_folder, ["train"])["all", "all"]
    assert (empty.tokens, empty.fertility, empty.bytes_per_token, empty.unknown_rate) == (0, None, None, None)
    assert groups_of([documents([])], tokeniser_folder, ["train"]) == {}


# Python 3.11 knows Unicode 14 and the word kernel 15: a letter that only one of them knows is no matter of this test
KNOWN = st.characters(exclude_categories=["Cn", "Cs"])
ROWS = st.lists(
    st.tuples(st.text(KNOWN, max_size=30), st.sampled_from(["a", "b", "a.b c"]), st.sampled_from(["en", "de", None])), max_size=12
)


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, cut=st.integers(0, 12))
def test_figures_are_those_of_a_plain_loop_for_any_shards(
    rows: list[tuple[str, str, str | None]], cut: int, tokeniser_folder: str
) -> None:
    table = documents(rows)
    whole = groups_of([table], tokeniser_folder, ["train"])
    assert groups_of([table.slice(0, cut), table.slice(cut)], tokeniser_folder, ["train", "train"]) == whole
    loaded, size = tokeniser.load(tokeniser_folder), tokeniser.roles(tokeniser_folder).vocab_size
    for (kind, name), group in whole.items():
        at = {"source": 1, "language": 2}.get(kind)
        mine = [row[0] for row in rows if at is None or (row[at] or "not known") == name]
        ids = [loaded.encode(text).ids for text in mine]
        assert group.documents == len(mine)
        assert group.tokens == sum(map(len, ids))
        assert group.num_bytes == sum(len(text.encode()) for text in mine)
        assert group.words == sum(_num_words(text) for text in mine)
        assert group.vocab_used == round(len({one for some in ids for one in some}) / size, 6)


def test_many_groups_are_looked_at_a_few_at_a_time(tokeniser_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = documents([(f"read the file {number} " * (number % 4), f"s{number % 7}", "en") for number in range(40)])
    whole = groups_of([table], tokeniser_folder, ["train"])
    monkeypatch.setattr(fertility, "_MAX_CELLS", 1000)  # three groups
    monkeypatch.setattr(fertility, "_BLOCK_DOCUMENTS", 9)
    assert groups_of([table], tokeniser_folder, ["train"]) == whole and len(whole) == 10


def _num_words(text: str) -> int:
    ends = words.boundaries(text)
    pieces = [text[a:b] for a, b in pairwise(ends)]
    return sum(any(unicodedata.category(char)[0] in "LN" for char in piece) for piece in pieces)


@pytest.mark.soak
def test_the_interval_holds_the_fertility_of_all_in_most_samples(tokeniser_folder: str) -> None:
    """Of 300 samples of 60 documents each, the 95 % interval holds the truth in about 285; below 270 is no chance."""
    chance = np.random.default_rng(5)
    stock = ["read", "write", "strange", "folder", "quizzical", "the", "of", "x"]
    texts = [" ".join(chance.choice(stock, chance.integers(1, 60), p=weights)) for weights in chance.dirichlet(np.ones(8), 3000)]
    everything = groups_of([documents([(text, "a", None) for text in texts])], tokeniser_folder, ["train"])["all", "all"]
    assert everything.fertility is not None
    held = 0
    for _ in range(300):
        sample = [(texts[place], "a", None) for place in chance.choice(3000, 60, replace=False)]
        one = groups_of([documents(sample)], tokeniser_folder, ["train"])["all", "all"]
        assert one.fertility_low is not None and one.fertility_high is not None
        held += one.fertility_low <= everything.fertility <= one.fertility_high
    assert 270 <= held <= 299


def test_what_wordpiece_does_not_know_is_counted(tmp_path: Path) -> None:
    folder = str(tmp_path)
    tokeniser.save(
        tokeniser.train(["read the file", "write the file"] * 5, TokeniserConfig(vocab_size=300, kind="wordpiece")), folder
    )
    found = groups_of([documents([("read ᚠ file", "a", "en"), ("我 the", "b", "zh")])], folder, ["test"])
    assert (found["all", "all"].unknown, found["all", "all"].tokens) == (2, 5)
    assert found["language", "zh"].unknown_rate == 0.5 and found["split", "test"].unknown_rate == 0.4


def test_documents_of_another_shard_are_refused(tokeniser_folder: str) -> None:
    table = documents([("a", "a", None), ("b", "a", None)])
    shard = TokenShard(*tokens.encode_shard(table, tokeniser_folder))
    with pytest.raises(BadTokens, match="not those of the token shard"):
        fertility.measure(table.slice(0, 1), shard, tokeniser.roles(tokeniser_folder), "train")
