"""Text in pieces beside the text at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import tokeniser
from models.tokeniser import TokeniserConfig
from tasks.serving.pieces import Pieces


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tokeniser.tokenizers.Tokenizer:
    folder = str(tmp_path_factory.mktemp("words"))
    texts = ["naïve café – 東京 😀 ab abab aba b", "read the file, open the folder"] * 5
    tokeniser.save(tokeniser.train_bpe(texts, TokeniserConfig(vocab_size=320)), folder)
    return tokeniser.load(folder)


def at_once(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The plain rule: the first place where a stop string is whole; of those that end there the longest goes."""
    for end in range(1, len(text) + 1):
        ending = [one for one in stop if text[:end].endswith(one)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@settings(max_examples=300, deadline=None)
@given(data=st.data(), stop=st.lists(st.text("ab é東", min_size=1, max_size=4), max_size=3))
def test_all_pieces_together_are_the_text_at_once(
    words: tokeniser.tokenizers.Tokenizer, data: st.DataObject, stop: list[str]
) -> None:
    ids = data.draw(
        st.lists(st.integers(0, words.get_vocab_size() - 1), max_size=30)
        | st.text("ab é東京😀\n", max_size=20).map(lambda text: words.encode(text).ids)
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=8)))
    pieces = Pieces(lambda some: words.decode(some, skip_special_tokens=True), stop)
    parts = [pieces.feed(ids[begin:end]) for begin, end in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    parts.append(pieces.finish())
    text, stopped = at_once(words.decode(ids, skip_special_tokens=True), stop)
    assert ("".join(parts), pieces.stopped) == (text, stopped)


@settings(max_examples=200, deadline=None)
@given(
    text=st.text("ab é東京😀\u2603", max_size=20),
    cut=st.integers(0, 60),
    stop=st.lists(st.text("ab é東", min_size=1, max_size=3), max_size=2),
)
def test_what_was_handed_out_follows_from_the_tokens_so_far(
    words: tokeniser.tokenizers.Tokenizer, text: str, cut: int, stop: list[str]
) -> None:
    ids = words.encode(text).ids[:cut]
    one, other = Pieces(lambda some: words.decode(some), stop), Pieces(lambda some: words.decode(some), stop)
    assert "".join(one.feed([id]) for id in ids) == other.feed(ids)


def test_half_a_character_waits_for_its_other_half(words: tokeniser.tokenizers.Tokenizer) -> None:
    ids = words.encode("\u2603").ids
    assert len(ids) == 3  # a snowman that the tokeniser has never seen: three bytes
    pieces = Pieces(lambda some: words.decode(some))
    assert [pieces.feed([one]) for one in ids] == ["", "", "\u2603"]
    pieces = Pieces(lambda some: words.decode(some))
    assert [pieces.feed(ids[:2]), pieces.finish()] == ["", "\ufffd"]


def test_what_may_begin_a_stop_string_is_held_back_until_it_is_none() -> None:
    pieces = Pieces(lambda ids: "".join(map(chr, ids)), ["stop"])
    assert [pieces.feed([ord(one)]) for one in "as"] == ["a", ""]
    assert pieces.feed([ord("t")]) == "" and pieces.feed([ord("u")]) == "stu"
    assert [pieces.feed(list(b"xsto")), pieces.feed(list(b"p!")), pieces.finish()] == ["x", "", ""]
    assert pieces.stopped and pieces.feed(list(b"more")) == ""
