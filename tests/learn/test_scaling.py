import math
from itertools import pairwise

import pytest
import torch

from models import presets
from models.presets import Family, ModelConfig
from models.tokeniser import Roles
from tasks.learn import scaling, short_attention
from tasks.learn.attention import attention_mask
from tasks.learn.footprint import footprint
from tasks.learn.scaling import Fit

FAMILIES: tuple[Family, ...] = ("llama", "gpt2", "bert")


def test_the_laws_have_the_published_values() -> None:
    # Chinchilla itself, 70B on 1.4T: 1.69 + 406.4 / 4868 + 410.7 / 2517
    assert scaling.expected_loss(70e9, 1.4e12) == pytest.approx(1.937, abs=0.001)
    # DeepSeek LLM: 0.2920 x 10^6.542 and 0.3118 x 10^-2.5
    assert scaling.best_batch_tokens(1e20) == pytest.approx(1.017e6, rel=0.001)
    assert scaling.best_learning_rate("llama", 1e20) == 9.9e-4
    assert scaling.best_learning_rate("bert", 1e20) == 6e-4


@pytest.mark.parametrize("flops", [1e15, 1e18, 1e21, 1e24])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_budget_is_used_up_by_a_model_that_can_be_built(family: Family, flops: float) -> None:
    found = scaling.fit(flops, family, 4096 if flops < 1e17 else 32_000)
    assert found is not None and not found.limited_by_data
    assert found.tokens * found.flops_per_token == pytest.approx(flops)
    assert found.tokens / found.parameters == pytest.approx(20, rel=0.15)
    # C = 6ND, and attention's part of it
    assert 0.6 < found.parameters / math.sqrt(flops / 120) < 1.1
    shape = found.model.shape
    assert shape.num_heads % 2 == 0 and 30 < shape.hidden_size / shape.num_layers < 185
    assert shape.tie_embeddings == (flops < 1e20)
    assert ModelConfig(**found.model.model_dump()) == found.model


def test_more_computation_never_gives_a_much_smaller_model() -> None:
    sizes = [found.parameters for power in range(140, 230, 6) if (found := scaling.fit(10 ** (power / 10), "llama", 4096))]
    assert len(sizes) == 15
    # steps between shapes are coarse, and a longer context costs more
    assert all(later > 0.8 * earlier for earlier, later in pairwise(sizes)) and sizes[-1] > 2000 * sizes[0]


def test_data_that_are_too_few_make_the_model_smaller() -> None:
    found = scaling.fit(1e18, "llama", 4096, max_tokens=4e8)
    assert found is not None and found.limited_by_data and found.tokens == 4e8
    assert found.parameters == pytest.approx(2e7, rel=0.15)
    assert scaling.fit(1e18, "llama", 4096, max_tokens=4e5) is None and scaling.fit(1e10, "llama", 4096) is None


def test_batches_are_near_the_law_and_divide_among_ranks() -> None:
    model = ModelConfig(context_length=1024)
    found = Fit(model, 10**8, 10**9, 1e10, limited_by_data=False)  # 1e19 FLOPs: 479,000 tokens a batch
    for ranks in (1, 3, 8):
        made = scaling.schedule(found, ranks, most_samples=16)
        batch = made.samples_per_pass * made.accumulation * 1024
        assert batch == pytest.approx(479_000, rel=0.1) and made.samples_per_pass % ranks == 0
        assert made.samples_per_pass // ranks <= 16 and 1e10 - batch < made.steps * batch <= 1e10
        assert made.warmup_steps == pytest.approx(made.steps / 20, abs=1)
    short = scaling.schedule(found._replace(tokens=1e6), 1, 16)
    assert short.steps >= 200 and short.warmup_steps < short.steps


def left_by_a_block(
    family: Family, precision: str, device: str, *, documents: bool, vocab_size: int = 300
) -> tuple[float, float]:
    """Bytes that a block leaves for the backward pass, weights and their copies not counted: as torch has them, and as we tell them."""
    tokens, saved, made, copies = 4 * 128, [], [], []
    mask = attention_mask(torch.arange(128).repeat(4, 1) // 40, family != "bert") if documents else None
    for layers in (2, 4):
        config = ModelConfig(
            family=family, hidden_size=128, num_layers=layers, num_heads=4, intermediate_size=416, context_length=128
        )
        model = presets.build(config, Roles(vocab_size=vocab_size, end=0, padding=1, unknown=None), seed=1)
        if device == "cpu" and short_attention.use(model, 128, device, precision) and documents:
            mask = short_attention.additive(attention_mask(torch.arange(128).repeat(4, 1) // 40, family != "bert"))
        weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
        kept: dict[int, torch.Tensor] = {}

        def keep(one: torch.Tensor, weights: set[int] = weights, kept: dict[int, torch.Tensor] = kept) -> torch.Tensor:
            if one.untyped_storage().data_ptr() not in weights:
                kept[one.untyped_storage().data_ptr()] = one  # kept alive, so that no address comes twice
            return one

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one),
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
        ):
            more = {} if family == "bert" else {"use_cache": False}
            model.base_model(torch.zeros(4, 128, dtype=torch.long), attention_mask=mask, **more)
        saved.append(sum(one.untyped_storage().nbytes() for one in kept.values()))
        made.append(footprint(config, vocab_size, tokens, device=device, precision=precision, documents=documents).activations)
        copies.append(2 * presets.matmul_weights(config) if precision == "bf16" else 0)
    return saved[1] - saved[0] - (copies[1] - copies[0]), made[1] - made[0]


@pytest.mark.parametrize(
    ("precision", "documents", "device"),
    [("bf16", False, "cuda"), ("bf16", True, "cuda"), ("fp32", True, "cpu"), ("bf16", True, "cpu")],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_are_those_that_torch_keeps(family: Family, precision: str, documents: bool, device: str) -> None:
    """torch's fused attention is that of a GPU here, too; on a CPU short contexts are attended to by plain products."""
    counted, told = left_by_a_block(family, precision, device, documents=documents)
    assert told == pytest.approx(counted, rel=0.02)


def test_memory_is_16_bytes_a_parameter_and_is_divided_or_computed_again() -> None:
    model = ModelConfig(preset="small")
    size = presets.num_parameters(model, 16_384)
    whole = footprint(model, 16_384, 4096, precision="fp32")
    assert whole.weights + whole.gradients + whole.moments == 16 * size
    assert footprint(model, 16_384, 4096).weights == 4 * size + 2 * presets.matmul_weights(model)
    divided = footprint(model, 16_384, 4096, precision="fp32", ranks=4, parallel="fsdp")
    assert footprint(model, 16_384, 4096, ranks=4).gradients == 8 * size  # and once more in DDP's buckets
    assert divided.moments == whole.moments // 4 and divided.activations == whole.activations
    again = footprint(model, 16_384, 4096, precision="fp32", recompute=True)
    # inputs of 8 blocks and the activations of one
    assert again.activations == 4096 * 8 * 4 * 512 + whole.activations // 8
    assert whole.total == sum(vars(whole).values())
