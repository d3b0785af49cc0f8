"""The routes with which a gateway listens: pages to chat, to compare two models blindly and to see their scores, and what they post.

A page comes from this package, runs no script but its own, loads nothing from elsewhere and shows what models write as text, never as
HTML. Posts from pages of another origin are refused. What is not answered raises Refused, which the app tells in the form of OpenAI's API.
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from tasks.serving.blind import SIDES, BlindPair, Pending, drawn, together
from tasks.serving.preface import taken_apart
from tasks.serving.requests import Refused
from tasks.serving.scoreboard import scoreboard
from tasks.serving.votes import RATER, WORDING, WORDINGS, Consent, Message, Speaker, Vote, VoteError, VoteStore

PAGES = Path(__file__).parent / "pages"
HTML = {"/": "chat.html", "/ab": "ab.html", "/scores": "scores.html"}
FILES = {**dict.fromkeys(("talk.js", "chat.js", "ab.js", "scores.js"), "text/javascript"), "style.css": "text/css"}
MAX_BODY_BYTES = 1 << 20
RETRY_S = 30.0
ID = r"^[0-9a-f]{32}$"
VERSION = re.compile(r"[\w .:/()@+,#=~-]{0,200}")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# matplotlib writes colours into style attributes
SCORES_POLICY = POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
BOARD_POLICY = SCORES_POLICY.replace("script-src 'self'; ", "").replace("connect-src 'self'; ", "")
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}


ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"description": "no key that is known"},
    403: {"description": "posted by a page of another origin"},
    413: {"description": "too long"},
    415: {"description": "the body is no JSON by its header"},
    422: {"description": "the body says something that cannot be kept"},
    429: {"description": "too many requests for now"},
    503: {"description": "no room on the disk"},
}
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
"""What the OpenAPI page says of answers."""


@dataclass(frozen=True)
class Backend:
    """What the routes take of the gateway that they are mounted in."""

    models: Callable[[], Sequence[Speaker]]
    """The models that are served now, each by the name that requests have."""
    complete: Callable[[Request, str, Sequence[dict[str, str]]], AsyncGenerator[str]]
    """The answer of a model to a conversation, in pieces, as `/v1/chat/completions` would give it; it may raise Refused."""
    admit: Callable[[Request], Awaitable[str]]
    """The name of the key that asks; raises Refused (401, 429) for who may not ask, or not now."""
    template: Callable[[Iterable[str]], str]
    """The system prompt that the gateway puts before messages of these roles; empty: none."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Body = TypeVar("Body", bound=_Body)
Given = TypeVar("Given")
Result = TypeVar("Result")


class Feedback(_Body):
    """A thumb or a corrected answer; `vote_id` again replaces what was said before."""

    vote_id: str = Field(pattern=ID)
    rater: str = Field(pattern=RATER)
    model: str = Field(max_length=200)
    version: str = Field("", max_length=500)
    """Of the model that gave the answer, and its system prompt's, where its answer told them (`system_fingerprint`)."""
    vote: Literal["up", "down", "corrected"]
    messages: tuple[Message, ...] = Field(min_length=1)
    answer: str
    correction: str | None = None
    text: str | None = None
    consent: Consent = Consent()


class Rater(_Body):
    """Who asks, as a random number."""

    rater: str = Field(pattern=RATER)


class Question(Rater):
    """What both models are asked."""

    messages: tuple[Message, ...] = Field(min_length=1)


class Choice(Rater):
    """Which of two answers is better."""

    pair: str = Field(pattern=ID)
    vote: Literal["left", "right", "tie", "both_bad"]
    text: str | None = None
    consent: Consent = Consent()


def routes(store: VoteStore, backend: Backend, chance: random.Random | None = None) -> APIRouter:
    """The pages and what they post; `chance` decides which models are compared, and on which side."""
    router = APIRouter()
    _add_pages(router)
    _add_scores(router, store, backend)
    _add_feedback(router, store, backend)
    _add_comparison(router, store, backend, chance or random.SystemRandom())
    return router


