"""lm-eval offline: rows of every kind, task files, its own tasks with local data, and what it says where there is none."""

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tasks.learn import lm_tasks
from tasks.learn.benchmark_config import BenchmarkConfig, TaskConfig
from tasks.learn.config import EvalConfig
from tasks.learn.figures import Measured
from tasks.learn.lm_rows import RowsError, files_read, read_rows
from tasks.learn.lm_tasks import TaskError
from tasks.learn.scorer import Scorer

from . import prose
from .conftest import WORDS

SHARED = Path(__file__).parents[3] / "shared" / "data" / "tasks"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory, tokeniser_folder: str) -> Scorer:
    """A fresh model, which has opinions of its own."""
    folder = tmp_path_factory.mktemp("model")
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "max_position_embeddings": 64}
    prose.llama(300, 0, 3, **shape).save_pretrained(folder)
    for file in Path(tokeniser_folder).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return Scorer(folder, EvalConfig(device="cpu", num_threads=1, batch_tokens=512))


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def values(asked: Measured) -> dict[str, float | None]:
    return {one.name: one.value for one in asked.figures}


def choice_rows(number: int = 24) -> list[dict[str, Any]]:
    chance = random.Random(5)
    rows = []
    for _ in range(number):
        choices = [" ".join(chance.choices(WORDS, k=chance.randrange(1, 4))) for _ in range(3)]
        rows.append({"question": " ".join(chance.choices(WORDS, k=6)), "choices": choices, "answer": chance.randrange(3)})
    return rows


def test_rows_of_choices_score_as_our_own_scorer_does(scorer: Scorer, tmp_path: Path) -> None:
    rows = choice_rows()
    rows[0]["answer"] = rows[0]["choices"][2]  # named by its text
    task = TaskConfig(name="mine", path=write(tmp_path / "rows.jsonl", rows), kind="choice")
    asked = lm_tasks.run(scorer, [task], tmp_path / "work")
    rows[0]["answer"] = 2
    flat = [(row["question"], f" {choice}") for row in rows for choice in row["choices"]]
    nats, _, _ = scorer.log_likelihoods([head for head, _ in flat], [tail for _, tail in flat])
    sizes = np.array([len(tail.encode()) for _, tail in flat])
    truth = np.array([row["answer"] for row in rows])
    got = values(asked)
    for name, scores in (("acc", nats), ("acc_bytes", nats / sizes)):
        hits = scores.reshape(-1, 3).argmax(1) == truth
        items = next(table for table in asked.items if table["metric"][0].as_py() == f"tasks.mine.{name}")
        assert items["amount"].to_pylist() == hits.astype(float).tolist()
        assert got[f"tasks.mine.{name}"] == pytest.approx(hits.mean())
    assert 0 < float(got["tasks.mine.acc"] or 0) < 1
    assert "tasks.mine.macro_f1" not in got  # choices differ from row to row: no classes


def test_rows_with_equal_choices_are_classes(scorer: Scorer, tmp_path: Path) -> None:
    rows = [{"context": row["question"], "choices": ["open", "close"], "answer": row["answer"] % 2} for row in choice_rows(40)]
    task = TaskConfig(name="classes", path=write(tmp_path / "rows.jsonl", rows), kind="choice", limit=30)
    asked = lm_tasks.run(scorer, [task], tmp_path / "work")
    macro = next(one for one in asked.figures if one.name == "tasks.classes.macro_f1")
    assert macro.n == 30 and macro.value is not None and 0 <= macro.value <= 1
    assert asked.settings["classes"]["num_rows"] == 30


def test_generated_answers_get_the_text_metrics_and_equal_runs_equal_items(scorer: Scorer, tmp_path: Path) -> None:
    prompts = ["read the", "write a list", "open"]
    [[one], [two], [three]] = scorer.continuations(prompts, max_new_tokens=6)
    lines = [text.split("\n")[0].strip() for text in (one, two, three)]
    rows = [{"prompt": prompt, "target": target} for prompt, target in zip(prompts, [lines[0], "?", lines[2]], strict=True)]
    task = TaskConfig(name="write", path=write(tmp_path / "rows.jsonl", rows), kind="generate", max_new_tokens=6)
    first, second = (lm_tasks.run(scorer, [task], tmp_path / f"work{number}") for number in range(2))
    assert values(first)["tasks.write.exact_match"] == pytest.approx(2 / 3)
    assert {"tasks.write.rouge_l", "tasks.write.bleu", "tasks.write.chrf", "tasks.write.f1"} <= values(first).keys()
    assert values(first) == values(second)
    assert [table.to_pylist() for table in first.items] == [table.to_pylist() for table in second.items]


