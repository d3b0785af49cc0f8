import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from infra.errors import InputError
from models import presets
from models.presets import ModelConfig
from models.tokeniser import Roles
from tasks.learn import pruning

ROLES = Roles(vocab_size=100, end=0, padding=1, unknown=None)
TEXTS = [[0, *range(2, 20)], [0, *range(30, 60)]]
IDS = torch.arange(60).view(2, 30)


def made(family: str = "llama", num_layers: int = 3) -> PreTrainedModel:
    shape = {"hidden_size": 32, "num_layers": num_layers, "num_heads": 4, "intermediate_size": 64, "context_length": 64}
    return presets.build(ModelConfig(family=family, **shape), ROLES, seed=3).eval()


class Net(nn.Module):
    """Two matrices in one block, as `parallel.blocks` finds them."""

    _no_split_modules = ("Block",)

    def __init__(self, seed: int, shapes: list[tuple[int, int]]) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.block = Block(shapes)


class Block(nn.Module):
    def __init__(self, shapes: list[tuple[int, int]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(fan_in, fan_out) for fan_out, fan_in in shapes)


@given(
    st.integers(0, 10_000),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
    st.floats(0, 0.99),
    st.sampled_from(["global", "layer"]),
)
@settings(max_examples=30, deadline=None)
def test_exactly_the_smallest_weights_become_zero(seed: int, shapes: list[tuple[int, int]], sparsity: float, method: Any) -> None:
    net = Net(seed, shapes)
    before = [layer.weight.detach().clone() for layer in net.block.layers]
    pruning.zero(net, method, sparsity)  # type: ignore[arg-type]
    after = [layer.weight.detach() for layer in net.block.layers]
    groups = [list(range(len(before)))] if method == "global" else [[number] for number in range(len(before))]
    for group in groups:
        values = sorted((abs(x), n, place) for n in group for place, x in enumerate(before[n].flatten().tolist()))
        gone = {(n, place) for _, n, place in values[: int(sparsity * len(values))]}
        for n in group:
            pairs = zip(before[n].flatten().tolist(), after[n].flatten().tolist(), strict=True)
            assert all(y == (0.0 if (n, place) in gone else x) for place, (x, y) in enumerate(pairs))


def test_of_four_neighbours_the_two_smaller_become_zero_in_every_family() -> None:
    for family in ("llama", "gpt2"):
        model = made(family)
        before = [weight.detach().clone() for weight in pruning.matrices(model)]
        pruning.zero(model, "two_of_four", 0.5)
        for was, now in zip(before, pruning.matrices(model), strict=True):
            for old, new in zip(was.reshape(-1, 4), now.detach().reshape(-1, 4), strict=True):
                kept = np.argsort(-old.abs().numpy(), kind="stable")[:2]
                assert (new != 0).sum() == 2 and all(new[place] == old[place] for place in kept)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_units_that_add_nothing_are_taken_out_without_a_trace(family: str, tmp_path: Path) -> None:
    model = made(family)
    names = pruning.FEED_FORWARD[family]
    idle = list(range(0, 64, 2))
    with torch.no_grad():
        for block in pruning.parallel.blocks(model):
            out = block.get_submodule(names.out).weight
            (out.t() if family == "llama" else out)[idle] = 0.0
    before = model(input_ids=IDS).logits
    smaller = copy.deepcopy(model)
    pruning.narrow(smaller, 0.5, TEXTS)
    smaller.save_pretrained(tmp_path)
    read = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert getattr(read.config, names.size) == 32
    assert read.num_parameters() < model.num_parameters()
    assert torch.allclose(read(input_ids=IDS).logits, before, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_block_that_changes_nothing_goes_first(family: str, tmp_path: Path) -> None:
    model = made(family)
    idle = pruning.parallel.blocks(model)[1]
    with torch.no_grad():
        for name, one in idle.named_parameters():
            if any(part in name for part in ("o_proj", "down_proj", "c_proj")):
                one.zero_()
    before = model(input_ids=IDS).logits
    pruning.shorten(model, 0.3, TEXTS)
    model.save_pretrained(tmp_path)
    read = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert len(pruning.parallel.blocks(read)) == 2
    assert torch.allclose(read(input_ids=IDS).logits, before, atol=1e-6)
    how = {"max_new_tokens": 5, "do_sample": False, "attention_mask": torch.ones_like(IDS)}
    assert torch.equal(model.generate(IDS, **how), read.generate(IDS, use_cache=False, **how))


def test_an_unknown_family_is_told_what_it_can_have() -> None:
    with pytest.raises(InputError, match="method width and depth know gpt2, llama"):
        pruning.narrow(made("bert"), 0.5, TEXTS)
