"""What a policy's rules look for: each of them as detectors on the readings of a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from infra import dataset, scratch
from tasks.serving import patterns
from tasks.serving.checks import decoded
from tasks.serving.detectors import MAX_WORD, Detector, LinearPattern, Lines, Phrases
from tasks.serving.patterns import PatternRule
from tasks.serving.policy import (
    InjectionRule,
    LeakRule,
    PatternsRule,
    PiiRule,
    Policy,
    SecretsRule,
    TopicsRule,
    ToxicityRule,
    name_of,
)
from tasks.serving.scanner import ALLOWED, MASK, Watch
from tasks.serving.views import ViewName, read

if TYPE_CHECKING:
    from tasks.text.classifier import Classifier

ENCODED = "encoded"
"""The kind of injection whose match is read and judged by the other kinds."""
Placed = tuple[ViewName, Detector, dict[str, str]]
"""A detector, the reading that it looks at, and masks by kind."""
Scores = Callable[[list[str]], Sequence[float]]


def watches_of(policy: Policy, side: Literal["before", "after"]) -> list[Watch]:
    """The detectors of the rules of one side, in the policy's order; those of a leak need a system prompt (`watch_leak`)."""
    made: list[Watch] = []
    for order, rule in enumerate(policy.rules):
        if side in rule.sides:
            for view, detector, masks in _detectors(rule):
                made.append(Watch(name_of(rule), order, rule.action, view, detector, masks))
    return made


@lru_cache(maxsize=64)
def watch_leak(rule: LeakRule, order: int, system_prompt: str) -> Watch | None:
    """What finds runs of a system prompt's words; None for a prompt that has fewer than such a run."""
    words = re.findall(r"\w+", read(system_prompt, "folded"))
    some = [words[at : at + rule.num_words] for at in range(len(words) - rule.num_words + 1)]
    runs = [" ".join(run) for run in some if max(map(len, run)) <= MAX_WORD]
    if not runs:
        return None
    return Watch(
        name_of(rule), order, rule.action, "folded", Phrases(dict.fromkeys(runs, "system_prompt")), {"system_prompt": MASK}
    )


def _detectors(rule: object) -> list[Placed]:
    if isinstance(rule, PiiRule | SecretsRule | InjectionRule):
        return _by_form(rule, rule.kind)
    if isinstance(rule, TopicsRule):
        phrases = {**_folded(rule.deny, "topic"), **_folded(rule.allow, ALLOWED)}
        words: list[Placed] = [("folded", Phrases(phrases), {})] if phrases else []
        return [*words, *(("folded", LinearPattern("topic", one), {}) for one in rule.patterns)]
    if isinstance(rule, ToxicityRule):
        return _toxicity(rule)
    return []


def _by_form(rule: PatternsRule, file: patterns.RuleFile) -> list[Placed]:
    wanted = [one for one in patterns.load(file) if one.score >= rule.threshold and (rule.find is None or one.kind in rule.find)]
    return [(one.view, one.detector(_says_so(wanted) if one.kind == ENCODED else None), {one.kind: one.mask}) for one in wanted]


def _says_so(rules: Sequence[PatternRule]) -> Callable[[str], bool]:
    """Whether what a run of base 64 or hexadecimals says is itself found by the other patterns."""
    others = [(one.view, one.detector()) for one in rules if one.kind != ENCODED]

    def check(found: str) -> bool:
        text = decoded(found)
        return text is not None and any(detector.find(read(text, view), 0, True)[0] for view, detector in others)

    return check


def _toxicity(rule: ToxicityRule) -> list[Placed]:
    """The classifier on lines, the list on words; or the classifier on lines that hold one of them."""
    listed = _folded(rule.words, "bad_word")
    if rule.lists:
        from tasks.text import bad_words

        listed |= _folded(
            [entry for one in rule.lists for entry in bad_words.entries_of(one) if re.search(r"\w", entry)], "bad_word"
        )
    words = Phrases({**listed, **_folded(rule.allow, ALLOWED)}) if listed else None
    found: list[Placed] = []
    if rule.classifier is not None:
        scores = _classifier_scores(rule.classifier)
        asked = _if_listed(scores, words) if rule.both and words else scores
        found.append(("plain", Lines("toxic", asked, rule.threshold), {}))
    if words is not None and not rule.both:
        found.append(("folded", words, {}))
    return found


def _classifier_scores(given: str) -> Scores:
    classifier = _classifier(given)

    def scores(lines: list[str]) -> Sequence[float]:
        return [float(one) for one in classifier.score(pa.array(lines))]

    return scores


def _classifier(given: str) -> Classifier:
    from tasks.text.classifier import NEEDED, load

    if Path(given).is_dir():
        return load(given)
    version = dataset.named(given)
    with scratch.folder("classifier") as local:
        for name in NEEDED:
            Path(local, name).write_bytes(version.read_file(name))
        return load(local)


def _if_listed(scores: Scores, words: Phrases) -> Scores:
    def asked(lines: list[str]) -> Sequence[float]:
        found = [words.find(read(one, "folded"), 0, True)[0] for one in lines]
        allowed = [[one for one in some if one.kind == ALLOWED] for some in found]
        listed = [
            any(one.kind != ALLOWED and not any(a.start <= one.start and one.end <= a.end for a in own) for one in some)
            for some, own in zip(found, allowed, strict=True)
        ]
        given = iter(scores([one for one, bad in zip(lines, listed, strict=True) if bad]) if any(listed) else ())
        return [next(given) if bad else 0.0 for bad in listed]

    return asked


def _folded(phrases: Sequence[str], kind: str) -> dict[str, str]:
    return dict.fromkeys((read(one, "folded") for one in phrases), kind)
