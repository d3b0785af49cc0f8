"""One exchange with a server, as data: what was sent, what came back byte for byte, and what is to be thought of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tasks.web.coding import decoded


class Message:
    """An HTTP answer by its header fields and its body after transfer decoding."""

    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first header of that name, in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def values(self, name: str) -> list[str]:
        """All headers of that name, in any case."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def content(self, max_bytes: int) -> bytes:
        """The body without its Content-Encoding; raises CodingError."""
        return decoded(self.body, self.header("Content-Encoding"), max_bytes)


@dataclass(frozen=True)
class Fetched(Message):
    """What came of one request. `error` is None for a page (status 2xx, complete body), else a rule: redirect, not_modified, bad_status,
    too_large, content_type, bad_coding, timeout, unreachable, bad_response, unheard, private_address; `detail` is for people."""

    url: str
    date: datetime
    """When the request was sent (UTC)."""
    status: int | None = None
    """None where no answer began."""
    reason: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    """The body after transfer decoding: still under its Content-Encoding, see `content`."""
    request: bytes = b""
    """The request as sent."""
    wire: bytes = b""
    """The answer as received: status line, headers, and the body under its transfer coding."""
    address: str | None = None
    """IP address of the server."""
    is_cut: bool = False
    """Whether only a beginning of the answer was read."""
    num_wire_bytes: int = 0
    """Bytes received, also of an answer that cannot be read."""
    seconds: float = 0.0
    """From the request to the end of the answer, or until it was given up."""
    redirect_to: str | None = None
    """The Location of a 3xx as sent."""
    error: str | None = None
    detail: str | None = None
