"""Bytes that Arrow holds as strings although they are no UTF-8, and texts made to be hard: every kernel, every signal."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.text import bad_words, boilerplate, kernels, stop_words, terms, words
from tasks.text.lines import LineRules, rewrite_lines
from tasks.text.signals import GROUPS, Group, measure, readable

MEASURED: tuple[Group, ...] = tuple(group for group in GROUPS if group != "paragraph_languages")
BROKEN = [
    b"",
    b"\xed\xa0\x80",  # a lone high surrogate, as some encoders write it
    b"a\xed\xb0\x80b \xed\xa0\xbd\xed\xb8\x80 c",  # and a pair of them
    b"\xc0\x80 \xc1\xbf \xe0\x80\xaf",  # overlong
    b"\xf4\x90\x80\x80 \xf5\x80\x80\x80 \xff\xfe",  # above U+10FFFF, and bytes of no encoding
    b"word \xc3",
    b"word \xe2\x80",
    b"word \xf0\x9f\x98",  # cut off at the end
    b"\x80\x80\x80 \xbf tha \xe2the\xe2\x80 or",
    b"\xe2\n\xe2\x80\nab\xf0\n- c\xe2.\n\n\xe2",  # in front of a newline
    b"[1\xc3] [\xe2edit] {\xf0 cookie\xc3s use cookies\xe2",
    "e\u0301\u0301\u0301 a\u200d\u200db \u200b\ufeff \U0001f469\u200d\U0001f4bb \u00ad".encode() + b"\xcc",
    b"don\xe2\x80\x99t don\xe2\x80t 1\xe2.5 \xd7\x90'\xd7\x90\"\xd7",
    b"\xf0\x9f\x87\xa9\xf0\x9f\x87\xaa\xf0\x9f\x87 \xe0\xb8\x81\xe0\xb8",
    # words with nothing between them, or next to nothing: none may be more than an array has room for
    *(
        text.encode()
        for text in (
            *(
                "a²" * 9,
                "²" * 9,
                "½x" * 9,
                "1½2³" * 5,
                "漢a" * 9,
                "a漢²" * 5,
                "x\U0001f642" * 9,
                "\U0001f642" * 9,
                "a b " * 9,
                "a.b," * 9,
            ),
            *("a'b’c'" * 5, "o'" * 9, "a\u0301" * 9, "²\u0301a\u0301½" * 4, "a\u200d²\ufe0f" * 4, "ก½" * 9, "e.g." * 9, "İ" * 9),
            *("women's shit²" * 5, "women² shit½a²b" * 4, "shit" + "a²" * 9 + " women", "-$1²°C..." * 5, "a\n" * 9, "²\n\n" * 9),
            *("x y ½.\n" * 5, "[1]²[edit]½" * 5, "ab²cd. ef½gh. i²j.\n" * 4),
        )
    ),
]
PARTS = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(BROKEN),
    st.sampled_from(
        [
            *(
                "the ",
                "\n",
                "\n\n",
                "é",
                "漢字",
                "ก",
                "…",
                "...",
                "’",
                "'",
                "sign in",
                " ",
                "#",
                "1.5",
                'א"א',
                "\u0301",
                "\u200d",
            ),
            *("a²", "½", "a²" * 30, "women", "shit "),
        ]
    ).map(str.encode),
)
RAW = st.lists(PARTS, max_size=12).map(b"".join)


def array_of(raw: list[bytes]) -> pa.Array:
    """The bytes as a string array that nobody has looked at."""
    offsets = np.cumsum([0, *map(len, raw)]).astype("<i4")
    return pa.Array.from_buffers(pa.string(), len(raw), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(raw))])


def counts_of(data: npt.NDArray[np.uint8], start: int, end: int) -> Iterator[npt.NDArray[np.generic]]:
    """What every kernel says of data[start:end] as it is, `readable` or not."""
    offsets, classes, table, folds = (
        np.array([start, end], np.int64),
        kernels.character_classes(),
        words.word_table(),
        words.folds(),
    )
    counts = np.zeros((1, len(kernels.COUNTS)), np.int64)
    kernels.count_documents(data, offsets, classes, counts, True)
    yield counts
    letters, entropy = np.zeros((1, len(kernels.CHARACTER_COUNTS)), np.int64), np.zeros(1)
    kernels.count_characters(data, offsets, classes, letters, entropy)
    yield letters
    yield entropy.astype(np.float32)  # as it is kept; the last bits of float64 are the compiler's
    size = end - start
    verdicts, out, tally = np.zeros(size + 1, np.int8), np.zeros(size, np.uint8), np.zeros(kernels.CITATION_MARKS + 1, np.int64)
    spans = np.zeros((2, 2), np.int64)
    num_lines = kernels.judge_lines(data, offsets, classes, 1, False, verdicts, spans[0], out, spans[1], tally)
    yield verdicts[:num_lines]
    yield out[: spans[1, 1]]
    yield tally
    own = np.zeros((1, len(words.COUNTS)), np.int64)
    words.count_words(data, offsets, *table, own)
    yield own
    stops, totals = np.zeros((1, len(stop_words.LANGUAGES)), np.int32), np.zeros((1, 2), np.int32)
    english = np.array([stop_words.LANGUAGES.index("en")], np.int32)
    words.count_stop_words(data, offsets, *table, folds, *stop_words._table(), english, stops, totals)
    yield stops
    yield totals
    lines = np.zeros((1, 2), np.int64)
    words.count_phrase_lines(data, offsets, *table, folds, classes, kernels.SPACE, *boilerplate._tree(), lines)
    yield lines
    hashes, ends = np.zeros(size + 1, np.uint64), np.zeros(1, np.int64)
    words.hash_words(data, offsets, *table, folds, hashes, ends)
    yield hashes[: ends[0]]


def digest_of(raw: bytes, before: bytes = b"", behind: bytes = b"") -> str:
    data = np.frombuffer(before + raw + behind, np.uint8)
    digest = hashlib.sha256()
    for counts in counts_of(data, len(before), len(before) + len(raw)):
        digest.update(np.ascontiguousarray(counts).tobytes())
    return digest.hexdigest()


def digest_of_signals(raw: bytes) -> str:
    """Of all groups' signals, by their kernels; and of what kernels say to which `measure` gives but readable text."""
    language, text = pa.array(["en"]), array_of([raw])
    columns = measure(text, MEASURED, language).columns
    columns += [pa.array(bad_words.count_bad_words(text, language)[0]), *terms.count_terms(text, terms.load_lists("en")).columns]
    return hashlib.sha256(repr([column.to_pylist() for column in columns]).encode()).hexdigest()


