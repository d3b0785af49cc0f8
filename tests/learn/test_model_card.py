"""The card of a model: the hub's own library reads its head, figures are told with their doubt, and what nobody measured is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from huggingface_hub import ModelCard

from infra.dataset import Counts, Manifest
from tasks.learn.config import TrainConfig
from tasks.learn.figures import Figure
from tasks.learn.model_card import FAMILIES, MAX_FIGURES, CardFacts, Scores, by_family, model_card
from tests.flows.made_model import FACTS, RUN

EVALUATED = {
    "perplexity": 84.2,
    "perplexity.uniform": 1024.0,
    "perplexity.unigram": 510.6,
    "bits_per_byte": 2.657,
    "accuracy": 0.133,
}
HELD_OUT = Figure("heldout.bits_per_byte", 2.657, 2.61, 2.7, 400, "lower", "bits per byte")
GAP = Figure("bias.swaps.gender", -0.012, -0.05, 0.03, 12, "zero", "nats")
OF_A_GROUP = Figure("heldout.bits_per_byte.source.web", 2.9, 2.8, 3.0, 90, "lower", "bits per byte")
NOTHING = Figure("memorisation.canaries.exposure", None, None, None, 0, "lower", "bits")


def manifest(step: str, facts: dict[str, Any], config: dict[str, Any], files: dict[str, str] | None = None) -> Manifest:
    recipe = {"step": step, "inputs": {}, "config": config, "files": files or {}, "code": "c0de", "libraries": {}}
    made = {"version": step[0] * 16, "step": step, "schema_name": "x", "recipe": recipe, "facts": facts, "digest": step[0] * 32}
    return Manifest.model_validate({**made, "shards": [], "files": [], "counts": Counts(total=181, kept=181)})


def told(config: dict[str, Any] | None = None, facts: dict[str, Any] | None = None, **changes: Any) -> CardFacts:
    settings = TrainConfig.model_validate({"max_steps": 600, **(config or {})}).model_dump(mode="json", exclude={"costs"})
    begun_with = {"checkpoint/config.json": "cd" * 16, "checkpoint/model.safetensors": "ab" * 16} if config else None
    trained = manifest("pretrain", {**FACTS, **(facts or {})}, settings, begun_with)
    dataset = manifest("publish", {"held_out_by": "host"}, {"title": "Plays", "notice": "Old words."})
    scores = [Scores(manifest("evaluate", EVALUATED, {}))]
    return replace(CardFacts("plays", "cc-by-sa-4.0", trained, dataset, scores, RUN), **changes)


def measured(*figures: Figure, step: str = "evaluate") -> Scores:
    facts = EVALUATED if step == "evaluate" else {}
    return Scores(manifest(step, facts, {}), [one.as_json() for one in figures])


def test_the_hub_reads_the_head_with_its_scores() -> None:
    scores = [measured(HELD_OUT, OF_A_GROUP), measured(GAP, NOTHING, step="probe")]
    data = ModelCard(model_card(told(scores=scores))).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("cc-by-sa-4.0", "transformers", "text-generation")
    assert data.tags == ["gristmill", "llama"] and data.base_model is None
    read = {(one.dataset_type, one.metric_type): one.metric_value for one in data.eval_results or ()}
    # those of groups and those that are too small to tell are no scores to be compared
    assert read == {
        ("p" * 16, "perplexity"): 84.2,
        ("p" * 16, "bits_per_byte"): 2.657,
        ("p" * 16, "accuracy"): 0.133,
        ("p" * 16, "heldout.bits_per_byte"): 2.657,
    }


def test_a_masked_model_that_goes_on_from_a_checkpoint_is_told_as_such() -> None:
    config = {"model": {"from_checkpoint": "google/bert_uncased_L-2"}, "data": {"packing": "best_fit"}}
    card = model_card(told(config, {"family": "bert", "objective": "masked"}))
    data = ModelCard(card).data
    assert (data.pipeline_tag, data.base_model, data.tags) == ("fill-mask", "google/bert_uncased_L-2", ["gristmill", "bert"])
    assert (
        "A BERT-style masked language model of 158,016 parameters, continued from `google/bert_uncased_L-2` by Gristmill" in card
    )
    assert f"It began with weights of the digest `{'ab' * 16}`." in card and "pseudo-perplexity per token" in card
    assert "cd" * 16 not in card  # of a file that holds no weights
    # what a checkpoint decides is no setting
    assert "| model.from_checkpoint | google/bert_uncased_L-2 |" in card and "| model.preset |" not in card
    assert "causal" not in card and "scratch" not in card
    assert not data.eval_results  # pseudo-likelihoods under the names of likelihoods would be compared with these


def test_the_card_leaves_out_the_folders_of_the_machine() -> None:
    card = model_card(told({"model": {"from_checkpoint": "/home/ann/store/pretrain/721c7dee38dfa7be"}}))
    assert "/home/ann" not in card and "base_model: pretrain/721c7dee38dfa7be" in card


def test_how_it_was_trained_and_what_it_took_is_told() -> None:
    card = model_card(told())
    for words in (
        "A LLaMA-style causal language model of 158,016 parameters, trained from scratch by Gristmill on 552,960 tokens (0.762 epochs)",
        "Stopped early after 540 of 600 optimiser steps; the weights are those of step 520 (the lowest validation loss); 2 steps skipped",
        "Validation loss 4.3440 (on the test split), last training loss 4.3610 nats per token.",
        "web 30.0% of the samples (0.415 epochs of 443,957 tokens), plays 70.0% of the samples",
        "| Device | cpu (asked for by the config) |",
        "| Precision | bf16 |",
        "| MFU | 3.2% of the measured peak of matrix products |",
        "| Electricity, estimated | 0.794 Wh for the whole machine |",
        "| Cost | 0.00938 USD (0.02284 device-hours x 0.4 + 0.0007945 kWh x 0.3) |",
        "| max_steps | 600 |",
        "| perplexity per token | 84.20 | 1024.00 | 510.60 |",
        "Held out by host",
    ):
        assert words in card, words


def test_figures_are_told_with_their_doubt_by_what_they_speak_of() -> None:
    card = model_card(told(scores=[measured(HELD_OUT), measured(GAP, NOTHING, step="probe")]))
    assert "### Held-out text\n\n| figure |" in card
    assert "| heldout.bits_per_byte | 2.657 bits per byte | 2.61 to 2.7 | 400 | lower |  |" in card
    assert "| bias.swaps.gender | -0.012 nats | -0.05 to 0.03 | 12 | nearer to 0 | too small to tell |" in card
    assert "| memorisation.canaries.exposure | not measurable | – | 0 | lower | too small to tell |" in card
    assert card.index("### Held-out text") < card.index("### Bias") < card.index("### Memorisation")


def test_limits_name_what_was_not_measured_and_what_was_on_too_little() -> None:
    limits = model_card(told(scores=[measured(HELD_OUT), measured(GAP, step="probe")])).partition("## Limits")[2]
    assert "Not measured: calibration, robustness, tasks, reasoning, hallucination, toxicity, memorisation, privacy" in limits
    assert "Measured on too little to tell: bias." in limits and "Old words." in limits
    everything = [Figure(f"{name}.some", 0.5, 0.4, 0.6, 100, "none") for name in FAMILIES]
    whole = model_card(told(scores=[measured(*everything)])).partition("## Limits")[2]
    assert "Not measured" not in whole and "too little" not in whole
    # perplexity alone is a measurement of held-out text
    assert "Not measured: calibration, " in model_card(told())
    assert "Not measured: held-out text, calibration, " in model_card(told(scores=[measured(GAP, step="probe")]))


def test_a_family_nobody_foresaw_has_a_table_and_long_ones_are_cut() -> None:
    many = [Figure(f"cooking.dish{number}", 0.5, 0.4, 0.6, 100, "none") for number in range(MAX_FIGURES + 3)]
    card = model_card(told(scores=[measured(*many)]))
    assert (
        "### cooking" in card and card.count("| cooking.dish") == MAX_FIGURES and "3 more are in the version of scores." in card
    )
    assert list(by_family([one.as_json() for one in (*many, GAP, HELD_OUT)])) == ["heldout", "bias", "cooking"]


@pytest.mark.parametrize("unit", ["cluster", "", "moon"])
def test_how_the_test_split_was_held_out_is_told(unit: str) -> None:
    facts = told()
    card = model_card(replace(facts, dataset=facts.dataset.model_copy(update={"facts": {"held_out_by": unit}})))
    assert ("Held out by duplicate cluster" in card) == (unit == "cluster")
    assert ("How the test split was held out is not known." in card) == (unit != "cluster")


def test_what_flatters_held_out_figures_is_told() -> None:
    flattering = "decided which step's weights are kept"
    assert flattering in model_card(told())
    assert flattering not in model_card(told({"keep": "last"})) and flattering in model_card(
        told({"keep": "last", "early_stopping": 3})
    )
    facts = told()
    apart = replace(
        facts, trained=facts.trained.model_copy(update={"facts": {**facts.trained.facts, "valid_split": "validation"}})
    )
    assert flattering not in model_card(apart) and "(on the validation split)" in model_card(apart)
    elsewhere = measured(HELD_OUT)
    recipe = {**elsewhere.manifest.recipe, "inputs": {"tokens": "tokenise/other@0"}}
    card = model_card(told(scores=[replace(elsewhere, manifest=elsewhere.manifest.model_copy(update={"recipe": recipe}))]))
    assert "the test split of tokenise/other@0" in card and "Held out by host" not in card
