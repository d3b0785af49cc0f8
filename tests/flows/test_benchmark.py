"""The step `benchmark`: what it asks, of which documents, what it leaves; switched off, of a masked model, and of a folder of texts."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from expectations.schemas import AUGMENTED, ITEMS, PUBLISHED
from flows.validation import validate_path
from infra import dataset, ids, storage
from infra.dataset import Outcome, ShardSet
from infra.errors import InputError
from models import tokeniser
from models.tokeniser import TokeniserConfig
from tasks.benchmark import benchmark
from tasks.learn.benchmark_config import BenchmarkConfig
from tasks.learn.config import MODEL
from tasks.learn.figures import of_all
from tasks.learn.lm_rows import files_read

from . import english

TEXTS = [f"{english.text(number, 2)} In Dover {number} boats of Old Kent were seen by nobody." for number in range(60)]
SMALL: dict[str, Any] = {
    "num_threads": 1,
    "device": "cpu",
    "packs": {"num_items": 8},
    "reasoning": {"num_items": 3, "num_shots": 1, "num_samples": 2, "max_new_tokens": 6},
    "hallucination": {"num_items": 6, "num_samples": 2, "max_new_tokens": 4},
}


def rows(first: int, last: int, **more: str) -> list[dict[str, Any]]:
    return [
        {"doc_id": ids.text_digest(f"{number}{more}"), "text": TEXTS[number], "source": "web", "title": f"Page {number}", **more}
        for number in range(first, last)
    ]


def sealed(step: str, name: str, shards: list[pa.Table], files: list[str], facts: dict[str, Any]) -> ShardSet:
    folder = storage.join(dataset.folder_of(step), name)
    receipts = [dataset.write_shard(folder, number, Outcome(one)) for number, one in enumerate(shards)]
    entries = [dataset.file_entry(folder, one) for one in files]
    recipe = {"step": step, "inputs": {}, "config": {"name": name}}
    dataset.seal(folder, step=step, schema_name="published", recipe=recipe, receipts=receipts, files=entries, facts=facts)
    return dataset.open_version(folder)


def published(name: str = "corpus") -> ShardSet:
    """Two training shards, of which one has copies that were changed, and a held-out one."""
    schema = pa.schema([*PUBLISHED, *AUGMENTED])
    made = rows(0, 20) + rows(0, 5, augmented="typos", augmented_from="x")
    shards = [pa.Table.from_pylist(part, schema=schema) for part in (made, rows(20, 40), rows(40, 60))]
    return sealed("publish", name, shards, [], {"splits": {"train": [0, 1], "test": [2]}})


def trained(name: str, save: Callable[[str, int], None], kind: TokeniserConfig) -> ShardSet:
    folder = storage.join(dataset.folder_of("pretrain"), name)
    model = f"{folder}/{MODEL}"
    tokeniser.save(tokeniser.train(TEXTS, kind), model)
    save(model, tokeniser.roles(model).vocab_size)
    return sealed("pretrain", name, [], [f"{MODEL}/{one.name}" for one in sorted(Path(model).iterdir())], {})


def causal(name: str = "causal") -> ShardSet:
    def save(folder: str, size: int) -> None:
        torch.manual_seed(3)
        shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
        LlamaForCausalLM(LlamaConfig(vocab_size=size, max_position_embeddings=192, **shape)).save_pretrained(folder)

    return trained(name, save, TokeniserConfig(vocab_size=400))


def masked() -> ShardSet:
    def save(folder: str, size: int) -> None:
        torch.manual_seed(5)
        shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
        BertForMaskedLM(BertConfig(vocab_size=size, max_position_embeddings=192, **shape)).save_pretrained(folder)

    return trained("masked", save, TokeniserConfig(kind="wordpiece", vocab_size=400, alphabet_size=60))


def read(version: ShardSet) -> tuple[dict[str, Any], pa.Table]:
    return json.loads(version.read_file("scores.json")), pq.read_table(version.file("items.parquet"))


def test_figures_items_and_packs_are_kept_and_equal_again(home: Path, tmp_path: Path) -> None:
    task = tmp_path / "rows.jsonl"
    task.write_text(
        "".join(json.dumps({"context": "The", "choices": ["bridge", "letter"], "answer": 1}) + "\n" for _ in range(3))
    )
    config = BenchmarkConfig.model_validate({**SMALL, "tasks": [{"name": "mine", "path": str(task), "kind": "choice"}]})
    corpus, model = published(), causal()
    made = benchmark.run([model, corpus], config, str(tmp_path / "one")).shards
    scores, items = read(made)
    by_name = {one["name"]: one for one in scores["figures"]}
    assert items.schema == ITEMS
    held_out, training = ({row["doc_id"] for row in rows(*part)} for part in ((40, 60), (0, 40)))
    for kind in ("cloze", "order", "title"):
        figure = by_name[f"tasks.pack_{kind}.accuracy"]
        asked = [json.loads(line) for line in made.read_file(f"packs/{kind}.jsonl").splitlines()]
        assert len(asked) == 8 and {row["item"] for row in asked} <= held_out
        of_kind = items.filter(pa.compute.equal(items["metric"], figure["name"]))
        assert [name.partition("-")[0] for name in of_kind["item"].to_pylist()] == [row["item"] for row in asked]
        assert figure["value"] == pytest.approx(sum(of_kind["amount"].to_pylist()) / sum(of_kind["weight"].to_pylist()))
        assert figure["small"] and scores["settings"][f"pack_{kind}"]["chance"] == (0.5 if kind == "order" else 0.25)
    asked_facts = items.filter(pa.compute.equal(items["metric"], "hallucination.correct"))["item"].to_pylist()
    assert len(asked_facts) == 6 and set(asked_facts) <= training
    assert {
        "reasoning.direct.accuracy",
        "reasoning.cot.accuracy.level.2",
        "tasks.mine.acc",
        "hallucination.confidence_gap",
    } <= by_name.keys()
    facts = made.manifest().facts
    judged = {name: facts.pop(name) for name in ("suite", "verdict", "num_warnings")}
    assert judged == {"suite": "scores", "verdict": "warning", "num_warnings": 1}  # few items, no more
    assert facts == {name: one["value"] for name, one in by_name.items() if one["value"] is not None and of_all(name)}
    assert "reasoning.cot.accuracy" in facts and "reasoning.cot.accuracy.level.2" not in facts
    assert validate_path(made.folder, "scores", tmp_path, 1, Console(file=io.StringIO())).value == "warning"
    again = benchmark.run([model, corpus], config, str(tmp_path / "two")).shards
    assert again.digest == made.digest
    before = files_read(config)
    task.write_text(task.read_text() + "\n")
    assert before.keys() == files_read(config).keys() == {str(task)} and before != files_read(config)


def test_what_is_null_is_not_asked_and_a_masked_model_only_chooses(home: Path, tmp_path: Path) -> None:
    off = BenchmarkConfig(num_threads=1, packs=None, reasoning=None, hallucination=None)
    scores, items = read(benchmark.run([causal(), published()], off, str(tmp_path / "off")).shards)
    assert scores["figures"] == [] and items.num_rows == 0
    made = benchmark.run([masked(), published("other")], BenchmarkConfig.model_validate(SMALL), str(tmp_path / "masked")).shards
    scores, _ = read(made)
    assert {one["name"].partition(".")[0] for one in scores["figures"]} == {"tasks"} and "left_out" in scores["settings"]


def test_documents_that_are_not_divided_stand_for_both_and_none_without_text(home: Path, tmp_path: Path) -> None:
    plain = pa.table({"doc_id": [row["doc_id"] for row in rows(0, 30)], "text": TEXTS[:30]})
    folder = sealed("ingest", "plain", [plain], [], {})
    scores, items = read(benchmark.run([causal(), folder], BenchmarkConfig.model_validate(SMALL), str(tmp_path / "one")).shards)
    assert items.num_rows > 0 and any(one["name"] == "hallucination.correct" and one["n"] == 6 for one in scores["figures"])
    odd = sealed("ingest", "odd", [plain.set_column(1, "text", pa.array(["漢字仮名。"] * 30))], [], {})
    scores, _ = read(
        benchmark.run([causal("odd"), odd], BenchmarkConfig(**(SMALL | {"reasoning": None})), str(tmp_path / "odd")).shards
    )
    assert all(one["value"] is None for one in scores["figures"]) and "left_out" in scores["settings"]["hallucination"]
    with pytest.raises(InputError, match="has no column text"):
        benchmark.run(
            [causal("again"), sealed("ingest", "ids", [plain.select(["doc_id"])], [], {})],
            BenchmarkConfig(),
            str(tmp_path / "two"),
        )
