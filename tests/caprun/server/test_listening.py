"""The socket that a service listens on."""

from __future__ import annotations

import asyncio
import socket

from caprun.server.listening import bind


def test_accepted_connections_have_tcp_nodelay() -> None:
    async def delay_is_off() -> bool:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accepted(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            taken = writer.get_extra_info("socket")
            found.set_result(taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with bind("127.0.0.1", 0) as listener:
            async with await asyncio.start_server(accepted, sock=listener):
                _, writer = await asyncio.open_connection(*listener.getsockname())
                writer.close()
                return bool(await found)

    assert asyncio.run(delay_is_off())
