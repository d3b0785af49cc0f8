"""The gateway: OpenAI's API over the fleet's answers, as one FastAPI app in one process and one event loop."""

from __future__ import annotations

import logging
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from infra.settings import settings
from tasks.serving.answering import Answering
from tasks.serving.config import ServeConfig
from tasks.serving.door import STRANGER, Door, refusal, too_large
from tasks.serving.fleet import Fleet
from tasks.serving.guardrails import Guard
from tasks.serving.judge import Judge
from tasks.serving.keys import Key, Keys
from tasks.serving.limits import Limit, Meter
from tasks.serving.metrics import CONTENT_TYPE, Metrics
from tasks.serving.people import listen
from tasks.serving.policy import load_policy
from tasks.serving.preface import Preface, SystemPrompt
from tasks.serving.request_log import RequestLog, Told
from tasks.serving.requests import SHOWN_CHARS, ChatRequest, CompletionRequest, Refused, Wanted, misread, wanted
from tasks.serving.streaming import streamed, unless_gone
from tasks.serving.traits import Traits
from tasks.serving.votes import VoteStore

logger = logging.getLogger("gristmill")
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BYTES_PER_TOKEN = 4
"""By which a prompt's tokens are guessed before they are counted."""


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorDetail


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody} for status in (401, 403, *statuses)}


STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}, "application/json": {"schema": {"type": "object"}}}}
}
ANSWERS = {**_responses(400, 404, 413, 422, 429, 502, 503, 504), **STREAMED}


