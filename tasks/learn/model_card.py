"""The card of a model in the Hugging Face format: its head in YAML, which the hub reads, and words and tables for people.

Every number comes from a manifest, a `scores.json`, or from what training noted of itself in `run.json`. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from expectations.cards import contamination_told, mixture_told
from expectations.croissant import hub_licence
from infra.dataset import Manifest
from tasks.learn import training_told, tuning_told
from tasks.learn.figures import of_all
from tasks.learn.tuning_told import number
from tasks.text.classifier_card import judges_told

FAMILIES = {
    "heldout": "Held-out text",
    "calibration": "Calibration",
    "robustness": "Robustness",
    "tasks": "Tasks",
    "reasoning": "Reasoning",
    "hallucination": "Hallucination",
    "bias": "Bias",
    "toxicity": "Toxicity",
    "memorisation": "Memorisation",
    "privacy": "Privacy",
    "fairness": "Fairness",
    "efficiency": "Efficiency",
    "contamination": "Overlap with the training split",
}
"""What may be measured: the part of a figure's name before the first dot, and its heading, in the order of the card."""
ADOPT = "adopt"
"""The step that takes in a model of others."""
ANSWERING = {"sft", "dpo", "kto", "reinforce"}
"""Steps that teach a model to answer."""
MAX_FIGURES = 40
"""Of one family on the card; all are in the version of scores."""
BETTER = {"lower": "lower", "higher": "higher", "zero": "nearer to 0", "none": "–"}
TASKS = {"causal": "text-generation", "masked": "fill-mask"}
HELD_OUT = {
    "host": "Held out by host: the model has seen no page of the hosts it is measured on.",
    "cluster": "Held out by duplicate cluster: hosts may be on both sides, near copies are not.",
}

Figure = Mapping[str, Any]
"""A figure as `scores.json` has it: name, value, low, high, n, better, unit, small."""


@dataclass(frozen=True)
class Scores:
    """One version of scores: what `evaluate`, `benchmark` or `probe` measured."""

    manifest: Manifest
    figures: Sequence[Figure] = ()


@dataclass(frozen=True)
class CardFacts:
    """All that a card is written from."""

    name: str
    licence: str
    trained: Manifest
    """The model as it was trained, or adopted: what the later ones were made from."""
    dataset: Manifest
    scores: Sequence[Scores]
    run: Mapping[str, Any]
    """What that training noted of itself: device, seconds, energy."""
    sources: Sequence[str] = ()
    """Where the dataset came from, in words."""
    judges: Sequence[str] = ()
    """The classifiers whose scores its documents were chosen by, and how good they are, in words."""
    mixture: Sequence[Manifest] = ()
    """The audit of its filter, and what was sampled away and added, where that was done."""
    certificate: Mapping[str, Any] | None = field(default=None)
    """Of the decontamination of its documents; None where they were not tested."""
    efficiency: Sequence[Figure] = ()
    """What the clock and the machine said while it was measured."""
    tuned: Sequence[Manifest] = ()
    """What was made of it, one step after the other."""

    @property
    def model(self) -> Manifest:
        """The model itself."""
        return self.tuned[-1] if self.tuned else self.trained

    @property
    def figures(self) -> list[Figure]:
        """Those of all scores, and what the clock said."""
        return [*(one for scores in self.scores for one in scores.figures), *self.efficiency]


def model_card(told: CardFacts) -> str:
    """The whole card."""
    model = told.model
    then = f", then {tuning_told.story(told.tuned)}" if told.tuned else ""
    return (
        f"---\n{yaml.safe_dump(_head(told), allow_unicode=True)}---\n# {told.name}\n\n"
        f"A {training_told.kind(model.facts)} of {model.facts['num_parameters']:,} parameters, {_beginning(told)}{then}.\n\n"
        f"## Evaluation\n\n{_evaluation(told)}"
        f"{_tuning(told.tuned)}"
        f"## Training\n\n{_training(told)}"
        f"{judges_told(told.judges)}{mixture_told(told.mixture)}{contamination_told(told.certificate)}"
        f"| setting | value |\n| --- | --- |\n{_all_settings(told)}\n\n"
        f"## Limits\n\n{_limits(told)}\n\n"
        f"Weights: version `{model.version}`, digest `{model.digest}`. Code `{model.recipe['code']}`.\n"
    )


def _beginning(told: CardFacts) -> str:
    """Where its first weights come from, and what they have learned from."""
    trained, dataset = told.trained, told.dataset
    if trained.step == ADOPT:
        return f"adopted by Gristmill from `{base_of(trained)}`"
    return (
        f"{training_told.origin(trained)} by Gristmill on {trained.facts['tokens']:,} tokens ({trained.facts['epochs']} epochs) of dataset "
        f"version `{dataset.version}` (digest `{dataset.digest}`, {dataset.counts.kept:,} documents)"
    )


