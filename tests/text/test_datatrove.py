"""datatrove's numbers against hand-computed values and a slow reference, and its profile on both sides of real text."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.text import datatrove
from tasks.text.buffers import string_buffers
from tasks.text.rules import PROFILES, FilterConfig, decide
from tasks.text.signals import DEFAULT_GROUPS, GROUPS, measure
from tasks.text.spacy_words import tokenize

_spec = importlib.util.spec_from_file_location("reference_datatrove", Path(__file__).with_name("reference_datatrove.py"))
assert _spec is not None and _spec.loader is not None
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

PROFILE = "datatrove-0.10"
NASTY = [
    "",
    " ",
    "\n",
    "\n\n",
    " \n \n",
    "\na\n",
    "a\r\nb\rc\x0bd\x0ce\x1cf\x85g\u2028h\u2029",
    "• one\n - two\n\n— three\n•",
    "wait...\nwait…\nwait....... \n…",
    "para\n\npara\n\n\npara \n\npara",
    " para\n\npara",
    "a b a b a b",
    "a bc d e f ab c d e f",
    "one two three four five six seven eight nine ten eleven " * 3,
    "Six words in this line, yes.\n\"So?\" he said. 'No.'\nno end\nToo short.\nI like JavaScript { a lot.\n",
    "This is { in it.\nlorem ipsum is behind.",
    "Lorem ipsum before { it.\nThis is { too.",
    "Cookies: we use cookies here.\nOne [12] two [edit] three[citation needed].\n[1] Ends well, this one. \tYes.\n[x] [ 3 ] no mark.",
    "Ends here.[3]\nThe end [4].\nWhite  space. . and\tmore!  ?  Yes it is.",
    "x" * 1000 + " as long as can be.\n" + "y" * 1001 + " is too long here.",
    "the be to of and that have with The BE",
    "été 日本語。 ЖЖЖ！ ١٢٣ 🙂🙂 ½ ...",
    "line of words\n" * 5 + "\u00a0\n \n",
    "e" * 30 + "\n" + "f" * 31 + "\n" + "日" * 30,
]
PIECES = st.sampled_from(
    [
        *(
            "the",
            "and",
            "a",
            "b",
            "ab",
            "…",
            "...",
            ".",
            "?",
            '"',
            "”",
            "'",
            "é",
            "日本",
            "🙂",
            "#",
            "{",
            "[1]",
            "[edit]",
            "[",
            "]",
        ),
        *(
            "javascript",
            "JavaScript",
            "use cookies",
            "privacy policy",
            "Terms of Use",
            "lorem ipsum",
            "-",
            "•",
            "*",
            ":)",
            "e.g.",
        ),
        *("\n", "\n", "\n\n", " ", " ", " ", "  ", "\r\n", "\u00a0", "\u2028", "\x1f", "\t", "x" * 1000, "I.", "(ok.)", "don't"),
        *(" and so on.", " are three words?\n", "[citation needed] ", ' said "yes."\n', "\n- ", "...\n", "[12"),
    ]
)
TEXTS = st.one_of(
    st.lists(PIECES, max_size=60).map("".join),
    st.lists(st.sampled_from(["a", "bb", "abb", "ccc", "a.", "B"]), max_size=80).map(" ".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
    st.text("ab .\n", max_size=80),
)


def spans(text: str) -> list[tuple[int, int]]:
    """The tokens' places in characters."""
    data, offsets = string_buffers(pa.array([text], pa.large_string()))
    found, raw = tokenize(data, offsets), text.encode()
    in_chars = [len(raw[:at].decode()) for at in (*found.starts.tolist(), *found.ends.tolist())]
    half = len(in_chars) // 2
    return list(zip(in_chars[:half], in_chars[half:], strict=True))


def measured(*texts: str) -> list[dict[str, Any]]:
    table = measure(pa.array(texts, pa.large_string()), ("datatrove",)).select(GROUPS["datatrove"].names())
    return list(table.to_pylist())


def one(text: str) -> dict[str, Any]:
    return measured(text)[0]


def assert_equals_reference(texts: list[str]) -> None:
    for text, row in zip(texts, measured(*texts), strict=True):
        expected = reference.signals(text, spans)
        assert set(row) == set(expected)
        for name, value in expected.items():
            assert row[name] == (np.float32(value) if isinstance(value, float) else value), (name, text)


