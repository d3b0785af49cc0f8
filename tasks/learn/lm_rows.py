"""A user's rows as a task for lm-eval: read, checked, brought into one form. Knows the form of such a task, and not lm-eval itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import InputError
from tasks.learn.benchmark_config import ROWS, TaskConfig

_KEYS = {"choice": ("context", "choices", "answer"), "generate": ("prompt", "target"), "perplexity": ("text",)}
_OTHER_NAMES = {"context": "question", "prompt": "question", "target": "answer"}
_MEAN = {"aggregation": "mean", "higher_is_better": True}
_METRICS: dict[str, list[dict[str, Any]]] = {
    "choice": [{"metric": name, **_MEAN} for name in ("acc", "acc_norm", "acc_bytes")],
    "generate": [{"metric": "exact_match", **_MEAN}],
    "perplexity": [
        {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
        {"metric": "byte_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
        {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
    ],
}


class RowsError(InputError):
    """Rows that cannot be asked."""


def read_rows(path: str) -> list[dict[str, Any]]:
    """Rows of a JSONL, JSON or Parquet file.

    Raises:
        RowsError: it is missing, or holds no rows.
    """
    try:
        if path.endswith(".parquet"):
            found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
            return found
        text = Path(path).read_text(encoding="utf-8")
        # not splitlines: JSON may hold other line ends of Unicode in its strings
        rows = json.loads(text) if path.endswith(".json") else [json.loads(line) for line in text.split("\n") if line.strip()]
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise RowsError(f"{path}: cannot be read as rows ({', '.join(ROWS)}): {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RowsError(f"{path}: must hold one JSON object for each row")
    return rows


def as_lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def task_of_rows(task: TaskConfig) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What lm-eval is to do with a user's rows, and the rows in the one form of their kind.

    Raises:
        RowsError: a row lacks what its kind needs; the message names file, row and key.
    """
    kind = str(task.kind)
    rows = [_row(task, kind, number, row) for number, row in enumerate(read_rows(str(task.path)), 1)]
    if not rows:
        raise _error(task, "there is no row in it")
    asked: dict[str, dict[str, Any]] = {
        "choice": {
            "output_type": "multiple_choice",
            "doc_to_text": "context",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "target_delimiter": "",
        },
        "generate": {
            "output_type": "generate_until",
            "doc_to_text": "prompt",
            "doc_to_target": "target",
            "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": task.max_new_tokens},
        },
        "perplexity": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "text"},
    }
    return {"task": task.name, "test_split": "test", **asked[kind], "metric_list": _METRICS[kind]}, rows


def _row(task: TaskConfig, kind: str, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in _KEYS[kind]:
        value = row.get(key, row.get(_OTHER_NAMES.get(key, key)))
        if value is None or (key == "text" and not value):
            or_else = f" or {_OTHER_NAMES[key]!r}" if key in _OTHER_NAMES else ""
            raise _error(
                task, f"row {number} has no {key!r}{or_else}, which kind {kind} needs (it has: {', '.join(map(str, row))})"
            )
        found[key] = value if kind == "choice" and key != "context" else str(value)
    return _choice(task, number, found) if kind == "choice" else found


def _choice(task: TaskConfig, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """The answer as a number, and a space between a context and what is chosen after it."""
    context, choices, answer = row["context"], row["choices"], row["answer"]
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(one, str) and one for one in choices):
        raise _error(task, f"row {number}: choices must be two texts or more (got {choices!r})")
    place = choices.index(answer) if answer in choices else answer
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(choices):
        raise _error(
            task, f"row {number}: answer must be one of its choices, or its number from 0 to {len(choices) - 1} (got {answer!r})"
        )
    apart = not context or context[-1].isspace()
    return {"context": context, "choices": [one if apart or one[0].isspace() else f" {one}" for one in choices], "answer": place}


def _error(task: TaskConfig, what: str) -> RowsError:
    return RowsError(f"benchmark.tasks {task.name}: {task.path}: {what}")
