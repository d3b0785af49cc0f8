"""Signals against hand-computed values, a slow reference written apart, hostile Unicode, and real text."""

from __future__ import annotations

import importlib.util
import random
import unicodedata
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.text import kernels
from tasks.text.lines import LineRules, line_verdicts, rewrite_lines
from tasks.text.signals import GROUPS, SIGNAL_NAMES, SIGNAL_SCHEMA, Group, measure, schema_of


def _beside(name: str) -> ModuleType:
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference, reference_words = _beside("reference_signals"), _beside("reference_words")
REFERRED_ELSEWHERE = ("paragraph_languages", "terms", "bad_words", "datatrove")
"""In test_language.py, test_terms.py, test_bad_words.py and test_datatrove.py."""
MEASURED: tuple[Group, ...] = tuple(group for group in GROUPS if group not in REFERRED_ELSEWHERE)
LANGUAGES = ("en", "unknown", "zh", "de", "th")

SHARED_TEXT = Path(__file__).parents[3] / "shared" / "data" / "text"

NASTY = [
    "",
    " ",
    " \t\n \n\n",
    "\n\n\n",
    "word",
    "e\u0301te\u0301 de\u0301ja\u0300 vu. E\u0301te\u0301!",
    "👩‍👩‍👧‍👦 🏳️‍🌈 emoji 🙂🙂 and the end…",
    "我能吞下玻璃而不伤身体。\n我能吞下玻璃而不伤身体。\n本当？",
    "carriage\r\nreturns\r\n\r\nare white space\r\nto have and to hold...\r\n",
    "no\u00a0break\u202fspaces\u2003count\u3000too\u1680here\u2028there\u2029x\x1cy\x85z",
    "zero\u200bwidth is\ufeffno space \u180e either",
    "x" * 1001 + " long word line that ends.\n" + "x" * 1000 + " a word that is just allowed.",
    "a a a a a a a a a a a a a a a a a a a a",
    "one two three four five six seven eight nine ten " * 3,
    "\ud7ff \ue000 \U0010ffff \U0001f1e6 ١٢٣ ÀÉ Ⓐ Ⅷ ǅ ª ʰ",
    "Enable JavaScript [1]now.\nJava[1]Script hides here [2].\nWe use cooKies.\ncoo[edit]kie policy applies to all.",
    "[citation needed]\n[]\n[edit\n[12a] [[3]4] a line that has five words.[7]\nand \"quoted one here.\" 'x.'",
    "....... .. ... …… . .\n..\n. a...",
    "Lorem\u00a0ipsum lorem  ipsum\nlorem\nipsum",
    "LOREM IPSUM { # ##",
    "para one\n\npara one\n \npara two\n\n\n\npara one",
    "- a\n* b\n• c\n‣d\n  ● e\n– f",
    "terms\x00of\x00use of cookies\x00 \x00",
    "\n",
    "\na\n a\na\n\na \n",
    "* a…\n-b\n - c… \n\n\n…\n",
    "1. one\n22) two\n333.\n4444. four\n.\n1) \n٣. three\n12.5 no\n1.\u2003x",
    "x = f(a, b);\ndef f():\n  return 1\nplain words (once) here and there\nimport\u00a0x\n}\u3000\n{ \n#!\n//\n",
    "Ж ψ ش א अ 漢 か カ 한 ﾂ Ａ ᚠ º 々 ー 𠀀 𐍈 ѓ",
    "y" * 300 + " " + "z" * 500 + " ab",
    ("y" * 199 + "\n") + ("\u00e9" * 200 + "\n") + " " + "y" * 199 + " \n",
]
PIECES = st.sampled_from(
    [
        *("the", "and", "a", "b", "…", "...", ".", "?", '"', "”", "é", "日本", "🙂", "#", "{", "[1]", "[edit]", "[", "]"),
        *("javascript", "JavaScript", "use cookies", "privacy policy", "Terms of Use", "lorem ipsum", "-", "•", "*"),
        *("\n", "\n", "\n\n", " ", " ", " ", "\r\n", "\u00a0", "\u2028", "\x1f", "\t", "x" * 1000, "I.", "(ok.)"),
        *("12.", "7)", "x = y;", "}", "def ", "$ ", "Ω", "ж", "ש", "한", "ｶ", "𠀀", "THE", "z" * 260),
    ]
)
TEXTS = st.one_of(
    st.lists(PIECES, max_size=60).map("".join),
    st.lists(st.sampled_from(["a", "bb", "ccc", "a.", "B"]), max_size=80).map(" ".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
    st.text("ab .\n", max_size=80),
)


def one(text: str) -> dict[str, float]:
    return dict(measure(pa.array([text])).to_pylist()[0])


def assert_equals_reference(texts: list[str]) -> None:
    languages = [LANGUAGES[index % len(LANGUAGES)] for index in range(len(texts))]
    measured = measure(pa.array(texts, pa.large_string()), MEASURED, pa.array(languages, pa.string())).to_pylist()
    for text, language, row in zip(texts, languages, measured, strict=True):
        wanted = reference.signals(text) | reference_words.signals(text, language)
        assert set(wanted) == set(row)
        for name, value in wanted.items():
            exact = np.float32(value) if isinstance(row[name], float) else value
            assert row[name] == exact, f"{name} of {text[:200]!r}"


def test_nasty_texts_measure_as_the_reference() -> None:
    assert_equals_reference(NASTY)


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, max_size=4))
def test_any_unicode_measures_as_the_reference(texts: list[str]) -> None:
    assert_equals_reference(texts)


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.sampled_from([1, 3, 5]), st.booleans())
def test_any_unicode_is_judged_and_rewritten_as_by_the_reference(text: str, min_words: int, terminal: bool) -> None:
    rules = LineRules(min_words_per_line=min_words, require_terminal_punctuation=terminal)
    verdicts = line_verdicts(pa.array([text]), rules).to_pylist()[0]
    assert verdicts == [reference.line_verdict(line, min_words, terminal) for line in text.split("\n")]
    new, removed = rewrite_lines(pa.array([text]), rules)
    assert new.to_pylist() == [reference.rewritten(text, min_words, terminal)]
    new.validate(full=True)
    assert {rule: n for rule, n in removed.items() if rule != "citation_mark"} == {
        rule: verdicts.count(rule) for rule in removed if rule != "citation_mark"
    }


