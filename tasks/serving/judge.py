"""The guardrails at work in the gateway: what is asked is judged before a replica sees it, an answer while it is written.

Every decision that is more than "allow" is noted in the request's line of the log, with its rules, and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from tasks.serving.guardrails import Decision, Guard
from tasks.serving.metrics import Metrics
from tasks.serving.request_log import Told
from tasks.serving.requests import Wanted

FILTERED = "content_filter"
"""Why an answer is over that was refused, in OpenAI's words."""
LONG_BYTES = 20_000
"""What is longer is judged in a thread of its own, while others are served."""
BYTES_PER_MESSAGE = 2000
"""A message costs as much as so many bytes of text, however short it is: 1 ms."""
Parts = AsyncGenerator[tuple[str, str]]
"""Text, and why the answer is over with it."""


class Judge:
    """A guard, and where its decisions go."""

    def __init__(self, guard: Guard, metrics: Metrics) -> None:
        self._guard, self._metrics = guard, metrics

    async def asked(self, wanted: Sequence[Wanted], told: Told) -> tuple[list[Wanted], str]:
        """What may go to the model, and the words that are said in its place where it is refused."""
        judged, changed = dict[tuple[str, ...], Decision](), list[Wanted]()
        for one in wanted:
            messages = one.messages if one.messages is not None else ({"role": "user", "content": one.prompt},)
            key = tuple(said for message in messages for said in message.values())
            if key not in judged:  # several answers to one prompt
                judged[key] = await self._before(messages, one.num_bytes + BYTES_PER_MESSAGE * len(messages))
                self._note("before", judged[key], told)
            decision = judged[key]
            if decision.action == "refuse":
                return list(wanted), decision.refusal
            assert decision.messages is not None
            plain = tuple(dict(message) for message in decision.messages)
            changed.append(replace(one, prompt=plain[0]["content"]) if one.messages is None else replace(one, messages=plain))
        return changed, ""

    async def answer(self, parts: Parts, told: Told, system_prompt: str) -> Parts:
        """An answer as it may be sent; it ends where a rule refuses, with the words that say so.

        Args:
            system_prompt: the gateway's own, whose words must not be in it. What a client sent is no secret from it.
        """
        stream, sent = self._guard.stream(system_prompt), False
        async with aclosing(parts):
            async for text, ended in parts:
                text = stream.feed(text)
                if ended and not stream.ended:
                    text += stream.finish()
                if stream.ended:
                    decision = stream.decision
                    self._note("after", decision, told)
                    if decision.action == "refuse":
                        text, ended = text + ("\n\n" if sent or text else "") + decision.refusal, FILTERED
                    yield text, ended or "length"
                    return
                if text:
                    sent = True
                    yield text, ""

    async def _before(self, messages: Sequence[dict[str, str]], cost_bytes: int) -> Decision:
        if cost_bytes > LONG_BYTES:
            return await asyncio.to_thread(self._guard.before, messages)
        return self._guard.before(messages)

    def _note(self, side: str, decision: Decision, told: Told) -> None:
        rules = {one.rule for one in decision.rules} or {""}
        for rule in rules:
            self._metrics.decisions.labels(side, decision.action, rule).inc()
        if decision.action != "allow" or decision.rules:
            told.decisions.append({"side": side, **decision.as_json()})
