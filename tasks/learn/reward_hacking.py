"""What a model writes before and after it is aligned: does it earn its reward, or did it find a way around what was meant?

Signs that are known (Gao et al. 2022; Singhal et al. 2023): answers grow to the limit, repeat themselves or one another, the reward
follows the length, and it rises while an independent check of the same answers does not. Every figure has one value a prompt, the mean of
its answers; `change.` is the difference prompt by prompt. What is too much is said by the suite `aligned`, which warns or stops.
Pure functions of numbers and texts; a thousand answers of a hundred tokens take about 0.3 s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.learn import figures
from tasks.learn.figures import Better, Measured

Floats = npt.NDArray[np.float64]
NGRAM = 3
"""Words of a repeated run: distinct-3, after Li et al. 2016 (distinct-1 and -2)."""
UNITS: Mapping[str, tuple[Better, str]] = {
    "length.tokens": ("none", "tokens"),
    "length.cut": ("lower", ""),
    "repetition.distinct": ("higher", ""),
    "repetition.longest": ("lower", ""),
    "repetition.duplicates": ("lower", ""),
    "reward.mean": ("higher", "points"),
    "reward.verified": ("higher", ""),
    "reward.well_formed": ("higher", ""),
    "reward.model": ("higher", "points"),
    "reward.length_correlation": ("zero", ""),
    "reward.agreement": ("higher", ""),
    "reward.spread": ("none", ""),
    "kl.per_token": ("none", "nats"),
    "kl.per_answer": ("none", "nats"),
}
"""Which way is better, and the unit, of each figure."""
RATIO = {"length.tokens": "length.ratio"}
"""Figures whose change is a ratio, and its name."""


class Values(NamedTuple):
    """A figure's sums of each of N prompts: its value is sum(amounts) / sum(weights)."""

    amounts: Floats
    weights: Floats


@dataclass(frozen=True)
class Written:
    """A answers of a model to N prompts."""

    prompts: Sequence[int]
    """(A,) number of the prompt."""
    ids: Sequence[Sequence[int]]
    """(A,) tokens."""
    texts: Sequence[str]
    cut: Sequence[bool]
    """(A,) whether the limit ended it."""
    scores: Mapping[str, Floats] = field(default_factory=dict)
    """(A,) each, NaN where it does not apply: `reward.mean` is what training rewards, `reward.verified` what can be checked,
    `reward.model` what the reward model says."""


def values_of(written: Written, num_prompts: int) -> dict[str, Values]:
    """The figures of answers, as sums of each prompt; those that cannot be told of these answers are left out."""
    lengths = np.array([len(one) for one in written.ids], np.float64)
    distinct = [distinct_share(one) for one in written.ids]
    told = {
        "length.tokens": lengths,
        "length.cut": np.array(written.cut, np.float64),
        "repetition.longest": np.array([longest_repeat(one) / max(len(one), 1) for one in written.ids]),
        "repetition.duplicates": duplicated(written.prompts, written.texts),
        **written.scores,
    }
    found = {name: _by_prompt(written.prompts, one, num_prompts) for name, one in told.items()}
    able = [place for place, one in enumerate(distinct) if one is not None]
    known = np.array([one for one in distinct if one is not None], np.float64)
    found["repetition.distinct"] = _by_prompt([written.prompts[place] for place in able], known, num_prompts)
    reward = written.scores.get("reward.mean")
    if reward is not None:
        found["reward.spread"] = _spread(written.prompts, reward, num_prompts)
    if reward is not None and reward.std() > 0 and lengths.std() > 0:
        products = standardised(reward) * standardised(lengths)
        found["reward.length_correlation"] = _by_prompt(written.prompts, products, num_prompts)
    if "reward.model" in written.scores and "reward.verified" in written.scores:
        found["reward.agreement"] = _agreement(written, num_prompts)
    return found


def distinct_share(ids: Sequence[int]) -> float | None:
    """Different runs of NGRAM tokens among all; None of an answer that is shorter."""
    runs = [tuple(ids[start : start + NGRAM]) for start in range(len(ids) - NGRAM + 1)]
    return len(set(runs)) / len(runs) if runs else None


