"""A tiny model that answers in chats, as a version; preference pairs and problems that it can learn from, or not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch.nn import functional
from transformers import AutoTokenizer

from expectations.schemas import PREFERENCES, PROBLEMS, RATINGS
from infra import dataset, storage
from infra.dataset import Outcome, ShardSet
from infra.ids import digest_of
from models import presets, tokeniser
from models.presets import ModelConfig
from models.tokeniser import TokeniserConfig
from tasks.learn.answers import answered
from tasks.text.turns import side_of

COLOURS = ("red", "blue", "green", "grey", "pale", "dark")
THINGS = [f"{colour} {thing}" for colour in COLOURS for thing in ("mill", "barn", "boat", "door", "lamp", "stone")]
ASKED = [f"{verb} the {thing}?" for verb in ("open", "move", "paint", "sell", "keep") for thing in THINGS]
"""Prompts, no two alike."""
GOOD, BAD = ("yes", "sure"), ("no", "never")


def made_model(folder: Path, *, steps: int = 150, seed: int = 1) -> Path:
    """A model folder: it answers every prompt with one of GOOD and BAD, each as often."""
    torch.set_num_threads(1)
    words = [f"{ask} {answer}" for ask in ASKED for answer in (*GOOD, *BAD)]
    tokeniser.save(tokeniser.train_bpe(words, TokeniserConfig(vocab_size=320)), str(folder))
    loaded, roles = AutoTokenizer.from_pretrained(folder), tokeniser.roles(str(folder))
    shape = ModelConfig(hidden_size=48, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=96, context_length=64)
    model = presets.build(shape, roles, seed=seed)
    chance = random.Random(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    for _ in range(steps):
        rows = []
        for ask in chance.sample(ASKED, 16):
            one = answered(loaded, [{"role": "user", "content": ask}], chance.choice((*GOOD, *BAD)))
            rows.append([*one.prompt, *one.ids])
        ids = torch.full((len(rows), max(map(len, rows))), -100)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
        logits = model(input_ids=ids[:, :-1].clamp(min=0), use_cache=False).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=-100)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    model.save_pretrained(folder)
    return folder


def model_version(folder: Path, model: Path) -> ShardSet:
    """It as a version of schema `model`."""
    files = []
    for file in sorted(model.iterdir()):
        storage.write_bytes(storage.join(str(folder), "model", file.name), file.read_bytes())
        files.append(dataset.file_entry(str(folder), f"model/{file.name}"))
    facts = {"family": "llama", "objective": "causal"}
    return _sealed(folder, "pretrain", "model", pa.table({"doc_id": ["0" * 32]}), files, facts)


def rows_version(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> ShardSet:
    """Rows as a version of schema `preferences`, `ratings` or `problems`."""
    made = {"preferences": ("prefer", PREFERENCES), "ratings": ("rate", RATINGS), "problems": ("pose", PROBLEMS)}
    step, schema = made[name]
    return _sealed(folder, step, name, pa.Table.from_pylist(list(rows), schema=schema), [], {})


def pairs(labels: str, *, test_share: float = 0.3, seed: int = 1) -> list[dict[str, Any]]:
    """One of GOOD against one of BAD for each prompt. `good`: the good one is preferred; `shuffled`: either, by chance."""
    chance, rows = random.Random(seed), []
    for ask in ASKED:
        good, bad = chance.choice(GOOD), chance.choice(BAD)
        if labels == "shuffled" and chance.random() < 0.5:
            good, bad = bad, good
        rows.append(_row(ask, test_share) | {"task": "pair", "chosen": good, "rejected": bad})
    return rows


def ratings(labels: str, *, test_share: float = 0.3, seed: int = 1) -> list[dict[str, Any]]:
    """One answer to each prompt. `good`: those of GOOD are good, those of BAD bad; `shuffled`: either, by chance."""
    chance, rows = random.Random(seed), []
    for ask in ASKED:
        good = chance.random() < 0.5
        answer = chance.choice(GOOD if good else BAD)
        said = chance.random() < 0.5 if labels == "shuffled" else good
        rows.append(_row(ask, test_share) | {"task": "rating", "answer": answer, "good": said})
    return rows


def problems(labels: str, *, test_share: float = 0.3, seed: int = 1) -> list[dict[str, Any]]:
    """`good`: an answer of GOOD is right, to each prompt; `shuffled`: to some prompts one of GOOD, to others one of BAD, by chance."""
    chance, rows = random.Random(seed), []
    for ask in ASKED:
        right = BAD if labels == "shuffled" and chance.random() < 0.5 else GOOD
        rows.append(_row(ask, test_share) | {"task": "regex", "check": "regex", "answer": "|".join(right)})
    return rows


def _row(ask: str, test_share: float) -> dict[str, Any]:
    prompt = [{"role": "user", "content": ask}]
    known = {"row_id": digest_of("row", ask), "source": "made", "origin": ask}
    return {**known, "prompt": prompt, "split": side_of(prompt, test_share)}


def _sealed(folder: Path, step: str, schema: str, table: pa.Table, files: Sequence[Any], facts: dict[str, Any]) -> ShardSet:
    receipt = dataset.write_shard(str(folder), 0, Outcome(table))
    recipe = {"step": step, "inputs": {}, "config": {}, "files": {"made": folder.name}, "code": "0" * 12, "libraries": {}}
    dataset.seal(str(folder), step=step, schema_name=schema, recipe=recipe, receipts=[receipt], files=files, facts=facts)
    return dataset.open_version(str(folder))
