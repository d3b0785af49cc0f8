import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from models import presets
from models.presets import ModelConfig
from models.tokeniser import Roles
from tasks.learn import short_attention
from tasks.learn.attention import attention_mask

SHAPE: dict[str, Any] = {"preset": "nano", "hidden_size": 64, "num_layers": 2, "num_heads": 4, "intermediate_size": 64}
WORDS = Roles(vocab_size=100, end=0, padding=1, unknown=None)


@pytest.mark.parametrize("context", [5, 128, 200])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("in_documents", [True, False])
def test_it_is_attention_forward_and_backward(context: int, causal: bool, in_documents: bool) -> None:
    made = torch.Generator().manual_seed(context)
    drawn = [torch.randn(2, 3, context, 16, generator=made) for _ in range(4)]
    documents = torch.arange(context).expand(2, -1) // (context // 3 + 1) if in_documents else None
    mask = None if documents is None else attention_mask(documents, causal=causal)
    # in float32 here, so that only a wrong formula can differ
    exact = [one.clone().requires_grad_() for one in drawn[:3]]
    mine = [one.clone().requires_grad_() for one in drawn[:3]]
    bias = None if mask is None else short_attention.additive(mask).float()
    ours = short_attention._ShortAttention.apply(*mine, bias, 0.25, causal)
    theirs = functional.scaled_dot_product_attention(*exact, attn_mask=mask, is_causal=causal and mask is None, scale=0.25)
    for one, back in ((ours, drawn[3]), (theirs, drawn[3])):
        one.backward(back)
    assert torch.allclose(ours, theirs, atol=1e-5)
    for one, other in zip(mine, exact, strict=True):
        assert one.grad is not None and other.grad is not None and torch.allclose(one.grad, other.grad, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_a_model_says_the_same_with_it_and_its_folder_does_not_know(family: Any, tmp_path: Path) -> None:
    config = ModelConfig(family=family, **SHAPE, context_length=160, **({"num_kv_heads": 2} if family == "llama" else {}))
    model = presets.build(config, WORDS, seed=1).train()
    ids = torch.randint(100, (2, 160), generator=torch.Generator().manual_seed(2))
    masked = family == "bert"
    mask = attention_mask(torch.arange(160).expand(2, -1) // 70, causal=not masked)

    def logits(given: torch.Tensor | None) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(ids, attention_mask=given).logits.float()

    with torch.no_grad():
        before = [logits(None), logits(mask)]
        assert short_attention.use(model, 160, "cpu", "bf16")
        after = [logits(None), logits(short_attention.additive(mask))]
        # a mask that is not heard would differ far more, where attention matters to a fresh model at all
        for mine, theirs in zip(after, before, strict=True):
            assert (mine - theirs).abs().max() < 0.02 * theirs.abs().max()
        assert masked or (before[0] - before[1]).abs().max() > 0.05 * before[0].abs().max()
    model.save_pretrained(tmp_path)
    assert short_attention.NAME not in json.dumps(json.loads((tmp_path / "config.json").read_text()))


def test_it_is_not_used_where_it_is_not_faster_or_would_be_wrong() -> None:
    model = presets.build(ModelConfig(**SHAPE, context_length=1024), WORDS, seed=1)
    assert not short_attention.use(model, 1024, "cpu", "bf16")
    assert not short_attention.use(model, 128, "cpu", "fp32") and not short_attention.use(model, 128, "cuda", "bf16")
    model.config.model_type = "gemma2"
    assert not short_attention.use(model, 128, "cpu", "bf16")
    assert model.config._attn_implementation == "sdpa"