def test_real_text_measures_as_the_reference() -> None:
    path = SHARED_TEXT / "wikitext2_valid.txt"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    articles = path.read_text(encoding="utf-8").split("\n = ")[:60]
    shuffled = list(articles)
    rng = random.Random(7)
    for index, article in enumerate(articles[:20]):
        lines = article.split("\n")
        shuffled[index] = "\n".join(lines + rng.choices(lines, k=len(lines)))
    assert_equals_reference(shuffled)


def test_a_text_measures_the_same_alone_in_a_batch_sliced_chunked_and_beside_nulls() -> None:
    alone = [one(text) for text in NASTY]
    assert measure(pa.array(NASTY)).to_pylist() == alone
    assert measure(pa.array(["before", *NASTY, "after"])[1:-1]).to_pylist() == alone
    assert measure(pa.chunked_array([NASTY[:4], [], NASTY[4:]], pa.string())).to_pylist() == alone
    with_null = measure(pa.array([None, *NASTY])).to_pylist()
    assert with_null[0] == one("") and with_null[1:] == alone


def test_a_language_stays_with_its_text_in_chunks_and_slices() -> None:
    texts, languages = ["the cat and", "die Katze und", "的", "the", None], ["en", "de", "zh", "unknown", "en"]
    wanted = measure(pa.array(texts), MEASURED, pa.array(languages))
    assert wanted["num_stop_words_own"].to_pylist() == [2, 2, 1, None, 0]
    assert measure(pa.chunked_array([texts[:2], [], texts[2:]]), MEASURED, pa.array(languages)) == wanted
    sliced = measure(pa.array(["x", *texts, "y"])[1:-1], MEASURED, pa.array(["fr", *languages, "fr"])[1:-1])
    assert sliced == wanted


def test_a_null_over_bytes_still_reads_as_empty() -> None:
    mask = pa.py_buffer(bytes([0b10]))
    array = pa.array(["hidden words", "seen"])
    hidden = pa.Array.from_buffers(pa.string(), 2, [mask, *array.buffers()[1:]])
    assert measure(hidden)["num_words"].to_pylist() == [0, 1]
    new, _ = rewrite_lines(hidden, LineRules(min_words_per_line=1, require_terminal_punctuation=False))
    assert new.to_pylist() == ["", "seen"]


def test_no_rows_give_no_rows_of_the_same_schema() -> None:
    for empty in (pa.array([], pa.string()), pa.chunked_array([], pa.large_string())):
        table = measure(empty)
        assert table.num_rows == 0 and table.schema == measure(pa.array(["x"])).schema
    everything = measure(pa.array([], pa.string()), language=pa.array([], pa.string()))
    assert everything.num_rows == 0 and everything.schema == schema_of()
    new, removed = rewrite_lines(pa.array([], pa.string()), LineRules())
    assert len(new) == 0 and set(removed.values()) == {0}


def test_an_array_of_another_type_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="int64"):
        measure(pa.array([1, 2]))


