"""A contender in a separate process, so that its peak memory can be measured.

Requests and answers are lines of JSON. Whatever libraries print goes to stderr.
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

from peers.contenders import Captioned, Sources, contenders

BENCH = Path(__file__).parents[1]


class Answer(NamedTuple):
    """A caption and its cost."""

    caption: Captioned
    wall: float
    """Wall time in milliseconds."""
    cpu: float
    """CPU time of all threads in milliseconds."""


class Worker:
    """Runs a contender; a context manager that ends its process.

    Args:
        name: name of the contender.
        sources: paths that it is built from.
        threads: CPU threads.

    Raises:
        SystemExit: the contender could not be built, or failed on a photo.
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
        self._answer()  # the contender is built
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def caption(self, photo: str, beams: int, steps: int) -> Answer:
        """Captions a photo."""
        answer = self._ask({"photo": photo, "beams": beams, "steps": steps})
        return Answer(Captioned(answer["text"], answer["steps"]), answer["wall"], answer["cpu"])

    def peak_memory(self) -> int:
        """Returns the peak resident memory in bytes."""
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
            raise SystemExit(f"Error: {self.name} failed:\n{self._log.read().decode(errors='replace')[-2000:].strip()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve() -> None:
    """Builds the contender that the command line names, and answers requests until standard input ends."""
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
            captioned = caption(request["photo"], request["beams"], request["steps"])
            wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
            answer = {"text": captioned.text, "steps": captioned.steps, "wall": 1000 * wall, "cpu": 1000 * cpu}
        else:
            from caprun.inference.hardware import peak_memory

            answer = {"peak": peak_memory() or 0}
        print(json.dumps(answer), file=answers, flush=True)
