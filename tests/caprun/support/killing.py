"""Runs caprun once for each point, and kills it there: `python killing.py POINT,POINT,... ARGUMENT...`.

A point is `write:120` (right after the 120th byte is written), or `replace:0`, `ftruncate:0` or `fsync:0` (just before
the first such call). Each run is a process, forked after the imports, that kills itself with SIGKILL. Prints a line for
each run: `killed`, or its exit code.
"""

import os
import signal
import sys
from typing import Any

# imported once for all runs, without ONNX Runtime: it starts a thread, and a fork keeps only the thread's locks
import caprun.commands.many_photos  # noqa: F401
from caprun.cli import main


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(call: str, count: int) -> None:
    real = getattr(os, call)
    left = count

    def write(file: int, data: Any) -> int:
        nonlocal left
        if len(data) >= left:
            real(file, bytes(data[:left]))
            die()
        left -= len(data)
        return int(real(file, data))

    def other(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        if not left:
            die()
        left -= 1
        return real(*arguments, **named)

    setattr(os, call, write if call == "write" else other)


for point in sys.argv[1].split(","):
    child = os.fork()
    if not child:
        call, count = point.split(":")
        arm(call, int(count))
        main(sys.argv[2:])
    status = os.waitpid(child, 0)[1]
    print("killed" if status == signal.SIGKILL else os.waitstatus_to_exitcode(status), flush=True)
