"""What a gateway and a replica say to each other: one JSON object a line, UTF-8.

To the replica: {"op": "ping", "number"}; {"op": "cancel", "id"}; {"op": "generate", "id", "messages" or "prompt", "new_tokens",
"default_new_tokens", "temperature", "top_p", "seed", "stop", "stream", "resume"}. From it: {"ready": facts}; {"pong": number};
{"began": [id, prompt tokens]}; {"wrote": [[id, new tokens, new text, why it is over or ""], …]}; {"unfit": [id, code, words]};
{"fatal": words}, then it ends.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

MAX_LINE_BYTES = 1 << 28


@dataclass(frozen=True)
class Job:
    """What a replica is started with."""

    socket: int
    """The inherited end of the socket."""
    folder: str
    slots: int
    threads: int
    device: str
    context_length: int
    prefill_tokens: int


def write_line(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    """Send one; kept in memory while the other side does not read."""
    writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")


async def read_line(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next one; None: the other side is gone."""
    try:
        line = await reader.readline()
    except (ConnectionError, ValueError):
        return None
    return json.loads(line) if line.endswith(b"\n") else None
