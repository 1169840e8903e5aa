"""What an actor of a bulk job does: it holds one model, and turns a block of photos into a block of rows."""

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from caprun.bundle.manifest import MANIFEST
from caprun.caption import Caption, as_row
from caprun.engine import Captioner, packaged_bundle
from caprun.errors import BundleError, CaprunError, ImageError
from caprun.inference.devices import Device
from caprun.search.options import SearchOptions

if TYPE_CHECKING:
    import pyarrow as pa

    Table: TypeAlias = pa.Table

_TOGETHER = 2  # times a block is tried as a whole; if its worker dies again, one of its photos may be the cause


@dataclass(frozen=True)
class BulkWork:
    """What every worker of a job is told."""

    bundle: str | None
    """A directory that every machine sees; None for the packaged one."""
    model: str
    """The digest it must have: on another machine, another version may be installed."""
    device: Device
    precision: str
    """The same for all, whatever is the fastest on the hardware of one of them."""
    threads: int
    options: SearchOptions
    min_confidence: float | None
    batch_size: int | None
    id_column: str
    image_column: str
    by_path: bool
    """Whether `image_column` has paths as the operating system has them, which are bytes and need not be text."""
    folder: str
    """What relative paths are relative to."""
    attempts: Path
    """A folder that every machine sees, to note what is being tried."""


class Worker:
    """A callable for Ray Data's `map_batches`: Arrow tables in and out, one row for each row."""

    def __init__(self, work: BulkWork) -> None:
        self._work = work
        # An error of a constructor reaches the job as the text of a traceback; one of a call, as itself.
        self._captioner = _load(work)

    def __call__(self, block: "Table") -> "Table":
        """Caption a block.

        A photo that cannot be read is a row with its error, and so is one that kills whoever reads it: a block whose
        workers keep dying is tried photo by photo, and a photo during which one dies again is passed over.
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
        rows = [as_row(result, self._work.min_confidence) for result in results]
        for row in rows:
            if "error" in row:  # it may name a file whose name is not UTF-8, which Arrow refuses
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
        work = self._work
        return self._captioner.caption_many(photos, work.options, batch_size=work.batch_size, decoders=work.threads)

    def _caption_alone(self, key: object, photo: str | bytes) -> Caption | ImageError:
        mark = self._mark(key)
        if _count(mark) > 1:
            return ImageError("the photo killed the process that read it, again and again; get another copy of it")
        (result,) = self._caption([photo])
        mark.unlink(missing_ok=True)
        return result

    def _mark(self, key: object) -> Path:
        """A file that tells how often something was begun: whoever dies before the end cannot remove it."""
        return self._work.attempts / hashlib.sha256(repr(key).encode("utf-8", "surrogatepass")).hexdigest()


def _count(mark: Path) -> int:
    with mark.open("ab") as file:
        return file.write(b".") and file.tell()


def row_schema() -> "pa.Schema":
    """Arrow schema of a row, its id left out."""
    import pyarrow as pa

    word = pa.struct([("word", pa.string()), ("log_prob", pa.float64())])
    numbers = [("log_prob", pa.float64()), ("confidence", pa.float64())]
    caption = [("caption", pa.string()), *numbers, ("finished", pa.bool_()), ("words", pa.list_(word))]
    others = ("alternatives", pa.list_(pa.struct(caption)))
    return pa.schema([*caption, others, ("abstained", pa.string()), ("error", pa.string())])


def _load(work: BulkWork) -> Captioner | CaprunError:
    try:
        captioner = Captioner.load(
            work.bundle, device=work.device, threads=work.threads, precision=work.precision, many=True
        )
        path = packaged_bundle() if work.bundle is None else Path(work.bundle)
        if digest_of(path) != work.model:
            return BundleError(f"{path} is another model on {platform.node()}; install the same on every machine.")
    except CaprunError as error:
        return error
    return captioner


def digest_of(bundle: Path) -> str:
    """The digest in a bundle's manifest, which stands for all its files; the bundle is one that could be read."""
    return str(json.loads((bundle / MANIFEST).read_bytes())["digest"])
