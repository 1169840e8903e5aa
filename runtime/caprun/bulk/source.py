"""The input of a bulk job: photos named by paths, or Parquet files that hold photos."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from caprun.batch.listing import list_photos
from caprun.bulk.worker import BulkOptions, row_schema
from caprun.errors import UsageError

PARQUET = ".parquet"
STATE = ".caprun"
"""Folder in the output of a job that records its progress."""
IMAGE = "image"
"""Id column of photos that are named by paths."""
_FILE = "file"


@dataclass(frozen=True, eq=False)
class BulkSource:
    """Rows to caption, each with its own id."""

    ids: Sequence[str | int]
    id_column: str
    image_column: str
    """Column of encoded photos (binary, or Hugging Face's struct of bytes and path) or of their paths (string)."""
    digest: str
    """Digest of the ids and of the paths, not the contents, of the files that hold the rows."""
    files: Sequence[str]
    """Parquet files that hold the rows; empty for photos named by paths."""
    paths: Sequence[bytes] = ()
    """Absolute paths of photos named by paths, encoded by `os.fsencode`, in the order of `ids`."""

    def in_parquet(self, folder: Path) -> list[str]:
        """Returns the Parquet files to read; paths are written to one in `folder`, which Ray Data can resume."""
        if not self.paths:
            return list(self.files)
        import pyarrow as pa
        from pyarrow import parquet

        path = folder / f"photos{PARQUET}"
        parquet.write_table(
            pa.table({IMAGE: pa.array(self.ids, pa.string()), _FILE: pa.array(self.paths, pa.binary())}), path
        )
        return [str(path)]


def find_source(
    arguments: Sequence[str], standard_input: BinaryIO, options: BulkOptions, left_out: Counter[str]
) -> BulkSource:
    """Finds the rows that the arguments name: those of Parquet files, or photos as `list_photos` finds them.

    A photo that is named twice is captioned once. `left_out` counts photos that cannot be read, as in `list_photos`.

    Raises:
        UsageError: The arguments name no photos, or mix photos and Parquet files; a file is not Parquet or has no such
            column; or an id is missing or repeated.
    """
    tables = [_parquet_files(argument, options.recursive) for argument in arguments]
    if all(tables):
        return _from_parquet([file for files in tables for file in files], options.image_column, options.id_column)
    if any(tables):
        raise UsageError("INPUT mixes Parquet files and photos; caption them in separate jobs.")
    photos = list_photos(arguments, standard_input, recursive=options.recursive, left_out=left_out)
    return _from_paths([photo.path for photo in photos])


def refuse_unreadable(path: str | os.PathLike[str]) -> None:
    """Refuses paths that Ray Data parses as URLs and shortens (seen with 2.60).

    Raises:
        UsageError: Ray Data would read or write another file.
    """
    text = os.fspath(path)
    for mark in "?;\n\r\t":
        if mark in text:
            raise UsageError(f"Ray Data cannot use the path {text!r}, because it contains {mark!r}; rename it.")
    if text != text.encode("utf-8", "replace").decode():
        raise UsageError(f"Ray Data cannot use the path {text!r}, which is not UTF-8; rename it.")


def _parquet_files(argument: str, recursive: bool) -> list[str]:
    path = Path(argument)
    is_folder = os.path.isdir(path)  # noqa: PTH112  (Path's raises if a name is too long or a folder closed)
    if path.suffix.lower() == PARQUET and not is_folder:
        return [os.path.abspath(path)]  # noqa: PTH100  (resolve() would follow links)
    if not is_folder:
        return []
    found = path.rglob(f"*{PARQUET}") if recursive else path.glob(f"*{PARQUET}")
    return sorted(
        os.path.abspath(file)  # noqa: PTH100
        for file in found
        if not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)  # hidden
        and (file.parent == path or not (file.parent / STATE).is_dir())  # the output of a job
    )


def _from_paths(photos: Sequence[str]) -> BulkSource:
    # rows are text, but file names are bytes: those that are not UTF-8 become \xff
    named = {os.fsencode(photo).decode("utf-8", "backslashreplace"): photo for photo in photos}
    if len(named) != len(set(photos)):
        raise UsageError("Two photos have names that differ in bytes but look the same; rename one of them.")
    files = [os.fsencode(os.path.abspath(photo)) for photo in named.values()]  # noqa: PTH100
    # includes the names, which are the ids: from another folder, the same photos have other names
    pairs = sorted(zip((name.encode() for name in named), files, strict=True))
    return BulkSource(list(named), IMAGE, _FILE, _digest([part for pair in pairs for part in pair]), (), files)


def _from_parquet(files: Sequence[str], image_column: str, id_column: str) -> BulkSource:
    import pyarrow as pa
    from pyarrow import dataset

    for file in files:
        refuse_unreadable(file)
    try:
        rows = dataset.dataset(list(files), format="parquet")
        _check_columns(rows.schema, files[0], image_column, id_column)
        ids = rows.to_table(columns=[id_column])[id_column]
    except FileNotFoundError as error:
        raise UsageError(f"{error.filename or error} does not exist; check the path.") from None
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"The Parquet files cannot be read ({reason}); get another copy of them.") from error
    if ids.null_count:
        raise UsageError(f"{ids.null_count:,} rows have no {id_column}; name another column with --id-column.")
    values = ids.to_pylist()
    if not values:
        raise UsageError(f"{files[0]} has no rows to caption.")
    if len(set(values)) != len(values):
        twice, _ = Counter(values).most_common(1)[0]
        raise UsageError(f"Two rows have the same {id_column} {twice!r}; name another column with --id-column.")
    parts = [_digest([str(value).encode() for value in sorted(values)]), _digest(sorted(map(os.fsencode, files)))]
    if _is_text(rows.schema.field(image_column).type):
        parts.append(os.getcwd())  # noqa: PTH109  (relative photo paths start here)
    return BulkSource(values, id_column, image_column, _digest([os.fsencode(part) for part in parts]), files)


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def _check_columns(schema: Any, file: str, image_column: str, id_column: str) -> None:
    from pyarrow import types

    for option, column in (("--image-column", image_column), ("--id-column", id_column)):
        if column not in schema.names:
            there = ", ".join(schema.names) or "none"
            raise UsageError(f"{file} has no column {column} (it has {there}); name the right one with {option}.")
    if id_column in row_schema().names:
        raise UsageError(f"The id column {id_column} has the same name as a column of the results; rename it.")
    ids, images = schema.field(id_column).type, schema.field(image_column).type
    if not (types.is_integer(ids) or _is_text(ids)):
        raise UsageError(f"{id_column} holds {ids}, but an id is text or an integer; name another --id-column.")
    if types.is_struct(images) and images.get_field_index("bytes") >= 0:
        images = images.field("bytes").type
    if not (types.is_binary(images) or types.is_large_binary(images) or _is_text(images)):
        raise UsageError(f"{image_column} holds {images}, not photos or paths; name another --image-column.")


def _digest(parts: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