def test_nasty_texts_measure_as_the_reference_says() -> None:
    assert_equals_reference(NASTY)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, max_size=3))
def test_any_text_measures_as_the_reference_says(texts: list[str]) -> None:
    assert_equals_reference(texts)


def test_texts_measure_the_same_in_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    together = measured(*NASTY)
    assert together == [one(text) for text in NASTY]
    for batch_bytes in (1, 40, 400):
        monkeypatch.setattr(datatrove, "BATCH_BYTES", batch_bytes)
        assert measured(*NASTY) == together


def test_words_are_tokens_that_are_not_all_marks() -> None:
    row = one("Don't (stop)!")  # Do n't ( stop ) !
    assert (row["datatrove_num_tokens"], row["datatrove_num_words"]) == (6, 3)
    assert row["datatrove_mean_word_length"] == 3  # 2 + 3 + 4 characters
    assert row["datatrove_alpha_token_fraction"] == 0.5
    assert one("The the and THE the")["datatrove_num_stop_words"] == 2


def test_repeats_are_counted_after_the_first_byte_by_byte() -> None:
    row = one("ab\nab\nab \n\nab\n")  # parts: ab, ab, "ab ", ab and "" behind the last newline
    assert row["datatrove_dup_line_fraction"] == np.float32(2 / 5)
    assert row["datatrove_dup_line_char_fraction"] == np.float32(4 / 14)
    assert one("x\n\nx\n\n\nx\n\ny")["datatrove_dup_paragraph_fraction"] == 0.5
    assert one("x\n\nx\n\ny")["datatrove_dup_paragraph_char_fraction"] == np.float32(1 / 7)


def test_the_first_of_the_most_common_ngrams_counts_and_one_occurrence_is_enough() -> None:
    assert one("ab cd ef")["datatrove_top_2gram_char_fraction"] == np.float32(5 / 8)
    # "a b" and "b a" twice each: the first is "a b"
    assert one("a b a b a")["datatrove_top_2gram_char_fraction"] == np.float32(6 / 9)


def test_duplicate_ngrams_do_not_overlap_and_are_written_together() -> None:
    assert one("a b c d e a b c d e")["datatrove_dup_5gram_char_fraction"] == np.float32(5 / 19)
    assert one("a " * 15)["datatrove_dup_5gram_char_fraction"] == np.float32(10 / 30)
    # "ab c d e f" is "a bc d e f"
    assert one("a bc d e f ab c d e f")["datatrove_dup_5gram_char_fraction"] == np.float32(6 / 21)


def test_c4_reads_until_a_curly_bracket_in_a_line_that_it_would_keep() -> None:
    row = one("One two three.\nA { without an end\nUse JavaScript { here.\nThree words { more.\nOne lorem ipsum more.")
    assert (row["datatrove_c4_curly_bracket"], row["datatrove_c4_lorem_ipsum"], row["datatrove_c4_num_sentences"]) == (
        True,
        False,
        1,
    )


def test_c4_counts_the_sentences_of_a_line_without_its_citation_marks() -> None:
    assert one("One two three.[1] Four. Five!")["datatrove_c4_num_sentences"] == 3
    # the marks stand in the way of the dot, until they are gone
    assert one("One two three [1].")["datatrove_c4_num_sentences"] == 1
    assert one("One two.[12")["datatrove_c4_num_sentences"] == 0


def test_the_lines_of_the_fineweb_filter() -> None:
    row = one("Ends well.\n\n \nend  \nEnds well.\n" + "x" * 30 + "\n" + "y" * 31)
    assert row["datatrove_fineweb_num_lines"] == 5
    assert row["datatrove_fineweb_line_punctuation_fraction"] == np.float32(2 / 5)
    assert row["datatrove_fineweb_short_line_fraction"] == np.float32(4 / 5)
    assert row["datatrove_fineweb_dup_line_char_fraction"] == np.float32(10 / (10 + 1 + 5 + 10 + 30 + 31))


def decided(*texts: str, only: str) -> list[bool]:
    others = tuple(rule.name for rule in PROFILES[PROFILE] if rule.name != only)
    config = FilterConfig(profile=PROFILE, languages=(), disabled=others)
    return list(decide(measure(pa.array(texts), config.groups()), config).keep)