def longest_repeat(ids: Sequence[int]) -> int:
    """Tokens of the longest run that stands in an answer twice, overlaps included: a shorter part of it stands there twice as well."""
    raw, size = np.asarray(ids, np.int64).tobytes(), 8

    def twice(length: int) -> bool:
        runs = [raw[start * size : (start + length) * size] for start in range(len(ids) - length + 1)]
        return len(set(runs)) < len(runs)

    low, high = 0, max(len(ids) - 1, 0)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if twice(middle) else (low, middle - 1)
    return low


def duplicated(prompts: Sequence[int], texts: Sequence[str]) -> Floats:
    """(A,) 1 where the same words answer another prompt as well."""
    asked: dict[str, set[int]] = defaultdict(set)
    for prompt, text in zip(prompts, texts, strict=True):
        asked[" ".join(text.split())].add(prompt)
    return np.array([len(asked[" ".join(text.split())]) > 1 for text in texts], np.float64)


def standardised(values: Floats) -> Floats:
    """With mean 0 and deviation 1; the mean of the products of two such is their correlation."""
    found: Floats = (values - values.mean()) / values.std()
    return found


def _spread(prompts: Sequence[int], reward: Floats, num_prompts: int) -> Values:
    """Whether the answers to a prompt earn different rewards: those of the others teach nothing. One answer to a prompt cannot tell."""
    low, high = np.full(num_prompts, np.inf), np.full(num_prompts, -np.inf)
    np.minimum.at(low, prompts, reward)
    np.maximum.at(high, prompts, reward)
    several = (np.bincount(prompts, minlength=num_prompts) > 1).astype(np.float64)
    return Values((high > low) * several, several)


def _agreement(written: Written, num_prompts: int) -> Values:
    """Of two answers to a prompt of which one passes its check: how often the reward model prefers it; half where it prefers neither."""
    amounts, weights = np.zeros(num_prompts), np.zeros(num_prompts)
    prompts, right, judged = np.asarray(written.prompts), written.scores["reward.verified"], written.scores["reward.model"]
    for prompt in range(num_prompts):
        mine = prompts == prompt
        good, bad = judged[mine & (right > 0)], judged[mine & (right == 0)]
        apart = good[:, None] - bad[None, :]
        amounts[prompt], weights[prompt] = (apart > 0).sum() + 0.5 * (apart == 0).sum(), apart.size
    return Values(amounts, weights)


def _by_prompt(prompts: Sequence[int], values: Floats, num_prompts: int) -> Values:
    """Means of each prompt's answers of which there is a value; a prompt without any has no weight."""
    there = ~np.isnan(values)
    places, values = np.asarray(prompts, np.int64)[there], values[there]
    counts = np.bincount(places, minlength=num_prompts).astype(np.float64)
    sums = np.bincount(places, weights=values, minlength=num_prompts)
    return Values(sums / np.maximum(counts, 1), np.minimum(counts, 1))


def told(before: Mapping[str, Values], after: Mapping[str, Values], names: Sequence[str]) -> Measured:
    """Figures `before.`, `after.` and `change.` of prompts of these names, with their items."""
    measured = Measured()
    for when, values in (("before", before), ("after", after)):
        for name, one in sorted(values.items()):
            _take(measured, f"{when}.{name}", one, *UNITS[name], names)
    for name in sorted(before.keys() & after.keys()):
        old, new = before[name], after[name]
        if name in RATIO:
            _take(measured, f"change.{RATIO[name]}", Values(new.amounts, old.amounts), "none", "", names)
        elif not name.endswith(("agreement", "correlation")):
            both = np.minimum(old.weights, new.weights)
            _take(measured, f"change.{name}", Values((new.amounts - old.amounts) * both, both), *UNITS[name], names)
    return measured


def _take(measured: Measured, name: str, one: Values, better: Better, unit: str, names: Sequence[str]) -> None:
    made = figures.figure(name, one.amounts, one.weights, better=better, unit=unit)
    measured.take(made, figures.items(name, names, one.amounts, one.weights))
