"""What a training says of itself, in words: for the page of a run, the model card and the closing table. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from infra.dataset import SETTINGS, Manifest
from tasks.learn.config import MODEL

STYLES = {"llama": "LLaMA-style", "gpt2": "GPT-2-style", "bert": "BERT-style"}
"""Families as people call them; others go by what transformers calls them."""
JOULES_PER_WH = 3600.0
SHOWN_PADDING = 0.0005
"""Less than it is the rest of the last window."""


def kind(facts: Mapping[str, Any]) -> str:
    """What the model is: family, and whether it continues texts or guesses masked tokens."""
    family = facts["family"]
    return f"{STYLES.get(family, family)} {facts['objective']} language model"


def base_model(config: Mapping[str, Any]) -> str:
    """Name of the checkpoint that was continued, from a recipe's config; "" for none."""
    return checkpoint_name(str(config["model"]["from_checkpoint"]))


def checkpoint_name(given: str) -> str:
    """A name on the hub stays; of a folder or file its own name is told, and of a trained version `pretrain/VERSION`: a card leaves the
    machine."""
    if "://" not in given and not given.startswith("/"):
        return given
    parts = [part for part in given.split("/") if part]
    if parts[-1] == MODEL and len(parts) > 1:
        parts.pop()
    return "/".join(parts[-2:] if parts[-2:-1] == ["pretrain"] else parts[-1:])


def origin(trained: Manifest) -> str:
    """From scratch, or from which weights."""
    base = base_model(trained.recipe["config"])
    return f"continued from `{base}`" if base else "trained from scratch"


def ending(facts: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """A sentence on how far training went, which step's weights are kept, and what was left out."""
    stopped = f"Stopped early after {facts['steps']:,} of" if facts["stopped_early"] else "Trained for"
    steps = f"{stopped} {config['max_steps']:,} optimiser steps"
    kept = {"best": "the lowest validation loss", "last": "the last step"}[config["keep"]]
    skipped = facts["steps_skipped"]
    outliers = f"; {skipped:,} {'step' if skipped == 1 else 'steps'} skipped as outliers" if skipped else ""
    average = f", a moving average (decay {config['ema_decay']:g})" if config["ema_decay"] else ""
    return f"{steps}; the weights are those of step {facts['kept_step']:,} ({kept}{average}){outliers}."


def valid_split(facts: Mapping[str, Any]) -> str:
    """The split that training looked at; before there was one for validation it was the test split."""
    return str(facts.get("valid_split", "test"))


def chosen(facts: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """What of the training was decided by the split that it is measured on; empty for nothing."""
    if valid_split(facts) != "test" or (config["keep"] != "best" and not config["early_stopping"]):
        return ""
    return "The loss on a part of the test split decided which step's weights are kept, so held-out figures flatter the model a little."


def data(facts: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """How documents became samples, and how often each source was read."""
    made = facts["data"]
    packing = {
        "documents": "windows over the stream of a source, attention kept inside each document",
        "stream": "windows over the stream of a source, attention across documents",
        "best_fit": "whole documents fitted into windows",
    }[made["packing"]]
    padding = f", {made['padding_share']:.1%} padding" if made["padding_share"] >= SHOWN_PADDING else ""
    read = ", ".join(
        f"{name} {made[f'share.{name}']:.1%} of the samples ({made[f'epochs.{name}']:.3g} epochs of {made[f'tokens.{name}']:,} tokens)"
        for name in sources(made)
    )
    mask = (
        f" Of each sample {config['data']['mask_share']:.0%} of the tokens were to be guessed."
        if facts["objective"] == "masked"
        else ""
    )
    return f"Samples of {made['context_length']:,} tokens: {packing}{padding}. Read: {read}.{mask}"


def sources(made: Mapping[str, Any]) -> list[str]:
    """Sources of the samples, those with the most tokens first; from the fact `data`."""
    names = [name.removeprefix("tokens.") for name in made if name.startswith("tokens.")]
    return sorted(names, key=lambda name: (-made[f"tokens.{name}"], name))


def machine(run: Mapping[str, Any]) -> dict[str, str]:
    """What training took of which machine, by label; from `run.json`, as far as it was noted."""
    told: dict[str, str] = {}
    settings = run.get(SETTINGS, {})
    several = settings.get("ranks", 1) > 1
    if "device" in run:
        ranks = f", {settings['ranks']} ranks by {settings['parallel'].upper()}" if several else ""
        told["Device"] = f"{run['device']} ({run['device_reason']}){ranks}"
    if changes := [_changed(before, after) for before, after in pairwise(run.get("machines", ()))]:
        told["Changed on the way"] = "; ".join(changes)
    if "precision" in run:
        told["Precision"] = run["precision"]
    if "training_seconds" in run:
        told["Time in training steps"] = f"{run['training_seconds']:,.0f} s"
    if "tokens_per_s" in run:
        told["Speed"] = f"{run['tokens_per_s']:,.0f} tokens/s"
    if "mfu" in run:
        told["MFU"] = f"{run['mfu']:.1%} of the measured peak of matrix products{' of all ranks' if several else ''}"
    if "peak_bytes" in run:
        told["Memory at peak"] = f"{run['peak_bytes'] / 2**20:,.0f} MiB{' of the first rank' if several else ''}"
    if "training_joules_estimated" in run:
        told["Electricity, estimated"] = f"{run['training_joules_estimated'] / JOULES_PER_WH:,.3g} Wh for the whole machine"
    if words := cost(run):
        told["Cost"] = f"{words} ({run['cost_basis']})"
    return told


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    names = [name for name in after if name != "after_step" and after[name] != before.get(name)]
    return f"after step {after['after_step']:,} " + ", ".join(f"{name} {before.get(name)} to {after[name]}" for name in names)


def cost(run: Mapping[str, Any]) -> str:
    """What it cost, where a price was given; else empty."""
    return f"{run['cost']:,.3g} {run['currency']}" if "cost" in run else ""


def line(facts: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """What was trained, which step is kept and what it took, in one line; `run` is its whole `run.json`."""
    early = ", stopped early" if facts["stopped_early"] else ""
    kept = f"step {facts['kept_step']:,} of {facts['steps']:,} is kept{early}"
    words = [kind(facts), f"{facts['num_parameters']:,} parameters", kept, f"MFU {run['mfu']:.1%} on {run['device']}", cost(run)]
    return " · ".join(word for word in words if word)
