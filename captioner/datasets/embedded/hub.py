"""Datasets on the Hugging Face hub, read with the library `datasets`: `hf:OWNER/NAME[@REVISION][:[CONFIG/]SPLIT]`."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from caprun.errors import UsageError
from captioner.datasets.embedded.columns import library, photo_column, photo_in
from captioner.datasets.embedded.image_folder import Row
from captioner.datasets.example import split_in, split_named
from captioner.errors import CaptionerError

PREFIX = "hf:"
_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([^@:]+))?(?::(?:([^:/]+)/)?([\w.]+))?")
# a file in a repository or in one of its archives; other paths are not followed
_FILE = re.compile(r"((zip|tar)://[^:]*::)?hf://datasets/[^:]*")
_GOES_ON = "; run the same command again to continue from here"
_HINTS = {
    "gated dataset": "; accept its conditions on its page, then run `hf auth login`",
    "available configs": "; name one as hf:OWNER/NAME:CONFIG/SPLIT",
    "Dataset scripts": "; try the hub's Parquet copy, hf:OWNER/NAME@refs/convert/parquet",
}
"""Advice for library errors, by words that the error contains."""
_REASON = 300  # characters of a library error


class HubName(NamedTuple):
    """A dataset on the hub."""

    repository: str
    revision: str | None
    """Branch, tag or commit."""
    configuration: str | None
    """One of several datasets in the repository."""
    split: str | None
    """The only split to read; None for all."""

    @classmethod
    def parse(cls, source: Path | str) -> HubName:
        """Reads `hf:OWNER/NAME[@REVISION][:[CONFIG/]SPLIT]`.

        Raises:
            UsageError: the name has another form.
        """
        text = source.as_posix() if isinstance(source, Path) else source
        match = _NAME.fullmatch(text)
        if match is None:
            raise UsageError(f"{text} is not a dataset name; write hf:OWNER/NAME[@REVISION][:SPLIT].")
        return cls(*match.groups())

    @property
    def key(self) -> str:
        """Name of its cache folder."""
        digest = hashlib.sha256(repr(tuple(self)).encode()).hexdigest()
        return f"{self.repository.replace('/', '--')}-{digest[:10]}"


class HubRows:
    """Streams the rows of a dataset on the hub; implements `Rows`.

    A row's split is the value of its column `split`, else its split on the hub. A dataset with a single split has no
    splits unless `name` selects one, because the hub calls data without splits `train`.

    Args:
        source: the dataset, for messages.
        name: the dataset.
        position: result of `position`; the rows after it are read, from the same commit.

    Raises:
        CaptionerError: `datasets` is not installed; the dataset, revision or split does not exist or cannot be reached;
            it has no photos or no captions.
    """

    folder: Path | None = None

    def __init__(self, source: str, name: HubName, position: Mapping[str, Any] | None) -> None:
        datasets = library("datasets", source)
        datasets.disable_progress_bars()
        for noisy in ("datasets", "huggingface_hub"):
            logging.getLogger(noisy).setLevel(logging.ERROR)  # they log each retry
        self._source, self._before = source, position or {}
        revision = self._before.get("commit") or name.revision
        with _as_sentence(source):
            builder = datasets.load_dataset_builder(
                f"hf://datasets/{name.repository}", name.configuration, revision=revision
            )
            parts = builder.as_streaming_dataset()
            if name.split and name.split not in parts:
                raise CaptionerError(f"{source} has no split {name.split}; its splits are {', '.join(parts)}.")
            self._parts = {key: part for key, part in parts.items() if name.split in (None, key)}
            self._column = photo_column(_schema(self._parts), source, paths=False)
        self._at: tuple[str, Any] | None = None
        self._single = len(parts) == 1 and not name.split
        self._commit = str(builder.hash)
        self.origin = f"{source} at commit {self._commit[:12]}"
        known = builder.info.splits or {}
        self.total = sum(known[key].num_examples for key in self._parts if key in known) or None

    def __iter__(self) -> Iterator[Row]:
        """Yields the rows after `position`."""
        keys = list(self._parts)
        begun = self._before.get("split", keys[0])
        for key in keys[keys.index(begun) :]:
            part = self._parts[key]
            part = part.decode(False) if part.features else part
            if self._before and key == begun:
                part.load_state_dict(self._before["state"])
            for cells in self._cells(part):
                self._at = (key, part)
                yield self._row(cells, key)

    def position(self) -> Any:
        """Returns the commit, the split, and the state of its reader."""
        assert self._at is not None, "a row was read"
        key, part = self._at
        return {"commit": self._commit, "split": key, "state": part.state_dict()}

    def _cells(self, part: Any) -> Iterator[dict[str, Any]]:
        with _as_sentence(self._source, _GOES_ON):
            yield from part

    def _row(self, cells: dict[str, Any], key: str) -> Row:
        photo, path = photo_in(cells.pop(self._column))
        if photo is None and _FILE.fullmatch(path):
            with _as_sentence(self._source, _GOES_ON), library("fsspec", self._source).open(path) as file:
                photo = file.read()
        cells = {name.lower(): cell for name, cell in cells.items()}
        if isinstance(text := cells.get("txt"), str):  # a file in an archive, with one caption per line
            cells["txt"] = text.splitlines()
        split = split_named(cells.get("split")) or (None if self._single else split_in(key))
        return Row(photo, path if photo else "", cells, split)


def _schema(parts: Mapping[str, Any]) -> Any:
    """Returns the schema of a dataset; for formats without one, that of the first row."""
    part = next(iter(parts.values()))
    if part.features:
        return part.features.arrow_schema
    return library("pyarrow", "").Table.from_pylist(list(part.take(1))).schema


@contextmanager
def _as_sentence(source: str, hint: str = "") -> Iterator[None]:
    """Turns any error of the library into one sentence that names the dataset."""
    try:
        yield
    except CaptionerError:
        raise
    except Exception as error:  # the library, its file systems and parsers can raise any type
        reason = " ".join(str(error).partition("Example of usage")[0].split()) or type(error).__name__
        if isinstance(error, ConnectionError):
            hint = f"; check the network{hint}"
        hint = next((text for word, text in _HINTS.items() if word in reason), hint)
        raise CaptionerError(f"{source} cannot be read: {reason[:_REASON].rstrip('.')}{hint}.") from error
