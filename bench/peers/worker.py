"""A contender in a process of its own, which captions when it is told to: its memory is nobody else's.

Requests and answers are JSON, one a line; whatever libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from peers.contenders import Said, Sources, contenders

BENCH = Path(__file__).parents[1]


class Answer(NamedTuple):
    """How a photo was captioned."""

    said: Said
    wall: float
    """Milliseconds that passed."""
    cpu: float
    """Milliseconds of the processor that the process had, of all its threads."""


class Worker:
    """A contender, started; use it as a context, which ends it.

    Args:
        name: see `contenders`.
        sources: what it is built from.
        threads: of its operations.

    Raises:
        SystemExit: it could not be built, or failed at a photo.
    """

    def __init__(self, name: str, sources: Sources, threads: int) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the process)
        limits = {key: str(threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        code = "from peers.worker import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, name, str(threads), *map(str, sources)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=BENCH,
            env=os.environ | limits,
        )

    def __enter__(self) -> Worker:
        self._answer()  # it is built
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def caption(self, photo: str, beams: int, steps: int) -> Answer:
        """Have it caption a photo, and wait for it."""
        answer = self._ask({"photo": photo, "beams": beams, "steps": steps})
        return Answer(Said(answer["text"], answer["steps"]), answer["wall"], answer["cpu"])

    def peak_memory(self) -> int:
        """Most bytes it had so far."""
        peak: int = self._ask({})["peak"]
        return peak

    def _ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise SystemExit(f"{self.name} failed:\n{self._log.read().decode(errors='replace')[-2000:].strip()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve() -> None:
    """Be a worker: build the contender named on the command line, then answer until the requests end."""
    name, threads, *paths = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sources = Sources(*map(Path, paths))
    caption = contenders(sources.bundle)[name].build(sources, int(threads))
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request:
            began = time.perf_counter(), time.process_time()
            said = caption(request["photo"], request["beams"], request["steps"])
            wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
            answer = {"text": said.text, "steps": said.steps, "wall": 1000 * wall, "cpu": 1000 * cpu}
        else:
            from caprun.inference.hardware import peak_memory

            answer = {"peak": peak_memory() or 0}
        print(json.dumps(answer), file=answers, flush=True)
