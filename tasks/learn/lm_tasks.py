"""lm-evaluation-harness on a model of ours: rows of a user's, task files, and its own tasks, with the data from local files.

The one door of lm-eval. A task becomes a small YAML file that includes what it overrides, with a local `json` or `parquet` data set in
place of the hub's and its cache in the work folder. Every context begins with the end-of-text token that opens documents in training,
which is lm-eval's `add_bos_token=True`. One batch size, no bootstrap, fixed seeds: equal inputs give equal scores. Costs 1 s of imports
and one forward pass over the questions; a task from the hub besides the 7 s in which lm-eval reads all its task files.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import lm_eval
import numpy as np
import torch
import yaml
from jinja2 import UndefinedError
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers.processors import TemplateProcessing

from infra.errors import InputError
from tasks.learn import figures, text_metrics
from tasks.learn.benchmark_config import TaskConfig
from tasks.learn.figures import Better, Figure, Form, Measured
from tasks.learn.lm_rows import as_lines, data_files, read_task_file, task_of_rows
from tasks.learn.scorer import Scorer

SEEDS = {"random": 0, "others": 1234}
"""lm-eval's own (its defaults.py)."""
MAX_NEW_TOKENS = 256
"""Longest answer where a task says nothing: lm-eval's own."""
ROLLING = ("word_perplexity", "byte_perplexity", "bits_per_byte")
"""Metrics of whole texts, given as (log-likelihood, words or bytes)."""
RATES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")
"""Metrics that are 0 or 1 for each row."""


class TaskError(InputError):
    """A task that cannot be run as it is configured."""


def run(scorer: Scorer, tasks: Sequence[TaskConfig], work: Path) -> Measured:
    """Run tasks on a causal model; `work` is a local folder for their files and caches.

    Raises:
        TaskError: there is no such task, its rows are not what its kind needs, or its data is neither local nor to be had from the hub.
    """
    work.mkdir(parents=True, exist_ok=True)
    asked = Measured()
    for task in tasks:
        with _quiet(), _seeded():
            _add(asked, task, _evaluate(scorer, task, work))
    return asked


