"""Default files of the commands."""

from __future__ import annotations

from pathlib import Path

from captioner.errors import CaptionerError


def newest(runs: Path, name: str) -> Path:
    """Returns the newest file of a name in a folder of runs.

    Raises:
        CaptionerError: there is no such file.
    """
    found = sorted(runs.glob(f"*/{name}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise CaptionerError(
            f"There is no {runs}/*/{name}; train a model first with `captioner train`, or name a checkpoint."
        )
    return found[-1]
