"""How likely a model finds the assistant's words in conversations, each given all that was said before it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from tasks.learn.chats import IGNORED, Chat

BATCH_TOKENS = 4096
"""In one forward pass, padding included."""


@torch.no_grad()
def score(model: PreTrainedModel, chats: Sequence[Chat]) -> dict[str, float]:
    """`loss` (mean nats a token), `perplexity`, `token_accuracy` (the likeliest token is the right one) and `tokens` of what the assistant
    says, in float32; empty where there is nothing.
    """
    was_training = model.training
    model.eval()
    nats, hits, tokens = 0.0, 0, 0
    for batch in _batches(chats):
        longest = max(len(chat.ids) for chat in batch)
        ids = torch.tensor([[*chat.ids, *[0] * (longest - len(chat.ids))] for chat in batch], device=model.device)
        labels = torch.tensor([[*chat.labels, *[IGNORED] * (longest - len(chat.ids))] for chat in batch], device=model.device)[
            :, 1:
        ]
        # padding is on the right, where a causal model does not look
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        counted = labels != IGNORED
        nats += float(functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"))
        hits += int(((logits.argmax(-1) == labels) & counted).sum())
        tokens += int(counted.sum())
    model.train(was_training)
    if not tokens:
        return {}
    loss = nats / tokens
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "token_accuracy": hits / tokens, "tokens": tokens}


def _batches(chats: Sequence[Chat]) -> list[list[Chat]]:
    """Those of like length together, so that little is filled up."""
    batches: list[list[Chat]] = []
    for chat in sorted(chats, key=lambda one: len(one.ids)):
        if not batches or (len(batches[-1]) + 1) * len(chat.ids) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(chat)
    return batches