def test_perplexity_of_texts_is_that_of_our_scorer_per_word_and_byte(scorer: Scorer, tmp_path: Path) -> None:
    texts = ["read the file of a key", "write  values", "returns a list of the folder key key"]
    task = TaskConfig(name="texts", path=write(tmp_path / "rows.jsonl", [{"text": text} for text in texts]), kind="perplexity")
    got = values(lm_tasks.run(scorer, [task], tmp_path / "work"))
    nats, _, _ = scorer.log_likelihoods([""] * 3, texts)
    words, size = sum(len(text.split()) for text in texts), sum(len(text.encode()) for text in texts)
    assert got["tasks.texts.word_perplexity"] == pytest.approx(math.exp(-nats.sum() / words), rel=1e-4)
    assert got["tasks.texts.bits_per_byte"] == pytest.approx(-nats.sum() / math.log(2) / size, rel=1e-4)


def test_a_task_file_of_a_user_finds_its_rows_beside_itself(scorer: Scorer, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", choice_rows())
    (tmp_path / "task.yaml").write_text(
        yaml.safe_dump(
            {
                "task": "any",
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
                "test_split": "test",
                "output_type": "multiple_choice",
                "doc_to_text": "{{question}}",
                "doc_to_choice": "choices",
                "doc_to_target": "answer",
                "metric_list": [{"metric": "acc"}, {"metric": "mcc", "aggregation": "matthews_corrcoef"}],
            }
        )
    )
    rows = TaskConfig(name="rows", path=str(tmp_path / "rows.jsonl"), kind="choice")
    file = TaskConfig(name="file", path=str(tmp_path / "task.yaml"))
    asked = lm_tasks.run(scorer, [rows, file], tmp_path / "work")
    got = values(asked)
    assert got["tasks.file.acc"] == got["tasks.rows.acc"]
    together = next(one for one in asked.figures if one.name == "tasks.file.mcc")
    assert together.value is not None and together.low is None


def test_the_perplexity_of_last_words_is_no_mean(scorer: Scorer, tmp_path: Path) -> None:
    """As LAMBADA has it: exp of the mean, not the mean of log-likelihoods."""
    rows = [{"head": row["question"], "tail": f" {row['choices'][0]}"} for row in choice_rows(6)]
    config = {
        "task": "any",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": write(tmp_path / "rows.jsonl", rows)}},
        "test_split": "test",
        "output_type": "loglikelihood",
        "doc_to_text": "head",
        "doc_to_target": "tail",
        "target_delimiter": "",
        "metric_list": [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}, {"metric": "acc"}],
    }
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(config))
    asked = lm_tasks.run(scorer, [TaskConfig(name="last", path=str(tmp_path / "task.yaml"))], tmp_path / "work")
    nats, _, greedy = scorer.log_likelihoods([row["head"] for row in rows], [row["tail"] for row in rows])
    assert values(asked)["tasks.last.perplexity"] == pytest.approx(math.exp(-nats.mean()), rel=1e-4)
    assert values(asked)["tasks.last.acc"] == pytest.approx(float(greedy.mean()))


def test_all_files_of_a_task_are_part_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "base").write_text("dataset_path: json\nprocess_docs: !function utils.clean\n")
    (tmp_path / "utils.py").write_text("def clean(rows): return rows\n")
    write(tmp_path / "rows.jsonl", choice_rows(3))
    files = "dataset_kwargs: {data_files: {test: rows.jsonl, train: [rows.jsonl]}}"
    (tmp_path / "task.yaml").write_text(f"include: base\ntask: mine\n{files}\n")
    config = BenchmarkConfig(tasks=(TaskConfig(name="mine", path=str(tmp_path / "task.yaml")),))
    assert {Path(path).name for path in files_read(config)} == {"base", "utils.py", "rows.jsonl", "task.yaml"}
    (tmp_path / "task.yaml").write_text("task: mine\ndataset_path: owner/name\n")
    with pytest.raises(RowsError, match=r"wants dataset_path json or parquet.*got dataset_path 'owner/name'"):
        files_read(config)
    (tmp_path / "task.yaml").write_text("task: mine\ninclude: task.yaml\n")
    with pytest.raises(RowsError, match="includes itself"):
        files_read(config)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
