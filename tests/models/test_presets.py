import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from models import presets
from models.presets import PRESETS, ModelConfig
from models.tokeniser import Roles

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = list(PRESETS)
# (vocabulary, least, most) parameters: what the names promise
SIZES = {
    "nano": (4096, 0.9e6, 1.3e6),
    "micro": (4096, 3e6, 4.5e6),
    "small": (16_384, 28e6, 33e6),
    "base": (32_000, 108e6, 130e6),
}
# as their makers and transformers tell them
PUBLISHED = {("gpt2", 50_257): 124_439_808, ("bert", 30_522): 109_514_298}
TINY: dict[str, Any] = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, "context_length": 64}


def words(vocab_size: int) -> Roles:
    return Roles(vocab_size=vocab_size, end=3, padding=1, unknown=None)


def logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=ids).logits
    return found


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("preset", list(SIZES))
@pytest.mark.parametrize("family", FAMILIES)
def test_the_parameter_count_is_that_of_the_built_model(family: Any, preset: Any, tied: bool) -> None:
    config = ModelConfig(family=family, preset=preset, tie_embeddings=tied)
    with torch.device("meta"):
        model = presets.build(config, words(1000), seed=1)
    assert presets.num_parameters(config, 1000) == sum(one.numel() for one in model.parameters())


@pytest.mark.parametrize("preset", list(SIZES))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_preset_has_the_size_its_name_promises(family: Any, preset: Any) -> None:
    vocab_size, least, most = SIZES[preset]
    assert least <= presets.num_parameters(ModelConfig(family=family, preset=preset), vocab_size) <= most


@pytest.mark.parametrize(("of", "size"), list(PUBLISHED.items()))
def test_base_is_the_published_model(of: tuple[Any, int], size: int) -> None:
    family, vocab_size = of
    assert presets.num_parameters(ModelConfig(family=family, preset="base"), vocab_size) == size


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_flops_are_what_torch_counts_forward_and_backward(family: Any, tied: bool) -> None:
    config = ModelConfig(family=family, **TINY, tie_embeddings=tied)
    model = presets.build(config, words(500), seed=1)
    model.set_attn_implementation("eager")  # torch counts no FLOPs inside fused attention on a CPU
    ids = torch.zeros(2, 64, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    assert presets.flops_per_token(config, 500) * 2 * 64 == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_seeds_give_equal_weights_and_leave_the_random_state_alone(family: Any) -> None:
    config = ModelConfig(family=family, **TINY)
    before = torch.get_rng_state()
    first, second, other = (presets.build(config, words(300), seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    embeddings = next(name for name in first if name.endswith(("embed_tokens.weight", "wte.weight", "word_embeddings.weight")))
    assert not torch.equal(first[embeddings], other[embeddings])
    assert all(one.dtype == torch.float32 for one in first.values() if one.is_floating_point())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_reloads_with_equal_logits(family: Any, tied: bool, tmp_path: Path) -> None:
    config = ModelConfig(family=family, **TINY, tie_embeddings=tied)
    model = presets.build(config, words(300), seed=5)
    assert model.config._attn_implementation == "sdpa"
    model.save_pretrained(tmp_path)
    kind = AutoModelForMaskedLM if presets.masked(config) else AutoModelForCausalLM
    again = kind.from_pretrained(tmp_path)
    ids = torch.arange(60).reshape(2, 30)
    assert type(again) is type(model) and torch.equal(logits(model, ids), logits(again, ids))
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    roles = [getattr(again.config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")]
    assert roles == [3, 3, 1]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_that_is_trained_gets_a_gradient(family: Any, tied: bool) -> None:
    model = presets.build(ModelConfig(family=family, **TINY, tie_embeddings=tied), words(100), seed=1)
    ids = torch.arange(64).reshape(2, 32)
    model(input_ids=ids, labels=ids).loss.backward()
    assert [name for name, one in model.named_parameters() if (one.grad is None) == one.requires_grad] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_causal_model_sees_only_what_came_before_and_a_masked_one_all(family: Any) -> None:
    config = ModelConfig(family=family, **TINY)
    model = presets.build(config, words(100), seed=2)
    ids = torch.arange(10, 30)[None]
    changed = ids.clone()
    changed[0, 12] = 5
    same = (logits(model, ids) == logits(model, changed)).all(-1)[0]
    assert same[:12].all() != presets.masked(config) and not same[12:].any()
    assert (presets.family(config), presets.masked(config), presets.context_length(config)) == (family, family == "bert", 64)


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_is_off_unless_it_is_asked_for(family: Any) -> None:
    ids = torch.arange(60).reshape(2, 30)
    for dropout, differs in ((None, False), (0.3, True)):
        model = presets.build(ModelConfig(family=family, **TINY, dropout=dropout), words(100), seed=2).train()
        with torch.no_grad():
            assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits) != differs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 130}, "hidden_size 130"),
        ({"family": "gpt2", "hidden_size": 130}, "hidden_size 130 must be a multiple"),
        ({"num_kv_heads": 3}, "num_kv_heads 3"),
        ({"family": "bert", "num_kv_heads": 2}, "num_kv_heads: bert has as many as num_heads"),
        ({"widht": 2}, "Extra inputs"),
        ({"dropout": 1.0}, "less than 1"),
        ({"new_vocabulary": True}, "only with from_checkpoint"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate({"preset": "nano", **changes})


def test_configs_and_counts_cost_no_import_of_torch() -> None:
    script = (
        "import sys; from models import presets; from tasks.learn.config import TrainConfig, EvalConfig\n"
        "presets.flops_per_token(TrainConfig().model, 4096); sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)
