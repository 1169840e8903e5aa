"""The listening socket: bound before the model is loaded, and closed without dropping connections."""

import contextlib
import ctypes
import errno
import socket
import struct
import sys
from pathlib import Path

from caprun.errors import CaprunError, UsageError

BACKLOG = 2048
"""Connections that the system queues until they are accepted."""


def bind(host: str, port: int) -> socket.socket:
    """Binds a socket that does not listen yet; 0.0.0.0 and :: are all addresses, and port 0 is any free port.

    Raises:
        UsageError: The host is not an address of this machine.
        CaprunError: The port is in use, or this user may not use it.
    """
    try:
        found = socket.getaddrinfo(host or "-", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"The host {host!r} is unknown: {getattr(error, 'strerror', error)}; check --host.") from error
    family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    # if the protocol is named, asyncio sets TCP_NODELAY; otherwise the body of a response waits until the client has
    # acknowledged the headers, which can take 40 ms
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
    """Binds a Unix socket that does not listen yet; replaces a socket on which no process listens any more.

    Raises:
        CaprunError: The path is another file, a process listens on it, or it cannot be created.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if Path(path).is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(path) == errno.ECONNREFUSED:
                    Path(path).unlink()
        listener.bind(path)
        Path(path).chmod(0o666)  # proxies run as another user; the folder limits who can connect
    except OSError as error:
        listener.close()
        raise CaprunError(f"caprun cannot listen on {path}: {error.strerror or error}; give another --uds.") from error
    listener.setblocking(False)
    return listener


def listen(listener: socket.socket) -> None:
    """Starts listening, so that clients can connect.

    Raises:
        CaprunError: Another process has started listening at this address since it was bound.
    """
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        raise _explained(error, *listener.getsockname()[:2]) from error


def _explained(error: OSError, host: str, port: int) -> CaprunError:
    match error.errno:
        case errno.EADDRINUSE:
            return CaprunError(f"Port {port} is in use at {host}; give another with --port, or 0 for any free port.")
        case errno.EACCES:
            return CaprunError(f"Port {port} is not allowed for this user; give one above 1023 with --port.")
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return UsageError(f"{host} is not an address of this machine; give one with --host, or 0.0.0.0 for all.")
    return CaprunError(f"caprun cannot listen on {host}, port {port}: {error.strerror}; give another --port.")


def url(listener: socket.socket) -> str:
    """Returns the address for a browser, or the path of a Unix socket."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


_SO_ATTACH_FILTER = 26
_NO_SYN = (  # BPF instructions: code, jump if true, jump if false, value
    (0x30, 0, 0, 13),  # load the TCP flags
    (0x45, 0, 1, 0x02),  # is SYN set?
    (0x06, 0, 0, 0),  # if so, drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # otherwise keep it
)


def close_door(listener: socket.socket) -> None:
    """Stops new connections, while established connections can still be accepted.

    Closing a listening socket resets connections that are established but not yet accepted. On Linux, the first packet
    of a new connection is therefore dropped: the client retries, and finds the socket closed or a successor's. On other
    systems nothing is done, and a connection that arrives at the last moment may be reset. A Unix socket has no
    such packets: its file is deleted, before a successor can have replaced it.
    """
    if listener.family == socket.AF_UNIX:
        Path(listener.getsockname()).unlink(missing_ok=True)
        return
    if sys.platform != "linux":
        return
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
    filtering = struct.pack("HP", len(_NO_SYN), ctypes.addressof(program))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filtering)
