"""What a training says of itself in words, from its facts, its settings and its own notes."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.learn import training_told
from tests.flows.made_model import FACTS, RUN

DATA = {
    "packing": "best_fit",
    "context_length": 64,
    "padding_share": 0.021,
    **{"tokens.web": 200, "tokens.books": 900, "share.web": 0.25, "share.books": 0.75, "epochs.web": 2.0, "epochs.books": 1.333},
}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("", ""),
        ("gpt2", "gpt2"),
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
        ("/models/SmolLM2-135M/", "SmolLM2-135M"),
        ("/home/ann/.gristmill/store/pretrain/721c7dee38dfa7be", "pretrain/721c7dee38dfa7be"),
        ("/home/ann/.gristmill/store/pretrain/721c7dee38dfa7be/model", "pretrain/721c7dee38dfa7be"),
        ("s3://bucket/store/pretrain/721c7dee38dfa7be", "pretrain/721c7dee38dfa7be"),
        ("/model", "model"),
    ],
)
def test_a_checkpoint_is_named_without_the_folders_of_a_machine(given: str, told: str) -> None:
    assert training_told.base_model({"model": {"from_checkpoint": given}}) == told


def test_families_are_told_as_people_call_them() -> None:
    assert training_told.kind({"family": "gpt2", "objective": "causal"}) == "GPT-2-style causal language model"
    assert training_told.kind({"family": "bert", "objective": "masked"}) == "BERT-style masked language model"
    assert training_told.kind({"family": "qwen3", "objective": "causal"}) == "qwen3 causal language model"


@pytest.mark.parametrize(
    ("facts", "config", "told"),
    [
        (
            {"stopped_early": False, "steps": 300, "kept_step": 300, "steps_skipped": 0},
            {"max_steps": 300, "keep": "last", "ema_decay": 0.0},
            "Trained for 300 optimiser steps; the weights are those of step 300 (the last step).",
        ),
        (
            {"stopped_early": True, "steps": 1540, "kept_step": 1200, "steps_skipped": 1},
            {"max_steps": 6000, "keep": "best", "ema_decay": 0.99},
            "Stopped early after 1,540 of 6,000 optimiser steps; the weights are those of step 1,200 (the lowest validation loss, "
            "a moving average (decay 0.99)); 1 step skipped as outliers.",
        ),
    ],
)
def test_how_a_training_ended_is_told(facts: dict[str, Any], config: dict[str, Any], told: str) -> None:
    assert training_told.ending(facts, config) == told


def test_packing_padding_and_what_was_read_of_each_source_are_told() -> None:
    assert training_told.sources(DATA) == ["books", "web"]
    told = training_told.data({"data": DATA, "objective": "masked"}, {"data": {"mask_share": 0.15}})
    assert told == (
        "Samples of 64 tokens: whole documents fitted into windows, 2.1% padding. Read: books 75.0% of the samples (1.33 epochs of 900 "
        "tokens), web 25.0% of the samples (2 epochs of 200 tokens). Of each sample 15% of the tokens were to be guessed."
    )
    rest_of_a_window = training_told.data({"data": {**DATA, "padding_share": 0.0001}, "objective": "causal"}, {})
    assert "padding" not in rest_of_a_window and "guessed" not in rest_of_a_window


def test_only_what_was_noted_of_the_machine_is_told() -> None:
    assert training_told.machine({}) == {} and training_told.cost({}) == ""
    run = {"mfu": 0.325, "peak_bytes": 3 * 2**30, "training_joules_estimated": 7200.0, "cost": 1.5, "currency": "EUR"}
    assert training_told.machine({**run, "cost_basis": "3 device-hours x 0.5", "settings": {"ranks": 1}}) == {
        "MFU": "32.5% of the measured peak of matrix products",
        "Memory at peak": "3,072 MiB",
        "Electricity, estimated": "2 Wh for the whole machine",
        "Cost": "1.5 EUR (3 device-hours x 0.5)",
    }

    run = {"device": "cpu", "device_reason": "asked for", "peak_bytes": 2**20, "settings": {"ranks": 2, "parallel": "fsdp"}}
    run["mfu"] = 0.325
    several = {
        "Device": "cpu (asked for), 2 ranks by FSDP",
        "MFU": "32.5% of the measured peak of matrix products of all ranks",
        "Memory at peak": "1 MiB of the first rank",
    }
    assert training_told.machine(run) == several
    machines = [{"after_step": 0, "ranks": 1, "compile": False}, {"after_step": 40, "ranks": 2, "compile": False}]
    assert training_told.machine({**run, "machines": machines[:1]}) == several
    assert training_told.machine({**run, "machines": machines}) == {
        **several,
        "Changed on the way": "after step 40 ranks 1 to 2",
    }


def test_the_closing_line_of_a_run_has_family_kept_step_speed_and_cost() -> None:
    assert training_told.line(FACTS, RUN) == (
        "LLaMA-style causal language model · 158,016 parameters · step 520 of 540 is kept, stopped early · MFU 3.2% on cpu · 0.00938 USD"
    )
    free = {name: value for name, value in RUN.items() if not name.startswith("cost")}
    assert training_told.line({**FACTS, "stopped_early": False}, free).endswith("step 520 of 540 is kept · MFU 3.2% on cpu")
