import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from models import presets
from models.presets import ModelConfig

ROOT = Path(__file__).resolve().parents[2]
# (vocabulary, least, most) parameters: what the names promise
SIZES = {
    "nano": (4096, 0.9e6, 1.3e6),
    "micro": (4096, 3e6, 4e6),
    "small": (16_384, 28e6, 33e6),
    "base": (32_000, 120e6, 130e6),
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("preset", list(SIZES))
def test_the_parameter_count_is_that_of_the_built_model(preset: str, tied: bool) -> None:
    config = ModelConfig(preset=preset, tie_embeddings=tied)
    with torch.device("meta"):
        model = presets.build(config, 1000, seed=1)
    assert presets.num_parameters(config, 1000) == model.num_parameters()


@pytest.mark.parametrize("preset", list(SIZES))
def test_a_preset_has_the_size_its_name_promises(preset: str) -> None:
    vocab_size, least, most = SIZES[preset]
    assert least <= presets.num_parameters(ModelConfig(preset=preset), vocab_size) <= most


def test_the_flops_are_three_times_what_torch_counts_in_a_forward_pass() -> None:
    config = ModelConfig(preset="nano", context_length=64)
    model = presets.build(config, 500, seed=1)
    model.set_attn_implementation("eager")  # torch counts no FLOPs inside fused attention on a CPU
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.zeros(2, 64, dtype=torch.long), use_cache=False)
    counted = 3 * counter.get_total_flops()
    assert presets.flops_per_token(config, 500) * 2 * 64 == pytest.approx(counted, rel=0.01)


def test_equal_seeds_give_equal_weights_and_leave_the_random_state_alone() -> None:
    config = ModelConfig(preset="nano", num_layers=1)
    before = torch.get_rng_state()
    first, second, other = (presets.build(config, 300, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"hidden_size": 130}, "hidden_size 130"), ({"num_kv_heads": 3}, "num_kv_heads 3"), ({"widht": 2}, "Extra inputs")],
)
def test_a_shape_that_cannot_be_built_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig(preset="nano", **changes)


def test_configs_and_counts_cost_no_import_of_torch() -> None:
    script = (
        "import sys; from models import presets; from tasks.learn.config import TrainConfig, EvalConfig\n"
        "presets.flops_per_token(TrainConfig().model, 4096); sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)
