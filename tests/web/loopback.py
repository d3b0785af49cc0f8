"""An aiohttp server in a thread, on as many loopback addresses as a test asks for; what it is asked is in its log."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Loopback:
    """Where it listens, and what it was asked."""

    hosts: list[str] = field(default_factory=list)
    """`address:port`."""
    log: list[tuple[str, float]] = field(default_factory=list)
    """(URL, when) of every request."""

    @property
    def asked(self) -> Counter[str]:
        """Requests by URL, those for what an origin says about itself left out."""
        return Counter(url for url, _ in self.log if not url.endswith(("robots.txt", "tdmrep.json")))


@contextmanager
def loopback(handler: Handler, num_hosts: int = 1) -> Iterator[Loopback]:
    """Serve `handler` on 127.0.0.1, 127.0.0.2 …, on one port, within the block."""
    state, ready = Loopback(), threading.Event()
    loop = asyncio.new_event_loop()

    async def logged(request: web.Request) -> web.StreamResponse:
        state.log.append((f"http://{request.host}{request.raw_path}", time.monotonic()))
        return await handler(request)

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", logged)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        port = 0
        for number in range(1, num_hosts + 1):
            await web.TCPSite(runner, f"127.0.0.{number}", port).start()
            port = runner.addresses[0][1]
            state.hosts.append(f"127.0.0.{number}:{port}")
        return runner

    def run() -> None:
        runner = loop.run_until_complete(start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(10)
    try:
        yield state
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
