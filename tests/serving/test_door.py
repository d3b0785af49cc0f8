"""Who is let in, and what is noted of those who are not: asked as a server asks an app, without one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from tasks.serving.config import ServeConfig
from tasks.serving.door import Door
from tasks.serving.keys import Keys
from tasks.serving.metrics import Metrics
from tasks.serving.request_log import RequestLog

MANY = 50


class House:
    """A door before an app that answers everything."""

    def __init__(self, folder: Path) -> None:
        self.log, self.metrics = RequestLog(folder / "requests.jsonl"), Metrics()
        keys = Keys(folder / "keys.json")
        self.key = keys.add("ann", 0, 0)
        self._door = Door(self._app, ServeConfig(), keys, self.metrics, self.log)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["told"].route = scope["path"]
        if scope["path"] == "/nothing":
            scope["state"]["told"].error = "not_found"
        await PlainTextResponse("come in")(scope, receive, send)

    def asked(self, path: str, key: str = "", method: str = "GET") -> int:
        """The status of an answer."""
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        headers = [(b"authorization", f"Bearer {key}".encode())] if key else []
        scope = {"type": "http", "method": method, "path": path, "headers": headers}
        asyncio.run(self._door(scope, receive, send))
        return int(sent[0]["status"])

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.path.read_text("utf-8").splitlines()]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def count(metrics: Metrics, name: str, **labels: str) -> float:
    registry: CollectorRegistry = metrics._registry
    return registry.get_sample_value(name, labels) or 0.0


def test_strangers_are_counted_and_write_no_line(house: House) -> None:
    """Who has no key must not be able to fill the disk."""
    for number in range(MANY):
        assert house.asked("/v1/models", f"gm-guess{number}") == 401
        assert house.asked("/nothing") == 200  # that path is open to all, and its error would be noted
    assert house.lines() == []
    assert count(house.metrics, "gristmill_refused_total", reason="invalid_api_key") == MANY
    assert count(house.metrics, "gristmill_refused_total", reason="not_found") == MANY
    assert count(house.metrics, "gristmill_requests_total", route="unknown", model="", status="401") == MANY
    assert house.asked("/v1/models", house.key) == 200 and house.asked("/nothing", house.key) == 200
    assert [(one["key"], one["route"], one["status"]) for one in house.lines()] == [
        ("ann", "/v1/models", 200),
        ("ann", "/nothing", 200),
    ]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/ab/scores", 401), ("/metrics", 401), ("/v1/models", 401), ("/scores", 200), ("/", 200), ("/health", 200)],
)
def test_pages_are_open_and_what_they_show_needs_a_key(house: House, path: str, status: int) -> None:
    assert house.asked(path) == status
    assert house.asked(path, house.key) == 200
    assert house.asked(path, method="POST") == 401
