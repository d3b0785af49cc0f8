"""One request for answers: its choices written side by side, and told as one reply, whole or in a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from tasks.serving.fleet import Fleet
from tasks.serving.replies import DONE, Reply, Usage, failure
from tasks.serving.request_log import Told
from tasks.serving.requests import ChatRequest, CompletionRequest, Refused, Wanted
from tasks.serving.ticket import Ticket

Piece = tuple[int, str, str]
"""Which choice, more text of it, and why it is over or nothing."""


class Answering:
    """The choices of one request."""

    def __init__(self, fleet: Fleet, asked: ChatRequest | CompletionRequest, wanted: list[Wanted], told: Told) -> None:
        self._fleet, self._asked, self._told = fleet, asked, told
        self._texts = [""] * len(wanted)
        self.tickets = [
            Ticket(fleet.ticket_name(), asked.model, one, streaming=bool(asked.stream)) for one in wanted
        ]

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
            async for choice, text, _ in pieces:
                self._texts[choice] += text
        choices = [(text, ticket.ended) for text, ticket in zip(self._texts, self.tickets, strict=True)]
        return self._reply().whole(choices, self.usage)

    async def stream(self) -> AsyncIterator[bytes]:
        """The events of the reply; the first one comes with the first text, so that what is refused before has a status.

        Raises:
            Refused: before the first event; later ones are events.
        """
        reply, opened = None, set[int]()
        try:
            async with aclosing(self._pieces()) as pieces:
                async for choice, text, ended in pieces:
                    self._texts[choice] += text
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

    def settle(self, *, texts: bool) -> None:
        """Note in the log's line what is known at the end."""
        first, usage = self.tickets[0], self.usage
        self._told.version = first.version
        self._told.prompt_tokens, self._told.completion_tokens = usage.prompt_tokens, usage.completion_tokens
        if first.begun_s:
            self._told.queue_seconds = first.begun_s - first.arrived_s
        if first.first_token_s:
            self._told.first_token_seconds = first.first_token_s - first.arrived_s
        if texts:
            chat = isinstance(self._asked, ChatRequest)
            self._told.prompt = list(first.wanted.messages or ()) if chat else [one.wanted.prompt for one in self.tickets]
            self._told.answers = self._texts

    def _reply(self) -> Reply:
        self._told.version = next((one.version for one in self.tickets if one.version), "")
        return Reply(isinstance(self._asked, ChatRequest), self._asked.model, self._told.version, self._asked.with_usage)

    async def _pieces(self) -> AsyncIterator[Piece]:
        """Of all choices, as they come."""
        if len(self.tickets) == 1:
            async with aclosing(self._fleet.answer(self.tickets[0])) as parts:
                async for text, ended in parts:
                    yield 0, text, ended
            return
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
            async with aclosing(self._fleet.answer(ticket)) as parts:
                async for text, ended in parts:
                    queue.put_nowait((choice, text, ended))
            queue.put_nowait(None)
        except Refused as error:
            queue.put_nowait(error)