def _tuning(tuned: Sequence[Manifest]) -> str:
    """What each later step changed, in a table; empty where there was none."""
    rows = "".join(
        f"| {one.step} | {one.name} | {one.was} | {number(one.after)} | {one.interval or '–'} | "
        f"{'–' if one.num_items is None else f'{one.num_items:,}'} |\n"
        for one in tuning_told.changes(tuned)
    )
    if not rows:
        return ""
    return (
        "## Tuning\n\nWhat was measured on held-out rows before and after each step; the interval (95 %) is of the figure after it.\n\n"
        f"| step | figure | before | after | 95 % interval | n |\n| --- | --- | ---: | ---: | ---: | ---: |\n{rows}\n"
    )


def by_family(figures: Sequence[Figure]) -> dict[str, list[Figure]]:
    """Figures by the part of their names before the first dot: those of FAMILIES in its order, then others."""
    found: dict[str, list[Figure]] = {name: [] for name in FAMILIES}
    for one in figures:
        found.setdefault(one["name"].partition(".")[0], []).append(one)
    return {name: some for name, some in found.items() if some}


def headline(figures: Sequence[Figure]) -> list[Figure]:
    """Figures of all items that have a value."""
    return [one for one in figures if one["value"] is not None and of_all(one["name"])]


def base_of(trained: Manifest) -> str:
    """The model of others that it began with; empty: none."""
    config = trained.recipe["config"]
    return training_told.checkpoint_name(str(config["checkpoint"])) if trained.step == ADOPT else training_told.base_model(config)


def _head(told: CardFacts) -> dict[str, Any]:
    facts, base = told.model.facts, base_of(told.trained)
    return {
        **hub_licence(told.licence),
        "library_name": "transformers",
        "pipeline_tag": TASKS[facts["objective"]],
        **({"base_model": base} if base else {}),
        "tags": ["gristmill", facts["family"]],
        "model-index": [{"name": told.name, "results": _results(told)}],
    }


def _results(told: CardFacts) -> list[dict[str, Any]]:
    """The scores of the model as a whole in the form that the hub reads; what is too small to tell is no score to be compared."""
    results = []
    for scores in told.scores:
        # a masked model's are pseudo-likelihoods, which its figures say in their names: nobody shall compare them with others
        plain = ("perplexity", "bits_per_byte", "accuracy") if told.model.facts["objective"] == "causal" else ()
        facts = {name: scores.manifest.facts.get(name) for name in plain}
        shown = [(one["name"], one["value"]) for one in headline(scores.figures) if not one["small"]]
        metrics = [
            {"type": name, "value": round(value, 4)} for name, value in [*facts.items(), *shown] if isinstance(value, int | float)
        ]
        if metrics:
            task = {"type": TASKS[told.model.facts["objective"]]}
            results.append({"task": task, "dataset": _measured_on(scores.manifest, told.dataset), "metrics": metrics})
    return results


def _measured_on(measured: Manifest, dataset: Manifest) -> dict[str, str]:
    if measured.step == "evaluate":
        title = dataset.recipe["config"].get("title") or dataset.version
        return {"name": title, "type": dataset.version, "split": "test"}
    return {"name": f"Gristmill {measured.step}", "type": measured.version}


def _evaluation(told: CardFacts) -> str:
    kind = {"causal": "perplexity", "masked": "pseudo-perplexity"}[told.model.facts["objective"]]
    parts = [_beside_baselines(one.manifest.facts, kind) for one in told.scores if "perplexity" in one.manifest.facts]
    parts.append(f"{_held_out(told)} Nothing here says how it does on other text.\n\n")
    families = by_family(told.figures)
    if families:
        parts.append(
            "Figures have a 95 % interval over the n items they were measured on. Where these are too few, a figure is marked as too "
            "small to tell: then it decides nothing.\n\n"
        )
    return "".join(parts) + "".join(_table(name, figures) for name, figures in families.items())


def _held_out(told: CardFacts) -> str:
    """What the model has and has not seen of the documents that it is measured on."""
    own, trained = told.trained.recipe["inputs"].get("tokens"), told.trained
    if trained.step == ADOPT:
        return "Whether its first weights have learned from what it is measured on is not known."
    others = [
        one.manifest.recipe["inputs"].get("tokens")
        for one in told.scores
        if one.manifest.step == "evaluate" and one.manifest.recipe["inputs"].get("tokens") != own
    ]
    if others:
        return f"Measured on the test split of {others[0]}, and trained on {own}: whether the model has seen documents of it is not known."
    words = HELD_OUT.get(told.dataset.facts.get("held_out_by", ""), "How the test split was held out is not known.")
    return f"{words} {training_told.chosen(trained.facts, trained.recipe['config'])}".rstrip()


