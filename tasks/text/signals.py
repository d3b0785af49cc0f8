"""Signals: what is measured of every document, once.

`measure` gives one row of numbers per text, for `rules.py` to compare with thresholds; no text is judged here. Fractions are
float32, counts int32; where a document has no words (lines, characters), what is counted per word (line, character) is 0.
One pass over the bytes, 70 to 94 MB/s on one core of a 2.5 GHz server; GROUPS that are measured besides, each with its own rate, can be
left out. Memory follows the longest document.

Definitions. Line: to the next "\\n", white space around it aside; blank lines count nowhere but in `newline_per_word`. Two
lines are equal when their words are; a repeat is every one after the first. Paragraph: between runs of two or more "\\n";
equal when their lines are. Sentence: words up to one that ends with . ? or ! (closing quotation marks and brackets behind
it aside) or to the end of the line, so "e.g." ends one too. N-gram: n words, as long as they are joined by one space.
Signals named `dolma_` count as dolma 1.2 does (python/dolma/taggers/gopher.py): its lines are what `split("\\n")` gives, with
their white space and the empty ones, compared byte by byte; its n-grams have no spaces between their words; it counts all
copies of what is repeated, the first as well. Names with `v2` are those of its tagger gopher_v2, for which a run of newlines is
one. Those named `datatrove_` are in datatrove.py.
A line looks like code when it ends with ; { or }, when it begins as code does (`kernels.CODE_STARTS`), or when a tenth
of its characters, white space aside, are marks of code (`kernels.CODE_MARKS`): a crude measure, of our own.
Bytes that are no UTF-8 count as U+FFFD, as many as Python's `bytes.decode("utf-8", "replace")` makes of them: see `readable`.
docs/signals.md has all of them in tables.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks.text import bad_words, boilerplate, compression, datatrove, kernels, stop_words, terms, words
from tasks.text.buffers import string_buffers
from tasks.text.groups import COUNT, FLAG, SHARE, Measure, Signal, SignalGroup, ratio
from tasks.text.language import PARAGRAPH_SIGNALS

_TOP_N, _DUP_N = (2, 3, 4), (5, 6, 7, 8, 9, 10)

_ALWAYS = (
    Signal("num_chars", COUNT, "characters (code points)"),
    Signal("num_words", COUNT, "words between white space"),
    Signal("num_lines", COUNT, "lines that are not blank"),
    Signal("num_sentences", COUNT, "sentences"),
    Signal("mean_word_length", SHARE, "characters per word"),
    Signal("hash_per_word", SHARE, "'#' per word"),
    Signal("ellipsis_per_word", SHARE, "'...' (not overlapping) and '…' per word"),
    Signal("bullet_line_fraction", SHARE, f"lines that begin with one of {kernels.BULLETS} ÷ lines"),
    Signal("ellipsis_line_fraction", SHARE, "lines that end with '...' or '…' ÷ lines"),
    Signal("alpha_word_fraction", SHARE, "words with a letter ÷ words"),
    Signal("num_stop_words", COUNT, f"different words, in any case, of {', '.join(kernels.STOP_WORDS)}"),
    Signal("dup_line_fraction", SHARE, "lines that repeat an earlier one ÷ lines"),
    Signal("dup_line_char_fraction", SHARE, "characters of repeated lines ÷ num_chars"),
    Signal("dup_paragraph_fraction", SHARE, "paragraphs that repeat an earlier one ÷ paragraphs"),
    Signal("dup_paragraph_char_fraction", SHARE, "characters of repeated paragraphs ÷ num_chars"),
    *(
        Signal(f"top_{n}gram_char_fraction", SHARE, f"most common {n}-gram: occurrences × characters ÷ num_chars, at most 1")
        for n in _TOP_N
    ),
    *(
        Signal(f"dup_{n}gram_char_fraction", SHARE, f"characters within {n}-grams that occur twice or more ÷ num_chars")
        for n in _DUP_N
    ),
    Signal("line_punctuation_fraction", SHARE, f"lines that end with one of {kernels.LINE_ENDS} ÷ lines"),
    Signal("short_line_fraction", SHARE, f"lines shorter than {kernels.SHORT_LINE_CHARS} characters ÷ lines"),
    Signal("newline_per_word", SHARE, "newline characters per word"),
    Signal("c4_num_lines_kept", COUNT, "lines the C4 line rules keep (5 words, terminal punctuation)"),
    Signal("c4_num_sentences", COUNT, "sentences in those lines"),
    Signal("c4_paper_num_lines_kept", COUNT, "lines the C4 line rules keep (3 words, terminal punctuation)"),
    Signal("c4_paper_num_sentences", COUNT, "sentences in those lines"),
    Signal("c4_np_num_lines_kept", COUNT, "lines the C4 line rules keep (3 words, any ending: FineWeb)"),
    Signal("c4_np_num_sentences", COUNT, "sentences in those lines"),
    Signal("c4_np_line_punctuation_fraction", SHARE, "line_punctuation_fraction of those lines"),
    Signal("c4_np_short_line_fraction", SHARE, "short_line_fraction of those lines"),
    Signal("c4_np_dup_line_char_fraction", SHARE, "characters of repeated lines ÷ characters of those lines"),
    Signal("c4_np_newline_per_word", SHARE, "newlines between those lines per word in them"),
    Signal("has_lorem_ipsum", FLAG, "'lorem ipsum' occurs, in any case"),
    Signal("has_curly_bracket", FLAG, "'{' occurs"),
    Signal("num_javascript_lines", COUNT, "lines that mention 'javascript', in any case"),
    Signal("num_policy_lines", COUNT, f"lines that mention one of: {', '.join(kernels.PHRASES[2:])}"),
    Signal("upper_case_fraction", SHARE, "upper-case letters (Unicode Lu) ÷ num_chars"),
    Signal("digit_fraction", SHARE, "decimal digits (Unicode Nd) ÷ num_chars"),
    Signal("punctuation_fraction", SHARE, "punctuation marks (Unicode P*) ÷ num_chars"),
    Signal("non_ascii_fraction", SHARE, "characters above U+007F ÷ num_chars"),
    Signal("num_lines_200_chars", COUNT, f"lines of at least {kernels.LONG_LINE_CHARS} characters"),
    Signal("list_line_fraction", SHARE, "lines that begin with a bullet or whose first word is 1 to 3 digits and . or ) ÷ lines"),
    Signal("type_token_ratio", SHARE, "different words, as they are written ÷ words"),
)
_DOLMA = (
    Signal("median_word_length", SHARE, "characters of the word in the middle by length, or the mean of the two there"),
    Signal("stop_word_occurrences", COUNT, f"occurrences, in lower case only, of {', '.join(kernels.STOP_WORDS)}"),
    Signal("symbol_word_fraction", SHARE, "words that hold '#' or '…' ÷ words"),
    Signal("dolma_bullet_line_fraction", SHARE, f"dolma's lines that begin with one of {kernels.DOLMA_BULLETS} ÷ dolma's lines"),
    Signal("dolma_ellipsis_line_fraction", SHARE, "dolma's lines that end with '…' ÷ dolma's lines"),
    Signal("dolma_dup_line_fraction", SHARE, "dolma's lines that occur twice or more ÷ dolma's lines"),
    Signal("dolma_dup_line_char_fraction", SHARE, "characters of dolma's lines that occur twice or more ÷ characters of words"),
    Signal("dolma_v2_bullet_line_fraction", SHARE, "dolma_bullet_line_fraction, a run of newlines being one"),
    Signal("dolma_v2_ellipsis_line_fraction", SHARE, "dolma_ellipsis_line_fraction, a run of newlines being one"),
    Signal("dolma_v2_dup_line_fraction", SHARE, "dolma_dup_line_fraction, a run of newlines being one"),
    *(
        Signal(
            f"dolma_top_{n}gram_char_fraction", SHARE, f"first of the most common {n}-grams: occurrences × characters ÷ of words"
        )
        for n in _TOP_N
    ),
    *(
        Signal(f"dolma_dup_{n}gram_char_fraction", SHARE, f"characters of {n}-grams that occur twice or more ÷ of all {n}-grams")
        for n in _DUP_N
    ),
)
_CHARACTERS = (
    Signal("byte_entropy", SHARE, "entropy of the UTF-8 bytes, each taken for itself, in bits per byte"),
    Signal("code_likelihood", SHARE, "lines that look like code ÷ lines"),
    *(
        Signal(
            f"{script}_letter_fraction",
            SHARE,
            f"letters whose Unicode name begins with {' or '.join(map(str.strip, names))} ÷ letters",
        )
        for script, names in kernels.SCRIPTS.items()
    ),
    Signal("other_letter_fraction", SHARE, "letters (Unicode L*) of none of these scripts ÷ letters"),
)

Group = Literal[
    "dolma",
    "characters",
    "words",
    "stop_words",
    "boilerplate",
    "terms",
    "bad_words",
    "compression",
    "paragraph_languages",
    "datatrove",
]
GROUPS: dict[Group, SignalGroup] = {
    "dolma": SignalGroup(_DOLMA, "350 to 650 MB/s"),
    "characters": SignalGroup(_CHARACTERS, "200 to 450 MB/s"),
    "words": SignalGroup(words.SIGNALS, "180 MB/s", words.measure, files=(words.TABLE,)),
    "stop_words": SignalGroup(stop_words.SIGNALS, "130 to 175 MB/s", stop_words.measure, files=(words.TABLE, stop_words.FILE)),
    "boilerplate": SignalGroup(
        boilerplate.SIGNALS, "130 to 175 MB/s", boilerplate.measure, files=(words.TABLE, boilerplate.FILE)
    ),
    "terms": SignalGroup(terms.SIGNALS, "180 MB/s of English", terms.measure, needs_language=True, files=terms.FILES),
    "bad_words": SignalGroup(bad_words.SIGNALS, bad_words.RATE, bad_words.measure, needs_language=True, files=bad_words.FILES),
    "compression": SignalGroup(compression.SIGNALS, "85 to 100 MB/s", compression.measure, by_default=False),
    "paragraph_languages": SignalGroup(PARAGRAPH_SIGNALS, "10 MB/s of pages", by_default=False),
    "datatrove": SignalGroup(datatrove.SIGNALS, "14 MB/s", datatrove.measure, by_default=False, files=datatrove.FILES),
}
"""What `measure` can leave out; the others (Gopher, C4, mC4, FineWeb) are always measured, at 70 to 94 MB/s."""
DEFAULT_GROUPS = tuple(name for name, group in GROUPS.items() if group.by_default)

SIGNALS = (*_ALWAYS, *(signal for group in GROUPS.values() for signal in group.signals))
SIGNAL_NAMES = tuple(signal.name for signal in SIGNALS)
SIGNAL_SCHEMA = pa.schema([pa.field(signal.name, signal.kind) for signal in SIGNALS])

QUALITY_SCORE, QUALITY_PERCENTILE, TOXICITY_SCORE = "quality_score", "quality_percentile", "toxicity_score"
SCORES = (
    Signal(QUALITY_SCORE, SHARE, "calibrated probability of the quality classifier's positive class"),
    Signal(QUALITY_PERCENTILE, SHARE, "share of the corpus' documents with a lower quality_score"),
    Signal(TOXICITY_SCORE, SHARE, "calibrated probability of the toxicity classifier's toxic classes"),
)
"""What the step `score` adds, where classifiers are configured; `measure` knows nothing of it."""
SCORE_NAMES = tuple(signal.name for signal in SCORES)


def schema_of(groups: Collection[Group] = DEFAULT_GROUPS) -> pa.Schema:
    """SIGNAL_SCHEMA without the columns of the groups that are not among `groups`."""
    left_out = {name for group, columns in GROUPS.items() if group not in groups for name in columns.names()}
    return pa.schema([field for field in SIGNAL_SCHEMA if field.name not in left_out])


def measure(
    text: pa.Array | pa.ChunkedArray,
    groups: Collection[Group] | None = None,
    language: pa.Array | pa.ChunkedArray | None = None,
    configured: Mapping[Group, Measure] | None = None,
) -> pa.Table:
    """The signals of every text: a table of `schema_of(groups)`, in the order of `text`; a null text measures as "".

    Args:
        text: string or large_string.
        groups: what is measured besides what always is, each in its own time: see `SignalGroup.rate`. None: DEFAULT_GROUPS, without those
            that need the languages where none are given.
        language: of every text, ISO 639 or "unknown"; needed by the groups that say so.
        configured: what measures a group instead of its own function, as with lists of the user's own.

    Raises ValueError for an array of another type, or for a group that needs languages or model and has none.
    """
    if groups is None:
        groups = [name for name in DEFAULT_GROUPS if language is not None or not GROUPS[name].needs_language]
    if language is None and (lacking := [name for name in groups if GROUPS[name].needs_language]):
        raise ValueError(f"signals of the groups {', '.join(lacking)} need the language of every text")
    measures = {name: (configured or {}).get(name, GROUPS[name].measure) for name in groups}
    schema = schema_of(groups)
    if "paragraph_languages" in groups and measures["paragraph_languages"] is None:
        raise ValueError("the group paragraph_languages needs a language model: configured={'paragraph_languages': …}")
    tables, start = [schema.empty_table()], 0
    if isinstance(language, pa.ChunkedArray):
        language = language.combine_chunks()
    for chunk in text.chunks if isinstance(text, pa.ChunkedArray) else [text]:
        own = None if language is None else language.slice(start, len(chunk))
        tables.append(_measure_chunk(readable(chunk), measures, own, schema))
        start += len(chunk)
    return pa.concat_tables(tables).combine_chunks()


def readable(text: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """`text` itself if it is valid UTF-8, which Arrow does not promise of what others wrote; else with U+FFFD for what is not.

    Lone surrogates, overlong and cut sequences are not valid; each is replaced as Python's decoder does. Raises ValueError for another
    type.
    """
    if isinstance(text, pa.ChunkedArray):
        return pa.chunked_array([readable(chunk) for chunk in text.chunks], text.type)
    if not (pa.types.is_string(text.type) or pa.types.is_large_string(text.type)):
        raise ValueError(f"text must be a string or large_string array (got {text.type})")
    try:
        text.validate(full=True)  # 9 GB/s of English
    except pa.ArrowInvalid:
        raw = text.cast(pa.large_binary()).to_pylist()
        return pa.array([None if one is None else one.decode("utf-8", "replace") for one in raw], text.type)
    return text


def _measure_chunk(
    text: pa.Array, groups: Mapping[Group, Measure | None], language: pa.Array | None, schema: pa.Schema
) -> pa.Table:
    data, offsets = string_buffers(text)
    counts = np.zeros((len(text), len(kernels.COUNTS)), np.int64)
    kernels.count_documents(data, offsets, kernels.character_classes(), counts, "dolma" in groups)
    count = dict(zip(kernels.COUNTS, counts.T, strict=True))
    columns: dict[str, Any] = {**_signals_of(count)}
    if "dolma" in groups:
        columns |= _dolma_signals_of(count)
    if "characters" in groups:
        letters, entropies = np.zeros((len(text), len(kernels.CHARACTER_COUNTS)), np.int64), np.zeros(len(text))
        kernels.count_characters(data, offsets, kernels.character_classes(), letters, entropies)
        columns |= _character_signals_of(dict(zip(kernels.CHARACTER_COUNTS, letters.T, strict=True)), count["lines"])
        columns["byte_entropy"] = entropies.astype(np.float32)
    for group_measure in groups.values():
        if group_measure is not None:
            columns |= group_measure(pc.fill_null(text, ""), language)
    return pa.table([pa.array(columns[field.name]).cast(field.type) for field in schema], schema)


def _signals_of(count: dict[str, npt.NDArray[np.int64]]) -> dict[str, npt.NDArray[np.generic]]:
    chars, words, lines, np_lines = count["chars"], count["words"], count["lines"], count["c4_np_lines"]
    return {
        "num_chars": chars,
        "num_words": words,
        "num_lines": lines,
        "num_sentences": count["sentences"],
        "mean_word_length": ratio(count["word_chars"], words),
        "hash_per_word": ratio(count["hashes"], words),
        "ellipsis_per_word": ratio(count["ellipses"], words),
        "bullet_line_fraction": ratio(count["bullet_lines"], lines),
        "ellipsis_line_fraction": ratio(count["ellipsis_lines"], lines),
        "alpha_word_fraction": ratio(count["alpha_words"], words),
        "num_stop_words": np.bitwise_count(count["stop_words"]).astype(np.int64),
        "dup_line_fraction": ratio(count["repeat_lines"], lines),
        "dup_line_char_fraction": ratio(count["repeat_line_chars"], chars),
        "dup_paragraph_fraction": ratio(count["repeat_paragraphs"], count["paragraphs"]),
        "dup_paragraph_char_fraction": ratio(count["repeat_paragraph_chars"], chars),
        # occurrences of one n-gram may overlap ("a a a a"), so the product can pass the text
        **{f"top_{n}gram_char_fraction": np.minimum(ratio(count[f"{n}gram_chars"], chars), 1) for n in _TOP_N},
        **{f"dup_{n}gram_char_fraction": ratio(count[f"{n}gram_chars"], chars) for n in _DUP_N},
        "line_punctuation_fraction": ratio(count["end_mark_lines"], lines),
        "short_line_fraction": ratio(count["short_lines"], lines),
        "newline_per_word": ratio(count["newlines"], words),
        **{f"{view}_num_lines_kept": count[f"{view}_lines"] for view in kernels.VIEWS},
        **{f"{view}_num_sentences": count[f"{view}_sentences"] for view in kernels.VIEWS},
        "c4_np_line_punctuation_fraction": ratio(count["np_end_mark_lines"], np_lines),
        "c4_np_short_line_fraction": ratio(count["np_short_lines"], np_lines),
        "c4_np_dup_line_char_fraction": ratio(count["np_repeat_line_chars"], count["np_chars"]),
        "c4_np_newline_per_word": ratio(np.maximum(np_lines - 1, 0), count["np_words"]),
        "has_lorem_ipsum": count["lorem_ipsum"] > 0,
        "has_curly_bracket": count["curly_bracket"] > 0,
        "num_javascript_lines": count["javascript_lines"],
        "num_policy_lines": count["policy_lines"],
        "upper_case_fraction": ratio(count["upper"], chars),
        "digit_fraction": ratio(count["digits"], chars),
        "punctuation_fraction": ratio(count["punctuation"], chars),
        "non_ascii_fraction": ratio(count["non_ascii"], chars),
        "num_lines_200_chars": count["long_lines"],
        "list_line_fraction": ratio(count["list_lines"], lines),
        "type_token_ratio": ratio(count["distinct_words"], words),
    }


def _dolma_signals_of(count: dict[str, npt.NDArray[np.int64]]) -> dict[str, npt.NDArray[np.generic]]:
    words, word_chars, edges = count["words"], count["word_chars"], count["edge_blanks"]
    lines = np.where(count["chars"] > 0, count["newlines"] + 1, 0)  # dolma measures nothing of an empty text
    blanks = lines - count["raw_lines"]
    lines_v2 = count["raw_lines"] + edges
    # empty lines are equal, and without characters
    copies = count["raw_copies"] + np.where(blanks > 1, blanks, 0)
    copies_v2 = count["raw_copies"] + np.where(edges > 1, edges, 0)
    return {
        "median_word_length": (count["double_median"] / 2).astype(np.float32),
        "stop_word_occurrences": count["stop_occurrences"],
        "symbol_word_fraction": ratio(count["symbol_words"], words),
        "dolma_bullet_line_fraction": ratio(count["raw_bullet_lines"], lines),
        "dolma_ellipsis_line_fraction": ratio(count["raw_ellipsis_lines"], lines),
        "dolma_dup_line_fraction": ratio(copies, lines),
        "dolma_dup_line_char_fraction": _dolma_share(count["raw_copy_chars"], word_chars),
        "dolma_v2_bullet_line_fraction": ratio(count["raw_bullet_lines"], lines_v2),
        "dolma_v2_ellipsis_line_fraction": ratio(count["raw_ellipsis_lines"], lines_v2),
        "dolma_v2_dup_line_fraction": ratio(copies_v2, lines_v2),
        **{f"dolma_top_{n}gram_char_fraction": ratio(count[f"dolma_top_{n}gram_chars"], word_chars) for n in _TOP_N},
        **{
            f"dolma_dup_{n}gram_char_fraction": ratio(count[f"dolma_dup_{n}gram_chars"], count[f"dolma_all_{n}gram_chars"])
            for n in _DUP_N
        },
    }


def _dolma_share(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """part ÷ whole, as dolma divides: by 1 where whole is 0, so that lines of nothing but white space count."""
    return ratio(part, np.maximum(whole, 1))


def _character_signals_of(
    count: dict[str, npt.NDArray[np.int64]], lines: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.generic]]:
    by_script = {name: number for name, number in count.items() if name != "code_lines"}
    letters = np.array(list(by_script.values())).sum(axis=0)
    return {
        "code_likelihood": ratio(count["code_lines"], lines),
        **{f"{script}_letter_fraction": ratio(number, letters) for script, number in by_script.items()},
    }
