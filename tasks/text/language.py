"""Language of a text by fastText's lid.176 (Joulin et al. 2016): 176 languages as ISO 639 codes, "unknown" when unsure.

Only the first MAX_CHARS characters are read, as one line with white space folded. On 299 real pages in ten languages 500 characters and
1,000 agree with the whole text in 295 cases each, and the cost is in proportion (0.11 to 0.13 ms per 1,000 characters on one core, four
fifths of it inside fastText). The same text gives the same answer in any batch, process or order. What was measured: docs/languages.md.
The compressed model (0.9 MB, CC BY-SA 3.0) is loaded once per process and path.

`paragraph_languages` asks of every paragraph by itself, to find pages in more than one language. Paragraphs of fewer than
MIN_PARAGRAPH_CHARS characters are not asked, and answers below MIN_PARAGRAPH_SCORE do not count. Of 3,440 pieces of 100 characters in 24
languages 97 % then had an answer, of which 2 were wrong; of pieces of 50 characters 91 %, and 1 in 180 of these wrong.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.text.groups import COUNT, SHARE, Columns, Signal

UNKNOWN = "unknown"
MAX_CHARS = 1_000
MIN_PARAGRAPH_CHARS = 100
MIN_PARAGRAPH_SCORE = 0.65
"""What FineWeb and RefinedWeb ask of a document."""
PARAGRAPH_SIGNALS = (
    Signal(
        "num_paragraph_languages",
        COUNT,
        f"different languages of its sure paragraphs: of {MIN_PARAGRAPH_CHARS} characters or more, with a score of at least "
        f"{MIN_PARAGRAPH_SCORE}",
    ),
    Signal(
        "main_language_fraction",
        SHARE,
        "characters of the most common of these languages ÷ of all sure paragraphs; null without any",
    ),
    Signal("paragraph_language", pa.string(), f"that language, the first by alphabet among equals; {UNKNOWN} without any"),
)
_LABEL_PREFIX = "__label__"


@lru_cache(maxsize=2)
def _model(path: str) -> Any:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no language model at {path}: `make setup` puts lid.176.ftz there")
    return fasttext.load_model(path)


def identify(text: pa.Array | pa.ChunkedArray, model_path: str | Path, *, min_score: float = 0.0) -> tuple[pa.Array, pa.Array]:
    """(language, score) of every text: string and float32 in [0, 1], without nulls, in the order of `text`.

    The language is "unknown" where the text is null, white or without a letter (the model calls these English, at 0.125), or where the
    score is below `min_score`; the score stays what the model gave (0 for no text). Raises FileNotFoundError when there is no model at
    `model_path`.
    """
    model = _model(str(model_path))
    heads = _one_line(text)
    lines = heads.to_pylist()  # fastText takes str objects, no buffers
    labels, scores = model.predict(lines) if lines else ([], [])
    best = np.array([score[0] if len(score) else 0.0 for score in scores], np.float32)
    names = [label[0].removeprefix(_LABEL_PREFIX) if label else UNKNOWN for label in labels]
    said_nothing = np.array([not line for line in lines], bool)
    score = np.where(said_nothing, np.float32(0), np.clip(best, 0, 1)).astype(np.float32)
    no_letter = ~pc.match_substring_regex(heads, r"\p{L}").to_numpy(zero_copy_only=False)
    unsure = no_letter | (score < np.float32(min_score))
    language = pc.if_else(pa.array(unsure), UNKNOWN, pa.array(names, pa.string()))
    return language, pa.array(score, pa.float32())


def _one_line(text: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The first MAX_CHARS characters on one line; fastText would stop at a newline."""
    head = pc.utf8_slice_codeunits(pc.fill_null(text, ""), 0, MAX_CHARS)
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(head, r"\s+", " "))


def paragraph_languages(text: pa.Array, _language: pa.Array | None = None, *, model_path: str | Path) -> Columns:
    """The columns of PARAGRAPH_SIGNALS of every text, which are not null; raises FileNotFoundError as `identify` does.

    The language of the whole text, which every group is told, is not looked at.
    A paragraph stands between runs of two or more newlines; the white space around it does not count.
    """
    paragraphs = pc.split_pattern_regex(text, r"\n{2,}")
    table = pa.table(
        {"document": pc.list_parent_indices(paragraphs), "text": pc.utf8_trim_whitespace(pc.list_flatten(paragraphs))}
    )
    table = table.append_column("chars", pc.utf8_length(table["text"]))
    table = table.filter(pc.greater_equal(table["chars"], MIN_PARAGRAPH_CHARS))
    language, _ = identify(table["text"], model_path, min_score=MIN_PARAGRAPH_SCORE)
    sure = table.append_column("language", language).filter(pc.not_equal(language, UNKNOWN))
    shares = sure.group_by(["document", "language"], use_threads=False).aggregate([("chars", "sum")])
    shares = shares.sort_by([("document", "ascending"), ("chars_sum", "descending"), ("language", "ascending")])
    found, first, number = np.unique(shares["document"].to_numpy(), return_index=True, return_counts=True)
    chars = shares["chars_sum"].to_numpy().astype(np.int64)
    numbers, fractions, names = np.zeros(len(text), np.int32), np.full(len(text), np.nan), np.full(len(text), UNKNOWN, object)
    numbers[found] = number
    if len(found):
        fractions[found] = chars[first] / np.add.reduceat(chars, first)
        names[found] = shares["language"].to_numpy()[first]
    return {
        "num_paragraph_languages": numbers,
        "main_language_fraction": pa.array(fractions, pa.float64(), mask=numbers == 0),
        "paragraph_language": pa.array(names, pa.string()),
    }
