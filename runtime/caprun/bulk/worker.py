"""The actor of a bulk job, which holds a model and turns a block of photos into a block of rows."""

import hashlib
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from caprun.bundle.reading import read_bundle
from caprun.caption import Caption, as_row
from caprun.engine import Captioner, find_bundle
from caprun.errors import BundleError, CaprunError, ImageError
from caprun.inference.devices import Device
from caprun.search.options import SearchOptions

if TYPE_CHECKING:
    import pyarrow as pa

    Table: TypeAlias = pa.Table

_TOGETHER = 2  # attempts at a whole block; after that, one of its photos probably kills the workers


@dataclass(frozen=True)
class BulkOptions:
    """The options of `caprun bulk`; its help describes them."""

    model: str | None = None
    search: Mapping[str, Any] = field(default_factory=dict)
    """Search options that replace the model's own."""
    min_confidence: float | None = None
    recursive: bool = False
    image_column: str = "image"
    id_column: str = "id"
    overwrite: bool = False
    device: Device = "auto"
    precision: str | None = None
    threads: int | None = None
    """CPUs per worker; None for one, or an equal share on CUDA."""
    workers: tuple[int, int] | None = None
    """Minimum and maximum number of workers; None for one per core, or one per GPU on CUDA."""
    batch_size: int | None = None
    rows_per_file: int = 500
    """Rows that are committed together, and repeated if a worker dies."""
    address: str | None = None


@dataclass(frozen=True)
class BulkWork:
    """The parts of a job that every worker needs."""

    options: BulkOptions
    """With the device, precision and threads that all workers use, regardless of what is fastest on their machines."""
    search: SearchOptions
    digest: str
    """Digest of the bundle; on another machine, another version may be installed."""
    id_column: str
    image_column: str
    by_path: bool
    """True if `image_column` holds paths encoded by `os.fsencode`."""
    folder: str
    """Folder that relative paths start from."""
    attempts: Path
    """Folder that every machine can access, for the files that count attempts."""


class Worker:
    """A callable for Ray Data's `map_batches`: Arrow tables in and out, one output row per input row."""

    def __init__(self, work: BulkWork) -> None:
        self._work = work
        # Ray passes on an error from a call, while an error from a constructor arrives as the text of a traceback.
        self._captioner = _load(work)

    def __call__(self, block: "Table") -> "Table":
        """Captions a block.

        A photo that cannot be read yields a row with its error, and so does a photo that kills the process: a block
        whose workers keep dying is tried photo by photo, and a photo that kills another worker is skipped.
        """
        import pyarrow as pa

        if isinstance(self._captioner, CaprunError):
            raise self._captioner
        ids = block[self._work.id_column]
        keys = ids.to_pylist()
        photos = [self._photo(value) for value in block[self._work.image_column].to_pylist()]
        mark = self._mark(keys)
        if _count(mark) <= _TOGETHER:
            results = list(self._caption(photos))
        else:
            results = [self._caption_alone(key, photo) for key, photo in zip(keys, photos, strict=True)]
        rows = [as_row(result, self._work.options.min_confidence) for result in results]
        for row in rows:
            if "error" in row:  # Arrow rejects file names that are not UTF-8
                row["error"] = row["error"].encode("utf-8", "backslashreplace").decode()
        columns = {field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in row_schema()}
        mark.unlink(missing_ok=True)
        return pa.table({self._work.id_column: ids, **columns})

    def _photo(self, value: Any) -> str | bytes:
        if isinstance(value, dict):  # as Hugging Face stores images
            value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
        if self._work.by_path:
            value = os.fsdecode(value)
        if isinstance(value, str):
            return os.path.join(self._work.folder, value)  # noqa: PTH118  (Path would drop a last dot)
        return value or b""

    def _caption(self, photos: Sequence[str | bytes]) -> Iterator[Caption | ImageError]:
        assert isinstance(self._captioner, Captioner)
        options, search = self._work.options, self._work.search
        return self._captioner.caption_many(photos, search, batch_size=options.batch_size, decoders=options.threads)

    def _caption_alone(self, key: object, photo: str | bytes) -> Caption | ImageError:
        mark = self._mark(key)
        if _count(mark) > 1:
            return ImageError("the photo repeatedly killed the process that read it; get another copy of it")
        (result,) = self._caption([photo])
        mark.unlink(missing_ok=True)
        return result

    def _mark(self, key: object) -> Path:
        """Returns the file that counts attempts at `key`; a worker that dies does not remove it."""
        return self._work.attempts / hashlib.sha256(repr(key).encode("utf-8", "surrogatepass")).hexdigest()


def _count(mark: Path) -> int:
    with mark.open("ab") as file:
        return file.write(b".") and file.tell()


def row_schema() -> "pa.Schema":
    """Returns the Arrow schema of a row without its id."""
    import pyarrow as pa

    word = pa.struct([("word", pa.string()), ("log_prob", pa.float64())])
    numbers = [("log_prob", pa.float64()), ("confidence", pa.float64())]
    caption = [("caption", pa.string()), *numbers, ("finished", pa.bool_()), ("words", pa.list_(word))]
    others = ("alternatives", pa.list_(pa.struct(caption)))
    return pa.schema([*caption, others, ("abstained", pa.string()), ("error", pa.string())])


def _load(work: BulkWork) -> Captioner | CaprunError:
    options = work.options
    try:
        bundle = read_bundle(find_bundle(options.model))
        if bundle.digest != work.digest:
            return BundleError(
                f"{bundle.path} is another model on {platform.node()}; install the same one on every machine."
            )
        return Captioner.load(
            bundle, device=options.device, threads=options.threads, precision=options.precision, many=True
        )
    except CaprunError as error:
        return error
