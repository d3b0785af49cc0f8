"""Votes to test with."""

from __future__ import annotations

from typing import Any

from tasks.serving.votes import WORDING, Consent, Message, Speaker, Vote

AGREED = Consent(training=True, wording=WORDING)
NUMBERS = iter(range(10**9))


def rater(number: int) -> str:
    return f"rater-{number:012}"


def said(kind: str, vote: str, answers: tuple[str, ...], prompt: str = "Which?", by: int = 1, **more: Any) -> Vote:
    """A vote with consent; its id and time say which came first."""
    number = next(NUMBERS)
    models = more.pop("models", ("old", "new") if kind == "choice" else ("old",))
    return Vote.model_validate(
        {
            "vote_id": f"{number:032x}",
            "time": f"2026-11-27T00:00:00.{number:06}",
            "rater": rater(by),
            "kind": kind,
            "vote": vote,
            "models": tuple(Speaker(name=name, version=f"{name}:1") for name in models),
            "messages": (Message(role="user", content=prompt),),
            "answers": answers,
            "consent": AGREED,
            **more,
        }
    )