class Gateway:
    """What the routes ask."""

    def __init__(self, fleet: Fleet, config: ServeConfig, judge: Judge, prompt: SystemPrompt) -> None:
        self.fleet, self.prompt, self._config, self._judge = fleet, prompt, config, judge
        self._traits = Traits(settings().language_model)
        self._meters: dict[str, Meter] = {}

    async def answer(self, asked: ChatRequest | CompletionRequest, request: Request, route: str) -> Response:
        """Answer a request, whole or in a stream.

        Raises:
            Refused: it is not answered.
        """
        told: Told = request.state.told
        told.route, told.stream = route, bool(asked.stream)
        self._known(asked.model)
        told.model = asked.model
        if self.fleet.stopping:
            raise Refused(503, "The server is stopping", "stopping", retry_after_s=self._config.stop_s)
        answers, refusal = await self._judge.asked(wanted(asked, self._config), told)
        if (preface := self._preface(asked)) is not None:
            answers, told.system_prompt = [preface.put_before(one) for one in answers], preface.as_json()
        settle = self.count(request.state.key, [] if refusal else answers)
        answering = Answering(self.fleet, self._judge, asked, answers, told, preface)
        answering.refusal = refusal

        def over() -> None:
            settle(answering.usage.total_tokens)
            answering.settle(self._traits, texts=self._config.log_texts)

        if asked.stream:
            return await streamed(answering.stream(), over, request)
        try:
            return JSONResponse(await unless_gone(answering.whole(), request))
        finally:
            over()

    def _preface(self, asked: ChatRequest | CompletionRequest) -> Preface | None:
        if isinstance(asked, CompletionRequest):
            return None
        return self.prompt.of(one.plain()["role"] for one in asked.messages)

    def models(self) -> list[dict[str, Any]]:
        """The models, as OpenAI lists them, with their versions."""
        return [self.model(name) for name in self.fleet.models]

    def model(self, name: str) -> dict[str, Any]:
        """One model.

        Raises:
            Refused: there is none of this name.
        """
        self._known(name)
        model = self.fleet.models[name]
        own = {"version": model.served.version, **model.crew.facts}
        return {"id": name, "object": "model", "created": model.created, "owned_by": "gristmill", **own}

    def _known(self, name: str) -> None:
        if name not in self.fleet.models:
            there = ", ".join(self.fleet.models)
            raise Refused(
                404, f"The model `{name[:SHOWN_CHARS]}` does not exist; these do: {there}", "model_not_found", param="model"
            )

    def count(self, key: Key, answers: list[Wanted]) -> Any:
        """Count a request against its key's limits; gives what to tell the tokens that it needed.

        Raises:
            Refused: there is no room for it now.
        """
        if key.limit == Limit():
            return lambda tokens: None
        meter = self._meters.get(key.name)
        if meter is None or meter.limit != key.limit:
            meter = self._meters[key.name] = Meter(key.limit)
        most = sum(one.num_bytes // BYTES_PER_TOKEN + 1 + (one.new_tokens or one.default_new_tokens) for one in answers)
        allowed = meter.ask(most, time.monotonic())
        if (use := allowed.use) is not None:
            return lambda tokens: meter.settle(use, tokens, time.monotonic())
        limit = key.requests_per_minute if allowed.reason == "requests" else key.tokens_per_minute
        if allowed.wait_s == float("inf"):
            words = f"This request may need {most} tokens, more than the {limit} a minute of this key; ask for fewer"
            raise Refused(400, words, "tokens_exceed_limit", param="max_tokens")
        raise Refused(
            429,
            f"Rate limit reached for this key: {limit} {allowed.reason} a minute; try again in {allowed.wait_s:.1f} s",
            "rate_limit_exceeded",
            kind=allowed.reason,
            retry_after_s=allowed.wait_s,
        )


def build(
    fleet: Fleet, config: ServeConfig, keys: Keys, metrics: Metrics, log: RequestLog, prompt: SystemPrompt, store: VoteStore
) -> FastAPI:
    """The app."""
    told: dict[str, Any] = {"title": "Gristmill", "version": "1", "responses": _responses(400, 404, 413)}
    app = FastAPI(**told, redirect_slashes=False, docs_url=None, redoc_url=None)  # their pages would load scripts from elsewhere
    app.add_middleware(Door, config=config, keys=keys, metrics=metrics, log=log)
    _tell_errors(app, config)
    gateway = Gateway(fleet, config, Judge(Guard(load_policy(config.guard)), metrics), prompt)

    @app.post(CHAT, responses=ANSWERS, response_class=JSONResponse)
    async def chat(asked: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        return await gateway.answer(asked, request, CHAT)

    @app.post(COMPLETIONS, responses=ANSWERS, response_class=JSONResponse)
    async def completions(asked: CompletionRequest, request: Request) -> Response:
        """Go on with a text."""
        return await gateway.answer(asked, request, COMPLETIONS)

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """The models that can be asked."""
        request.state.told.route = "/v1/models"
        return {"object": "list", "data": gateway.models()}

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> dict[str, Any]:
        """One of them."""
        request.state.told.route = "/v1/models/{id}"
        return gateway.model(name)

    @app.get("/health", responses={503: {"description": "a model has no replica that answers"}})
    async def health(request: Request) -> Response:
        """Each model's version, and the state of its replicas; to those who have no key where there are some, one word."""
        request.state.told.route = "/health"
        state = fleet.state()
        good = all(one["ready"] for one in state.values()) and not fleet.stopping
        word = "stopping" if fleet.stopping else "ok" if good else "unhealthy"
        told: dict[str, Any] = {"status": word}
        if request.state.key is not STRANGER:
            told |= {"models": state, **({"system_prompt": said} if (said := prompt.state()) else {})}
        return JSONResponse(told, 200 if good else 503)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def figures(request: Request) -> Response:
        """For Prometheus."""
        request.state.told.route = "/metrics"
        fleet.show_load()
        return Response(metrics.page(), media_type=CONTENT_TYPE)

    listen(app, gateway, store)
    return app


def _tell_errors(app: FastAPI, config: ServeConfig) -> None:
    """Every error in the shape of OpenAI's."""

    def answer(request: Request, error: Refused) -> Response:
        request.state.told.error = error.code
        if error.status in (400, 413) and request.state.told.route == "unknown" and request.url.path in (CHAT, COMPLETIONS):
            request.state.told.route = request.url.path
        return refusal(error)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return answer(request, error)

    async def unreadable(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(request, misread(error.errors()))

    async def other(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 413:
            return answer(request, too_large(config.max_body_bytes))
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        return answer(request, Refused(error.status_code, f"{error.detail}", code, kind="invalid_request_error"))

    async def fault(request: Request, error: Exception) -> Response:
        logger.error("%s: %s", request.url.path, error, exc_info=error)
        return refusal(Refused(500, "The server has a fault; its log says more", "internal_error"))

    app.add_exception_handler(Exception, fault)
    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(RequestValidationError, unreadable)
    app.add_exception_handler(HTTPException, other)
