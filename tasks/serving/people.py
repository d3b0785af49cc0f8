"""The pages and votes of people, in the gateway's app: what they need of it is asked as a request would be.

An answer for a comparison goes the way of `/v1/chat/completions`, limits and all; only its name in the stream is left out.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI, Request

from tasks.serving.listening import Backend, routes
from tasks.serving.request_log import Told
from tasks.serving.requests import ChatRequest, Refused
from tasks.serving.streaming import Stream
from tasks.serving.votes import Speaker, VoteStore

if TYPE_CHECKING:
    from tasks.serving.gateway import Gateway

END = "[DONE]"


def listen(app: FastAPI, gateway: Gateway, store: VoteStore) -> None:
    """Add the routes to an app whose requests have passed the door."""

    def models() -> list[Speaker]:
        served = [model.served for model in gateway.fleet.models.values()]
        return [Speaker(name=one.name[:200], version=one.version[:200], digest=one.digest[:200]) for one in served]

    async def admit(request: Request) -> str:
        gateway.count(request.state.key, [])(0)  # a request without tokens
        return str(request.state.key.name)

    async def complete(request: Request, model: str, messages: Sequence[Mapping[str, str]]) -> AsyncGenerator[str]:
        asked = ChatRequest.model_validate({"model": model, "messages": messages, "stream": True})
        # the two answers of one request are noted apart
        state = {"told": Told(request=request.state.told.request, route="unknown"), "key": request.state.key}
        own = Request({**request.scope, "state": state}, request.receive)
        answer = await gateway.answer(asked, own, request.url.path)
        assert isinstance(answer, Stream)
        async with aclosing(_events(answer)) as events:
            async for event in events:
                for choice in event["choices"]:
                    yield choice["delta"].get("content") or ""

    def noted(request: Request) -> None:
        request.state.told.route = request.scope["route"].path

    def template(roles: Iterable[str]) -> str:
        said = gateway.prompt.of(roles)
        return said.label if said is not None else ""

    app.include_router(routes(store, Backend(models, complete, admit, template)), dependencies=[Depends(noted)])


async def _events(answer: Stream) -> AsyncGenerator[dict[str, list[dict[str, dict[str, str]]]]]:
    """The events of a stream.

    Raises:
        Refused: it ended with an error.
    """
    rest = ""
    try:
        async for chunk in answer.body_iterator:
            *events, rest = (rest + (chunk if isinstance(chunk, str) else bytes(chunk).decode())).split("\n\n")
            for event in events:
                data = event.removeprefix("data: ")
                if data == END:
                    return
                found = json.loads(data)
                if error := found.get("error"):
                    raise Refused(502, error["message"], error["code"] or "broken")
                yield found
    finally:
        await answer.aclose()
