"""What was made of a model behind its training, told from the facts that the steps leave."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.learn.tuning_told import Change, changes, changes_of, number, story

from .tuned_manifests import DPO_FACTS, made


def test_a_figure_measured_twice_is_a_change_with_its_interval() -> None:
    assert changes_of("dpo", DPO_FACTS) == [
        Change("dpo", "preference.accuracy", None, 1.0, None, None, None),
        Change("dpo", "preference.likelier", 0.41, 0.93, 0.85, 0.97, 51),
        Change("dpo", "loss", 2.5, 2.25, None, None, None),
    ]
    _, with_interval, without = changes_of("dpo", DPO_FACTS)
    assert (with_interval.interval, without.interval) == ("0.85 to 0.97", "")


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"before.loss": 2.5},
        {"before.loss": None, "after.loss": 2.5},
        {"before.loss": 2.5, "after.loss": None},
        {"before.words": "few", "after.words": "many"},
        {"loss": 2.5, "preference.longer": 0.4},
    ],
)
def test_what_was_not_measured_twice_is_no_change(facts: dict[str, Any]) -> None:
    assert changes_of("dpo", facts) == []


def test_what_compares_both_models_has_no_figure_before() -> None:
    [one] = changes_of("dpo", {"after.preference.accuracy": 0.9})
    assert (one.before, one.was, one.after) == (None, "–", 0.9)


def test_changes_are_in_the_order_of_the_steps() -> None:
    tuned = [made("sft", {"before.loss": 3.0, "after.loss": 2.5}), made("quantise", {"loss": 1}), made("dpo", DPO_FACTS)]
    assert [(one.step, one.name) for one in changes(tuned)] == [
        ("sft", "loss"),
        ("dpo", "preference.accuracy"),
        ("dpo", "preference.likelier"),
        ("dpo", "loss"),
    ]


def test_the_story_names_each_step_and_what_it_learned_from() -> None:
    tuned = [
        made("sft", inputs={"model": "pretrain/1@d", "conversations": f"instruct/{'a' * 16}@{'d' * 32}"}),
        made("dpo", inputs={"model": "sft/2@d", "preferences": f"prefer/{'b' * 16}@{'d' * 32}"}),
        made("reinforce", inputs={"model": "dpo/3@d", "problems": "pose/4@d", "reward_model": []}),
        made("distil", inputs={"model": "reinforce/5@d", "teacher": "reinforce/5@d"}),
        made("warm", inputs={"model": "distil/6@d"}),
    ]
    assert story(tuned) == (
        f"tuned on conversations (`instruct/{'a' * 16}`), then aligned with preferences (DPO) (`prefer/{'b' * 16}`), "
        "then reinforced by rewards (`pose/4`), then distilled into a smaller one, then warm"
    )
    assert story([]) == ""


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.123456, "0.1235"), (-0.5, "-0.5"), (9999.4, "9999"), (10_000, "10,000"), (-1234567.8, "-1,234,568"), (0, "0")],
)
def test_numbers_have_four_digits(value: float, told: str) -> None:
    assert number(value) == told
