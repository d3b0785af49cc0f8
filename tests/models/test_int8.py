import json
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from infra.errors import InputError
from models import given_model, int8, presets
from models.int8 import Int8Linear, rounded
from models.presets import ModelConfig
from models.tokeniser import Roles

ROLES = Roles(vocab_size=300, end=0, padding=1, unknown=None)
NUMBERS = st.floats(-100, 100, width=32)
IDS = torch.arange(60).view(3, 20)


def made(family: str, **more: Any) -> PreTrainedModel:
    shape = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64, "context_length": 32, **more}
    model = presets.build(ModelConfig(family=family, **shape), ROLES, seed=3).eval()
    with torch.no_grad():  # biases of a fresh model are all 0
        for name, one in model.named_parameters():
            if name.endswith("bias"):
                one.normal_()
    return model


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=9), elements=NUMBERS),
    st.integers(1, 9),
    st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_a_product_is_that_of_the_rounded_numbers(values: np.ndarray, num_rows: int, seed: int) -> None:
    x = torch.from_numpy(values)
    weight = torch.randn(num_rows, x.shape[-1], generator=torch.Generator().manual_seed(seed))
    whole, scale = rounded(weight)
    layer = Int8Linear(whole, scale, None)
    # in whole numbers, by the definition
    largest = x.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    tokens = torch.round(x / largest * layer.levels).double()
    expected = (tokens @ whole.double().T) * scale * largest / layer.levels
    # of a tie either neighbour is as near
    assert torch.allclose(layer(x).double(), expected, rtol=1e-4, atol=float(1.01 * scale.max() * 127 * largest.max() / 127))
    assert torch.allclose(layer(x), x @ weight.T, atol=float(x.shape[-1] * largest.max() * weight.abs().max() / 60 + 1e-6))


def test_rows_are_rounded_to_half_a_step_and_zeros_stay_zero() -> None:
    weight = torch.randn(40, 70, generator=torch.Generator().manual_seed(1))
    weight[3] = 0
    whole, scale = rounded(weight)
    assert ((whole.float() * scale[:, None] - weight).abs() <= scale[:, None] / 2 + 1e-7).all()
    assert (whole[3] == 0).all() and whole.abs().max() == 127


@pytest.mark.parametrize(("family", "more"), [("llama", {}), ("llama", {"tie_embeddings": False}), ("gpt2", {}), ("bert", {})])
def test_a_reloaded_model_gives_the_same_bits_and_nearly_the_original(family: str, more: Any, tmp_path: Path) -> None:
    model = made(family, **more)
    num_int8 = int8.write(model, tmp_path)
    kind = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    one, other = (int8.load(tmp_path, kind) for _ in range(2))
    logits, again, original = (each(input_ids=IDS).logits for each in (one, other, model))
    assert torch.equal(logits, again)
    assert ((logits - original).norm() / original.norm()).item() < 0.03
    assert int8.num_parameters(one) == model.num_parameters() > num_int8 > 0.95 * model.num_parameters() - 2000
    kept = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert kept[int8.WEIGHTS] < 0.5 * 4 * model.num_parameters()


def test_an_answer_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    int8.write(made("llama"), tmp_path)
    model = int8.load(tmp_path, AutoModelForCausalLM)
    together = model(input_ids=IDS).logits
    assert all(torch.equal(model(input_ids=IDS[[row]]).logits[0], together[row]) for row in range(3))


def test_a_model_in_int8_writes_what_it_would_without_a_cache(tmp_path: Path) -> None:
    int8.write(made("llama"), tmp_path)
    model = int8.load(tmp_path, AutoModelForCausalLM)
    how = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(IDS)}
    assert torch.equal(model.generate(IDS, **how), model.generate(IDS, use_cache=False, **how))


def test_transformers_refuses_such_a_folder_and_so_does_a_training(tmp_path: Path) -> None:
    int8.write(made("llama"), tmp_path)
    with pytest.raises(OSError, match="no file named"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="quantised, and such weights cannot be trained"):
        given_model.load(str(tmp_path), None)
    with pytest.raises(InputError, match="int8 already"):
        int8.write(int8.load(tmp_path, AutoModelForCausalLM), tmp_path)


def test_a_folder_that_is_not_whole_or_of_another_format_is_told(tmp_path: Path) -> None:
    int8.write(made("llama"), tmp_path)
    whole = (tmp_path / int8.WEIGHTS).read_bytes()
    (tmp_path / int8.WEIGHTS).write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"int8\.safetensors is not whole"):
        int8.load(tmp_path, AutoModelForCausalLM)
    (tmp_path / int8.WEIGHTS).write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    config["num_hidden_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"not whole \(.*model\.layers\.2"):
        int8.load(tmp_path, AutoModelForCausalLM)
    config["quantization_config"]["format"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="int8 of format 2, and 1 is read here"):
        int8.load(tmp_path, AutoModelForCausalLM)