def _evaluate(scorer: Scorer, task: TaskConfig, work: Path) -> dict[str, Any]:
    """lm-eval's results of one task."""
    loaded = _load(task, work)
    for one in loaded["tasks"].values():
        shots = task.num_fewshot if task.num_fewshot is not None else one.get_config("num_fewshot")
        one.set_config(key="num_fewshot", value=shots or 0)
        one.set_fewshot_seed(seed=SEEDS["others"])
        if one.OUTPUT_TYPE == "generate_until":
            wanted = (one.get_config("generation_kwargs") or {}).get("max_gen_toks", MAX_NEW_TOKENS)
            # a short context keeps half of it for the question; lm-eval would refuse
            room = {"max_gen_toks": min(int(wanted), scorer.context_length // 2)}
            one.set_config(key="generation_kwargs", value=room, update=True)
    rolling = any(one.OUTPUT_TYPE == "loglikelihood_rolling" for one in loaded["tasks"].values())
    lm = _model(scorer, opened=not rolling)
    try:
        found: dict[str, Any] = lm_eval.evaluate(lm=lm, task_dict=loaded, limit=task.limit, bootstrap_iters=0, log_samples=True)
    except (
        KeyError,
        ValueError,
        UndefinedError,
    ) as error:  # a column that the rows do not have, or a task that runs what models write
        raise _unreadable(task, error) from error
    return found


def _model(scorer: Scorer, *, opened: bool) -> HFLM:
    """Our model as lm-eval's; `opened`: contexts get the opening token (whole texts get it from lm-eval itself)."""
    words = copy.deepcopy(scorer.words)
    if opened:
        token = words.convert_ids_to_tokens(scorer.opening)
        words.backend_tokenizer.post_processor = TemplateProcessing(
            single=[token, "$A"], special_tokens=[(token, scorer.opening)]
        )
    return HFLM(
        pretrained=scorer.model,
        tokenizer=words,
        batch_size=max(1, scorer.batch_tokens // scorer.context_length),
        max_length=scorer.context_length,
        add_bos_token=opened,
        prefix_token_id=scorer.opening,
        mixed_precision_dtype="bfloat16" if scorer.precision == "bf16" else None,
    )


def _load(task: TaskConfig, work: Path) -> Any:
    """The task's objects, with their data read."""
    local = bool(task.path or task.files)
    try:
        if local:
            return TaskManager(include_defaults=False).load([_task_file(task, work)])
        return TaskManager().load([task.name])
    except KeyError as error:
        raise _unknown(task) if not local else _unreadable(task, error) from error
    except (OSError, ValueError, httpx.HTTPError) as error:
        if isinstance(error, InputError):
            raise
        if local:
            raise _unreadable(task, error) from error
        files = ", ".join(f"{split}: PATH" for split in _splits(task.name))
        raise TaskError(
            f"benchmark.tasks {task.name}: its data could not be had from the hub ({_first_line(error)}); let this machine reach it, or "
            f"give local files with the same columns: files: {{{files}}}"
        ) from error


def _unknown(task: TaskConfig) -> TaskError:
    own = " with data of its own" if task.files else ""
    return TaskError(
        f"benchmark.tasks {task.name}: lm-eval has no task of that name{own}; give a `path`, or one of the names that `lm-eval ls tasks` "
        "lists"
    )


def _unreadable(task: TaskConfig, error: Exception) -> TaskError:
    files = ", ".join(task.paths()) or "its rows"
    return TaskError(
        f"benchmark.tasks {task.name}: lm-eval cannot read {files}: {_first_line(error)}; mend the file, its splits or its columns"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _task_file(task: TaskConfig, work: Path) -> str:
    """The task as a YAML file in the work folder, its data local."""
    if task.kind:
        return _write(work, task.name, _of_rows(task, work))
    if task.path:
        return _write(work, task.name, {"include": task.path, "task": task.name, **_data(data_files(task), work)})
    found = _own_file(task.name)
    if found is None:
        raise _unknown(task)
    return _write(work, task.name, {"include": found, "task": task.name, **_data(task.files, work)})


def _own_file(name: str) -> str | None:
    """The file of lm-eval's that defines a single task; a look into all is 30 times faster than to have lm-eval read them."""
    defines = re.compile(rf"""^["']?task["']?:\s*["']?{re.escape(name)}["']?\s*$""".encode(), re.MULTILINE)
    folder = Path(lm_eval.__file__).parent / "tasks"
    return next((str(path) for path in sorted(folder.rglob("*.yaml")) if defines.search(path.read_bytes())), None)


def _splits(name: str) -> list[str]:
    """The splits that a task of lm-eval's own reads."""
    config = read_task_file(path)[0] if (path := _own_file(name)) else {}
    return [str(config[key]) for key in ("test_split", "validation_split", "fewshot_split") if config.get(key)][:2] or ["test"]


def _write(work: Path, name: str, config: Mapping[str, Any]) -> str:
    path = work / f"{name}.yaml"
    path.write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")
    return str(path)


def _data(files: Mapping[str, str] | Mapping[str, list[str]], work: Path) -> dict[str, Any]:
    """The keys of a task file that name its data."""
    first = next(iter(files.values()))
    kind = "parquet" if Path(first if isinstance(first, str) else first[0]).suffix == ".parquet" else "json"
    kwargs = {"data_files": dict(files), "cache_dir": str(work / "cache")}
    return {"dataset_path": kind, "dataset_name": None, "dataset_kwargs": kwargs}


def _of_rows(task: TaskConfig, work: Path) -> dict[str, Any]:
    """A task of a user's rows, which are written in one form."""
    config, rows = task_of_rows(task)
    path = work / f"{task.name}.jsonl"
    path.write_bytes(as_lines(rows))
    return {**config, **_data({"test": str(path)}, work)}


def _add(asked: Measured, task: TaskConfig, found: Mapping[str, Any]) -> None:
    """Figures and items of a task from what lm-eval logged of each row; those of a group's tasks are pooled, each row counting once."""
    rows = [(leaf, row) for leaf, many in found["samples"].items() for row in many]
    if task.kind == "generate":
        names = [_item(row) for _, row in rows]
        said = [str(row["filtered_resps"][0]).strip() for _, row in rows]
        made, kept = text_metrics.score_texts(f"tasks.{task.name}", names, said, [str(row["target"]).strip() for _, row in rows])
        asked.add(Measured(made, kept))
    else:
        for metric, rule in sorted({(metric, row["filter"]) for _, row in rows for metric in row["metrics"]}):
            name = f"tasks.{task.name}.{metric}" + ("" if rule == "none" else f".{rule}")
            _add_metric(
                asked, name, metric, [(leaf, row) for leaf, row in rows if row["filter"] == rule and metric in row], found
            )
    if task.kind == "choice":
        _add_macro_f1(asked, task, [row for _, row in rows])
    asked.settings[task.name] = {
        "num_rows": sum(size["effective"] for size in found["n-samples"].values()),
        "num_fewshot": max(found["n-shot"].values(), default=0),
        "versions": {leaf: str(version) for leaf, version in found["versions"].items()},
    }


def _add_metric(
    asked: Measured, name: str, metric: str, rows: Sequence[tuple[str, Mapping[str, Any]]], found: Mapping[str, Any]
) -> None:
    values, leaves = [row[metric] for _, row in rows], [leaf for leaf, _ in rows]
    better: Better = "higher" if found["higher_is_better"].get(leaves[0], {}).get(metric, True) else "lower"
    told = {leaf: found["results"][leaf].get(f"{metric},{rows[0][1]['filter']}") for leaf in leaves}
    weights, unit = np.ones(len(rows)), ""
    form: Form
    if metric in ROLLING:
        amounts, weights = -np.array([value[0] for value in values], float), np.array([value[1] for value in values], float)
        form = "exp"
        if metric == "bits_per_byte":
            amounts, form, unit = amounts / math.log(2), "mean", "bits per byte"
    elif metric == "perplexity":
        amounts, form = -np.array(values, float), "exp"
    elif _is_mean(values, leaves, told):
        amounts, form = np.array(values, float), "rate" if metric in RATES else "mean"
    else:
        # a metric of all rows together (F1 of classes, Matthews' correlation, BLEU): lm-eval's number, which has no interval
        [value, *others] = told.values()
        alone = float(value) if not others and isinstance(value, int | float | np.number) else None
        asked.figures.append(Figure(name, alone, None, None, len(rows), better))
        return
    asked.figures.append(figures.figure(name, amounts, weights, form=form, better=better, unit=unit))
    asked.items.append(figures.items(name, [_item(row) for _, row in rows], amounts, weights, leaves))


def _is_mean(values: Sequence[Any], leaves: Sequence[str], told: Mapping[str, Any]) -> bool:
    """Whether lm-eval's number of each task is the mean of its rows."""
    if not all(isinstance(value, int | float | np.number) for value in [*values, *told.values()]):
        return False
    of_leaf = np.array(leaves)
    return all(bool(np.isclose(np.array(values, float)[of_leaf == leaf].mean(), value)) for leaf, value in told.items())


def _add_macro_f1(asked: Measured, task: TaskConfig, rows: Sequence[Mapping[str, Any]]) -> None:
    """Where all rows have the same choices, these are classes."""
    if len({tuple(row["doc"]["choices"]) for row in rows}) > 1:
        return
    truth = np.array([row["doc"]["answer"] for row in rows], np.int64)
    said = np.array([np.argmax([nats for nats, _ in row["filtered_resps"]]) for row in rows], np.int64)
    made, _ = text_metrics.score_classes(f"tasks.{task.name}", [_item(row) for row in rows], truth, said)
    asked.figures += [one for one in made if one.name.endswith(".macro_f1")]


def _item(row: Mapping[str, Any]) -> str:
    """A row's name: its place, and the hash of what is in it."""
    return f"{row['doc_id']}-{row['doc_hash'][:8]}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's bars, which no switch turns off, and its advice."""
    log = logging.getLogger("lm_eval")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(before)


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """lm-eval's seeds for the time of the block; some of its tasks shuffle answers by the global state."""
    states = random.getstate(), np.random.get_state()
    random.seed(SEEDS["random"])
    np.random.seed(SEEDS["others"])
    try:
        with torch.random.fork_rng():
            torch.manual_seed(SEEDS["others"])
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
