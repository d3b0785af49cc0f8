"""Limits of a key beside a plain reference: a list of all that ever was."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.serving.limits import WINDOW_S, Limit, Meter, Use

STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "ask", "settle"]), st.integers(1, 12), st.sampled_from([0.0, 0.5, 7.0, 19.0, 60.0])),
    max_size=60,
)


def fits(uses: list[Use], limit: Limit, tokens: int, now_s: float) -> bool:
    """Whether a request may come in, from all requests that there ever were."""
    recent = [one for one in uses if one.at_s + WINDOW_S > now_s]
    return (not limit.requests_per_minute or len(recent) < limit.requests_per_minute) and (
        not limit.tokens_per_minute or sum(one.tokens for one in recent) + tokens <= limit.tokens_per_minute
    )


@settings(max_examples=300, deadline=None)
@given(STEPS, st.sampled_from([0, 1, 3]), st.sampled_from([0, 10, 25]))
def test_a_request_comes_in_exactly_if_the_last_60_seconds_have_room(
    steps: list[tuple[str, int, float]], requests: int, tokens: int
) -> None:
    limit, now_s = Limit(requests, tokens), 0.0
    meter, uses, running = Meter(limit), list[Use](), list[tuple[Use, int]]()
    for what, amount, pause_s in steps:
        now_s += pause_s
        if what == "settle":
            if running:
                own, place = running.pop(amount % len(running))
                needed = min(amount, own.tokens)
                meter.settle(own, needed, now_s)
                uses[place].tokens = needed
            continue
        allowed = meter.ask(amount, now_s)
        assert (allowed.use is not None) == fits(uses, limit, amount, now_s)
        if allowed.use is not None:
            uses.append(Use(now_s, amount))
            running.append((allowed.use, len(uses) - 1))
        elif allowed.wait_s == float("inf"):
            assert tokens and amount > tokens
        else:
            assert 0 < allowed.wait_s <= WINDOW_S and allowed.reason in ("requests", "tokens")
            assert fits(uses, limit, amount, now_s + allowed.wait_s + 1e-9)
            assert not fits(uses, limit, amount, now_s + allowed.wait_s - 1e-6)


def test_what_was_promised_and_not_needed_is_free_at_once() -> None:
    meter = Meter(Limit(tokens_per_minute=100))
    first = meter.ask(80, 0.0)
    assert first.use is not None and meter.ask(80, 1.0).use is None
    meter.settle(first.use, 10, 2.0)
    assert meter.ask(80, 2.0).use is not None


def test_without_limits_everything_comes_in() -> None:
    meter = Meter(Limit())
    assert all(meter.ask(10**9, 0.0).use for _ in range(100))


def test_it_says_when_to_come_back() -> None:
    meter = Meter(Limit(requests_per_minute=2))
    meter.ask(1, 0.0), meter.ask(1, 10.0)
    assert meter.ask(1, 15.0).wait_s == pytest.approx(45.0)
