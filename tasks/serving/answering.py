"""One request for answers: its choices written side by side, and told as one reply, whole or in a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from tasks.serving.fleet import Fleet
from tasks.serving.judge import FILTERED, Judge
from tasks.serving.preface import Preface, fingerprint
from tasks.serving.replies import DONE, Reply, Usage, failure
from tasks.serving.request_log import Told
from tasks.serving.requests import ChatRequest, CompletionRequest, Refused, Wanted
from tasks.serving.ticket import Ticket
from tasks.serving.traits import Traits

Piece = tuple[int, str, str]
"""Which choice, more text of it, and why it is over or nothing."""


class Answering:
    """The choices of one request."""

    def __init__(
        self,
        fleet: Fleet,
        judge: Judge,
        asked: ChatRequest | CompletionRequest,
        wanted: list[Wanted],
        told: Told,
        preface: Preface | None,
    ) -> None:
        self._fleet, self._judge, self._asked, self._told, self._preface = fleet, judge, asked, told, preface
        self._texts, self._ended = [""] * len(wanted), [""] * len(wanted)
        self.refusal = ""
        """Said in place of every choice, without asking the model."""
        self.tickets = [Ticket(fleet.ticket_name(), asked.model, one, streaming=bool(asked.stream)) for one in wanted]

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        first_of_each = self.tickets[:: self._asked.n or 1]
        return Usage(sum(one.prompt_tokens for one in first_of_each), sum(one.num_tokens for one in self.tickets))

    async def whole(self) -> dict[str, object]:
        """The body of the reply.

        Raises:
            Refused: one choice cannot be written.
        """
        async with aclosing(self._pieces()) as pieces:
            async for choice, text, ended in pieces:
                self._texts[choice] += text
                self._ended[choice] = ended
        return self._reply().whole(list(zip(self._texts, self._ended, strict=True)), self.usage)

    async def stream(self) -> AsyncGenerator[bytes]:
        """The events of the reply; the first one comes with the first text, so that what is refused before has a status.

        Raises:
            Refused: before the first event; later ones are events.
        """
        reply, opened = None, set[int]()
        try:
            async with aclosing(self._pieces()) as pieces:
                async for choice, text, ended in pieces:
                    self._texts[choice] += text
                    self._ended[choice] = ended
                    reply = reply or self._reply()
                    event = b"" if choice in opened else reply.opening(choice)
                    opened.add(choice)
                    event += reply.piece(choice, text) if text else b""
                    yield event + (reply.closing(choice, ended) if ended else b"")
        except Refused as error:
            if reply is None:
                raise
            self._told.error = error.code
            yield failure(error.body)
            return
        assert reply is not None
        yield (reply.counted(self.usage) if self._asked.with_usage else b"") + DONE

    def settle(self, traits: Traits, *, texts: bool) -> None:
        """Note in the log's line what is known at the end."""
        first, usage = self.tickets[0], self.usage
        self._told.prompt_tokens, self._told.completion_tokens = usage.prompt_tokens, usage.completion_tokens
        if first.begun_s:
            self._told.queue_seconds = first.begun_s - first.arrived_s
        if first.first_token_s:
            self._told.first_token_seconds = first.first_token_s - first.arrived_s
        asked = first.wanted.messages[-1]["content"] if first.wanted.messages else first.wanted.prompt
        self._told.asked, self._told.said = traits.of(asked, self._texts[0], self._ended[0])
        if texts:
            chat = isinstance(self._asked, ChatRequest)
            messages = list(first.wanted.messages or ())[1 if self._preface else 0 :]
            self._told.prompt = messages if chat else [one.wanted.prompt for one in self.tickets]
            self._told.answers = self._texts

    def _reply(self) -> Reply:
        now = self._fleet.models[self._asked.model].served.version
        self._told.version = next((one.version for one in self.tickets if one.version), now)
        told = fingerprint(self._told.version, self._preface)
        return Reply(isinstance(self._asked, ChatRequest), self._asked.model, told, self._asked.with_usage)

    async def _pieces(self) -> AsyncGenerator[Piece]:
        """Of all choices, as they come."""
        if self.refusal:
            for choice in range(len(self.tickets)):
                yield choice, self.refusal, FILTERED
        elif len(self.tickets) == 1:
            async with aclosing(self._written(self.tickets[0])) as parts:
                async for text, ended in parts:
                    yield 0, text, ended
        else:
            async with aclosing(self._side_by_side()) as pieces:
                async for piece in pieces:
                    yield piece

    async def _side_by_side(self) -> AsyncGenerator[Piece]:
        queue: asyncio.Queue[Piece | Refused | None] = asyncio.Queue()
        tasks = [asyncio.create_task(self._feed(choice, ticket, queue)) for choice, ticket in enumerate(self.tickets)]
        try:
            for _ in tasks:
                while (piece := await queue.get()) is not None:
                    if isinstance(piece, Refused):
                        raise piece
                    yield piece
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _feed(self, choice: int, ticket: Ticket, queue: asyncio.Queue[Piece | Refused | None]) -> None:
        try:
            async with aclosing(self._written(ticket)) as parts:
                async for text, ended in parts:
                    queue.put_nowait((choice, text, ended))
            queue.put_nowait(None)
        except Refused as error:
            queue.put_nowait(error)

    def _written(self, ticket: Ticket) -> AsyncGenerator[tuple[str, str]]:
        return self._judge.answer(self._fleet.answer(ticket), self._told, self._preface.text if self._preface else "")
