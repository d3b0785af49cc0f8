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

from .tuned_manifests import DPO_FACTS, made

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


SFT = made(
    "sft",
    {**FACTS, "before.loss": 3.1234, "after.loss": 2.5, "after.loss.low": 2.4, "after.loss.high": 2.6, "after.loss.n": 1200},
    {"epochs": 3.0, "lora": {"rank": 16, "target_modules": []}, "max_steps": None},
    {"model": "pretrain/pp@d", "conversations": f"instruct/{'a' * 16}@{'d' * 32}"},
)
DPO = made(
    "dpo",
    {**DPO_FACTS, "num_parameters": 200_000},
    {"beta": 0.1, "epochs": 1.0},
    {"preferences": f"prefer/{'b' * 16}@{'e' * 32}"},
)


def test_a_tuned_model_tells_its_line_and_what_each_step_changed() -> None:
    card = model_card(told(tuned=[SFT, DPO]))
    assert (
        "A LLaMA-style causal language model of 200,000 parameters, trained from scratch by Gristmill on 552,960 tokens (0.762 epochs) of "
        f"dataset version `{'p' * 16}` (digest `{'p' * 32}`, 181 documents), then tuned on conversations (`instruct/{'a' * 16}`), then "
        f"aligned with preferences (DPO) (`prefer/{'b' * 16}`).\n"
    ) in card
    table = card.partition("## Tuning\n")[2].partition("## Training\n")[0]
    assert [line for line in table.splitlines() if line.startswith("|")] == [
        "| step | figure | before | after | 95 % interval | n |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        "| sft | loss | 3.123 | 2.5 | 2.4 to 2.6 | 1,200 |",
        "| dpo | preference.accuracy | – | 1 | – | – |",
        "| dpo | preference.likelier | 0.41 | 0.93 | 0.85 to 0.97 | 51 |",
        "| dpo | loss | 2.5 | 2.25 | – | – |",
    ]
    # the weights are those of the last step, whatever the first one left
    assert f"Weights: version `{'d' * 16}`, digest `{'d' * 32}`." in card
    limits = card.partition("## Limits")[2]
    assert "It was tuned to answer in conversations, on the rows named above." in limits and "guardrails" in limits


def test_the_settings_of_each_step_stand_under_its_name() -> None:
    settings = model_card(told(tuned=[SFT, DPO])).partition("| setting | value |")[2].partition("## Limits")[0]
    rows = dict(line.strip("| ").split(" | ") for line in settings.splitlines() if line.startswith("| ") and "---" not in line)
    assert rows["max_steps"] == "600" and rows["model.preset"] == "micro"  # those of the training have no name before them
    assert (
        rows["sft.epochs"] == "3.0"
        and rows["sft.lora.rank"] == "16"
        and rows["dpo.beta"] == "0.1"
        and rows["dpo.epochs"] == "1.0"
    )
    assert not {"sft.max_steps", "sft.lora.target_modules", "epochs", "beta"} & rows.keys()  # what says nothing is left out
    assert list(rows).index("sft.epochs") < list(rows).index("dpo.beta")


def test_a_model_that_was_only_made_smaller_answers_nobody() -> None:
    smaller = made("quantise", {**FACTS, "before.perplexity": 84.2, "after.perplexity": 84.9}, {}, {"tokens": "tokenise/t@d"})
    card = model_card(told(tuned=[smaller]))
    assert (
        "then its weights rounded to int8 (`tokenise/t`)." in card and "| quantise | perplexity | 84.2 | 84.9 | – | – |" in card
    )
    assert "It was not tuned to follow instructions." in card
    without = model_card(told())
    assert "It was not tuned to follow instructions." in without and "## Tuning" not in without and ", then" not in without


def test_an_adopted_model_names_its_maker_and_claims_no_training() -> None:
    adopted = manifest("adopt", dict(FACTS), {"checkpoint": "/home/ann/models/SmolLM2-135M"})
    card = model_card(told(trained=adopted, tuned=[SFT]))
    assert ModelCard(card).data.base_model == "SmolLM2-135M" and "/home/ann" not in card
    assert "| checkpoint | SmolLM2-135M |" in card
    assert "of 158,016 parameters, adopted by Gristmill from `SmolLM2-135M`, then tuned on conversations" in card
    assert "Who made its first weights says what they have learned from; it is not known here." in card
    assert "Whether its first weights have learned from what it is measured on is not known." in card
    assert "tokens (" not in card and "Validation loss" not in card and "it took" not in card
