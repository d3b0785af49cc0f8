"""Bad words against the regular expressions of the public C4 code, and near identity terms against a slow reference by hand."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.text import bad_words
from tasks.text.bad_words import (
    ALLOWED,
    NEAR_WORDS,
    UNSPACED,
    count_bad_words,
    entries_of,
    measure,
    passage,
    read_entries,
    shipped_lists,
)
from tasks.text.lines import LineRules, rewrite_lines
from tasks.text.signals import measure as measure_signals

from .test_terms import tokens

TRIAL = ("ass", "big ass", "s&m", "🖕", "été", "İx", "a.b", "13.", "_x", "ass hat", "क्या", "女", "x女")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    """TRIAL as the lists of German and Japanese, and another one of English."""
    path = tmp_path_factory.mktemp("lists") / "trial.txt"
    path.write_text("\n".join([*TRIAL, "", "  "]) + "\n", encoding="utf-8")
    return {"de": read_entries(path), "ja": read_entries(path), "en": ("ass", "hat")}


def as_c4_finds(text: str, entries: tuple[str, ...], language: str) -> re.Match[str] | None:
    """c4_utils.py, get_badwords_filter_fn and _badwords_filter, of tensorflow_datasets 4.9.10."""
    words = [re.escape(word.lower()) for word in entries]
    if language in UNSPACED:
        return re.compile("|".join(words)).search(text.lower())
    return re.compile(r"(?:\W|^)({})(?:\W|$)".format("|".join(words))).search(text.lower())


def places(text: str, entries: tuple[str, ...], language: str) -> list[int]:
    """Where an entry begins, in characters of the lowered text: the same expression, looking round instead of eating."""
    words = "|".join(re.escape(word.lower()) for word in entries)
    around = rf"(?={words})" if language in UNSPACED else rf"(?<!\w)(?=(?:{words})(?!\w))"
    return [found.start() for found in re.finditer(around, text.lower())]


PIECES = st.sampled_from(
    [
        *("ass", "ASS", "Ass hat", "big", "big ass", "s&m", "S&M", "🖕", "été", "ÉTÉ", "E\u0301te\u0301", "İx", "İX", "i̇x", "ix"),
        *("a.b", "A.B", "13.", "13", "_x", "_", "क्या", "क्", "女", "x女", "X女", "hat", "glass", "asset", "٣", "²", "ẞ", "K"),
        *(" ", " ", " ", "\n", "-", ".", ",", "'", "\u00a0", "\u200d", "\u0301", "\x00", "😀", "𐐀", "𐐨", "𠀀", "\U0001e900"),
    ]
)
TEXTS = st.one_of(st.lists(PIECES, max_size=30).map("".join), st.text(st.characters(exclude_categories=["Cs"]), max_size=60)).map(
    lambda text: re.sub("[Σς]", "σ", text)
)  # the final sigma depends on its place, and is a sigma here


@settings(max_examples=600, deadline=None)
@given(TEXTS, st.sampled_from(["de", "ja"]))
def test_any_text_is_found_bad_when_the_c4_code_finds_it_bad_and_as_often_as_entries_begin(
    own: dict[str, tuple[str, ...]], text: str, language: str
) -> None:
    [[found, english, _]] = count_bad_words(pa.array([text]), pa.array([language]), own).tolist()
    assert (found > 0) == (as_c4_finds(text, TRIAL, language) is not None)
    assert found == len(places(text, TRIAL, language))
    assert english == len(places(text, ("ass", "hat"), "en"))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.one_of(st.none(), TEXTS), st.sampled_from(["de", "ja", "en", "unknown"])), max_size=6),
    st.integers(0, 6),
    st.booleans(),
)
def test_slices_chunks_nulls_and_the_languages_beside_change_nothing(
    own: dict[str, tuple[str, ...]], rows: list[tuple[str | None, str]], cut: int, large: bool
) -> None:
    kind = pa.large_string() if large else pa.string()
    texts = pa.array(["ass", *(text for text, _ in rows)], kind)[1:]
    languages = pa.array(["de", *(language for _, language in rows)])[1:]
    alone = [count_bad_words(pa.array([text or ""]), pa.array([language]), own).tolist()[0] for text, language in rows]
    assert count_bad_words(texts, languages, own).tolist() == alone
    configured = {"bad_words": lambda text, language: measure(text, language, own)}
    chunked = pa.chunked_array([texts[:cut], texts[cut:]], kind)
    table = measure_signals(chunked, ("bad_words",), languages, configured)  # type: ignore[arg-type]
    names = ("num_bad_words", "num_bad_words_en", "num_bad_words_near_identity")
    assert [list(row) for row in zip(*(table[name].to_pylist() for name in names), strict=True)] == alone


def near(text: str, entries: tuple[str, ...]) -> int:
    """English entries that begin within NEAR_WORDS words of `woman`, `women` or `black people`; words as the reference of terms."""
    words = [word for _, word in tokens(text)]
    named = {at for at, word in enumerate(words) if word in ("woman", "women")}
    for at, pair in enumerate(itertools.pairwise(words)):
        if pair == ("black", "people"):
            named |= {at, at + 1}
    starts = [len(tokens(text[:place] + "x")) - 1 for place in places(text, entries, "en")]
    return sum(any(abs(at - start) <= NEAR_WORDS for at in named) for start in starts)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["ass", "hat", "woman", "black people", "women", "the", "a", "of it", "grain"]), max_size=40))
def test_near_an_identity_term_is_so_many_words_to_either_side(own: dict[str, tuple[str, ...]], words: list[str]) -> None:
    text = " ".join(words)
    assert count_bad_words(pa.array([text]), pa.array(["en"]), own).tolist()[0][2] == near(text, ("ass", "hat"))


def counted(text: str, language: str = "en") -> tuple[int, ...]:
    """num_bad_words, c4_num_bad_words, num_bad_words_en, num_bad_words_near_identity."""
    return tuple(int(column[0]) for column in measure(pa.array([text]), pa.array([language])).values())


@pytest.mark.parametrize(
    ("text", "language", "wanted"),
    [
        ("", "en", (0, 0, 0, 0)),
        ("A scunthorpe asset in Essex, cockpit and all of it.", "en", (0, 0, 0, 0)),
        ("What a shit day it was.", "en", (1, 1, 1, 0)),
        ("What a shit day it was", "en", (1, 0, 1, 0)),  # the line has no end
        ("One SHIT, one shit_and, one (shit).", "en", (2, 2, 2, 0)),
        ("No, she said shit to nobody in particular.", "en", (1, 1, 1, 1)),
        ("Words one two three four five shit, she never said.", "en", (1, 1, 1, 1)),
        ("She one two three four shit.", "en", (1, 1, 1, 1)),
        ("She one two three four five shit.", "en", (1, 1, 1, 0)),
        ("A line with sh[1]it in the midst of it.", "en", (0, 1, 0, 0)),  # which the C4 line rules join
        ("Was für ein shit, so eine Scheiße, Herr Richter.", "de", (1, 1, 1, 0)),
        ("Merde alors, what shit is this here.", "fr", (1, 1, 1, 0)),
        ("Merde alors, what shit is this here.", "unknown", (0, 0, 1, 0)),
        ("Merde alors, what shit is this here.", "el", (0, 0, 1, 0)),
        ("彼女の子猫はグロ。", "ja", (0, 0, 0, 0)),  # 女の子 and グロ are allowed
        ("大変アナルだ", "ja", (1, 0, 0, 0)),
        ("这是性的问题", "zh", (0, 0, 0, 0)),
        ("Putang ina mo, ang galing mo talaga.", "tl", (1, 1, 0, 0)),
    ],
)
def test_hand_counted_texts(text: str, language: str, wanted: tuple[int, ...]) -> None:
    found = counted(text, language)
    if language == "de":  # "shit" is no German entry, "scheiße" is
        assert "scheiße" in entries_of("de") and "shit" not in entries_of("de")
    assert found == wanted


def test_in_the_lines_that_c4_keeps_is_what_is_in_the_rewritten_text() -> None:
    texts = pa.array(
        ["shit\nA sentence without any, of six words.", "It was a shit day [1] today.\nMenu shit", "[2] x", "a [edit] b"]
    )
    languages = pa.array(["en"] * 4)
    kept, _ = rewrite_lines(texts, LineRules())
    assert (
        measure(texts, languages)["c4_num_bad_words"].tolist() == count_bad_words(kept, languages)[:, 0].tolist() == [0, 1, 0, 0]
    )


def test_the_lists_that_ship_are_read_whole_and_less_what_c4_allows() -> None:
    assert len(shipped_lists()) == 25 and {"en", "tl", "no", "zh"} <= set(shipped_lists())
    assert len(entries_of("en")) == 377 and "viagra" not in entries_of("en")  # which the newer list has
    for language in shipped_lists():
        entries = entries_of(language)
        assert entries and all(entry == entry.strip() and entry for entry in entries)
        assert not ALLOWED.get(language, set()) & set(entries)
        for entry in entries:
            shouted = entry.upper() if entry.upper().lower() == entry.lower() else entry  # not so of ß and ı
            assert count_bad_words(pa.array([f"… {shouted}!"]), pa.array([language]))[0, 0] >= 1, entry
    assert "tabarnak" in entries_of("fr") and entries_of("el") == entries_of("unknown") == ()


def test_an_own_list_stands_instead_of_the_one_that_ships_or_where_none_does(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Grain\n\n  of sand \n", encoding="utf-8")
    (tmp_path / "marked.txt").write_text("Grain\nof sand\n", encoding="utf-8-sig")  # with a byte order mark, as editors write it
    own = {"en": read_entries(tmp_path / "mine.txt"), "el": read_entries(tmp_path / "marked.txt")}
    assert own["en"] == own["el"] == entries_of("en", own) == ("Grain", "of sand") and entries_of("de", own) == entries_of("de")
    counts = count_bad_words(pa.array(["shit, a GRAIN of sand"] * 2), pa.array(["en", "el"]), own)
    assert counts.tolist() == [[2, 2, 0], [2, 2, 0]]


def test_a_very_long_word_and_a_very_long_text_are_read() -> None:
    assert counted("x" * 1_000_000 + " shit" * 100_000)[0] == 100_000


def test_a_passage_is_around_the_first_bad_word_that_the_signal_counts() -> None:
    text = "é" * 500 + " one Scheiße of it, " + "ü" * 500 + " shit"
    assert passage(text, "de", "num_bad_words", 40) == "…" + text[505 - 20 : 505 + 20]
    assert passage(text, "en", "num_bad_words", 40) == passage(text, "de", "num_bad_words_en", 40) == "…" + text[-24:]
    assert passage(text, "el", "num_bad_words", 40) == text[:40]
    assert passage("shit", "en", "num_bad_words", 40) == "shit" and passage("", "en", "num_bad_words", 9) == ""
    lines = "Menu shit\nIt was a shit day[1] today.\nshit"  # C4 keeps the one in the middle
    assert passage(lines, "en", "c4_num_bad_words", 30) == "It was a shit day today."
    assert passage(lines, "en", "num_bad_words_near_identity", 16) == lines[:16]


def test_the_languages_are_needed() -> None:
    with pytest.raises(ValueError, match="bad_words need the language"):
        measure_signals(pa.array(["x"]), ("bad_words",))
    assert "num_bad_words" not in measure_signals(pa.array(["x"])).column_names
    assert {signal.name for signal in bad_words.SIGNALS} <= set(
        measure_signals(pa.array(["x"]), language=pa.array(["en"])).column_names
    )
