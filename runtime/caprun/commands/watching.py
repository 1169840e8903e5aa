"""Captions photos that arrive in a folder, and writes a file of rows, XMP sidecars, or both."""

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event
from typing import Any

import click

from caprun.batch.arrivals import Arrivals, Version, changes
from caprun.batch.progress import Progress, counted
from caprun.batch.results import Results
from caprun.commands.many_photos import end_of_run, end_of_sidecars, entries_of, plan_sidecars, rows_identity
from caprun.commands.options import Many
from caprun.engine import Captioner
from caprun.errors import UsageError
from caprun.photos.file import printable
from caprun.search.options import SearchOptions


class Watch:
    """Watches a folder: captions new photos, run by run, with one model, until `ended` is set.

    A file that has not changed for `settle` seconds is complete.
    """

    def __init__(
        self,
        folder: str,
        captioner: Captioner,
        options: SearchOptions,
        many: Many,
        *,
        min_confidence: float | None,
        settle: float,
        ended: Event,
    ) -> None:
        self._folder, self._captioner, self._options, self._many = folder, captioner, options, many
        self._least, self._pause, self._ended = min_confidence, max(min(settle, 1.0) / 2, 0.05), ended
        self._arrivals = Arrivals(folder, recursive=many.recursive, exclude=many.exclude, settle=settle)
        self._sidecars = plan_sidecars(captioner, (), options, many, min_confidence) if many.xmp else None
        self._results: Results | None = None
        self._total = self._failed = self._abstained = 0

    def run(self) -> None:
        """Captions the photos in the folder, and photos that arrive, until the watch ends.

        Raises:
            CaprunError: The folder no longer exists or cannot be listed, the output belongs to another run or cannot be
                written, or the disk is full.
        """
        with ExitStack() as stack:
            if self._many.output is not None:
                self._results = stack.enter_context(self._open(Path(self._many.output)))
                self._catch_up(self._results)
            click.echo(f"Watching {self._folder}; press Ctrl-C to stop.", err=True)
            for changed in changes(
                self._folder, recursive=self._many.recursive, seconds=self._pause, ended=self._ended
            ):
                if changed or self._arrivals.waiting:
                    self._caption(self._arrivals.look(time.monotonic()))
        where = "" if self._results is None else "; their rows say why"
        end_of_run(self._failed, self._abstained, self._total, where)
        end_of_sidecars(self._sidecars)

    def _open(self, output: Path) -> Results:
        """Opens the file of rows, which only this watch can extend."""
        # rows name photos by this path, which names another folder if the command runs elsewhere
        here = "" if os.path.isabs(self._folder) else f" in {os.getcwd()}"  # noqa: PTH109, PTH117
        identity = rows_identity(self._captioner, self._options, self._least)
        identity["watched"] = printable(os.path.join(self._folder, "") + here)  # noqa: PTH118
        return Results(output, None, identity, overwrite=self._many.overwrite)

    def _catch_up(self, results: Results) -> None:
        """Reads from the rows which photos are done, and writes their missing sidecars."""
        for row in results.rows():
            self._arrivals.done[row["image"]] = _version(row)
        if self._sidecars is None:
            return
        for row in results.rows():
            path = row["image"]
            if self._arrivals.done[path] == _version(row) and os.path.exists(path) and self._may_write(path):  # noqa: PTH110
                self._sidecars.write(row)

    def _caption(self, arrived: Mapping[str, Version]) -> None:
        paths = [path for path in arrived if self._needs_caption(path)]
        done = dict(arrived)
        found = self._captioner.caption_many(
            paths, self._options, batch_size=self._many.batch_size, decoders=self._many.decoders
        )
        with closing(found), Progress("captioning", len(paths), "photos") as progress:
            for entry in entries_of(paths, found, self._least):
                path = entry["image"]
                if self._ended.is_set():
                    break
                if "error" in entry and not os.path.exists(path):  # noqa: PTH110  (removed, and may come back)
                    del done[path]
                    continue
                if self._sidecars:
                    self._sidecars.write(entry)
                if self._results:
                    self._results.add({"image": path, **arrived[path]._asdict(), **entry})
                if why := entry.get("error"):
                    progress.say(f"Error: {why}")
                self._total += 1
                self._failed += "error" in entry
                self._abstained += "abstained" in entry
                progress.advance()
        if paths:
            click.echo(f"{counted(self._total)} done.", err=True)
        self._arrivals.done |= done

    def _needs_caption(self, path: str) -> bool:
        if self._sidecars is None:
            return True
        if not self._may_write(path):
            return False
        changed = path in self._arrivals.done
        return self._results is not None or changed or self._sidecars.needs(path)

    def _may_write(self, path: str) -> bool:
        """Returns whether no other photo has the same sidecar; reports an error if one has."""
        assert self._sidecars is not None
        try:
            self._sidecars.add(path)
        except UsageError as error:  # other photos are still captioned
            click.echo(f"Error: {error}", err=True)
            return False
        return True


def _version(row: Mapping[str, Any]) -> Version:
    return Version(row.get("size", 0), row.get("modified", 0.0))
