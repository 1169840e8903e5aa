"""Parquet files with captions and photos or photo paths, such as those written by Hugging Face's `datasets`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from captioner.datasets.embedded.columns import library, photo_column, photo_in
from captioner.datasets.embedded.image_folder import Row
from captioner.datasets.example import Split, split_in, split_named
from captioner.datasets.files import PhotoFinder
from captioner.errors import CaptionerError

SUFFIX = ".parquet"
_BATCH = 32  # rows


def find_parquet(source: Path) -> list[Path]:
    """Returns the Parquet files of a dataset: a single file, or those in a folder and two levels of subfolders."""
    if source.suffix.lower() == SUFFIX and source.is_file():
        return [source]
    patterns = (f"*{SUFFIX}", f"*/*{SUFFIX}", f"*/*/*{SUFFIX}")
    return sorted(file for pattern in patterns for file in source.glob(pattern) if not file.name.startswith("."))


def dataset_key(source: Path, files: Sequence[Path]) -> str:
    """Returns a name for a dataset that changes with its files, such as `flickr-0123456789`."""
    source = source.resolve()
    described = [str(source)]
    for file in files:
        status = file.stat()
        described.append(f"{file} {status.st_size} {status.st_mtime_ns}")
    digest = hashlib.sha256("\n".join(described).encode(errors="surrogateescape")).hexdigest()
    return f"{source.stem}-{digest[:10]}"


class ParquetRows:
    """Reads the rows of Parquet files; implements `Rows`.

    A row's split is the value of its column `split`, else the split in the path of its file. A dataset whose files all
    belong to one split has no splits.

    Args:
        source: the dataset.
        files: its files.

    Raises:
        CaptionerError: pyarrow is not installed; a file is damaged, or has no photos or no captions.
    """

    def __init__(self, source: Path, files: Sequence[Path]) -> None:
        self._parquet = library("pyarrow.parquet", str(source))
        self.origin = f"Parquet, {len(files)} files" if len(files) > 1 else f"Parquet, {files[0].name}"
        self.folder: Path | None = (source if source.is_dir() else source.parent).resolve()
        self.total: int | None = 0
        files = [file.resolve() for file in files]
        splits = [_split(file.relative_to(self.folder)) for file in files]
        self._files: list[tuple[Path, str, Split | None]] = []
        for file, split in zip(files, splits, strict=True):
            try:
                metadata = self._parquet.read_metadata(file)
                schema = metadata.schema.to_arrow_schema()
            except (OSError, ValueError) as error:
                raise _unreadable(file, error) from error
            column = photo_column(schema, str(file), paths=True)
            self._files.append((file, column, split if len(set(splits)) > 1 else None))
            self.total += metadata.num_rows

    def __iter__(self) -> Iterator[Row]:
        """Yields the rows in the order of the files."""
        assert self.folder is not None
        for file, column, split in self._files:
            photos = PhotoFinder(self.folder, str(file.parent.relative_to(self.folder)))
            for cells in self._cells(file):
                photo, path = photo_in(cells.pop(column))
                if photo is None and (found := photos.find(path.removeprefix(f"{self.folder}/"))):
                    path = str(found.relative_to(self.folder))
                cells = {name.lower(): cell for name, cell in cells.items()}
                own = split_named(cells.get("split")) or split
                yield Row(photo, path, cells, own or (None if photo else split_named(path.split("/")[0])))

    def position(self) -> Any:
        """Returns None, because reading the files again takes only seconds."""
        return None

    def _cells(self, file: Path) -> Iterator[dict[str, Any]]:
        try:
            # without these options, all photos of a row group are in memory twice
            table = self._parquet.ParquetFile(file, pre_buffer=False, buffer_size=2**20)
            for batch in table.iter_batches(_BATCH):
                yield from batch.to_pylist()
        except (OSError, ValueError, OverflowError) as error:
            raise _unreadable(file, error) from error


def _split(file: PurePath) -> Split | None:
    """Returns the split in the name of a file, such as `train-00000-of-00001.parquet`, or of its innermost folder."""
    return next((split for part in reversed(file.parts) if (split := split_in(part))), None)


def _unreadable(file: Path, error: Exception) -> CaptionerError:
    reason = str(error).split("\n")[0].rstrip(".")
    return CaptionerError(f"{file} cannot be read as Parquet ({reason}); get another copy of it.")
