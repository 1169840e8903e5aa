"""Finds the photos that arrive in a folder, once they are complete."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from threading import Event
from typing import NamedTuple

from caprun.batch.listing import photos_in
from caprun.errors import CaprunError

_LOST = 60.0  # seconds after which to look without an event: network drives send none, and full queues drop them
_STEP = 100  # milliseconds between checks for events


class Version(NamedTuple):
    """Size and modification time of a file, which differ when the file is changed or replaced."""

    size: int
    """Bytes."""
    modified: float
    """Seconds since 1970."""


class Arrivals:
    """The photos of a folder that are new or have changed, and are complete.

    A photo is complete when its size and modification time have not changed for `settle` seconds.

    Attributes:
        done: The version of each photo that is captioned, by its path.
        waiting: The photos that may be incomplete, each with the time when this version was first seen.
    """

    def __init__(self, folder: str, *, recursive: bool, exclude: Sequence[str], settle: float) -> None:
        self._folder, self._recursive, self._exclude, self._settle = folder, recursive, exclude, settle
        self.done: dict[str, Version] = {}
        self.waiting: dict[tuple[str, Version], float] = {}

    def look(self, now: float) -> Mapping[str, Version]:
        """Searches the folder; returns the photos to caption, sorted by the bytes of their paths.

        `now` is in seconds of a monotonic clock.

        Raises:
            CaprunError: The folder no longer exists.
            UsageError: It cannot be listed.
        """
        if not os.path.isdir(self._folder):  # noqa: PTH112  (never an error)
            raise CaprunError(f"The folder {self._folder} no longer exists; run the same command when it is back.")
        photos = photos_in(self._folder, recursive=self._recursive, exclude=self._exclude)
        found = ((photo.path, version) for photo in photos if (version := _version(photo.path)))
        new = (one for one in found if self.done.get(one[0]) != one[1])
        seen = {one: self.waiting.get(one, now) for one in new}
        complete = {path: version for (path, version), since in seen.items() if now - since >= self._settle}
        self.waiting = {one: since for one, since in seen.items() if one[0] not in complete}
        return complete


def changes(folder: str, *, recursive: bool, seconds: float, ended: Event) -> Iterator[bool]:
    """Yields True when something in a folder may have changed, and False after `seconds` without a change.

    Ends when `ended` is set. If the system cannot watch the folder, every value is True.
    """
    from watchfiles import watch

    due = 0.0
    while not ended.is_set():
        try:
            for found in watch(
                folder,
                watch_filter=None,
                step=_STEP,
                stop_event=ended,
                rust_timeout=round(1000 * seconds),
                yield_on_timeout=True,
                recursive=recursive,
            ):
                now = time.monotonic()
                if changed := bool(found) or now >= due:
                    due = now + _LOST
                yield changed
        except (OSError, RuntimeError, UnicodeError):  # too many folders for the system, or a name that is not UTF-8
            yield True
            time.sleep(seconds)


def _version(path: str) -> Version | None:
    try:
        status = os.stat(path)  # noqa: PTH116  (a link's target counts)
    except OSError:  # removed since it was listed
        return None
    return Version(status.st_size, status.st_mtime)