@settings(max_examples=100, deadline=None)
@given(RAW)
def test_no_kernel_is_moved_by_what_stands_before_and_behind_a_text_or_says_another_thing_the_next_time(raw: bytes) -> None:
    alone = digest_of(raw)
    assert digest_of(raw) == alone
    for before, behind in (
        (b"the \xe2", b"\x80\xa6 of"),
        (b"\xf0\x9f", b"\x98\x80"),
        (b"[", b"1] ..."),
        (b"A'", b"'A"),
        (b"\n", b"\n"),
    ):
        assert digest_of(raw, before, behind) == alone


@pytest.mark.soak
def test_no_kernel_reads_beyond_its_arrays() -> None:
    """In a child without compilation, where numpy looks at every index and raises; the counts are those of the compiled kernels.

    None of the texts has a stop word of Gopher: where numpy counts, a byte shifted by 8 bits is 0.
    """
    root = Path(__file__).parents[2]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, __file__], cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [digest(raw) for raw in BROKEN for digest in (digest_of, digest_of_signals)]


@settings(max_examples=100, deadline=None)
@given(st.lists(RAW, min_size=1, max_size=3))
def test_bytes_that_are_no_utf8_measure_as_what_python_reads_of_them(raw: list[bytes]) -> None:
    languages = pa.array(["en"] * len(raw))
    as_read = pa.array([one.decode("utf-8", "replace") for one in raw], pa.string())
    assert measure(array_of(raw), MEASURED, languages).equals(measure(as_read, MEASURED, languages))


