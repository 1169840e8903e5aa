"""The listening socket: bound before anything is loaded, and closed without turning away who has connected."""

import contextlib
import ctypes
import errno
import socket
import struct
import sys
from pathlib import Path

from caprun.errors import CaprunError, UsageError

BACKLOG = 2048
"""Connections that the system keeps until they are accepted."""


def bind(host: str, port: int) -> socket.socket:
    """Binds a socket, which does not listen yet; 0.0.0.0 and :: are all addresses, and port 0 is any that is free.

    Raises:
        UsageError: It is no address of this machine.
        CaprunError: The port is taken, or this user may not take it.
    """
    try:
        found = socket.getaddrinfo(host or "-", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"The host {host!r} is unknown: {getattr(error, 'strerror', error)}.") from error
    family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    # where the protocol is named, asyncio sends at once (TCP_NODELAY); elsewhere the body of an answer waits until the
    # client has confirmed the headers, which it may do 40 ms later
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _explained(error, host, port) from error
    listener.setblocking(False)
    return listener


def bind_unix(path: str) -> socket.socket:
    """Binds a Unix socket, which does not listen yet. A socket that nobody listens at any more is replaced.

    Raises:
        CaprunError: Another file is there, somebody listens at it, or it cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if Path(path).is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(path) == errno.ECONNREFUSED:
                    Path(path).unlink()
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise CaprunError(f"Nothing can listen at {path}: {error.strerror or error}; give another --uds.") from error
    listener.setblocking(False)
    return listener


def listen(listener: socket.socket) -> None:
    """Lets clients connect.

    Raises:
        CaprunError: Somebody else has listened at this address since it was bound.
    """
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        raise _explained(error, *listener.getsockname()[:2]) from error


def _explained(error: OSError, host: str, port: int) -> CaprunError:
    match error.errno:
        case errno.EADDRINUSE:
            return CaprunError(f"Port {port} is in use at {host}; give another with --port, or 0 for any free one.")
        case errno.EACCES:
            return CaprunError(f"Port {port} is not open to this user; give one above 1023 with --port.")
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return UsageError(f"{host} is no address of this machine; give one with --host, or 0.0.0.0 for all.")
    return CaprunError(f"Nothing can listen at {host}, port {port}: {error.strerror}.")


def url(listener: socket.socket) -> str:
    """Returns the address for a browser, or the path of a Unix socket."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


_SO_ATTACH_FILTER = 26
_NO_SYN = (  # of a packet: code, jump if true, jump if false, value
    (0x30, 0, 0, 13),  # load the byte of the TCP header that has the flags
    (0x45, 0, 1, 0x02),  # is SYN among them?
    (0x06, 0, 0, 0),  # then drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # else keep it
)


def close_door(listener: socket.socket) -> None:
    """Lets nobody else connect, while connections that were made can still be accepted.

    Closing a listening socket resets the connections that the system has made and nobody has accepted. On Linux, the
    first packet of a new connection is dropped: the client tries again, and finds a socket that is closed, or its
    successor's. Elsewhere nothing is done, and a connection that comes in the last moment may be reset.
    """
    if sys.platform != "linux":
        return
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
    filtering = struct.pack("HP", len(_NO_SYN), ctypes.addressof(program))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filtering)
