"""Draws of the next token: as likely as the scores say, by the seed and nothing else; temperature and top-p as transformers has them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from tasks.serving import sampling

GIVEN = {"temperature": 1.0, "top_p": 1.0, "seed": 0, "prompt_tokens": 3}


def asked(place: int = 0, **more: Any) -> Any:
    """A request at its next token, as the engine hands it to processors."""
    state = SimpleNamespace(initial_tokens=[1, 2, 3], generated_tokens=[0] * place, logit_processor_kwargs={**GIVEN, **more})
    return SimpleNamespace(state=state)


def chosen(scores: torch.Tensor, requests: list[Any]) -> list[int]:
    """The tokens that are left after all processors."""
    made = sampling.Processors()
    storage = torch.zeros((made.tensors_required, len(requests) + 2), dtype=torch.int32)
    made.fill_defaults(storage)
    for one in requests:
        one.has_new_token = True
    left = made(torch.zeros(0), scores, made.prepare_tensor_args(requests, storage))
    if any(one.state.logit_processor_kwargs["temperature"] for one in requests):
        assert ((left == 0).sum(-1) == 1).all() and (left[left != 0] == float("-inf")).all()
    return left.argmax(-1).tolist()


def test_draws_are_as_likely_as_the_scores_say() -> None:
    scores, num = torch.randn(12, generator=torch.Generator().manual_seed(1)), 4_000
    found = torch.tensor(chosen(scores.expand(num, -1), [asked(seed=place) for place in range(num)])).bincount(minlength=12)
    expected = scores.softmax(-1) * num
    assert float(((found - expected) ** 2 / expected).sum()) < 31.3  # chi-squared, 11 degrees of freedom: p = 0.001
    again = torch.tensor(chosen(scores.expand(num, -1), [asked(place=place, seed=7) for place in range(num)])).bincount(
        minlength=12
    )
    assert float(((again - expected) ** 2 / expected).sum()) < 31.3


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.2, 2.0), st.floats(0.05, 1.0))
def test_temperature_and_top_p_leave_what_transformers_leaves(seed: int, temperature: float, top_p: float) -> None:
    scores = torch.randn((1, 40), generator=torch.Generator().manual_seed(seed)) * 3
    theirs = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, scores.clone()))
    request = [asked(temperature=temperature, top_p=top_p)]
    ours = scores
    for one in (sampling.Temperature(), sampling.TopP()):
        ours = one(ours, one.prepare_tensor_args(request))
    assert torch.equal(ours.isinf(), theirs.isinf()) and torch.allclose(ours[~ours.isinf()], theirs[~theirs.isinf()])


def test_an_answer_among_others_is_drawn_as_alone() -> None:
    scores = torch.randn((30, 50), generator=torch.Generator().manual_seed(2))
    requests = [asked(place=row, seed=row, temperature=(0.0, 0.5, 1.0)[row % 3], top_p=(1.0, 0.6)[row % 2]) for row in range(30)]
    together = chosen(scores, requests)
    assert together == [chosen(scores[row : row + 1], [requests[row]])[0] for row in range(30)]
    assert together[0::3] == scores[0::3].argmax(-1).tolist()


def test_where_each_takes_the_likeliest_token_the_scores_stay_as_they_are() -> None:
    made, scores = sampling.Processors(), torch.randn((2, 50), generator=torch.Generator().manual_seed(3))
    storage = torch.full((made.tensors_required, 4), 7, dtype=torch.int32)
    greedy, drawn = asked(temperature=0.0), asked(temperature=1.0)
    for one in (greedy, drawn):
        one.has_new_token = True
    assert made(torch.zeros(0), scores, made.prepare_tensor_args([greedy, greedy], storage)) is scores
    assert bool((storage == 7).all())
    left = made(torch.zeros(0), scores, made.prepare_tensor_args([greedy, drawn], storage))
    assert left[0].argmax() == scores[0].argmax() and bool(left[1].isinf().any())  # one that draws, and all go through it


def test_what_was_written_elsewhere_counts_as_written() -> None:
    """A resumed answer has it in its prompt."""
    resumed = asked(seed=9)
    resumed.state.initial_tokens = [1, 2, 3, 0, 0]
    assert sampling.Draw().value(resumed.state) == sampling.Draw().value(asked(place=2, seed=9).state)


@pytest.mark.parametrize("number", [0.0, 1 - 2**-24])
def test_the_first_and_the_last_draw_are_tokens_that_may_come(number: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "drawn", lambda seed, place: number)
    never = float("-inf")
    scores = torch.tensor([[never, never, 1.0, 0.0, never, 2.0, never]])
    assert chosen(scores, [asked()]) == [2 if number == 0 else 5]


@given(st.integers(-(2**63), 2**63 + 5), st.integers(0, 10**6))
def test_a_draw_is_a_number_from_0_to_1_that_a_float32_holds(seed: int, place: int) -> None:
    number = sampling.drawn(seed, place)
    assert 0 <= number < 1 and float(torch.tensor(number, dtype=torch.float32)) == number
