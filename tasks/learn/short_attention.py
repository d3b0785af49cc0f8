"""Attention for bf16 on a CPU and contexts of a few hundred tokens, by plain matrix products.

torch's flash attention spares memory that short contexts do not need, and computes narrow tiles one by one. Here the probabilities are
kept for the backward pass (2 bytes x heads x context^2 a sample and layer; a causal model needs about half), and queries go in blocks that
see only the keys before them. Forward and backward beside `scaled_dot_product_attention` on one core (AVX-512 bf16), 16 samples, 5 heads
of 64: 12 against 39 ms at 128 tokens, 34 against 83 at 256, 134 against 278 at 512. In float32 it is no faster, so there it is not used.
Scores are rounded to bf16 before the softmax, as in transformers' own eager attention.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tasks.learn.footprint import SHORT_BLOCK, SHORT_CONTEXT

NAME = "gristmill_short"
FAMILIES = frozenset({"llama", "gpt2", "bert"})
"""Their attention is softmax(q k / sqrt(d) + mask) v and nothing else."""


def use(model: PreTrainedModel, context_length: int, device: str, precision: str) -> bool:
    """Let a model in training attend by this where it is faster; whether it does."""
    fits = device == "cpu" and precision == "bf16" and context_length <= SHORT_CONTEXT and model.config.model_type in FAMILIES
    if fits:
        AttentionInterface.register(NAME, _forward)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
    return fits


class _ShortAttention(torch.autograd.Function):
    """(B, H, C, D) each → (B, H, C, D); the mask is added to scores, (B or 1, 1, C, C)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
        causal: bool,
    ) -> torch.Tensor:
        seen, outputs = [], []
        for start, end, keys in _blocks(query.shape[2], causal):
            scores = torch.matmul(query[:, :, start:end], key[:, :, :keys].transpose(-1, -2)).mul_(scale)
            if mask is not None:
                scores.add_(mask[:, :, start:end, :keys])
            elif causal:
                future = torch.full((end - start, end - start), -torch.inf, dtype=scores.dtype).triu_(1)
                scores[..., start:end].add_(future)
            seen.append(torch.softmax(scores, -1))
            outputs.append(torch.matmul(seen[-1], value[:, :, :keys]))
        ctx.save_for_backward(query, key, value, *seen)
        ctx.scale, ctx.causal = scale, causal
        return torch.cat(outputs, 2)

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[Any, ...]:
        query, key, value, *seen = ctx.saved_tensors
        to_query, to_key, to_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for (start, end, keys), probabilities in zip(_blocks(query.shape[2], ctx.causal), seen, strict=True):
            given = upstream[:, :, start:end]
            to_value[:, :, :keys] += torch.matmul(probabilities.transpose(-1, -2), given)
            to_seen = torch.matmul(given, value[:, :, :keys].transpose(-1, -2))
            to_scores = torch._softmax_backward_data(to_seen, probabilities, -1, probabilities.dtype).mul_(ctx.scale)
            to_query[:, :, start:end] = torch.matmul(to_scores, key[:, :, :keys])
            to_key[:, :, :keys] += torch.matmul(to_scores.transpose(-1, -2), query[:, :, start:end])
        return to_query, to_key, to_value, None, None, None


def additive(mask: torch.Tensor) -> torch.Tensor:
    """A mask of what may be seen as what is added to scores; made once for all layers."""
    return torch.zeros(mask.shape, dtype=torch.bfloat16, device=mask.device).masked_fill_(~mask, -torch.inf)


def _blocks(context_length: int, causal: bool) -> list[tuple[int, int, int]]:
    """First query, end, and keys that are seen, of each block."""
    starts = range(0, context_length, SHORT_BLOCK)
    ends = [min(start + SHORT_BLOCK, context_length) for start in starts]
    return [(start, end, end if causal else context_length) for start, end in zip(starts, ends, strict=True)]


def _forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers asks for attention: (B, H, C, D) in, (B, C, H, D) out."""
    if dropout or not torch.is_autocast_enabled("cpu") or query.shape[2] != key.shape[2]:
        given = {"scaling": scaling, "dropout": dropout, "is_causal": is_causal, **more}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **given)
    # as autocast does for torch's own: rotated queries and keys come in float32
    query, key, value = (one.to(torch.bfloat16) for one in (query, key, value))
    if (groups := getattr(module, "num_key_value_groups", 1)) > 1:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    made = _ShortAttention.apply(query, key, value, attention_mask, scale, causal)  # type: ignore[no-untyped-call]
    return made.transpose(1, 2).contiguous(), None
