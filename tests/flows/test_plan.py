"""`gristmill plan`: the arithmetic by hand, data that limit, keys that a configuration takes, and budgets that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.config import load
from flows.plan import Budget, Plan, plan
from infra.errors import InputError
from models import presets
from tasks.learn.accelerators import GPUS
from tasks.tokenise import tokenise

from .driver import commands
from .test_tokenise import SMALL, whole

PRICES = ("pretrain.costs.price_per_hour=2.5", "tokenise.vocab_size=32000")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRISTMILL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def asked(budget: Budget, *overrides: str, given: str = "", gpu: str = "h100", devices: int = 1, **more: Any) -> Plan:
    return plan(given, budget, gpu, devices, "", [*PRICES, *overrides], **more)


def test_a_day_of_a_gpu_by_hand() -> None:
    made = asked(Budget(gpu_hours=24))
    assert made.budget_flops == pytest.approx(24 * 3600 * 989e12 * 0.4) == pytest.approx(3.417984e19)
    # C = 120 N^2 would be 534M; attention takes a part
    assert 4.2e8 < made.fit.parameters < 5.34e8
    assert presets.num_parameters(made.fit.model, 32_000) == made.fit.parameters
    cost_of_token = presets.flops_per_token(made.fit.model, 32_000)
    assert made.tokens * cost_of_token == pytest.approx(made.budget_flops, rel=0.001)
    schedule = made.schedule
    assert made.tokens == schedule.steps * schedule.samples_per_pass * schedule.accumulation * made.fit.model.shape.context_length
    assert made.seconds == pytest.approx(24 * 3600, rel=0.001)
    assert made.energy_kwh == pytest.approx(16.8, rel=0.001)  # 0.7 kW x 24 h
    assert made.cost["cost"] == pytest.approx(60, rel=0.001) and made.cost["currency"] == "USD"
    loss = 1.69 + 406.4 / made.fit.parameters**0.34 + 410.7 / made.tokens**0.28
    assert made.expected_loss == pytest.approx(loss) and made.fits
    assert "The budget limits" in made.notes[0]


def test_days_and_money_are_hours_too() -> None:
    of_hours = asked(Budget(gpu_hours=96), devices=8)
    for budget in (Budget(days=0.5), Budget(money=240)):  # 12 h x 8, and 240 / 2.50
        assert asked(budget, devices=8).budget_hours == pytest.approx(96) == of_hours.budget_hours
    assert of_hours.seconds == pytest.approx(12 * 3600, rel=0.01) and of_hours.cost["cost"] == pytest.approx(240, rel=0.01)
    by_power = plan("", Budget(money=10), "a100", 1, "", ["pretrain.costs.price_per_kwh=0.25"])
    assert by_power.budget_hours == pytest.approx(100)  # 0.4 kW x 0.25 are 0.10 an hour
    assert asked(Budget(gpu_hours=24), mfu=0.2).budget_flops == pytest.approx(asked(Budget(gpu_hours=12)).budget_flops)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("devices", [1, 8])
def test_the_keys_are_a_configuration_that_trains_what_was_planned(family: str, devices: int) -> None:
    made = asked(Budget(days=30), f"pretrain.model.family={family}", devices=devices)
    config = load("small", made.sets)
    training = config.pretrain
    assert training.model.shape == made.fit.model.shape and presets.family(training.model) == family
    assert training.max_steps * training.tokens_per_step == made.tokens
    assert (training.ranks, config.tokenise.vocab_size) == (devices, 32_000)
    assert presets.num_parameters(training.model, 32_000) == made.fit.parameters
    assert (made.expected_loss is None) == (family == "bert")
    assert made.command.count("--set") == len(made.sets) == len(made.settings)


def test_memory_is_kept_within_the_device_by_smaller_passes_sharding_and_computing_again() -> None:
    roomy, tight = asked(Budget(gpu_hours=12), gpu="h200"), asked(Budget(gpu_hours=100), gpu="a10")
    for one in (roomy, tight):
        assert one.fits and "pretrain.activation_checkpointing" not in one.settings
    assert tight.memory.total < 0.9 * 24e9 and tight.schedule.samples_per_pass < roomy.schedule.samples_per_pass
    many = asked(Budget(days=60), gpu="a100-40", devices=64)
    # 16 bytes a parameter are more than one of them has
    assert 16 * many.fit.parameters > 40e9 and many.fits and many.settings["pretrain.parallel"] == "fsdp"
    alone = asked(Budget(gpu_hours=60 * 24 * 64), gpu="a100-40")
    assert not alone.fits and any("does not fit" in note and "--gpus" in note for note in alone.notes)
    # a third of the forward and backward pass is computed twice
    assert alone.settings["pretrain.activation_checkpointing"] and alone.seconds == pytest.approx(60 * 24 * 64 * 3600, rel=0.01)


def test_a_tokenised_version_limits_what_is_learnt_from_it(home: Path) -> None:
    documents = whole()
    tokens = tokenise(documents, config=SMALL)
    facts = tokens.manifest().facts
    made = asked(Budget(gpu_hours=1), given=tokens.folder, tokens_per_parameter=0.1)
    assert made.data.tokens == facts["num_tokens.train"] and made.data.vocab_size == facts["vocab_size"] and made.data.measured
    assert made.fit.limited_by_data and made.tokens <= 4 * facts["num_tokens.train"] < made.tokens * 1.3
    assert "The data limit" in made.notes[0] and "of the budget is of use" in made.notes[0]
    assert made.seconds < 60
    with pytest.raises(InputError, match="tokens, too few for even the smallest llama"):
        asked(Budget(gpu_hours=1), given=tokens.folder)
    # texts alone: about four bytes a token
    told = asked(Budget(gpu_hours=1), given=documents.folder, tokens_per_parameter=0.01)
    train = [row for shard in documents.shards()[:-1] for row in shard.read(["text"])["text"].to_pylist()]
    assert not told.data.measured and told.data.tokens == pytest.approx(sum(len(one.encode()) for one in train) / 4, rel=0.1)


@pytest.mark.parametrize(
    ("budget", "more", "message"),
    [
        (Budget(), {}, "by one of --gpu-hours, --days and --money"),
        (Budget(gpu_hours=1, days=1), {}, "by one of --gpu-hours, --days and --money"),
        (Budget(days=-1), {}, r"--days: a budget is above 0 \(got -1\)"),
        (Budget(gpu_hours=1e-9), {}, "too few for even the smallest llama with a vocabulary of 32,000"),
        (Budget(gpu_hours=1), {"gpu": "h1000"}, "--gpu h1000: its peak is not known here; these are: a100"),
    ],
)
def test_a_budget_that_is_none_is_refused(budget: Budget, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        asked(budget, **more)


def test_what_a_plan_cannot_choose_is_refused() -> None:
    with pytest.raises(InputError, match=r"--money: nobody knows what an hour costs; set pretrain.costs.price_per_hour"):
        plan("", Budget(money=10), "a100", 1, "", [])
    with pytest.raises(InputError, match="from_checkpoint has its size already"):
        asked(Budget(days=1), "pretrain.model.from_checkpoint=owner/name")
    with pytest.raises(InputError, match="published peaks are of bfloat16"):
        asked(Budget(days=1), "pretrain.precision=fp32")


def test_published_gpus_have_figures_of_their_size() -> None:
    for name, gpu in GPUS.items():
        # TFLOP/s per watt of the makers' boards lie between 0.2 (2020) and 2.3 (2024)
        assert 0.1 < gpu.peak_flops / 1e12 / (gpu.watts or 0) < 2.6, name
        assert 20e9 < gpu.memory_bytes < 200e9 and gpu.source, name


@pytest.mark.soak
def test_the_command_prints_a_table_or_json_and_measures_this_machine(home: Path) -> None:
    shown, as_json, here, nothing, wrong, small = commands(
        home,
        ["plan", "--gpu-hours", "24", "--gpu", "h100", "--set", PRICES[0]],
        ["plan", "--gpu-hours", "24", "--gpu", "h100", "--json"],
        ["plan", "--days", "0.05", "--here", "--set", "pretrain.num_threads=1", "--json"],
        ["plan", "--gpu-hours", "24"],
        ["plan", "small", "--gpu", "a10", "--gpu-hours", "1", "--set", "pretrain.costs.price=1"],
        ["plan", "small", "--gpu", "a10", "--gpu-hours", "1"],
    )
    assert shown.code == 0 and "It assumes:" in shown.output and "--set pretrain.max_steps=" in shown.output
    for words in ("Hoffmann et al. 2022", "Muennighoff et al. 2023", "60.00 USD", "NVIDIA H100 data sheet"):
        assert words in shown.output, words
    found = json.loads(as_json.output)
    assert found["limited_by"] == "budget" and found["parameters"] > 1e8 and found["memory"]["total"] < 80e9
    measured = json.loads(here.output)
    assert here.code == 0 and measured["accelerator"]["source"] == "measured here" and measured["energy_kwh"] is None
    kept = json.loads((home / "machine" / "matmul-peak.json").read_text())
    (kept_peak,) = kept.values()
    assert kept_peak == measured["accelerator"]["peak_flops"]
    assert measured["budget_flops"] == pytest.approx(0.05 * 86_400 * kept_peak * measured["accelerator"]["mfu"])
    assert nothing.code == 2 and "--gpu a100" in nothing.output and "--here" in nothing.output
    assert wrong.code == 2 and "did you mean pretrain.costs.price_per_" in wrong.output
    assert small.code == 0 and "gristmill run train --config small" in small.output