def test_what_is_broken_counts_as_one_character_for_each_part_that_is() -> None:
    raw = [b"\xed\xa0\x80", b"a\xe2\x80 b", b"\xff\xfe", b"ok"]
    table = measure(array_of(raw))
    assert table["num_chars"].to_pylist() == [3, 4, 2, 2]
    assert table["uax29_num_words"].to_pylist() == [0, 2, 0, 1]
    assert table["non_ascii_fraction"].to_pylist() == [1, 0.25, 1, 0]


def test_what_can_be_read_is_not_copied_and_nulls_stay() -> None:
    good = pa.array(["é", None, "漢"])
    assert readable(good) is good
    mended = readable(pa.chunked_array([good, array_of([b"\xff", b"x"])]))
    assert mended.to_pylist() == ["é", None, "漢", "\ufffd", "x"] and mended.type == pa.string()
    mended.validate(full=True)


def test_lines_of_broken_text_are_rewritten_without_harm() -> None:
    new, removed = rewrite_lines(array_of(BROKEN), LineRules(min_words_per_line=1, require_terminal_punctuation=False))
    assert len(new) == len(BROKEN) and removed["policy"] == 1
    again, _ = rewrite_lines(array_of(BROKEN), LineRules(min_words_per_line=1, require_terminal_punctuation=False))
    assert new.buffers()[2] == again.buffers()[2]


@pytest.mark.parametrize(
    "text",
    [
        "x" * 1_000_000,
        "é" * 500_000,
        "a" + "\u0301" * 500_000,
        "a:" + "\u0301" * 500_000 + "b",
        "a:\u0301\u0301 " * 100_000,
        "\u200d" * 300_000 + "\U0001f469\u200d" * 100_000,
        "\U0001f1e9" * 250_000,
        'א"' * 300_000,
        "1.2," * 250_000,
        "_" * 1_000_000,
        "'" * 1_000_000,
        "." * 1_000_000,
        "漢" * 300_000,
        "a²" * 300_000,
        "กิ" * 160_000,
        "\n" * 1_000_000,
        "all rights " * 90_000,
        "\ufeff\u200b\u00ad" * 120_000,
        "\x00" * 1_000_000,
    ],
    ids=lambda text: f"{len(text)} of {text[:6]!a}",
)
def test_a_megabyte_of_one_thing_takes_no_time_of_note(text: str) -> None:
    """Nothing takes the square of a line's length: that would be hours."""
    started = time.process_time()
    table = measure(pa.array([text]), MEASURED, pa.array(["en"]))
    assert time.process_time() - started < 20
    assert table["num_chars"].to_pylist() == [len(text)]


def test_golden_values_of_long_lines() -> None:
    row = measure(pa.array(["don't " * 170_000 + "\n" + "ก" * 10 + "\u0301"]), MEASURED, pa.array(["en"])).to_pylist()[0]
    assert (row["uax29_num_words"], row["num_lines"]) == (170_010, 2)
    assert row["uax29_mean_word_length"] == np.float32((170_000 * 5 + 11) / 170_010)
    assert row["complex_letter_fraction"] == np.float32(10 / (170_000 * 4 + 10))
    assert row["uax29_type_token_ratio"] == np.float32(3 / 170_010)  # don't, ก, and ก with its accent


if __name__ == "__main__":
    for one in BROKEN:
        sys.stdout.write(f"{digest_of(one)}\n{digest_of_signals(one)}\n")
