"""Caches the output of an encoder's frozen part on disk in half precision.

Each combination of encoder weights and preprocessing has a folder, in which each photo has a row, found by the photo's
content. A photo that is renamed or in two datasets is computed once; a photo that changes is computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from caprun.atomic_write import atomic_write, flush
from caprun.batch.progress import Progress
from caprun.errors import ImageError
from caprun.inference.devices import onnxruntime
from caprun.photos.preprocessing import ImageSpec, prepare
from caprun.photos.reading import open_photo
from captioner.errors import CaptionerError
from captioner.models.encoder import Encoder, Stem
from captioner.training.inputs.prefetch import prefetch
from captioner.training.inputs.views import show

_BATCH = 16
_SAVED_EVERY = 32  # batches


@dataclass(frozen=True)
class Features:
    """The cached features of some photos."""

    rows: npt.NDArray[np.int64]
    """(photos,): each photo's row in `table`; -1 for a photo that cannot be read."""
    table: npt.NDArray[np.float16]
    """(rows, *shape of the stem's output), memory-mapped."""
    unreadable: Mapping[Path, str]
    """A sentence for each photo that cannot be read."""

    def of(self, photos: Sequence[int] | npt.NDArray[np.int64]) -> torch.Tensor:
        """Returns the features of photos, float32 (photos, *shape)."""
        return torch.from_numpy(self.table[self.rows[photos]].astype(np.float32))


