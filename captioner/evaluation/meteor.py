"""METEOR, computed by the Java program behind published results, if that program and Java are installed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

_START, _EACH = 120.0, 0.5  # seconds allowed for loading tables, and per photo

Meteor = Callable[[Sequence[Sequence[str]], Sequence[Sequence[Sequence[str]]]], float | None]
"""Computes corpus METEOR 1.5 for English (Denkowski and Lavie, 2014), in 0..1.

The arguments are the words of one caption per photo and, for each photo, the words of each of its references. None if
the Java program failed or took too long, then or before.
"""


def find_meteor(say: Callable[[str], None]) -> Meteor | None:
    """Returns METEOR if Java and `pycocoevalcap` are installed; otherwise prints the reason and returns None.

    Args:
        say: prints that reason, and a warning when the program fails.
    """
    java, package = shutil.which("java"), importlib.util.find_spec("pycocoevalcap")
    folders = (package.submodule_search_locations if package else None) or ()
    jars = [jar for folder in folders if (jar := Path(folder) / "meteor" / "meteor-1.5.jar").is_file()]
    if java is None or not jars:
        say(f"METEOR is left out: {'Java' if java is None else 'pycocoevalcap'} is not installed.")
        return None
    return _until_it_fails(java, jars[0], say)


def _until_it_fails(java: str, jar: Path, say: Callable[[str], None]) -> Meteor:
    """Returns METEOR; after the first failure, which is printed, it does not start the program again."""
    works = True

    def meteor(candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> float | None:
        nonlocal works
        if works:
            try:
                return _meteor(java, jar, candidates, references)
            except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
                works = False
                reason = "took too long" if isinstance(error, subprocess.TimeoutExpired) else "failed"
                say(f"warning: METEOR is left out from here on because its Java program {reason}.")
        return None

    return meteor


def _meteor(
    java: str, jar: Path, candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> float:
    """See `Meteor`; `jar` has its tables beside it. Raises an error if the program fails."""
    most = max(map(len, references))
    # every photo needs as many references; a repeated one changes nothing, because the best one counts
    theirs = [reference for of_photo in references for reference in ([*of_photo] * most)[:most]]
    command = [java, "-Xmx2G", "-Dfile.encoding=UTF-8", "-Duser.language=en", "-jar", jar.name]
    options = ["-l", "en", "-norm", "-r", str(most)]
    with TemporaryDirectory() as folder:
        files = [_write(Path(folder, "captions"), candidates), _write(Path(folder, "references"), theirs)]
        done = subprocess.run(  # noqa: S603 - the command is our own
            [*command, *files, *options],
            cwd=jar.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            check=True,
            timeout=_START + _EACH * len(candidates),
            start_new_session=True,  # Ctrl-C does not reach the program, because training finishes its validation
        )
    return float(done.stdout.split()[-1])  # "Final score: ..."


def _write(file: Path, captions: Iterable[Sequence[str]]) -> str:
    file.write_text("".join(f"{' '.join(words)}\n" for words in captions), encoding="utf-8")
    return str(file)
