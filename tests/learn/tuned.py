"""A tiny model with a chat template, rows of conversations, and jobs of training on from it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from expectations.schemas import CONVERSATIONS
from infra.ids import digest_of
from infra.versions import code_version
from models import presets, tokeniser
from models.presets import ModelConfig
from models.tokeniser import TokeniserConfig
from tasks.learn.posttrain import Method, PostJob

COLOURS = {"apple": "red", "pear": "green", "plum": "blue", "lemon": "yellow", "coal": "black", "snow": "white"}
WORDS = [*COLOURS, *COLOURS.values(), "what is the colour of number please system user assistant none \n ? . 0 1 2 3 4 5 6 7 8 9"]
FAST: dict[str, Any] = {
    "batch_size": 4,
    "gradient_accumulation": 1,
    "learning_rate": 1e-2,
    "log_every_steps": 2,
    "checkpoint_every_steps": 4,
    "num_threads": 1,
    "device": "cpu",
    "precision": "fp32",
}


def base_model(folder: Path, context: int = 64, seed: int = 1) -> str:
    """An untrained Llama of 2 layers x 48 with at most 350 tokens."""
    folder.mkdir(parents=True)
    tokeniser.save(tokeniser.train_bpe(WORDS * 5, TokeniserConfig(vocab_size=350)), str(folder))
    shape = ModelConfig(
        hidden_size=48, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=96, context_length=context, dropout=0.0
    )
    presets.build(shape, tokeniser.roles(str(folder)), seed=seed).save_pretrained(folder)
    return str(folder)


def chat(*contents: str) -> list[dict[str, str]]:
    """Turns of user and assistant."""
    return [{"role": ("user", "assistant")[place % 2], "content": content} for place, content in enumerate(contents)]


def colours(num: int, answers: Sequence[str] | None = None) -> list[list[dict[str, str]]]:
    """Questions about the colour of things: each its own words, and the answer follows from the thing alone."""
    things = [list(COLOURS)[number % len(COLOURS)] for number in range(num)]
    said = answers or [COLOURS[thing] for thing in things]
    return [chat(f"{n} {thing} ?", said[n]) for n, thing in enumerate(things)]


def rows_of(conversations: Sequence[list[dict[str, str]]], test_every: int = 0) -> list[dict[str, Any]]:
    """Rows of CONVERSATIONS; every so manieth is held out."""
    return [
        {
            "row_id": digest_of("row", str(number)),
            "source": "made",
            "origin": f"made:{number}",
            "task": "messages",
            "split": "test" if test_every and number % test_every == 0 else "train",
            "messages": messages,
        }
        for number, messages in enumerate(conversations)
    ]


def job(
    folder: Path, model: str, rows: Sequence[Mapping[str, Any]], method: Method = "sft", config: Mapping[str, Any] | None = None
) -> PostJob:
    """A job below `folder` that reads its rows as a version's shards."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows), schema=CONVERSATIONS), path)
    return PostJob(
        folder=str(folder),
        cache=str(folder),
        provenance={"model": "pretrain/0@1"},
        code_version=code_version(),
        owner=os.getpid(),
        method=method,
        models={"model": model},
        rows={"conversations": [str(path)]},
        config={**FAST, **(config or {})},
    )
