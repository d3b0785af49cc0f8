"""One line of JSON for each request: who, what model, how it ended, how long it took; what was said only if the config wants it.

Lines are appended whole (one write each), so that several readers and a rotation by renaming do not meet half a line.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Told:
    """What becomes known of a request while it is worked on."""

    request: str
    route: str
    key: str = ""
    """The name of the key; never the key."""
    model: str = ""
    version: str = ""
    stream: bool = False
    status: int = 0
    error: str = ""
    """Code of the error; also of one in the middle of a stream, whose status is 200."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    queue_seconds: float = 0.0
    first_token_seconds: float = 0.0
    system_prompt: dict[str, str] = field(default_factory=dict)
    """What the gateway put before the conversation: name, version, digest."""
    asked: dict[str, Any] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)
    """Question and answer in numbers (traits.py)."""
    decisions: list[dict[str, Any]] = field(default_factory=list)
    """Of guardrails: side, action, rules."""
    prompt: Any = None
    """What was asked; only if texts are logged."""
    answers: list[str] | None = None


class RequestLog:
    """The file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)

    def write(self, at: str, told: Told) -> None:
        """Append a request that is over."""
        row = {"at": at, **{key: value for key, value in asdict(told).items() if value not in (None, "", [], {})}}
        for name in ("seconds", "queue_seconds", "first_token_seconds"):
            row[name] = round(row.get(name, 0.0), 6)
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)