def test_golden_quality_counts() -> None:
    text = 'The cat # sat...\n\n- To be… or "not"!\nx1 22 Ünï'
    row = one(text)
    # The cat # sat... | - To be… or "not"! | x1 22 Ünï
    assert (row["num_chars"], row["num_words"], row["num_lines"], row["num_sentences"]) == (46, 12, 3, 3)
    assert row["mean_word_length"] == np.float32(34 / 12)
    assert row["hash_per_word"] == np.float32(1 / 12)
    assert row["ellipsis_per_word"] == np.float32(2 / 12)
    assert row["bullet_line_fraction"] == np.float32(1 / 3)
    assert row["ellipsis_line_fraction"] == np.float32(1 / 3)
    assert row["alpha_word_fraction"] == np.float32(9 / 12)  # all but #, - and 22
    assert row["num_stop_words"] == 2  # The, To; "be…" is another word
    assert row["newline_per_word"] == np.float32(3 / 12)
    assert row["upper_case_fraction"] == np.float32(3 / 46)
    assert row["digit_fraction"] == np.float32(3 / 46)
    assert row["punctuation_fraction"] == np.float32(9 / 46)  # # ... - … " " !
    assert row["non_ascii_fraction"] == np.float32(3 / 46)


def test_golden_repetition() -> None:
    row = one("a b\nc\n\na  b\nc\n\nd\n\nc")  # paragraphs: a b c | a b c | d | c
    assert row["num_chars"] == 19
    assert row["dup_line_fraction"] == np.float32(3 / 6)  # a b, c, c
    assert row["dup_line_char_fraction"] == np.float32((4 + 1 + 1) / 19)
    assert row["dup_paragraph_fraction"] == np.float32(1 / 4)
    assert row["dup_paragraph_char_fraction"] == np.float32(6 / 19)
    grams = one("go to it go to it go up")
    assert grams["top_2gram_char_fraction"] == np.float32(10 / 23)  # "go to" twice, "it go" twice: equal products
    assert grams["top_3gram_char_fraction"] == np.float32(2 * 8 / 23)
    assert one("once upon a time")["top_2gram_char_fraction"] == np.float32(9 / 16)  # ties: the longest
    ten = " ".join(f"w{k}" for k in range(10))
    twice = one(f"{ten} x {ten}")
    assert twice["dup_10gram_char_fraction"] == np.float32(2 * 29 / 61)
    assert twice["dup_5gram_char_fraction"] == np.float32(2 * 29 / 61)
    assert one(f"{ten} x")["dup_5gram_char_fraction"] == 0


def test_golden_lists_long_lines_and_different_words() -> None:
    row = one("1. one\n- two\n12) The the\n1234. no\n5.no\n" + "é" * 200 + "\n  " + "x" * 199)
    assert row["num_lines_200_chars"] == 1
    assert row["list_line_fraction"] == np.float32(3 / 7)
    # 1. one - two 12) The the 1234. no 5.no é… x…
    assert row["type_token_ratio"] == 1
    assert one("a b a A")["type_token_ratio"] == np.float32(3 / 4)


def test_golden_counts_as_dolma_counts() -> None:
    row = one("* The the be#\n\nto… a\n* The the be#\n")
    # words of 1 3 3 3 3 1 1 3 3 3 characters, 24 in all; lines: twice the first, two empty ones, and one more
    assert (row["num_words"], row["stop_word_occurrences"], row["median_word_length"]) == (10, 2, 3)
    assert row["symbol_word_fraction"] == np.float32(3 / 10)  # be# to… be#
    assert row["dolma_bullet_line_fraction"] == np.float32(2 / 5)
    assert row["dolma_ellipsis_line_fraction"] == 0  # "to… a" ends with a
    assert row["dolma_dup_line_fraction"] == np.float32(4 / 5)
    assert row["dolma_dup_line_char_fraction"] == np.float32(26 / 24)  # with their spaces, over words without
    assert row["dolma_v2_bullet_line_fraction"] == np.float32(2 / 4)
    assert row["dolma_v2_dup_line_fraction"] == np.float32(2 / 4)  # one empty line only, at the end
    assert row["dolma_top_2gram_char_fraction"] == np.float32(8 / 24)  # "* The" twice: the first of three such
    assert row["dolma_top_4gram_char_fraction"] == np.float32(20 / 24)
    assert row["dolma_dup_5gram_char_fraction"] == 0
    assert one("a bb ccc a")["median_word_length"] == np.float32(1.5)
    repeated = one("a b c d ee " * 2 + "x")  # 5-grams of 6 6 6 6 6 6 6 less what hangs over: a..ee twice
    assert repeated["dolma_dup_5gram_char_fraction"] == np.float32(12 / (6 * 6 + 6))
    assert one("a a a a")["dolma_top_2gram_char_fraction"] == np.float32(6 / 4)  # occurrences overlap


