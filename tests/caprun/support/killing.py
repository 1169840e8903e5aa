"""Run caprun as often as there are points to die at, and die there: `python killing.py POINT,POINT,... ARGUMENT...`.

A point is `write:120` (of the 120 bytes that were to be written since it started, the last is written), or `replace:0`,
`ftruncate:0`, `fsync:0` (just before the first such call). Each run is a process of its own that kills itself with
SIGKILL, forked after the imports. Prints a line a run: `killed`, or its exit code.
"""

import os
import signal
import sys
from typing import Any

# once for all runs; but not ONNX Runtime, which starts a thread that a fork would leave behind with its locks
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
