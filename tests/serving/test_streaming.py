"""A client may leave at any moment of a stream: what the answer held is let go, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Message

from tasks.serving.requests import Refused
from tasks.serving.streaming import streamed


class Answer:
    """Events that hold a place until they are over."""

    def __init__(self) -> None:
        self.holds, self.num_over, self.sent = False, 0, list[bytes]()

    async def events(self) -> AsyncGenerator[bytes]:
        self.holds = True
        try:
            for number in range(3):
                await asyncio.sleep(0)
                yield b"%d" % number
        finally:
            await asyncio.sleep(0)  # as a generator whose end waits for its tasks
            self.holds = False

    def over(self) -> None:
        self.num_over += 1

    async def send(self, message: Message) -> None:
        await asyncio.sleep(0)
        self.sent += [message["body"]] if message.get("body") else []


async def gone() -> Message:
    return {"type": "http.disconnect"}


async def here() -> Message:
    await asyncio.sleep(60)
    raise AssertionError("nobody asks so long")


SCOPE = {"type": "http", "method": "POST", "path": "/", "headers": [], "asgi": {"spec_version": "2.3"}}


def test_a_stream_that_is_read_to_its_end_is_over_once() -> None:
    async def run() -> Answer:
        answer = Answer()
        response = await streamed(answer.events(), answer.over, Request(SCOPE, here))
        await response(SCOPE, here, answer.send)
        return answer

    answer = asyncio.run(run())
    assert (answer.sent, answer.holds, answer.num_over) == ([b"0", b"1", b"2"], False, 1)


def test_a_client_that_goes_before_the_body_starts_leaves_nothing_held() -> None:
    async def run() -> Answer:
        answer = Answer()
        response = await streamed(answer.events(), answer.over, Request(SCOPE, here))
        assert answer.holds  # the first event is there already
        await response(SCOPE, gone, answer.send)
        return answer

    answer = asyncio.run(run())
    assert (answer.sent, answer.holds, answer.num_over) == ([], False, 1)


def test_a_connection_that_breaks_at_the_head_leaves_nothing_held() -> None:
    async def broken(message: Message) -> None:
        raise OSError(f"no {message['type']} any more")

    async def run() -> Answer:
        answer = Answer()
        response = await streamed(answer.events(), answer.over, Request(SCOPE, here))
        with pytest.raises(ClientDisconnect):
            await response({**SCOPE, "asgi": {"spec_version": "2.4"}}, here, broken)
        return answer

    answer = asyncio.run(run())
    assert (answer.holds, answer.num_over) == (False, 1)


def test_a_client_that_goes_before_the_first_event_leaves_nothing_held() -> None:
    async def slow(answer: Answer) -> AsyncGenerator[bytes]:
        answer.holds = True
        try:
            await asyncio.sleep(60)
            yield b""
        finally:
            answer.holds = False

    async def run() -> Answer:
        answer = Answer()
        with pytest.raises(Refused, match="client went away"):
            await streamed(slow(answer), answer.over, Request(SCOPE, gone))
        return answer

    answer = asyncio.run(run())
    assert (answer.holds, answer.num_over) == (False, 1)


def test_who_reads_the_body_itself_closes_it_even_if_it_read_nothing() -> None:
    async def run() -> Answer:
        answer = Answer()
        response = await streamed(answer.events(), answer.over, Request(SCOPE, here))
        await response.aclose()
        await response.aclose()
        return answer

    answer = asyncio.run(run())
    assert (answer.holds, answer.num_over) == (False, 1)
