"""The C4 line rules: which lines of a text stay, and the text that is left of them. In a file of their own, because `bad_words.py` counts
in these lines and `signals.py` has its columns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from tasks.text import kernels
from tasks.text.buffers import string_buffers

LINE_RULES = kernels.LINE_VERDICTS[1:-1]
"""The rules that remove a line, in the order in which they are asked."""


class LineRules(BaseModel):
    """The C4 line rules that publications set differently; the others (javascript, policy, long word) are always on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_words_per_line: int = Field(default=5, ge=1)
    """A line with fewer words is removed. The public C4 code: 5; the C4 paper and FineWeb: 3."""
    require_terminal_punctuation: bool = True
    """Remove lines that do not end with . ? ! or a closing double quote, or that end with an ellipsis. FineWeb: off."""


def line_verdicts(text: pa.Array, rules: LineRules) -> pa.ListArray:
    """For each text the verdict on each of its lines (`text.split("\\n")`): "keep", "blank", or the rule that removes it.

    A line is judged without its citation marks and the white space around it. Raises ValueError as `measure` does.
    """
    verdicts, line_offsets, _, _, _ = _judge(text, rules)
    names = pa.array(kernels.LINE_VERDICTS).take(pa.array(verdicts))
    return pa.ListArray.from_arrays(pa.array(line_offsets, pa.int32()), names)


def rewrite_lines(text: pa.Array, rules: LineRules) -> tuple[pa.Array, dict[str, int]]:
    """The kept lines of every text, of the same type as `text`, and what was removed.

    The second value counts lines by rule, and under "citation_mark" the marks ([12], [], [edit], [citation needed]) taken
    out of kept lines. White space around a kept line goes; blank lines between two kept lines become one, so paragraphs
    stay apart. A text of which no line is kept becomes "". Raises ValueError as `measure` does.
    """
    _, _, out, out_offsets, tally = _judge(text, rules)
    offset_type = np.int32 if pa.types.is_string(text.type) else np.int64
    buffers = [None, pa.py_buffer(out_offsets.astype(offset_type)), pa.py_buffer(out[: out_offsets[-1]])]
    removed = {rule: int(tally[kernels.LINE_VERDICTS.index(rule)]) for rule in LINE_RULES}
    removed["citation_mark"] = int(tally[kernels.CITATION_MARKS])
    return pa.Array.from_buffers(text.type, len(text), buffers), removed


def _judge(
    text: pa.Array, rules: LineRules
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(verdict per line, line offsets, bytes of the kept lines, byte offsets, tally): see `kernels.judge_lines`."""
    data, offsets = string_buffers(text)
    num_bytes = int(offsets[-1] - offsets[0])
    num_lines = int(np.count_nonzero(data[offsets[0] : offsets[-1]] == ord("\n"))) + len(text)
    verdicts, out = np.zeros(num_lines, np.int8), np.zeros(num_bytes, np.uint8)
    line_offsets, out_offsets = np.zeros((2, len(text) + 1), np.int64)
    tally = np.zeros(kernels.CITATION_MARKS + 1, np.int64)
    kernels.judge_lines(
        *(data, offsets, kernels.character_classes(), rules.min_words_per_line, rules.require_terminal_punctuation),
        *(verdicts, line_offsets, out, out_offsets, tally),
    )
    return verdicts, line_offsets, out, out_offsets, tally
