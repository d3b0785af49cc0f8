"""The socket on which a gateway listens."""

from __future__ import annotations

import asyncio
import socket

import pytest

from infra.errors import InputError
from tasks.serving.config import ServeConfig
from tasks.serving.server import _bound


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_is_written_to_a_client_does_not_wait_for_what_was_written_before(host: str) -> None:
    """Head and body are written one after the other: with Nagle's algorithm the body, and each event of a stream, waits 40 ms."""

    async def accepted(listening: socket.socket) -> int:
        found = asyncio.get_running_loop().create_future()

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        server = await asyncio.start_server(client, sock=listening)
        _, writer = await asyncio.open_connection(*listening.getsockname()[:2])
        writer.close()
        async with server:
            return int(await asyncio.wait_for(found, 10))

    try:
        listening = _bound(ServeConfig(host=host, port=0))
    except InputError:
        pytest.skip(f"{host} is no address here")
    with listening:
        assert asyncio.run(accepted(listening)) == 1
