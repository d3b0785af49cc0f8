"""An answer on its way to a client who may leave at any moment: then what it holds (a place, a count against limits) is let go at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from tasks.serving.requests import Refused


class Stream(StreamingResponse):
    """The events of an answer, which is over when they are: sent, broken off, or not even begun because the client is gone."""

    def __init__(self, first: bytes, events: AsyncGenerator[bytes], over: Callable[[], None]) -> None:
        self._events, self._over = events, over
        super().__init__(self._all(first), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    async def _all(self, first: bytes) -> AsyncIterator[bytes]:
        yield first
        async for event in self._events:
            yield event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """No more of them are wanted. To be called by who reads `body_iterator` itself."""
        over, self._over = self._over, _nothing
        try:
            await self._events.aclose()
        finally:
            over()


def _nothing() -> None: ...


async def streamed(events: AsyncGenerator[bytes], over: Callable[[], None], request: Request) -> Stream:
    """A stream whose first event is there already: what goes wrong before it has a status of its own."""
    try:
        return Stream(await unless_gone(anext(events), request), events, over)
    except BaseException:
        try:
            await events.aclose()
        finally:
            over()
        raise


async def unless_gone(work: Any, request: Request) -> Any:
    """Wait for an answer as long as the client does."""
    task, gone = asyncio.create_task(_awaited(work)), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refused(499, "The client went away", "client_gone")
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _awaited(work: Any) -> Any:
    return await work  # what `anext` gives is no coroutine, and only these become tasks


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
