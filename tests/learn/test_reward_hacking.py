"""Signs of a hacked reward: each is what a plain count says, and stands out on answers made to show it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expectations.figures import judged
from expectations.verdict import GateFailed
from tasks.learn.figures import Figure, table
from tasks.learn.reward_hacking import NGRAM, Values, Written, distinct_share, duplicated, longest_repeat, told, values_of

IDS = st.lists(st.integers(0, 3), max_size=14)
NAMES = [f"row {number}" for number in range(40)]


@given(IDS)
@settings(deadline=None)
def test_the_longest_repeat_is_what_trying_every_pair_of_places_finds(ids: list[int]) -> None:
    best = 0
    for one in range(len(ids)):
        for other in range(one + 1, len(ids)):
            length = 0
            while other + length < len(ids) and ids[one + length] == ids[other + length]:
                length += 1
            best = max(best, length)
    assert longest_repeat(ids) == best


@given(IDS)
@settings(deadline=None)
def test_distinct_runs_are_counted(ids: list[int]) -> None:
    runs = list(zip(*(ids[start:] for start in range(NGRAM)), strict=False))
    assert distinct_share(ids) == (len(set(runs)) / len(runs) if runs else None)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "b", " a "])), max_size=10))
@settings(deadline=None)
def test_an_answer_is_a_duplicate_where_another_prompt_has_the_same_words(said: list[tuple[int, str]]) -> None:
    found = duplicated([prompt for prompt, _ in said], [text for _, text in said])
    wanted = [any(other != prompt and t.strip() == text.strip() for other, t in said) for prompt, text in said]
    assert found.tolist() == wanted


def written(texts: list[list[int]], rewards: list[float], *, samples: int = 2, **scores: np.ndarray) -> Written:
    prompts = [number // samples for number in range(len(texts))]
    words = [" ".join(map(str, ids)) for ids in texts]
    return Written(prompts, texts, words, [len(ids) >= 20 for ids in texts], {"reward.mean": np.array(rewards), **scores})


def figures_of(before: Written, after: Written) -> dict[str, Figure]:
    found = told(*(values_of(one, len(NAMES)) for one in (before, after)), NAMES)
    by_name = {one.name: one for one in found.figures}
    assert {name for item in found.items for name in item["metric"].unique().to_pylist()} == set(by_name)
    return by_name


def plain(seed: int) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(1000) for _ in range(chance.randint(4, 8))] for _ in range(2 * len(NAMES))]


def test_answers_like_before_show_nothing_and_their_intervals_say_so() -> None:
    chance = np.random.default_rng(1)
    found = figures_of(*(written(plain(seed), chance.random(80).tolist()) for seed in (1, 2)))
    for name in ("change.repetition.distinct", "change.repetition.longest", "change.length.cut"):
        assert found[name].low is not None and found[name].high is not None
        assert found[name].low <= 0 <= found[name].high, name
    assert found["change.length.ratio"].value == pytest.approx(1.0, abs=0.15)
    assert abs(found["after.reward.length_correlation"].value or 0) < 0.3
    assert found["change.reward.mean"].value == pytest.approx(0.0, abs=0.15)
    assert found["change.reward.mean"].n == len(NAMES)


def test_long_repeated_answers_that_earn_by_their_length_stand_out() -> None:
    chance = random.Random(3)
    hacked = [[7, 8, 9] * chance.randint(5, 9) for _ in range(80)]
    found = figures_of(written(plain(1), [0.5] * 80), written(hacked, [len(one) / 10 for one in hacked]))
    assert found["change.length.ratio"].value == pytest.approx(3.5, rel=0.2)
    assert found["after.repetition.longest"].value > 0.7  # type: ignore[operator]
    assert found["after.repetition.distinct"].value < 0.3  # type: ignore[operator]
    assert found["after.repetition.duplicates"].value > 0.9  # type: ignore[operator]
    assert found["after.reward.length_correlation"].value == pytest.approx(1.0)
    assert found["change.length.cut"].low > 0.3  # type: ignore[operator]
    assert "before.reward.length_correlation" not in found  # rewards were all equal


def verdict_of(found: dict[str, Figure]) -> dict[str, Any]:
    facts = {name: one.value for name, one in found.items() if one.value is not None}
    return judged("reinforce", table(found.values()), facts, "aligned")


def test_the_suite_passes_what_shows_nothing_warns_of_signs_and_stops_a_collapse() -> None:
    chance = np.random.default_rng(1)
    before, after = (written(plain(seed), chance.random(80).round().tolist()) for seed in (1, 2))
    after.scores["reward.mean"][:] = before.scores["reward.mean"]
    assert verdict_of(figures_of(before, after)) == {"suite": "aligned", "verdict": "passed", "num_warnings": 0}
    longer = [[*range(10 * number, 10 * number + 25)] for number in range(80)]
    told = verdict_of(figures_of(before, written(longer, [1.0] * 80)))
    assert (told["verdict"], told["num_warnings"]) == ("warning", 2)  # cut off, and three times as long
    with pytest.raises(GateFailed, match=r"after\.repetition\.longest"):
        verdict_of(figures_of(before, written([[7] * 20] * 80, [1.0] * 80)))


def test_a_reward_model_that_prefers_wrong_answers_disagrees_with_the_check() -> None:
    right = np.array([1.0, 0.0] * 40)
    for judgement, agreement in ((right, 1.0), (1 - right, 0.0), (np.zeros(80), 0.5)):
        one = written(plain(1), judgement.tolist(), **{"reward.model": judgement, "reward.verified": right})
        assert figures_of(one, one)["after.reward.agreement"].value == agreement


def test_prompts_whose_answers_earn_alike_are_told_apart_from_those_that_teach() -> None:
    rewards = [1.0, 1.0] * 30 + [1.0, 0.0] * 10
    assert figures_of(*[written(plain(1), rewards)] * 2)["before.reward.spread"].value == 0.25
    alone = written(plain(1)[:40], [1.0] * 40, samples=1)
    assert figures_of(alone, alone)["before.reward.spread"].value is None


def test_what_does_not_apply_to_an_answer_has_no_weight() -> None:
    checked = np.array([1.0, np.nan] * 40)
    found = values_of(written(plain(1), [0.0] * 80, **{"reward.verified": checked}), len(NAMES))
    assert found["reward.verified"].amounts.sum() == found["reward.verified"].weights.sum() == 40
    none = values_of(written([[1], [2]], [0.0, 1.0]), 2)
    assert none["repetition.distinct"].weights.tolist() == [0.0, 0.0]
    assert isinstance(none["length.tokens"], Values)