def _beside_baselines(got: Mapping[str, Any], kind: str) -> str:
    names = [name.partition(".")[2] for name in got if name.startswith("perplexity.")]
    against = "".join(f" {got[f'perplexity.{name}']:.2f} |" for name in names)
    empty = " |" * len(names)
    return (
        f"| measured on the held-out split | model |{''.join(f' {name} baseline |' for name in names)}\n"
        f"| --- | ---: |{' ---: |' * len(names)}\n| {kind} per token | {got['perplexity']:.2f} |{against}\n"
        f"| bits per byte | {got['bits_per_byte']:.3f} |{empty}\n| token accuracy | {got['accuracy']:.1%} |{empty}\n\n"
    )


def _table(family: str, figures: Sequence[Figure]) -> str:
    rows = "".join(_row(one) for one in figures[:MAX_FIGURES])
    left = len(figures) - MAX_FIGURES
    more = f"\n{left:,} more are in the version of scores.\n" if left > 0 else ""
    return (
        f"### {FAMILIES.get(family, family)}\n\n"
        "| figure | value | 95 % interval | n | better | |\n| --- | ---: | ---: | ---: | --- | --- |\n"
        f"{rows}{more}\n"
    )


def _row(one: Figure) -> str:
    unit = f" {one['unit']}" if one["unit"] else ""
    value = "not measurable" if one["value"] is None else f"{number(one['value'])}{unit}"
    interval = "–" if one["low"] is None or one["high"] is None else f"{number(one['low'])} to {number(one['high'])}"
    small = "too small to tell" if one["small"] else ""
    return f"| {one['name']} | {value} | {interval} | {one['n']:,} | {BETTER[one['better']]} | {small} |\n"


def _training(told: CardFacts) -> str:
    facts, config = told.trained.facts, told.trained.recipe["config"]
    if told.trained.step == ADOPT:
        return "Who made its first weights says what they have learned from; it is not known here.\n\n"
    took = "".join(f"| {label} | {words} |\n" for label, words in training_told.machine(told.run).items())
    return (
        f"Sources of the data: {'; '.join(told.sources) or 'not known'}. {training_told.data(facts, config)}\n\n"
        f"{training_told.ending(facts, config)}{_continued(told.trained)} Validation loss {facts['valid_loss']:.4f} (on the "
        f"{training_told.valid_split(facts)} split), last training loss {facts['train_loss']:.4f} nats per token.\n\n"
        f"| it took | |\n| --- | --- |\n{took}"
        f"| Floating-point operations, computed | {facts['training_flops']:.3g} |\n\n"
    )


def _continued(trained: Manifest) -> str:
    """The digests of the weights that it began with; empty from scratch."""
    if not training_told.base_model(trained.recipe["config"]):
        return ""
    weights = [f"`{digest}`" for name, digest in trained.recipe["files"].items() if name.endswith(".safetensors")]
    return f" It began with weights of the digest {', '.join(weights)}."


def _all_settings(told: CardFacts) -> str:
    """Those of the training, and, with their step's name before them, of each later step."""
    trained = told.trained
    own = trained.recipe["config"]
    parts = [_settings({**own, "checkpoint": base_of(trained)} if trained.step == ADOPT else _told_config(own))]
    return "\n".join([*parts, *(_settings(one.recipe["config"], f"{one.step}.") for one in told.tuned)])


def _told_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings as they held: a checkpoint, by its name, decides family and shape."""
    base = training_told.base_model(config)
    if not base:
        return config
    model = {name: value for name, value in config["model"].items() if name not in ("family", "preset")}
    return {**config, "model": {**model, "from_checkpoint": base}}


def _settings(config: Mapping[str, Any], before: str = "") -> str:
    rows = []
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            rows.append(_settings(value, f"{before}{key}."))
        elif value not in (None, "", {}, []):
            rows.append(f"| {before}{key} | {value} |")
    return "\n".join(rows)


def _limits(told: CardFacts) -> str:
    families = by_family(told.figures)
    held_out = any("perplexity" in one.manifest.facts for one in told.scores)
    missing = [words.lower() for name, words in FAMILIES.items() if name not in families and not (name == "heldout" and held_out)]
    small = [FAMILIES.get(name, name).lower() for name, figures in families.items() if all(one["small"] for one in figures)]
    tuned = {one.step for one in told.tuned} & ANSWERING
    words = [
        f"It was {'tuned to answer in conversations, on the rows named above' if tuned else 'not tuned to follow instructions'}."
    ]
    words.append("The weights hold no guardrails: what serves them must.")
    if missing:
        words.append(f"Not measured: {', '.join(missing)}.")
    if small:
        words.append(f"Measured on too little to tell: {', '.join(small)}.")
    words.append(told.dataset.recipe["config"].get("notice", ""))
    return " ".join(words).rstrip()
