"""METEOR, computed by the Java program behind published results, if that program and Java are installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

_START, _EACH = 120.0, 0.5  # seconds allowed for loading tables, and per photo


class Meteor:
    """Computes METEOR 1.5 for English (Denkowski and Lavie, 2014) in a Java process that starts on first use.

    Args:
        java: path of the program `java`.
        jar: path of `meteor-1.5.jar`, with its tables beside it.
        say: prints a warning when the program fails, after which no scores are computed.
    """

    def __init__(self, java: str, jar: Path, say: Callable[[str], None]) -> None:
        self._command = [java, "-Xmx2G", "-Dfile.encoding=UTF-8", "-Duser.language=en", "-jar", jar.name]
        self._folder = jar.parent
        self._say, self._failed = say, False
        self._process: subprocess.Popen[str] | None = None

    @classmethod
    def find(cls, say: Callable[[str], None]) -> Meteor | None:
        """Returns METEOR if Java and `pycocoevalcap` are installed; otherwise prints the reason and returns None."""
        java, package = shutil.which("java"), importlib.util.find_spec("pycocoevalcap")
        folders = (package.submodule_search_locations if package else None) or ()
        jars = [jar for folder in folders if (jar := Path(folder) / "meteor" / "meteor-1.5.jar").is_file()]
        if java is None or not jars:
            say(f"METEOR is left out: {'Java' if java is None else 'pycocoevalcap'} is not installed.")
            return None
        return cls(java, jars[0], say)

    def score(self, candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> float | None:
        """Computes corpus METEOR, in 0..1.

        Args:
            candidates: the words of one caption per photo.
            references: for each photo, the words of each of its references.

        Returns:
            None if the Java program failed or took too long, now or in an earlier call; training continues without it.
        """
        if self._failed:
            return None
        watch = None
        try:
            process = self._process = self._process or self._start()
            # the timer kills a program that hangs, which ends the read below
            watch = threading.Timer(_START + _EACH * len(candidates), process.kill)
            watch.daemon = True
            watch.start()
            # no word of a caption equals the separator, which contains no letters
            statistics = [
                _ask(process, " ||| ".join(["SCORE", *map(" ".join, of_photo), " ".join(candidate)]))
                for candidate, of_photo in zip(candidates, references, strict=True)
            ]
            answers = [_ask(process, " ||| ".join(["EVAL", *statistics])), *(_read(process) for _ in statistics)]
            return float(answers[-1])  # the answers before it score single photos
        except (OSError, ValueError) as error:
            self.close()
            self._failed = True
            self._say(f"warning: METEOR is left out from here on because its Java program failed ({error}).")
            return None
        finally:
            if watch is not None:
                watch.cancel()

    def close(self) -> None:
        """Ends the process if it is running."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):  # the pipe may be broken with data unsent
                        stream.close()
            process.wait()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(  # noqa: S603 - the command is our own
            [*self._command, "-", "-", "-stdio", "-l", "en", "-norm"],
            cwd=self._folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # an unread pipe would fill up and block the program
            encoding="utf-8",
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            start_new_session=True,  # Ctrl-C reaches only this process; the Java program exits when its input closes
        )


def _ask(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdin is not None, "it was started with a pipe"
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return _read(process)


def _read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None, "it was started with a pipe"
    answer = process.stdout.readline()
    if not answer.endswith("\n"):
        raise ValueError("it ended before answering")
    return answer.strip()
