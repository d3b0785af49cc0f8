"""Rows and task files of a user for lm-eval: read, checked, brought into one form. Knows the form of a task, and not lm-eval itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from infra import storage
from infra.dataset import bytes_digest
from infra.errors import InputError
from tasks.learn.benchmark_config import ROWS, BenchmarkConfig, TaskConfig

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


class _TaskLoader(yaml.SafeLoader):
    """lm-eval's YAML with its functions as strings."""


def _function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return f"!function {loader.construct_scalar(node)}"


_TaskLoader.add_constructor("!function", _function)


def read_task_file(path: str, within: tuple[str, ...] = ()) -> tuple[dict[str, Any], list[str]]:
    """An lm-eval task file with what it includes, and all files that it is made of: YAML, the Python files of its functions.

    Raises:
        RowsError: it, or one that it includes, is missing or no YAML mapping, or includes itself.
    """
    if path in within:
        raise RowsError(f"{path}: includes itself, by way of {', '.join(within)}")
    config: dict[str, Any] = {}
    files: list[str] = []
    try:
        own = yaml.load(Path(path).read_text(encoding="utf-8"), _TaskLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RowsError(f"{path}: cannot be read as a task file of lm-eval: {error}") from error
    if not isinstance(own, dict):
        raise RowsError(f"{path}: must hold keys and values, as lm-eval's task files do")
    included = own.pop("include", [])
    for name in [included] if isinstance(included, str) else included:
        more, others = read_task_file(str(Path(path).parent / name), (*within, path))
        config |= more
        files += others
    for word in str(own).split("!function ")[1:]:
        module = Path(path).parent / f"{word.split('.')[0]}.py"
        files += [str(module)] if module.is_file() else []
    return config | own, [*dict.fromkeys([*files, path])]


def data_files(task: TaskConfig) -> dict[str, list[str]]:
    """{split: files} of a user's task file, whose paths are meant from its own folder.

    Raises:
        RowsError: its data is not local.
    """
    config, _ = read_task_file(str(task.path))
    given = (config.get("dataset_kwargs") or {}).get("data_files")
    if config.get("dataset_path") not in ("json", "parquet") or not given:
        raise _error(
            task,
            "wants dataset_path json or parquet and dataset_kwargs.data_files with local paths (got dataset_path "
            f"{config.get('dataset_path')!r})",
        )
    splits = given if isinstance(given, dict) else {"test": given}
    folder = Path(str(task.path)).parent
    return {
        split: [str(folder / name) for name in ([names] if isinstance(names, str) else names)] for split, names in splits.items()
    }


def files_read(config: BenchmarkConfig) -> dict[str, str]:
    """{path: digest} of the local files that decide a benchmark's scores: they are part of the recipe.

    Raises:
        RowsError: a task file is not one.
        StorageError: one of them is not there.
    """
    paths: list[str] = [config.reasoning.path] if config.reasoning and config.reasoning.path else []
    for task in config.tasks:
        paths += task.paths()
        if task.path and not task.kind:
            paths += [*read_task_file(task.path)[1], *(name for names in data_files(task).values() for name in names)]
    return {path: bytes_digest(storage.read_bytes(path)) for path in dict.fromkeys(paths)}


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
