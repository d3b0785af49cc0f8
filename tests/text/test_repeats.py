"""Repeated pieces are found, chosen and cut as plain Python over strings does it, for any text, level, order and split into shards."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.text import cutting, repeats

from . import reference_repeats as plain
from .reference_repeats import Document

# pieces that meet again and again, with white space of every kind, case, letters without spaces between them and sentence ends
ATOMS = ["a", "A", "b", "c.", "D!", 'e."', "f?)", ".", "é", "İ", "ß", "Ǆ", "a" * 9]
ATOMS += ["中", "文。", "下」", "「", "ก", "\U00020000", "\U0001f600"]
SPACES = [" ", "  ", "\t", "\n", "\n\n", "\n \n", "\r\n", "\u00a0", "\u2028", "\u3000", ""]
TEXTS = st.lists(st.tuples(st.sampled_from(ATOMS), st.sampled_from(SPACES)), max_size=40).map(
    lambda parts: "".join(one for pair in parts for one in pair)
)
LEVELS: list[tuple[str, dict[str, Any]]] = [
    *[(level, {"min_chars": size}) for level in ("lines", "paragraphs", "three_sentences") for size in (1, 4)],
    *[("spans", {"min_words": words}) for words in (4, 7)],
]


def found(corpus: Sequence[Document], level: str, given: dict[str, Any], fold: bool, shards: int = 1) -> list[plain.Repeat]:
    """What the kernels find, with the documents of a generation dealt out to shards."""
    parts: list[list[Document]] = [[] for _ in range(shards * (1 + max((one.generation for one in corpus), default=0)))]
    for number, document in enumerate(corpus):
        parts[document.generation * shards + number % shards].append(document)
    generations = np.array([k // shards for k in range(len(parts))], np.int64)
    texts = [pa.array([one.text for one in part], pa.string()) for part in parts]
    if level == "spans":
        listed = []
        anchors = [repeats.anchors(text, min_words=given["min_words"], fold_case=fold) for text in texts]
        high = np.concatenate([one["high"].to_numpy() for one in anchors])
        shard = np.concatenate([np.full(len(one), k) for k, one in enumerate(anchors)])
        again = cutting.more_than(high, given.get("max_copies", 1))
        for k, text in enumerate(texts):
            mine = again[shard[again] == k] - int(sum(len(one) for one in anchors[:k]))
            places = np.stack([anchors[k]["row"].to_numpy()[mine], anchors[k]["word"].to_numpy()[mine]], axis=1)
            places = places[np.lexsort((places[:, 1], places[:, 0]))]
            listed.append(repeats.spans(text, places, min_words=given["min_words"], fold_case=fold))
    else:
        kind: Any = level
        listed = [repeats.units(text, kind, min_chars=given["min_chars"], fold_case=fold) for text in texts]
    for one in listed:
        assert one["high"].to_pylist() == sorted(one["high"].to_pylist())
    owned = [
        one.append_column("shard", pa.array([k] * len(one), pa.int32())).append_column(
            "doc_id", pa.array([parts[k][row].doc_id for row in one["row"].to_pylist()], pa.string())
        )
        for k, one in enumerate(listed)
    ]
    late = cutting.later_copies(pa.concat_tables(owned), generations, given.get("max_copies", 1))
    told = []
    for k in range(len(parts)):
        mine = late.filter(pa.array(late["shard"].to_numpy() == k))
        told += [
            (generations[k], row["doc_id"], row["start"], plain.Repeat(level=level, **{n: row[n] for n in FIELDS}))
            for row in cutting.stretches(mine).to_pylist()
        ]
    return [one[-1] for one in sorted(told)]


FIELDS = ("doc_id", "start", "end", "first_doc_id", "first_start", "first_end")


@st.composite
def corpora(draw: Any) -> list[Document]:
    """Up to six documents of two generations, parts of which are copied from one another."""
    texts: list[str] = []
    for _ in range(draw(st.integers(1, 6))):
        text = draw(TEXTS)
        if texts and draw(st.booleans()):
            source = draw(st.sampled_from(texts))
            at = draw(st.integers(0, len(source)))
            text += draw(st.sampled_from(SPACES)) + source[at : at + draw(st.integers(0, 60))] + draw(TEXTS)
        texts.append(text)
    ids = draw(st.permutations([f"{number:02d}" for number in range(len(texts))]))
    return [Document(draw(st.integers(0, 1)), one, text) for one, text in zip(ids, texts, strict=True)]


@pytest.mark.parametrize(("level", "settings_of_level"), LEVELS)
@pytest.mark.parametrize("max_copies", [1, 2])
@settings(max_examples=60, deadline=None)
@given(corpus=corpora(), fold=st.booleans(), shards=st.integers(1, 3), seed=st.integers(0, 5))
def test_what_is_found_is_what_plain_python_finds_in_any_order_and_split(
    level: str, settings_of_level: dict[str, Any], max_copies: int, corpus: list[Document], fold: bool, shards: int, seed: int
) -> None:
    given = {**settings_of_level, "max_copies": max_copies}
    shuffled = random.Random(seed).sample(corpus, len(corpus))
    assert found(shuffled, level, given, fold, shards) == plain.repeated(corpus, level, given, fold)


@settings(max_examples=400, deadline=None)
@given(text=TEXTS, picks=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 8), st.integers(1, 3)), max_size=5))
@example(text="a\n\nb\nc", picks=[(1, 1, 1)])
def test_a_text_is_cut_as_plain_python_cuts_it_and_every_character_is_counted_once(
    text: str, picks: list[tuple[int, int, int]]
) -> None:
    words = plain.words(text, True)
    picked = [(words[at].start, words[min(at + size, len(words)) - 1].end, level) for at, size, level in picks if at < len(words)]
    picked.sort(key=lambda one: one[2])
    # a text before and one behind, so that places are those of their own text
    given, rows = pa.array(["before ", text, " behind"]), np.ones(len(picked), np.int64)
    out, tally = cutting.cut(given, rows, np.array(picked, np.int32).reshape(-1, 3), 3)
    assert out.to_pylist() == ["before ", plain.without(text, [one[:2] for one in picked]), " behind"]
    first: dict[int, int] = {}
    for start, end, level in picked:
        for at in range(start, end):
            first.setdefault(at, level)
    assert tally[1:].tolist() == [list(first.values()).count(level) for level in (1, 2, 3)]
    assert tally.sum() == len(text) - len(out[1].as_py())
    large, _ = cutting.cut(given.cast(pa.large_string()), rows, np.array(picked, np.int32).reshape(-1, 3), 3)
    assert large.type == pa.large_string() and large.to_pylist() == out.to_pylist()


@pytest.mark.parametrize(
    ("text", "gone", "left"),
    [
        ("A\nX\nB", "X", "A\nB"),
        ("A\n\nX\n\nB", "X", "A\n\nB"),
        ("A\nX\n\nB", "X", "A\n\nB"),
        ("A\n\nX\nB", "X", "A\n\nB"),
        ("A X B", "X", "A B"),
        ("A\n    X\n    B", "X", "A\n    B"),  # the next line keeps its indentation
        ("X\n\nB ", "X", "B "),
        ("\nA\nX\n", "X", "\nA"),
        ("A\nX", "X", "A"),
        ("X", "X", ""),
        ("中X文", "X", "中文"),
    ],
)
def test_the_white_space_that_stays_is_that_which_parts_more(text: str, gone: str, left: str) -> None:
    at = text.index(gone)
    out, _ = cutting.cut(pa.array([text]), np.zeros(1, np.int64), np.array([[at, at + 1, 1]], np.int32), 1)
    assert out.to_pylist() == [left]


def places(text: str, kind: Any, min_chars: int = 1) -> list[str]:
    made = repeats.units(pa.array([text]), kind, min_chars=min_chars, fold_case=True).sort_by("start")
    return [text[row["start"] : row["end"]] for row in made.to_pylist()]


def test_lines_paragraphs_and_sentences_begin_and_end_where_a_reader_would_say() -> None:
    text = ' One two.  Three?\n four "five!"\n \nSix.\n\n\n七八。「九！」十'
    assert places(text, "lines") == ["One two.  Three?", 'four "five!"', "Six.", "七八。「九！」十"]
    assert places(text, "paragraphs") == ['One two.  Three?\n four "five!"', "Six.", "七八。「九！」十"]
    assert places(text, "three_sentences") == [
        'One two.  Three?\n four "five!"',
        'Three?\n four "five!"\n \nSix.',
        'four "five!"\n \nSix.\n\n\n七八。',
        "Six.\n\n\n七八。「九！」",
        "七八。「九！」十",
    ]
    assert places("Two. Sentences.", "three_sentences") == []


def test_a_piece_of_one_character_too_few_is_left_alone_and_white_space_is_no_character() -> None:
    assert places("ab cd\nab  c\n", "lines", min_chars=4) == ["ab cd"]


def test_names_hold_case_and_order_and_nothing_else() -> None:
    def name(text: str, fold: bool = True) -> tuple[int, int]:
        row = repeats.units(pa.array([text]), "paragraphs", min_chars=1, fold_case=fold).to_pylist()[0]
        return row["high"], row["low"]

    assert name("The  end\nof it.") == name("the end of it.\n") == name("\tTHE END OF IT.")
    assert name("The end", fold=False) != name("the end", fold=False)
    assert len({name(text) for text in ("a b", "b a", "ab", "a b c", "a  c", "a")}) == 6


@pytest.mark.soak
def test_a_million_lines_that_differ_have_a_million_names_in_both_halves() -> None:
    lines = repeats.units(pa.array(["\n".join(f"{n:x} {n % 7}" for n in range(1_000_000))]), "lines", min_chars=1, fold_case=True)
    for half in ("high", "low"):
        values = np.unique(lines[half].to_numpy())
        assert len(values) == 1_000_000
        # spread evenly, so that buckets are alike
        assert np.histogram((values >> np.uint64(60)).astype(int), bins=16, range=(0, 16))[0] == pytest.approx(62_500, rel=0.02)


def test_pieces_of_one_high_and_other_low_halves_of_the_name_are_other_pieces() -> None:
    # low, doc_id, row, start: of name (7, 1) "a" is first, of (7, 2) "a" too, further on, and (7, 3) is there once
    rows = [(2, "b", 1, 0), (1, "c", 2, 0), (3, "d", 3, 0), (1, "a", 0, 0), (2, "a", 0, 10)]
    pieces = pa.table(
        {
            "high": pa.array([7] * len(rows), pa.uint64()),
            "low": pa.array([low for low, *_ in rows], pa.uint64()),
            "shard": pa.array([0] * len(rows), pa.int32()),
            "row": pa.array([row for *_, row, _ in rows], pa.int32()),
            "start": pa.array([start for *_, start in rows], pa.int32()),
            "end": pa.array([start + 5 for *_, start in rows], pa.int32()),
            "doc_id": [doc for _, doc, *_ in rows],
        }
    )
    late = cutting.later_copies(pieces, np.zeros(1, np.int64), 1).to_pylist()
    assert [(one["doc_id"], one["start"], one["first_doc_id"], one["first_start"]) for one in late] == [
        ("b", 0, "a", 10),
        ("c", 0, "a", 0),
    ]
    assert not cutting.later_copies(pieces, np.zeros(1, np.int64), 2).num_rows  # five of one high half, and no three of one name


def test_anchors_are_few_and_spread_evenly_though_each_is_the_least_of_its_window() -> None:
    draw = random.Random(1)
    text = " ".join(str(draw.randrange(50_000)) for _ in range(300_000))
    made = repeats.anchors(pa.array([text]), min_words=50, fold_case=True)
    # 2 of (window + 1): Schleimer et al. 2003, 3.2; here 25 words each, 26 to a window
    assert len(made) == pytest.approx(300_000 * 2 / 27, rel=0.03)
    spread = np.histogram((made["high"].to_numpy() >> np.uint64(61)).astype(int), bins=8, range=(0, 8))[0]
    assert spread == pytest.approx(len(made) / 8, rel=0.1)


def test_of_a_stretch_that_goes_on_and_on_one_span_stays() -> None:
    corpus = [Document(0, "a", "ha " * 20 + "."), Document(0, "b", "so: " + "ha " * 9)]
    told = found(corpus, "spans", {"min_words": 4}, True)
    # windows that overlap the one that stays, words 0 to 3, are left alone; from the fourth word on it is there once more
    assert told == [plain.Repeat("a", "spans", 12, 59, "a", 0, 11), plain.Repeat("b", "spans", 4, 30, "a", 0, 11)]
    assert plain.without(corpus[0].text, [(12, 59)]) == "ha ha ha ha ."


def test_hostile_bytes_end_nothing() -> None:
    raw = [b"\xff\xfe\n\xc3", b"\xe4\xb8", b"ok \xf0\x9f\n\xed\xa0\x80 x"]
    offsets = np.cumsum([0, *map(len, raw)]).astype(np.int32)
    text = pa.Array.from_buffers(pa.string(), 3, [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(raw))])
    for kind in repeats.KINDS:
        made = repeats.units(text, kind, min_chars=1, fold_case=True)
        assert (made["start"].to_numpy() < made["end"].to_numpy()).all()
    cut, tally = cutting.cut(text, np.zeros(1, np.int64), np.array([[0, 1, 1]], np.int32), 1)
    assert cut.buffers()[2].to_pybytes() == b"\xfe\n\xc3" + raw[1] + raw[2] and tally.tolist() == [0, 1]


def c4_lines(pages: dict[str, str]) -> dict[str, str]:
    """What the public code of C4 makes of cleaned pages (c4_utils.py of TensorFlow Datasets, `remove_duplicate_text`), in our words.

    A line is called by the MD5 of its lower-case characters without white space around them. It stays in the page whose URL has the least
    MD5, and there once. The rule behind it, that a page of fewer than three sentences goes, is left out here.
    """

    def md5(some: str) -> str:
        return hashlib.md5(some.encode()).hexdigest()

    urls_of: dict[str, list[str]] = {}
    for url, text in pages.items():
        for line in text.split("\n"):
            urls_of.setdefault(md5(line.strip().lower()), []).append(url)
    stays_in = {line: min(urls, key=md5) for line, urls in urls_of.items()}
    left = {}
    for url, text in pages.items():
        lines, seen = [], set()
        for line in text.split("\n"):
            name = md5(line.strip().lower())
            if stays_in[name] == url and name not in seen:
                lines.append(line)
                seen.add(name)
        left[url] = "\n".join(lines)
    return left


LINES = st.lists(st.sampled_from(["A b.", "a b.", "a  b.", "é É!", "C d?", "x", "a b. c d?"]), min_size=1, max_size=6)


@settings(max_examples=300, deadline=None)
@given(pages=st.dictionaries(st.sampled_from([f"http://{n}.example/" for n in range(9)]), LINES, min_size=1))
def test_lines_are_those_of_the_public_c4_code_where_ids_are_ordered_as_its_urls(pages: dict[str, list[str]]) -> None:
    # C4 takes white space within a line for what it is, which we do not
    texts = {url: "\n".join(line.replace("  ", "_") for line in lines) for url, lines in pages.items()}
    corpus = [Document(0, hashlib.md5(url.encode()).hexdigest(), text) for url, text in texts.items()]
    told = found(corpus, "lines", {"min_chars": 1}, True)
    cuts = {one.doc_id: [(row.start, row.end) for row in told if row.doc_id == one.doc_id] for one in corpus}
    ours = {one.doc_id: plain.without(one.text, cuts[one.doc_id]) for one in corpus}
    assert ours == {hashlib.md5(url.encode()).hexdigest(): text for url, text in c4_lines(texts).items()}
