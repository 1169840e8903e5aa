"""A connection that is closed so that its last answer arrives.

A socket that is closed with bytes in it that nobody has read is reset, and what was written to it may be lost with
that. So its writing half is closed first, and what a client still sends is read and thrown away, for a bounded time.
"""

import asyncio
import select
from typing import Any

SILENCE = 2.0
"""Seconds in which a client whose connection is to be closed must send or read something, to be waited for longer."""

_waste = bytearray(65_536)  # of every connection: nobody looks at it


class LingeringTransport(asyncio.Transport):
    """A transport that lingers when it is closed; for the rest, the one it was made of.

    Args:
        transport: of a TCP connection.
        owner: the protocol that is to hear of the connection's end.
        patience: most seconds that closing it may take.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        owner: asyncio.BaseProtocol,
        loop: asyncio.AbstractEventLoop,
        patience: float,
    ) -> None:
        super().__init__()
        self._real, self._owner, self._loop, self._patience = transport, owner, loop, patience
        self._closing = False

    def close(self) -> None:
        """Close it when all is sent, and the client has closed it too or its time is over."""
        if self.is_closing():
            return
        self._closing = True
        _Lingering(self._real, self._owner, self._loop, self._patience)

    def hang_up(self) -> None:
        """Close a connection on which nothing is asked; nothing happens if something has just come."""
        if self.is_closing():
            return
        if self._real.get_write_buffer_size():  # its client does not read
            self.close()
            return
        coming = select.poll()
        coming.register(self._real.get_extra_info("socket").fileno(), select.POLLIN)
        if not coming.poll(0):
            self._closing = True
            self._real.close()

    def abort(self) -> None:
        """Close it now."""
        self._closing = True
        self._real.abort()

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._closing or self._real.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, unless it is closing."""
        if not self.is_closing():
            self._real.write(data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See `asyncio.BaseTransport.get_extra_info`."""
        return self._real.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Read no more for now."""
        if not self.is_closing():
            self._real.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if not self.is_closing():
            self._real.resume_reading()


class _Lingering(asyncio.BufferedProtocol):
    """What a connection is handed to when it is to be closed."""

    def __init__(
        self,
        transport: asyncio.Transport,
        owner: asyncio.BaseProtocol,
        loop: asyncio.AbstractEventLoop,
        patience: float,
    ) -> None:
        self._transport, self._owner, self._loop = transport, owner, loop
        self._end = loop.time() + patience
        self._last = (0, transport.get_write_buffer_size())
        self._read = 0
        self._timer: asyncio.TimerHandle | None = None
        transport.set_protocol(self)
        try:
            transport.write_eof()
        except OSError:  # it was reset
            transport.abort()
            return
        transport.resume_reading()
        self._timer = loop.call_later(min(SILENCE, patience), self._look)

    def _look(self) -> None:
        now = (self._read, self._transport.get_write_buffer_size())
        if now == self._last or self._loop.time() >= self._end:
            self._transport.abort()
            return
        self._last = now
        self._timer = self._loop.call_later(SILENCE, self._look)

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002  (asyncio's)
        """Where to what is read."""
        return _waste

    def buffer_updated(self, nbytes: int) -> None:
        """Throw it away."""
        self._read += nbytes

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        if self._timer is not None:
            self._timer.cancel()
        self._owner.connection_lost(exc)