def test_tasks_of_lm_evals_own_take_local_files(scorer: Scorer, tmp_path: Path) -> None:
    """BLiMP's and GSM8K's real rows in lm-eval's own tasks, and HellaSwag's with its own preparation of rows."""
    swag = {"activity_label": "Baking", "ctx_a": "She read", "ctx_b": "the", "ctx": "She read the", "label": "1", "ind": 1}
    parquet = tmp_path / "swag.jsonl"
    write(
        parquet, [{**swag, "endings": ["file [title] now", "folder"], "source_id": "x", "split": "val", "split_type": "in"}] * 3
    )
    rows = read_rows(str(SHARED / "blimp_adjunct_island.jsonl"))[:20]
    tasks = [
        TaskConfig(name="blimp_adjunct_island", files={"train": str(SHARED / "blimp_adjunct_island.jsonl")}, limit=20),
        TaskConfig(name="hellaswag", files={"validation": str(parquet), "train": str(parquet)}),
        TaskConfig(
            name="gsm8k", files=dict.fromkeys(("train", "test"), str(SHARED / "gsm8k_test.jsonl")), limit=2, num_fewshot=1
        ),
    ]
    got = values(lm_tasks.run(scorer, tasks, tmp_path / "work"))
    good, _, _ = scorer.log_likelihoods([""] * 20, [row["sentence_good"] for row in rows])
    bad, _, _ = scorer.log_likelihoods([""] * 20, [row["sentence_bad"] for row in rows])
    assert got["tasks.blimp_adjunct_island.acc"] == pytest.approx(float((good > bad).mean()))
    assert {"tasks.hellaswag.acc_norm", "tasks.gsm8k.exact_match.strict-match"} <= got.keys()


@pytest.mark.parametrize(
    ("row", "kind", "says"),
    [
        ({"choices": ["a", "b"], "answer": 0}, "choice", "row 1 has no 'context' or 'question'.*it has: choices, answer"),
        ({"context": "x", "choices": ["a"], "answer": 0}, "choice", "choices must be two texts or more"),
        ({"context": "x", "choices": ["a", "b"], "answer": 2}, "choice", "from 0 to 1"),
        ({"prompt": "x"}, "generate", "row 1 has no 'target' or 'answer'"),
        ({"text": ""}, "perplexity", "row 1 has no 'text'"),
    ],
)
def test_rows_that_cannot_be_asked_are_named(scorer: Scorer, tmp_path: Path, row: dict[str, Any], kind: Any, says: str) -> None:
    task = TaskConfig(name="mine", path=write(tmp_path / "rows.jsonl", [row]), kind=kind)
    with pytest.raises(RowsError, match=rf"benchmark.tasks mine: .*rows.jsonl: .*{says}"):
        lm_tasks.run(scorer, [task], tmp_path / "work")


def test_a_name_that_lm_eval_does_not_know_is_told(scorer: Scorer, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"text": "a"}])
    with pytest.raises(TaskError, match="no task of that name with data of its own"):
        lm_tasks.run(scorer, [TaskConfig(name="mmlu", files={"test": path})], tmp_path / "work")  # a group
    with pytest.raises(TaskError, match=r"lm-eval cannot read .*rows.jsonl"):
        lm_tasks.run(scorer, [TaskConfig(name="cola", files={"test": path})], tmp_path / "work")  # wants a split validation
    with pytest.raises(TaskError, match=r"lm-eval cannot read .*rows.jsonl"):
        lm_tasks.run(scorer, [TaskConfig(name="cola", files={"validation": path})], tmp_path / "work")  # and a column sentence


@pytest.mark.soak
def test_without_a_hub_a_task_by_name_says_which_files_to_give(scorer: Scorer, tmp_path: Path) -> None:
    """In a child, because whether the hub may be asked is decided when its client is imported."""
    words = (
        "import sys; from pathlib import Path; from tasks.learn import lm_tasks; from tasks.learn.benchmark_config import TaskConfig;"
        "from tasks.learn.config import EvalConfig; from tasks.learn.scorer import Scorer;"
        "lm_tasks.run(Scorer(sys.argv[1], EvalConfig(num_threads=1)), [TaskConfig(name='hellaswag')], Path(sys.argv[2]))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", words, str(scorer.model.name_or_path), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "its data could not be had from the hub" in done.stderr and "files: {validation: PATH}" in done.stderr, done.stderr


def test_lm_eval_is_imported_only_where_tasks_are_named() -> None:
    words = "import sys, tasks.benchmark, tasks.learn.benchmark_config; print('lm_eval' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