def test_golden_characters() -> None:
    row = one("abab")
    assert (row["byte_entropy"], row["latin_letter_fraction"], row["code_likelihood"]) == (1, 1, 0)
    assert one("aaa")["byte_entropy"] == 0
    assert one("abcdefgh")["byte_entropy"] == 3
    mixed = one("aж1א漢かカ한ᚠ!")
    for script in ("latin", "cyrillic", "hebrew", "han", "hangul", "other"):
        assert mixed[f"{script}_letter_fraction"] == np.float32(1 / 8)
    assert mixed["kana_letter_fraction"] == np.float32(2 / 8)
    assert mixed["greek_letter_fraction"] == mixed["arabic_letter_fraction"] == mixed["devanagari_letter_fraction"] == 0
    code = one("import os\nx = y(2)\n\nreturn early\n  ok;\nA plain line (just one bracketed remark) of prose.\nimportant")
    assert code["code_likelihood"] == np.float32(4 / 6)


def test_groups_that_are_left_out_are_no_columns_and_change_no_other() -> None:
    language = pa.array(["en"] * len(NASTY))
    everything = measure(pa.array(NASTY), MEASURED, language)
    assert everything.schema == schema_of(MEASURED) and schema_of(tuple(GROUPS)) == SIGNAL_SCHEMA
    for groups in ((), *((group,) for group in MEASURED)):
        some = measure(pa.array(NASTY), groups, language)
        assert some.schema == schema_of(groups)
        assert some.equals(everything.select(some.column_names))
    assert len(schema_of(())) == len(SIGNAL_SCHEMA) - sum(len(group.names()) for group in GROUPS.values())


def test_golden_c4_view() -> None:
    text = "\n".join(
        [
            "This line is kept. It has two sentences.",
            "Five words are just enough.",
            "Three words kept.",  # but not by the C4 code, which asks for five
            "No end mark on this long line",
            "This line trails off at the end...",
            "Please enable JavaScript to see this page.",
            "Read our Privacy Policy before you go on.",
            "Too few.",
        ]
    )
    row = one(text)
    assert (row["c4_num_lines_kept"], row["c4_num_sentences"]) == (2, 3)
    assert (row["c4_paper_num_lines_kept"], row["c4_paper_num_sentences"]) == (3, 4)
    assert (row["c4_np_num_lines_kept"], row["c4_np_num_sentences"]) == (5, 6)
    assert (row["num_javascript_lines"], row["num_policy_lines"]) == (1, 1)
    assert line_verdicts(pa.array([text]), LineRules()).to_pylist() == [
        ["keep", "keep", "too_few_words", "no_terminal_punctuation", "ellipsis_end", "javascript", "policy", "too_few_words"]
    ]


def test_rewriting_removes_lines_and_citation_marks_and_counts_both() -> None:
    text = pa.array(
        [
            "  Water boils[1] at 100 degrees.[citation needed]\nMenu\n\n\nHistory[edit]\nIt was known to the Greeks.[2][3]",
            None,
            "Menu",
        ]
    )
    new, removed = rewrite_lines(text, LineRules())
    assert new.to_pylist() == ["Water boils at 100 degrees.\n\nIt was known to the Greeks.", "", ""]
    assert removed == {
        "long_word": 0,
        "ellipsis_end": 0,
        "no_terminal_punctuation": 3,
        "too_few_words": 0,
        "javascript": 0,
        "policy": 0,
        "citation_mark": 4,
    }
    assert new.type == text.type


def test_a_line_of_one_megabyte_is_measured_like_any_other() -> None:
    row = one("ab " * 350_000)
    assert (row["num_words"], row["num_lines"], row["mean_word_length"]) == (350_000, 1, 2)
    assert row["dup_10gram_char_fraction"] == np.float32(1_049_999 / 1_050_000)


def test_broken_utf8_is_counted_and_read_inside_its_bounds() -> None:
    raw = b"ok \xff\xfe \xe2\x80"
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(np.array([0, len(raw)], "<i4")), pa.py_buffer(raw)])
    assert measure(broken)["num_words"].to_pylist() == [3]


def test_no_classed_character_lies_above_the_class_table() -> None:
    for point in range(kernels.MAX_CLASSED, 0x110000):
        char = chr(point)
        assert not char.isspace() and unicodedata.category(char)[0] not in "LP" and not char.isdecimal()


def test_every_signal_has_a_name_a_type_and_a_meaning_of_its_own() -> None:
    assert len(set(SIGNAL_NAMES)) == len(SIGNAL_NAMES) == len(SIGNAL_SCHEMA)
