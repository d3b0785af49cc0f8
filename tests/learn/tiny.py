"""Tiny causal models that learn a few texts, so that probes have something to find, or nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import torch
from torch.nn import functional

from infra.ids import text_digest
from models import presets, tokeniser
from models.presets import ModelConfig
from tasks.learn import tokens
from tasks.learn.config import EvalConfig
from tasks.learn.scorer import Scorer
from tasks.learn.tokens import TokenShard

CONFIG = EvalConfig(device="cpu", num_threads=1, batch_tokens=4096)


def shard_of(texts: Sequence[str], tokeniser_folder: str) -> TokenShard:
    table = pa.table({"doc_id": [text_digest(text) for text in texts], "source": ["s"] * len(texts), "text": list(texts)})
    return TokenShard(*tokens.encode_shard(table, tokeniser_folder))


def learnt(
    texts: Sequence[str], folder: Path, tokeniser_folder: str, *, steps: int, context: int, batch: int, until: float = 0.0
) -> Scorer:
    """A model that has seen these texts, each from its beginning, in batches of a seed; it stops where the loss is below `until`."""
    words, roles = tokeniser.load(tokeniser_folder), tokeniser.roles(tokeniser_folder)
    shape = ModelConfig(hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=128, context_length=context)
    model = presets.build(shape, roles, seed=1)
    torch.set_num_threads(1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0, betas=(0.9, 0.95))
    rows = [[roles.end, *encoding.ids[: context - 1], roles.end] for encoding in words.encode_batch(list(texts))]
    chance = random.Random(1)
    for _ in range(steps):
        chosen = chance.sample(rows, min(batch, len(rows)))
        ids = torch.full((len(chosen), max(map(len, chosen))), -100)
        for place, row in enumerate(chosen):
            ids[place, : len(row)] = torch.tensor(row)
        logits = model(input_ids=ids[:, :-1].clamp(min=0), use_cache=False).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=-100)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if loss.item() < until:
            break
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    for file in Path(tokeniser_folder).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return Scorer(folder, CONFIG)