def _add_pages(router: APIRouter) -> None:
    html = {path: (PAGES / name).read_text("utf-8") for path, name in HTML.items()}
    files = {name: (PAGES / name).read_bytes() for name in FILES}

    @router.get("/", include_in_schema=False)
    @router.get("/ab", include_in_schema=False)
    @router.get("/scores", include_in_schema=False)
    async def page(request: Request) -> Response:
        path = request.scope["route"].path
        policy = SCORES_POLICY if path == "/scores" else POLICY
        return HTMLResponse(html[path], headers={**HEADERS, "Content-Security-Policy": policy})

    @router.get("/pages/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in FILES:
            raise Refused(404, f"no page has a file {name!r}", "not_found")
        return Response(files[name], media_type=FILES[name], headers=HEADERS)


def _add_scores(router: APIRouter, store: VoteStore, backend: Backend) -> None:
    # autoescape: models' names are the operator's, and still no HTML
    shelf = Environment(loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined)
    drawn_of: dict[tuple[int, int], str] = {}  # the newest page alone

    def scores_page() -> str:
        state = store.state
        shown = drawn_of.get(state)
        if shown is None:
            board = scoreboard(store.votes())
            shown = shelf.get_template("board.html").render(board=board, plot=board.plot())
            drawn_of.clear()
            drawn_of[state] = shown
        return shown

    @router.get("/ab/scores", include_in_schema=False)
    async def scores(request: Request) -> Response:
        await backend.admit(request)
        shown = await run_in_threadpool(scores_page)
        return HTMLResponse(shown, headers={**HEADERS, "Content-Security-Policy": BOARD_POLICY})


def _add_feedback(router: APIRouter, store: VoteStore, backend: Backend) -> None:
    @router.get("/feedback")
    async def terms() -> Response:
        """What is kept of a vote, in words to agree to."""
        days = store.config.retention_days
        words = WORDINGS[WORDING].format(retention_days=days)
        return JSONResponse({"wording": WORDING, "text": words, "retention_days": days}, headers=HEADERS)

    @router.post("/feedback", status_code=201, responses=ERRORS, openapi_extra=_takes(Feedback))
    async def feedback(request: Request) -> Response:
        """Keep a thumb or a corrected answer."""
        said, _ = await _admitted(request, backend, Feedback)
        corrected = said.vote == "corrected"
        if corrected != (said.correction is not None):
            raise _unfit("correction: the corrected answer belongs to the vote `corrected`, and only to it")
        version, template = taken_apart(said.version)
        if not said.version:
            template = backend.template(one.role for one in said.messages)
        vote = _vote(
            vote_id=said.vote_id,
            rater=said.rater,
            kind="correction" if corrected else "thumb",
            vote=said.vote,
            models=(_speaker(backend.models(), said.model, version),),
            template=_plain(template),
            messages=said.messages,
            answers=(said.answer, *([said.correction] if said.correction is not None else [])),
            text=said.text or None,
            consent=said.consent,
        )
        return JSONResponse(_kept(await _keep(store, vote)), 201, HEADERS)

    @router.post("/feedback/forget", responses=ERRORS, openapi_extra=_takes(Rater))
    async def forget(request: Request) -> Response:
        """Remove all votes of a rater."""
        asked, _ = await _admitted(request, backend, Rater)
        forgotten = await _in_store(store.forget, asked.rater)
        return JSONResponse({"votes": forgotten.votes, "exported_before": len(forgotten.exports)}, headers=HEADERS)


def _add_comparison(router: APIRouter, store: VoteStore, backend: Backend, chance: random.Random) -> None:
    pending = Pending()

    @router.post("/ab/answer", responses={**ERRORS, **STREAM, **_also(409)}, openapi_extra=_takes(Question))
    async def answer(request: Request) -> Response:
        """Two answers by two models that are not named, as server-sent events."""
        asked, key = await _admitted(request, backend, Question)
        if asked.messages[-1].role != "user":
            raise _unfit("messages: the last turn must be the user's")
        if sum(len(one.content) for one in asked.messages) > store.config.max_chars:
            raise Refused(413, f"messages: more than {store.config.max_chars} characters cannot be compared", "too_long")
        template = backend.template(one.role for one in asked.messages)
        pair = BlindPair(asked.rater, asked.messages, drawn(backend.models(), chance), template=template)
        pending.add(pair, key)
        return StreamingResponse(_events(request, backend, pair), media_type="text/event-stream", headers=HEADERS)

    @router.post("/ab/again", responses={**ERRORS, **_also(404)}, openapi_extra=_takes(Rater))
    async def again(request: Request) -> Response:
        """Two answers that somebody else has judged, to see whether people agree."""
        asked, key = await _admitted(request, backend, Rater)
        first = await _in_store(store.to_judge_again, asked.rater)
        if first is None or first.messages is None or first.answers is None:
            words = "there is no pair that somebody else has judged and agreed to show, and that you have not judged"
            raise Refused(404, words, "nothing_to_judge")
        order = chance.sample((0, 1), 2)
        left, right = (first.models[place] for place in order)
        pair = BlindPair(
            asked.rater, first.messages, (left, right), ended=True, copied_from=first.vote_id, template=first.template
        )
        pair.answers = {side: first.answers[place] for side, place in zip(SIDES, order, strict=True)}
        pending.add(pair, key)
        turns = [one.model_dump() for one in pair.messages]
        return JSONResponse({"pair": pair.pair_id, "messages": turns, **pair.answers}, headers=HEADERS)

    @router.post("/ab/vote", status_code=201, responses={**ERRORS, **_also(409, 410)}, openapi_extra=_takes(Choice))
    async def vote(request: Request) -> Response:
        """Keep a choice, then tell which model was which."""
        said, key = await _admitted(request, backend, Choice)
        pair = pending.take(said.pair, said.rater, key)
        left, right = pair.models
        given = _vote(
            vote_id=pair.pair_id,
            rater=said.rater,
            kind="choice",
            vote=said.vote,
            models=pair.models,
            template=pair.template,
            messages=pair.messages,
            answers=tuple(pair.answers[side] for side in SIDES),
            text=said.text or None,
            consent=said.consent,
            copied_from=pair.copied_from if said.consent.training else None,
        )
        try:
            kept = await _keep(store, given)
        except Refused:
            pending.put_back(pair, key)
            raise
        return JSONResponse({**_kept(kept), "left": left.label, "right": right.label}, 201, HEADERS)


async def _events(request: Request, backend: Backend, pair: BlindPair) -> AsyncIterator[bytes]:
    """{"pair"}, then {"side", "text"} as it is written, {"side", "ended"} of each, and {"ready"}; or {"error"}."""
    turns = [one.model_dump() for one in pair.messages]
    yield _event({"pair": pair.pair_id})
    try:
        async with aclosing(together(*(backend.complete(request, model.name, turns) for model in pair.models))) as pieces:
            async for side, text in pieces:
                pair.answers[side] += text
                yield _event({"side": side, "text": text} if text else {"side": side, "ended": True})
    except Refused as error:
        yield _event(error.body)
        return
    pair.ended = True
    yield _event({"ready": True})


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"


async def _admitted(request: Request, backend: Backend, kind: type[Body]) -> tuple[Body, str]:
    """The body of a request that may be answered, and the name of its key.

    Raises:
        Refused: it comes from elsewhere, from nobody we know, or says nothing that we understand.
    """
    _same_origin(request)
    key = await backend.admit(request)
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise Refused(415, "the body must be JSON: send Content-Type: application/json", "wrong_content_type")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise Refused(413, f"the body is longer than {MAX_BODY_BYTES} bytes", "body_too_large")
    try:
        return kind.model_validate_json(bytes(body)), key
    except ValidationError as error:
        raise _unfit(_problem(error)) from error


def _same_origin(request: Request) -> None:
    """A browser says where a post comes from; other clients say nothing."""
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none") or (origin is not None and urlsplit(origin).netloc != request.headers.get("host")):
        raise Refused(
            403, f"a page of {origin or 'another site'} may not post here; open the page of this gateway itself", "wrong_origin"
        )


def _unfit(words: str) -> Refused:
    return Refused(422, words, "invalid_value")


def _problem(error: ValidationError) -> str:
    """What is wrong with a body, without repeating what it says."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(one) for one in first["loc"])
    return f"{where or 'the body'}: {first['msg']}"


def _speaker(models: Sequence[Speaker], name: str, version: str) -> Speaker:
    """The model of that name; of another version where it was replaced since it answered."""
    found = next((one for one in models if one.name == name), None)
    if found is None:
        raise _unfit(f"model {name!r} is not served here; these are: {', '.join(one.name for one in models)}")
    return found if version in ("", found.version) else Speaker(name=name, version=_plain(version))


def _plain(version: str) -> str:
    """A version that the client told, unless it is a text: bare votes keep it, and pages and terminals show it."""
    if not VERSION.fullmatch(version):
        raise _unfit("version: no version looks like this; send an answer's system_fingerprint, or leave it out")
    return version


def _vote(**fields: Any) -> Vote:
    try:
        return Vote(**fields)
    except ValidationError as error:
        raise _unfit(_problem(error)) from error


async def _keep(store: VoteStore, vote: Vote) -> Vote:
    try:
        return await _in_store(store.keep, vote)
    except VoteError as error:
        raise _unfit(str(error)) from error


async def _in_store(work: Callable[[Given], Result], given: Given) -> Result:
    try:
        return await run_in_threadpool(work, given)
    except sqlite3.OperationalError as error:
        words = f"the store of votes cannot be used now ({error}); try again later"
        raise Refused(503, words, "no_room", retry_after_s=RETRY_S) from error


def _kept(vote: Vote) -> dict[str, Any]:
    """What the person is told of what was kept."""
    parts = {"vote": True, "conversation": vote.is_whole, "text": vote.text is not None}
    return {"vote_id": vote.vote_id, "kept": [name for name, there in parts.items() if there], "masked": vote.redacted}


def _also(*statuses: int) -> dict[int | str, dict[str, Any]]:
    words = {404: "there is none", 409: "not in this state", 410: "not any more"}
    return {status: {"description": words[status]} for status in statuses}


def _takes(body: type[_Body]) -> dict[str, Any]:
    """What the OpenAPI page says of a body that is read here and not by the framework, which would repeat it in errors."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(body.model_json_schema())}}}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without references: where it is put, they would lead nowhere."""
    known = schema.pop("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, dict):
            name = part.get("$ref", "").removeprefix("#/$defs/")
            return resolved(known[name]) if name else {key: resolved(value) for key, value in part.items()}
        return [resolved(one) for one in part] if isinstance(part, list) else part

    found: dict[str, Any] = resolved(schema)
    return found
