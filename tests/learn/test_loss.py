from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from tasks.learn import loss
from tasks.learn.loss import Objective
from tasks.learn.sampler import IGNORED

SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, 40),
    vocab=st.integers(2, 30),
    chunk=st.integers(1, 50),
    smoothing=st.sampled_from([0.0, 0.1, 0.7]),
    with_bias=st.booleans(),
    scale=st.floats(1e-3, 10),
)
def test_chunks_give_the_loss_and_gradients_of_the_whole(
    count: int, vocab: int, chunk: int, smoothing: float, with_bias: bool, scale: float
) -> None:
    made = torch.Generator().manual_seed(count * 31 + vocab)
    drawn = [torch.randn(count, 8, generator=made), torch.randn(vocab, 8, generator=made), torch.randn(vocab, generator=made)]
    targets = torch.randint(vocab, (count,), generator=made)
    mine, theirs = ([one.clone().requires_grad_() for one in drawn] for _ in range(2))
    bias = (mine[2], theirs[2]) if with_bias else (None, None)
    back, nats, likeliest = loss.cross_entropy(mine[0], mine[1], bias[0], targets, scale=scale, smoothing=smoothing, chunk=chunk)
    back.backward()
    logits = functional.linear(theirs[0], theirs[1], bias[1])
    (scale * functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)).backward()
    assert torch.allclose(nats, functional.cross_entropy(logits, targets, reduction="none"), atol=1e-5)
    assert torch.equal(likeliest, logits.argmax(-1))
    for one, other in list(zip(mine, theirs, strict=True))[: 3 if with_bias else 2]:
        assert one.grad is not None and other.grad is not None
        assert torch.allclose(one.grad, other.grad, atol=1e-5 * scale * max(1, count), rtol=1e-4)


def test_without_gradients_none_are_made() -> None:
    hidden, weight = torch.randn(4, 8), torch.nn.Parameter(torch.randn(5, 8))
    with torch.no_grad():
        back, nats, _ = loss.cross_entropy(hidden, weight, None, torch.tensor([0, 1, 2, 3]), scale=1.0)
    assert not back.requires_grad and nats.shape == (4,)


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32))


def bert() -> PreTrainedModel:
    return BertForMaskedLM(BertConfig(vocab_size=50, **SMALL, max_position_embeddings=32))


def gemma() -> PreTrainedModel:
    """Its logits are squeezed, so they are no linear layer of the hidden states."""
    return Gemma2ForCausalLM(Gemma2Config(vocab_size=50, **SMALL, num_key_value_heads=1, head_dim=8))


@pytest.mark.parametrize(("make", "plain"), [(gpt2, True), (bert, True), (gemma, False)])
def test_the_objective_of_any_family_is_the_loss_of_its_own_logits(make: Any, plain: bool) -> None:
    torch.manual_seed(3)
    model = make().eval()
    masked = isinstance(model, BertForMaskedLM)
    inputs = torch.randint(50, (2, 12))
    labels = torch.where(torch.rand(2, 12) < 0.4, torch.randint(50, (2, 12)), IGNORED)
    objective = Objective(model, masked=masked, smoothing=0.0, chunk=3)
    assert objective.plain_head == plain
    count = int((labels != IGNORED).sum())
    back, nats, likeliest = objective(inputs, labels, None, None, 1 / count)
    back.backward()
    mine = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    logits = model(inputs).logits
    whole = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    whole.backward()
    assert nats.mean().item() == pytest.approx(whole.item(), rel=1e-5)
    assert torch.equal(likeliest, logits.argmax(-1)[labels != IGNORED])
    for name, one in model.named_parameters():
        if one.grad is not None:
            assert torch.allclose(mine[name], one.grad, atol=1e-6), name


def test_the_look_at_the_output_layer_leaves_no_trace() -> None:
    model = gpt2()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    Objective(model, masked=False, smoothing=0.0, chunk=3)
    assert model.training and all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
