"""The card of a trained classifier: what it learned from, every figure with its interval, and what they do not show.

Text follows from the figures and the configuration alone, so equal recipes give equal cards. `summary` is its shortest form, for the
cards of data that the classifier judged and of models that were trained on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from expectations.croissant import hub_licence
from tasks.text.accuracy import CONFIDENCE
from tasks.text.classifier import FLAG_AT

CARD = "README.md"
LIMITS = {
    "quality": (
        "It tells texts like the positive references from texts like the negative ones, by single words and pairs of words. That is a "
        "question of source and style: whether a text is true, useful or well written it does not know, and a topic or a manner of "
        "writing that the positive references lack counts as low quality."
    ),
    "toxicity": (
        "It has learned the judgement of those who labelled the references, with their mistakes. Such labels are known to be harsher on "
        "African-American English than on other English that says the same (Davidson, Bhattacharya and Weber 2019; Sap et al. 2019), and "
        "words that name a group of people may weigh against texts that only speak of it: read the rates per group. Quotation, irony, "
        "reclaimed words and threats in plain words are beyond a bag of words."
    ),
}


def card(name: str, kind: str, figures: Mapping[str, Any], sources: Sequence[str], config: Mapping[str, Any], size: int) -> str:
    """The card in the Hugging Face format.

    Args:
        name: what the classifier is called.
        kind: "quality" or "toxicity": a key of LIMITS.
        figures: of `classifier.fit`.
        sources: the references in words.
        config: of the step, as plain data.
        size: bytes of the model's file.
    """
    head = {
        **hub_licence(config["licence"]),
        "library_name": "fasttext",
        "pipeline_tag": "text-classification",
        "tags": ["gristmill"],
    }
    training = config["training"]
    settings = "\n".join(f"| {key} | {value} |" for key, value in training.items())
    notice = f"\n{config['notice']}\n" if config["notice"] else ""
    return (
        f"---\n{yaml.safe_dump(head)}---\n# {name}\n{notice}\n"
        f"A fastText classifier of {size / 1e6:.1f} MB with the classes {', '.join(figures['labels'])}. Its score is the calibrated "
        f"probability of {' or '.join(figures['positive'])}.\n\n"
        f"## References\n\nSources: {'; '.join(sources)}. Licence of the model: {config['licence']}.\n\n{_parts(figures)}\n\n"
        "A text's hash alone decides its part; copies of a text count once, and texts under several labels not at all. Near copies "
        "may be in two parts, which flatters the figures.\n\n"
        f"## Figures\n\nOn the part `test`, which neither training nor calibration has seen; intervals are Wilson's, "
        f"{CONFIDENCE:.0%}.\n\n{figures_table(figures)}\n\n## Groups\n\n{groups_table(figures)}\n\n"
        f"## Limits\n\n{LIMITS[kind]} The figures hold for texts like the references and for no others. A word list finds only texts that "
        "name a group in its words, and says nothing of who wrote them.\n\n"
        f"## Training\n\nOne thread, fixed seed.\n\n| setting | value |\n| --- | --- |\n{settings}\n"
    )


def summary(name: str, version: str, facts: Mapping[str, Any]) -> str:
    """One line: how well the classifier does, from the facts of its version."""
    classes = sorted(key.partition(".")[2] for key in facts if key.startswith("recall."))
    each = "; ".join(
        f"{label}: precision {_number(facts.get(f'precision.{label}'))}, recall {_number(facts[f'recall.{label}'])}"
        for label in classes
    )
    return (
        f"{name} version `{version}`, on {facts['num_texts.test']:,} held-out texts: average precision {facts['average_precision']:.3f} "
        f"(chance: {facts['positive_share']:.3f}), calibration error {facts['calibration_error']:.3f}; {each}"
    )


def judges_told(judges: Sequence[str]) -> str:
    """A paragraph for the card of data, or of a model, whose documents classifiers chose, from the summary of each; "" without any."""
    if not judges:
        return ""
    listed = "\n".join(f"- {one}" for one in judges)
    return (
        f"Documents were scored by these classifiers, whose mistakes are in the data:\n\n{listed}\n\n"
        "Their figures per group of people, and what they do not show, are on their own cards.\n\n"
    )


def figures_table(figures: Mapping[str, Any]) -> str:
    """Figures per class, of the flag, and of the score, as Markdown tables."""
    rows = [
        f"| {row['label']} | {row['texts']:,} | {told(row['precision'])} | {told(row['recall'])} | {_number(row['f1'])} | "
        f"{_number(row['average_precision'])} |"
        for row in figures["classes"]
    ]
    ranking = figures["ranking"]
    before_after = "\n".join(
        f"| {words} | {ranking[f'{key}_raw']:.4f} | {ranking[key]:.4f} |"
        for key, words in (("brier", "Brier score"), ("calibration_error", "expected calibration error"))
    )
    return (
        "| class | texts | precision | recall | F1 | average precision |\n| --- | ---: | --- | --- | ---: | ---: |\n"
        + "\n".join(rows)
        + f"\n\nThe score ranks with average precision {_number(ranking['average_precision'])} (chance: "
        f"{_number(ranking['positive_share'])}) and ROC AUC {_number(ranking['roc_auc'])} (chance: 0.5).\n\n"
        f"| of the score | as fastText gives it | calibrated |\n| --- | ---: | ---: |\n{before_after}"
    )


def groups_table(figures: Mapping[str, Any]) -> str:
    """Rates of the flag per group as a Markdown table; groups with too few texts in one line below it."""
    shown = [row for row in figures["groups"] if row["enough"]]
    few = {row["group"]: row["texts"] for row in figures["groups"] if not row["enough"]}
    rows = "\n".join(
        f"| {row['group']} | {row['texts']:,} | {row['positives']:,} | {told(row['precision'])} | {told(row['recall'])} | "
        f"{told(row['false_positive_rate'])} |"
        for row in shown
    )
    too_few = f"\n\nBelow {figures['min_group_texts']} test texts, so that nothing is said: {told_few(few)}." if few else ""
    return (
        f"Texts that name a group by the word lists of tasks/text/terms_data, flagged where the score is at least {FLAG_AT}. False "
        f"positives: share of the texts labelled otherwise that are flagged as {' or '.join(figures['positive'])} all the same.\n\n"
        "| group | texts | positives | precision | recall | false positives |\n| --- | ---: | ---: | --- | --- | --- |\n"
        f"{rows}{too_few}"
    )


def told_few(few: Mapping[str, int]) -> str:
    """Groups of which no rates are given, with their texts; those that no text names are only counted."""
    named = [f"{group} ({texts})" for group, texts in few.items() if texts]
    unnamed = len(few) - len(named)
    return ", ".join([*named, *([f"{unnamed} group{'s' * (unnamed > 1)} that no text names"] if unnamed else [])])


def told(rate: Mapping[str, float | None] | None) -> str:
    """A rate with its interval in words."""
    if rate is None or rate["value"] is None:
        return "–"
    return f"{rate['value']:.3f} ({rate['low']:.3f}–{rate['high']:.3f})"


def _parts(figures: Mapping[str, Any]) -> str:
    rows = "\n".join(
        f"| {label} | {' | '.join(f'{counts[label]:,}' for counts in figures['parts'].values())} |" for label in figures["labels"]
    )
    names = " | ".join(figures["parts"])
    return f"| class | {names} |\n| --- |{' ---: |' * len(figures['parts'])}\n{rows}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
