"""Answers in the words of OpenAI's API: whole bodies, and the events of streams."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Usage:
    """Tokens of a request; a prompt counts once, however many answers it gets."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        """All of them."""
        return self.prompt_tokens + self.completion_tokens

    def as_json(self) -> dict[str, int]:
        """As it is sent."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
        }


@dataclass(frozen=True)
class Reply:
    """What all parts of one reply have in common."""

    chat: bool
    model: str
    version: str
    """Sent as `system_fingerprint`: which version answered, and with which system prompt of the gateway."""
    with_usage: bool = False
    """Whether every event of a stream has the field `usage`, as OpenAI's have where it was asked for."""
    number: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[tuple[str, str]], usage: Usage) -> dict[str, Any]:
        """The body of a reply that is not streamed, of the text of each choice and why it is over."""
        made = [self._choice(place, text, ended) for place, (text, ended) in enumerate(choices)]
        return {**self._head(stream=False), "choices": made, "usage": usage.as_json()}

    def opening(self, choice: int) -> bytes:
        """The first event of a choice; only chats have one."""
        return self._event(choice, {"role": "assistant", "content": ""}, None) if self.chat else b""

    def piece(self, choice: int, text: str) -> bytes:
        """More of a choice."""
        return self._event(choice, {"content": text} if self.chat else text, None)

    def closing(self, choice: int, ended: str) -> bytes:
        """The last event of a choice."""
        return self._event(choice, {} if self.chat else "", ended)

    def counted(self, usage: Usage) -> bytes:
        """The event with the numbers of tokens."""
        return _data({**self._head(stream=True), "choices": [], "usage": usage.as_json()})

    def _choice(self, place: int, text: str, ended: str) -> dict[str, Any]:
        if self.chat:
            said: dict[str, Any] = {"message": {"role": "assistant", "content": text, "refusal": None}}
        else:
            said = {"text": text}
        return {"index": place, **said, "logprobs": None, "finish_reason": ended}

    def _event(self, choice: int, said: dict[str, str] | str, ended: str | None) -> bytes:
        key = "delta" if self.chat else "text"
        made = {"index": choice, key: said, "logprobs": None, "finish_reason": ended}
        return _data({**self._head(stream=True), "choices": [made], **({"usage": None} if self.with_usage else {})})

    def _head(self, *, stream: bool) -> dict[str, Any]:
        if self.chat:
            kind, prefix = ("chat.completion.chunk" if stream else "chat.completion"), "chatcmpl"
        else:
            kind, prefix = "text_completion", "cmpl"
        return {
            "id": f"{prefix}-{self.number}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.version,
        }


def failure(body: dict[str, Any]) -> bytes:
    """The event of an error in the middle of a stream."""
    return _data(body)


def _data(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
