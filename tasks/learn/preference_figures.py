"""How often a model, or a reward model, prefers the answer that people preferred, on pairs that it was not trained on.

Implicit reward of DPO (Rafailov et al. 2023, eq. 5): beta x (log p after - log p before). Long answers have large sums, so each figure is
there per token as well, beside what preferring the longer answer would reach and how the margin follows the length: a model that learnt no
more than length is seen. Pure functions of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.stats import pearsonr

from tasks.learn import figures
from tasks.learn.figures import Better, Form, Measured
from tasks.learn.reward_hacking import standardised

Floats = npt.NDArray[np.float64]


def of_likelihoods(before: Floats, after: Floats, lengths: Floats, beta: float, names: Sequence[str]) -> Measured:
    """Figures of N pairs from log-likelihoods (N, 2) of the preferred and the other answer, and their `lengths` (N, 2) in tokens."""
    measured = Measured()
    for when, told in (("before", before), ("after", after)):
        _take(measured, f"{when}.preference.likelier", _above(told), names, "rate")
        _take(measured, f"{when}.preference.likelier_per_token", _above(told / lengths), names, "rate")
    rewards = beta * (after - before)
    _judged(measured, rewards, lengths, names)
    _take(measured, "after.preference.accuracy_per_token", _above(rewards / lengths), names, "rate")
    margins = (rewards / lengths)[:, 0] - (rewards / lengths)[:, 1]
    _take(measured, "after.preference.margin_per_token", margins, names, "mean", unit="points")
    return measured


def of_rewards(rewards: Floats, lengths: Floats, names: Sequence[str]) -> Measured:
    """Figures of N pairs from a reward model's rewards (N, 2)."""
    measured = Measured()
    _judged(measured, rewards, lengths, names)
    return measured


def _judged(measured: Measured, rewards: Floats, lengths: Floats, names: Sequence[str]) -> None:
    margins, longer = rewards[:, 0] - rewards[:, 1], lengths[:, 0] - lengths[:, 1]
    _take(measured, "after.preference.accuracy", _above(rewards), names, "rate")
    _take(measured, "after.preference.margin", margins, names, "mean", unit="points")
    _take(measured, "preference.longer", np.where(longer == 0, 0.5, longer > 0), names, "mean", better="none")
    if len(names) > 1 and margins.std() > 0 and longer.std() > 0:
        products = standardised(margins) * standardised(longer)
        name = "after.preference.length_correlation"
        made = figures.figure(name, products, form="mean", better="none")
        # a correlation is no mean of independent numbers: its interval is Fisher's, which ends at -1 and 1
        low, high = pearsonr(margins, longer).confidence_interval(0.95) if len(names) > 3 else (-1.0, 1.0)
        measured.take(replace(made, low=float(low), high=float(high)), figures.items(name, names, products))


def _above(pairs: Floats) -> Floats:
    return (pairs[:, 0] > pairs[:, 1]).astype(np.float64)


def _take(
    measured: Measured, name: str, amounts: Floats, names: Sequence[str], form: Form, better: Better = "higher", unit: str = ""
) -> None:
    made = figures.figure(name, np.asarray(amounts, np.float64), form=form, better=better, unit=unit)
    measured.take(made, figures.items(name, names, amounts))
