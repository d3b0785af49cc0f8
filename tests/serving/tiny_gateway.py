"""The smallest gateway that the routes can be mounted in: real tiny models that learned a few answers by heart, a key, a limit."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path

import torch
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from models import tokeniser
from models.tokeniser import TokeniserConfig
from tasks.learn.scorer import Scorer
from tasks.serving.door import refusal
from tasks.serving.listening import Backend, routes
from tasks.serving.requests import Refused
from tasks.serving.votes import Speaker, VoteStore
from tests.learn.tiny import learnt

MAX_NEW_TOKENS = 120


def document(question: str, answer: str) -> str:
    return f"Q: {question}\nA: {answer}"


def talker(answers: Mapping[str, str], folder: Path, steps: int = 150) -> Scorer:
    """A model that answers each question with its answer, and others with something of these."""
    texts = [document(question, answer) for question, answer in answers.items()]
    words = folder / "words"
    tokeniser.save(tokeniser.train_bpe(texts * 10, TokeniserConfig(vocab_size=400)), str(words))
    return learnt(texts, folder / "model", str(words), steps=steps, context=192, batch=len(texts), until=0.01)


class TinyGateway:
    """An app around these models; `key` is asked for where there is one, and `max_requests` are let in."""

    def __init__(
        self, models: Mapping[str, Scorer], store: VoteStore, key: str = "", max_requests: int = 10**9, pause_s: float = 0.0
    ) -> None:
        self.models, self.key, self.left, self.pause_s = models, key, max_requests, pause_s
        self.num_running = 0
        self.app = FastAPI()
        self.app.add_exception_handler(Refused, _told)
        speakers = [Speaker(name=name, version=f"mill:{number}", digest=f"d{number}") for number, name in enumerate(models, 1)]
        self.versions = {one.name: one.version for one in speakers}
        parts = Backend(models=lambda: speakers, complete=self.complete, admit=self.admit, template=lambda _: "t1")
        self.app.include_router(routes(store, parts, random.Random(1)))
        self.app.get("/v1/models")(self.list_models)
        self.app.post("/v1/chat/completions")(self.chat)

    async def admit(self, request: Request) -> str:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            raise Refused(401, "No such key.", "invalid_api_key")
        self.left -= 1
        if self.left < 0:
            raise Refused(429, "That was one request too many.", "rate_limit_exceeded", retry_after_s=6.7)
        return request.headers.get("x-who", "anybody")

    async def complete(self, request: Request, model: str, messages: Sequence[Mapping[str, str]]) -> AsyncGenerator[str]:
        if messages[-1]["content"] == "be busy":
            raise Refused(503, "No place is free.", "busy", retry_after_s=3)
        self.num_running += 1
        try:
            scorer = self.models[model]
            [ids] = scorer.encode([document(messages[-1]["content"], "").rstrip()])
            ids, sent = [scorer.opening, *ids], ""
            start = len(ids)
            for _ in range(MAX_NEW_TOKENS):
                found = await asyncio.to_thread(_next, scorer, ids)
                await asyncio.sleep(self.pause_s)
                if found == scorer.opening or len(ids) >= scorer.context_length:
                    break
                ids.append(found)
                text = scorer.words.decode(ids[start:], skip_special_tokens=True).lstrip()
                if not text.endswith("\ufffd"):
                    yield text[len(sent) :]
                    sent = text
        finally:
            self.num_running -= 1

    async def list_models(self, request: Request) -> Response:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            raise Refused(401, "No such key.", "invalid_api_key")
        return JSONResponse(
            {
                "object": "list",
                "data": [{"id": name, "object": "model", "created": 1, "owned_by": "test"} for name in self.models],
            }
        )

    async def chat(self, request: Request) -> Response:
        await self.admit(request)
        asked = await request.json()

        async def stream() -> AsyncIterator[str]:
            async for text in self.complete(request, asked["model"], asked["messages"]):
                chunk = {
                    "id": "1",
                    "object": "chat.completion.chunk",
                    "created": 1,
                    "model": asked["model"],
                    "system_fingerprint": self.versions[asked["model"]],
                    "choices": [{"index": 0, "delta": {"content": text}}],
                }
                yield f"data: {json.dumps(chunk)}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")


async def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return refusal(error)


@torch.no_grad()
def _next(scorer: Scorer, ids: list[int]) -> int:
    torch.set_num_threads(1)
    return int(scorer.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
