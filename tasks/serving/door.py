"""What every request passes before it is read: who asks, from where, how much it sends; and what is noted when it is over.

Plain ASGI around the app, so that streams pass through untouched. Costs some 20 µs.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
import time
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tasks.serving.config import ServeConfig
from tasks.serving.keys import Key, Keys
from tasks.serving.metrics import Metrics
from tasks.serving.request_log import RequestLog, Told
from tasks.serving.requests import Refused

logger = logging.getLogger("gristmill")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
GUARDED = ("/v1/", "/metrics", "/ab/scores")
"""What only those with a key may ask, where there are keys, besides all that is posted."""
ANYBODY, STRANGER = Key(name="anybody", digest=""), Key(name="stranger", digest="")
"""Whoever asks where there are no keys; and who has none where there are."""


class Door:
    """The outermost layer of the app."""

    def __init__(self, app: ASGIApp, config: ServeConfig, keys: Keys, metrics: Metrics, log: RequestLog) -> None:
        self._app, self._config, self._keys, self._metrics, self._log = app, config, keys, metrics, log
        self._keyed = bool(keys) or config.host not in LOOPBACK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.monotonic()
        told = Told(request=_given_id(scope) or f"req-{secrets.token_hex(8)}", route="unknown")
        scope["state"] = {**scope.get("state", {}), "told": told}
        answer = _Answer(send, told)
        try:
            scope["state"]["key"] = key = self._let_in(scope)
            told.key = key.name
            await self._app(scope, _within(receive, self._config.max_body_bytes, _length(scope)), answer)
        except Refused as error:
            told.error = error.code
            await refusal(error)(scope, receive, answer)
        finally:
            if not told.status:  # nothing was sent: the client went away, or the app has a fault
                told.status = 499 if isinstance(sys.exception(), asyncio.CancelledError) else 500
            told.seconds = time.monotonic() - began_s
            self._note(told, known=scope["state"].get("key", STRANGER) is not STRANGER)

    def _let_in(self, scope: Scope) -> Key:
        """Whose request it is.

        Raises:
            Refused: it has no key that is known, or is meant for another host.
        """
        headers = _headers(scope)
        self._keyed = self._keyed or bool(self._keys)
        if not self._keyed:
            if _host(headers.get("host", "")) not in LOOPBACK:  # a page elsewhere whose name was made to mean this machine
                raise Refused(403, "Without keys, only requests to 127.0.0.1 or localhost are answered", "wrong_host")
            return ANYBODY
        kind, _, secret = headers.get("authorization", "").partition(" ")
        key = self._keys.find(secret.strip()) if kind.lower() == "bearer" else None
        if key is None and not scope["path"].startswith(GUARDED) and scope["method"] != "POST":
            return STRANGER
        if key is None:
            words = "Incorrect API key provided" if secret else "No API key provided: send it as `Authorization: Bearer KEY`"
            raise Refused(401, f"{words}. `gristmill keys add NAME` makes one", "invalid_api_key")
        return key

    def _note(self, told: Told, *, known: bool) -> None:
        """Count a request; those of who may ask have a line each, while strangers could fill the disk with theirs."""
        if told.error:
            self._metrics.refused.labels(told.error).inc()
        self._metrics.requests.labels(told.route, told.model, str(told.status)).inc()
        if told.model:
            self._metrics.seconds.labels(told.route, told.model).observe(told.seconds)
        if known and (told.route.startswith("/v1/") or told.error):
            try:
                self._log.write(datetime.now(UTC).isoformat(timespec="milliseconds"), told)
            except OSError as error:  # the answer is given; a full disk must not take it back
                self._metrics.unwritten.inc()
                logger.error("%s: the line of request %s is not kept: %s", self._log.path, told.request, error)


class _Answer:
    """Sends on what the app says, with the request's id, and sees its status."""

    def __init__(self, send: Send, told: Told) -> None:
        self._send, self._told = send, told

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._told.status = message["status"]
            extra = [(b"x-request-id", self._told.request.encode())]
            if self._told.version:
                extra.append((b"x-model-version", self._told.version.encode("ascii", "replace")))
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await self._send(message)


def refusal(error: Refused) -> JSONResponse:
    """A refusal as a response."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s + 0.5)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.body, error.status, headers)


def _within(receive: Receive, max_bytes: int, length: int) -> Callable[[], Any]:
    """The body, as long as it is no longer than that."""
    if length > max_bytes:
        raise too_large(max_bytes)
    seen = 0

    async def counted() -> MutableMapping[str, Any]:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > max_bytes:
            raise HTTPException(413, str(max_bytes))
        return message

    return counted


def too_large(max_bytes: int) -> Refused:
    """A body that is longer than that."""
    return Refused(413, f"The body is larger than {max_bytes} bytes", "body_too_large")


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _length(scope: Scope) -> int:
    given = _headers(scope).get("content-length", "0")
    return int(given) if given.isascii() and given.isdigit() else 0


def _given_id(scope: Scope) -> str:
    """The request's id, where the client gave a plain one."""
    given = _headers(scope).get("x-request-id", "")
    return given if len(given) <= 128 and given.isascii() and given.replace("-", "").replace("_", "").isalnum() else ""


def _host(given: str) -> str:
    """A Host header without its port and brackets."""
    if given.startswith("["):
        return given[1:].partition("]")[0]
    return given.partition(":")[0].lower()
