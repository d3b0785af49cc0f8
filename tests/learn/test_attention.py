"""Documents packed into one row do not see one another: their logits are those of each alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from tasks.learn.attention import attention_mask
from tasks.learn.data_config import DataConfig, Packing
from tasks.learn.sampler import fixed

from .samples import ROLES, Document, shards

DOCUMENTS: list[Document] = [("a", 9), ("a", 14), ("a", 3), ("a", 21), ("a", 1), ("a", 6)]
SHAPE: dict[str, Any] = {"vocab_size": 80, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                         "intermediate_size": 64, "max_position_embeddings": 64, "attn_implementation": "sdpa"}  # fmt: skip


@pytest.fixture(scope="module", params=["llama", "bert"])
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(1)
    if request.param == "llama":
        made: torch.nn.Module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, num_key_value_heads=2))
    else:
        made = transformers.BertForMaskedLM(transformers.BertConfig(**SHAPE))
    # as large as learned weights, or attention would hardly matter
    with torch.no_grad():
        for weight in made.parameters():
            if weight.dim() == 2:
                weight.mul_(5)
    return made.eval()


@torch.no_grad()
def logits(model: torch.nn.Module, inputs: Any, **more: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=torch.as_tensor(inputs), **more).logits
    return found


@pytest.mark.parametrize("packing", ["documents", "best_fit"])
def test_logits_of_a_packed_row_are_those_of_each_document_alone(model: torch.nn.Module, packing: Packing) -> None:
    causal = isinstance(model, transformers.LlamaForCausalLM)
    made = fixed(
        shards(DOCUMENTS), 24, DataConfig(packing=packing), roles=ROLES._replace(vocab_size=80), masked=not causal, seed=1
    )
    batch = made.batch(0, made.num_samples)
    assert batch.documents is not None and batch.positions is not None
    assert (batch.documents < 0).any() and batch.documents.max() >= 2
    mask = attention_mask(torch.from_numpy(batch.documents), causal)
    positions = torch.from_numpy(batch.positions)
    packed = logits(model, batch.inputs, attention_mask=mask, position_ids=positions)
    assert torch.isfinite(packed).all()
    crossed = logits(
        model, batch.inputs, position_ids=positions, attention_mask=attention_mask(torch.zeros_like(positions), causal)
    )
    shifted = logits(model, batch.inputs, attention_mask=mask)
    nearest = {"crossed": 0.0, "shifted": 0.0}
    for row, numbers in enumerate(batch.documents):
        for document in range(numbers.max() + 1):
            inside = numbers == document
            alone = logits(model, batch.inputs[row : row + 1, inside])[0]
            torch.testing.assert_close(packed[row, inside], alone, atol=1e-5, rtol=1e-5)
            nearest["crossed"] = max(nearest["crossed"], float((crossed[row, inside] - alone).abs().max()))
            nearest["shifted"] = max(nearest["shifted"], float((shifted[row, inside] - alone).abs().max()))
    assert nearest["crossed"] > 0.1
    # rotary positions are relative: inside one document a shift changes nothing
    assert nearest["shifted"] > 0.1 if not causal else nearest["shifted"] < 1e-3


def test_the_mask_by_hand() -> None:
    documents = torch.tensor([[0, 0, 1, -1]])
    both = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert attention_mask(documents, causal=False)[0, 0].int().tolist() == both
    assert attention_mask(documents, causal=True)[0, 0].int().tolist() == [[1, 0, 0, 0], *both[1:]]