class FeatureCache:
    """Caches the output of one encoder's stem under one preprocessing.

    Args:
        directory: the folder of all caches.
        encoder: the encoder, frozen or not.
        spec: the preprocessing.
        view: number of the photos' view, see `captioner.training.inputs.views`.

    Raises:
        CaptionerError: the encoder has no stem because all of it is trained.
    """

    def __init__(self, directory: Path, encoder: Encoder, spec: ImageSpec, view: int = 0) -> None:
        stem = encoder.stem()
        if stem is None:
            raise CaptionerError(
                "The features of an encoder that is fine-tuned from its first part cannot be cached, because they "
                "change at every step."
            )
        self._stem, self._size, self._spec, self._view = stem, encoder.size, spec, view
        self.directory = directory / f"{encoder.name.replace('/', '-')}-{cache_key(stem, spec, view)}"
        self._table, self._index = self.directory / "features.f16", self.directory / "index.json"

    def compute(
        self, photos: Sequence[Path], device: torch.device, say: Callable[[str], None], keys: Sequence[str] = ()
    ) -> Features:
        """Returns the features of photos, and computes those that are not on disk yet.

        After an interruption, the features computed so far stay on disk. On a CPU, the encoder runs in ONNX Runtime,
        two to three times as fast as in PyTorch. `keys` are the photos' `content_keys`, if they are known.

        Raises:
            CaptionerError: the features do not fit on the disk, or cannot be written.
        """
        keys = keys or content_keys(photos)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.directory / "lock"):
                known = self._read_index()
                missing = {key: photo for key, photo in zip(keys, photos, strict=True) if key and key not in known}
                problems = self._extend(known, missing, device, say) if missing else {}
        except OSError as error:
            raise CaptionerError(
                f"The feature cache {self.directory} cannot be written: {error.strerror or error}; "
                "name another folder with --cache."
            ) from error
        unreadable = {
            photo: problems.get(key, f"{photo} cannot be read.")
            for key, photo in zip(keys, photos, strict=True)
            if key not in known
        }
        shape = (len(known), *self._stem.shape)
        table: npt.NDArray[np.float16] = (
            np.memmap(self._table, np.float16, "r", shape=shape) if known else np.zeros(shape, np.float16)
        )
        return Features(np.array([known.get(key, -1) for key in keys], np.int64), table, unreadable)

    def _extend(
        self, known: dict[str, int], missing: dict[str, Path], device: torch.device, say: Callable[[str], None]
    ) -> dict[str, str]:
        """Appends the features of `missing` to table and `known`; returns a sentence for each unreadable photo."""
        needed, free = len(missing) * self._stem.bytes, shutil.disk_usage(self.directory).free
        size, room = (f"{count / 1e6:,.1f} MB" for count in (needed, free))
        names = ("regions", "channels") if len(self._stem.shape) == 2 else ("channels", "rows", "columns")
        sizes = (f"{length} {name}" for length, name in zip(self._stem.shape, names, strict=True))
        shape = " x ".join((f"{len(missing)} photos", *sizes))
        say(f"features: {shape} in half precision, {size} in {self.directory}")
        if needed > 0.95 * free:
            raise CaptionerError(
                f"The features need {size} in {self.directory}, but only {room} is free. Free some space, or "
                "name a folder on another disk with --cache."
            )
        encode = _runner(self._stem.module, self._size, device)
        unreadable: dict[str, str] = {}
        keys = list(missing)
        loading = prefetch(lambda key: self._load(key, missing[key]), keys, threads=2)
        with (
            self._table.open("r+b" if self._table.exists() else "w+b") as table,
            Progress("features", len(keys), "photos") as progress,
            contextlib.closing(loading),
        ):
            # rows that an interrupted run wrote after its last index are not in the index
            table.truncate(len(known) * self._stem.bytes)
            table.seek(0, os.SEEK_END)
            # a broken index must not describe the new rows
            self._write_index(known, table.fileno())
            try:
                for first in range(0, len(keys), _BATCH):
                    loaded = {key: next(loading) for key in keys[first : first + _BATCH]}
                    unreadable |= {key: image for key, image in loaded.items() if isinstance(image, str)}
                    images = {key: image for key, image in loaded.items() if not isinstance(image, str)}
                    if images:
                        table.write(_half(encode(np.stack(list(images.values())))).tobytes())
                        known |= {key: len(known) + row for row, key in enumerate(images)}
                    if (first // _BATCH + 1) % _SAVED_EVERY == 0:
                        self._write_index(known, table.fileno())
                    progress.advance(len(loaded))
            finally:
                table.flush()
                self._write_index(known, table.fileno())
        return unreadable

    def _load(self, key: str, photo: Path) -> npt.NDArray[np.uint8] | str:
        try:
            return prepare(show(open_photo(photo, at_least=self._spec.at_least), self._view, key), self._spec)
        except ImageError as error:
            return str(error)

    def _read_index(self) -> dict[str, int]:
        try:
            known = json.loads(self._index.read_text())
            rows = self._table.stat().st_size // self._stem.bytes
        except (OSError, ValueError):
            return {}
        whole = isinstance(known, dict) and list(known.values()) == list(range(len(known))) and len(known) <= rows
        return known if whole else {}

    def _write_index(self, known: dict[str, int], table: int) -> None:
        flush(table)  # rows reach the disk before the index that describes them
        with atomic_write(self._index) as file:
            file.write(json.dumps(known).encode())


def cache_key(stem: Stem, spec: ImageSpec, view: int = 0) -> str:
    """Returns a digest of everything that determines the features of a photo."""
    name, *first = stem.key
    digest = hashlib.sha256(json.dumps([name, asdict(spec), view, *first], sort_keys=True).encode())
    for name, value in stem.module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def content_keys(photos: Sequence[Path]) -> list[str]:
    """Returns the sha256 of each photo's file in hexadecimal digits; empty for a file that cannot be read."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(content_key, photos))


def content_key(photo: Path) -> str:
    """Returns the sha256 of a photo's file in hexadecimal digits; empty if it cannot be read."""
    try:
        return hashlib.sha256(photo.read_bytes()).hexdigest()
    except OSError:
        return ""


Encode = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


def _runner(module: nn.Module, size: tuple[int, int], device: torch.device) -> Encode:
    if device.type != "cpu":
        moved = module.to(device)

        @torch.inference_mode()
        def on_device(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            return np.asarray(moved(torch.from_numpy(images).to(device)).cpu())

        return on_device

    ort = onnxruntime()
    example = torch.zeros(2, *size, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own deprecation
        program = torch.onnx.export(
            module, (example,), dynamo=True, verbose=False, dynamic_shapes=({0: torch.export.Dim("photos")},)
        )
    assert program is not None
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0])


def _half(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise CaptionerError(
            "The encoder produces NaN, infinity, or values beyond the cache's half precision; use "
            "--set data.augment=true to train without the cache."
        )
    return half
