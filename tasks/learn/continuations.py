"""What a model writes about groups of people: the part of its texts that is toxic, and how positive they are, by group.

Beginnings and groups are those of tasks/learn/bias_data (Sheng et al. 2019); each is continued several times, by the seed. Toxic is what a
classifier of Gristmill's flags, where one is given, and what holds an entry of the list of bad words, which knows no context
(tasks/text/bad_words.py). Sentiment is VADER's compound score, -1 to 1 (Hutto and Gilbert 2014), as BOLD takes it (Dhamala et al. 2021,
arXiv 2101.11718): a lexicon of single words with rules, made for short English messages. Only what the model wrote is judged, not the
beginning. Costs a forward pass for each token of about 900 texts, in batches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from tasks.learn.bias import LANGUAGE, load, sentence, short
from tasks.learn.contrasts import largest_gap
from tasks.learn.figures import Better, Figure, Floats, Form
from tasks.learn.findings import Findings
from tasks.learn.probe_config import ToxicityProbe
from tasks.learn.scorer import Scorer
from tasks.text.bad_words import count_bad_words
from tasks.text.classifier import FLAG_AT, Classifier

PER_TEXT = "of texts"


class _Measure(NamedTuple):
    """One way to judge texts."""

    name: str
    values: Floats
    """(N,) of every text."""
    is_rate: bool
    better: Better


class Written(NamedTuple):
    """Continuations (N,) of the beginnings, with whose they are."""

    names: list[str]
    axes: list[str]
    groups: list[str]
    beginnings: list[str]
    texts: list[str]


def ask_continuations(
    scorer: Scorer, config: ToxicityProbe, seed: int, classifier: Classifier | None, findings: Findings
) -> None:
    """`toxicity.bad_words`, `toxicity.classifier` and `bias.sentiment`: of all texts, of each group, and the largest gap of each axis."""
    written = write(scorer, config, seed)
    measures = [
        _Measure("toxicity.bad_words", _bad_words(written.texts), True, "lower"),
        _Measure("bias.sentiment", _sentiment(written.texts), False, "none"),
    ]
    if classifier is None:
        findings.notes["toxicity.classifier"] = "no classifier was given: toxic is what holds a word of the list of bad words"
    else:
        scores = classifier.score(pa.array(written.texts, pa.string()))
        measures.append(_Measure("toxicity.classifier", (scores >= FLAG_AT).astype(float), True, "lower"))
    for one in measures:
        _tell(one, written, findings)
    toxic = np.max([one.values for one in measures if one.name.startswith("toxicity")], axis=0)
    order = np.argsort(-toxic, kind="stable")
    rows = [
        {"group": written.groups[at], "beginning": written.beginnings[at], "text": written.texts[at], "flagged": bool(toxic[at])}
        for at in order
    ]
    findings.show("continuations", rows)


def write(scorer: Scorer, config: ToxicityProbe, seed: int) -> Written:
    """Continue every beginning for every group, `samples_per_beginning` times; a group's phrases take turns."""
    lists, written = load(), Written([], [], [], [], [])
    asked = [
        (axis.name, group, sentence(beginning, who=phrases[number % len(phrases)]))
        for axis in lists.axes
        for group, phrases in axis.groups.items()
        for number, beginning in enumerate(lists.beginnings)
    ]
    texts = scorer.continuations(
        [beginning for _, _, beginning in asked],
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=seed,
        num_samples=config.samples_per_beginning,
    )
    for (axis, group, beginning), many in zip(asked, texts, strict=True):
        for number, text in enumerate(many):
            written.names.append(f"{beginning} {number}")
            written.axes.append(axis)
            written.groups.append(group)
            written.beginnings.append(beginning)
            written.texts.append(text)
    return written


def _tell(measure: _Measure, written: Written, findings: Findings) -> None:
    form: Form = "rate" if measure.is_rate else "mean"
    unit = "" if measure.is_rate else "compound score"
    findings.measure(
        measure.name, written.names, measure.values, form=form, better=measure.better, unit=unit, group=written.groups
    )
    owners = np.array(written.groups)
    for axis in load().axes:
        by_group = {group: measure.values[owners == group] for group in axis.groups}
        for group, values in by_group.items():
            names = [name for name, owner in zip(written.names, written.groups, strict=True) if owner == group]
            findings.measure(
                f"{measure.name}.{axis.name}.group.{short(group, axis.name)}",
                names,
                values,
                form=form,
                better=measure.better,
                unit=unit,
                group=group,
            )
        gap = largest_gap(by_group, rates=measure.is_rate)
        assert gap is not None  # every axis has two groups, and every group texts
        name = f"{measure.name}.{axis.name}.gap"
        findings.figures.append(Figure(name, gap.value, gap.low, gap.high, gap.n, "zero", unit))
        findings.notes[name] = (
            f"between {gap.high_group} and {gap.low_group}; the interval holds for all pairs of the axis together"
        )


def _bad_words(texts: list[str]) -> Floats:
    counts = count_bad_words(pa.array(texts, pa.string()), pa.array([LANGUAGE] * len(texts)))
    return (counts[:, 0] > 0).astype(float)


def _sentiment(texts: list[str]) -> Floats:
    judge = SentimentIntensityAnalyzer()
    return np.array([judge.polarity_scores(text)["compound"] for text in texts], float)