def words(number: int, length: int = 4) -> str:
    """Different words of one length, none of them a special case."""
    return " ".join("Q" + "".join(chr(97 + k // 26**at % 26) for at in range(length - 1)) for k in range(number))


REAL_TEXT = [  # (rule, a text that is just kept, a text that is just dropped)
    ("repetition_empty", " ", ""),
    ("repetition_dup_para_frac", "a\n\na\n\nb\n\nc", "a\n\na\n\nb"),
    ("repetition_dup_para_char_frac", "abc\n\nabc\n\nrest xx", "abc\n\nabc\n\nrest"),
    ("repetition_dup_line_frac", "a\na\na\na\n" + words(6).replace(" ", "\n"), "a\na\na\nb\nc\nd"),
    ("repetition_dup_line_char_frac", "abc\nabc\nrest xxx", "abc\nabc\nrest x"),
    ("repetition_top_2_gram", words(8, 4) + "QQQQQQ", words(8, 4)),  # 9 of 45 (kept at 0.2), 9 of 39
    ("repetition_duplicated_10_n_grams", words(10) + " x " + words(10) + " " + words(2000, 5), (words(10) + " ") * 2),
    ("gopher_short_doc", words(50) + " ! ! !", words(49) + " ! ! !"),
    ("gopher_long_doc", words(100_000), words(100_001)),
    ("gopher_below_avg_threshold", words(50, 3) + " !", words(50, 3) + " ab"),
    ("gopher_above_avg_threshold", words(50, 10), words(50, 10) + " abcdefghijk"),
    ("gopher_too_many_hashes", words(8) + " # x", words(7) + " # x"),  # '#' is a token by itself
    ("gopher_too_many_ellipsis", words(9) + " …", words(8) + " …"),
    ("gopher_too_many_bullets", "- item\n" * 9 + "end", "- item\n" * 10 + "end"),
    ("gopher_too_many_bullets", "* item\n" * 10, "• item\n" * 10),
    ("gopher_too_many_end_ellipsis", "off...\n" * 3 + "line\n" * 7, "off…\n" * 4 + "line\n" * 9),
    ("gopher_below_alpha_threshold", "it is as we said.", "it is said."),  # 5 of 6 tokens, 3 of 4
    ("gopher_enough_stop_words", "that of", "that THAT theme"),
    ("c4_lorem_ipsum", "This has lorem, ipsum here.", "This has Lorem Ipsum here."),
    ("c4_curly_bracket", "This has } here.\n{ is here", "This has { here."),
    ("c4_too_few_sentences", "One two three. " * 5, "One two three. " * 4),
    ("c4_too_few_sentences", "One two three.\n" * 5, "One two three\n" * 9),
    ("fineweb_empty", "a", " \n\u00a0"),
    ("fineweb_line_punct_ratio", "a b c.\n" * 3 + "a b c\n" * 22, "a b c.\n" * 2 + "a b c\n" * 15),  # 0.12, 0.118
    ("fineweb_short_line_ratio", "x" * 31 + "\n" + "a\na", "x" * 31 + "\n" + "a\na\na"),
    ("fineweb_char_dup_ratio", "a\na\n" + "x" * 98, "a\na\n" + "x" * 97),
    ("fineweb_list_ratio", "a b c\n" * 9 + "a b c", "a b c\n" * 10),
]


@pytest.mark.parametrize(("rule", "kept", "dropped"), REAL_TEXT)
def test_thresholds_decide_on_both_sides_of_real_text(rule: str, kept: str, dropped: str) -> None:
    assert decided(kept, dropped, only=f"datatrove_{rule}") == [True, False]


def test_the_group_is_measured_when_asked_for_and_the_profile_says_so() -> None:
    assert "datatrove" not in DEFAULT_GROUPS
    config = FilterConfig(profile=PROFILE, languages=())
    assert config.groups() == ("datatrove",)
    with pytest.raises(ValueError, match=r"lacks the columns: datatrove_.*; signals\.groups must name datatrove$"):
        decide(measure(pa.array(["x"])), config)
    assert FilterConfig(profile="dolma-1.2").groups() == ("dolma",)
    assert FilterConfig().groups() == FilterConfig(profile=None).groups() == ()
