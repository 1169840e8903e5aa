"""Sources of photos for batches: cached features, or files that are read again in every epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from caprun.batch.progress import Progress
from caprun.errors import ImageError
from caprun.photos.preprocessing import ImageSpec, load, prepare
from caprun.photos.reading import open_photo
from captioner.errors import CaptionerError
from captioner.training.inputs.batches import Indices
from captioner.training.inputs.features import Features, content_key
from captioner.training.inputs.prefetch import prefetch
from captioner.training.inputs.views import cut, is_mirrored, recolour, show

_READERS = 4  # threads; Pillow releases the GIL while it decodes and resizes


class CachedFeatures:
    """Yields cached features; implements `captioner.training.inputs.batches.Source`.

    Args:
        features: the features of the split's photos.
        views: other views of the same photos; `varied` draws one view per photo, which may be the photo itself. A
            photo without a row in a view is shown unchanged.
    """

    def __init__(self, features: Features, views: Sequence[Features] = ()) -> None:
        self._views = [features, *views]

    def plain(self, photos: Sequence[Indices]) -> Iterator[Tensor]:
        """Yields float32 (photos, *shape) for each group."""
        return (self._views[0].of(group) for group in photos)

    def varied(self, photos: Sequence[Indices], seed: int, epoch: int) -> Iterator[Tensor]:
        """Yields tensors as `plain` does, from a view drawn for each photo."""
        count = len(self._views[0].rows)
        there = np.array([view.rows >= 0 for view in self._views])
        drawn = _draw_views(photos, count, len(self._views), seed, epoch)
        drawn = np.where(there[drawn, np.arange(count)], drawn, 0)
        for group in photos:
            shown = [divmod(int(index), count) for index in group]
            yield torch.cat([self._views[drawn[time, photo]].of([photo]) for time, photo in shown])


class PhotoFiles:
    """Reads photos from files; implements `captioner.training.inputs.batches.Source`.

    Training uses it for augmentation and for encoders that are trained completely.

    Args:
        photos: the files of the photos.
        spec: the preprocessing.
        may_mirror: for each photo, whether its captions stay true when it is mirrored.
        augmented: whether `varied` draws a crop, mirroring and colours for each photo.
        views: without `augmented`, the number of numbered views that `varied` draws from, as in `CachedFeatures`.
        varies: for each photo, whether `varied` changes it; a rehearsed caption describes an unchanged photo.
    """

    def __init__(
        self,
        photos: Sequence[Path],
        spec: ImageSpec,
        may_mirror: Sequence[bool],
        *,
        augmented: bool,
        views: int = 1,
        varies: Sequence[bool] = (),
    ) -> None:
        self._photos, self._spec, self._may_mirror = photos, spec, may_mirror
        self._varies = varies or [True] * len(photos)
        self._augmented, self._views = augmented, views
        self._key = cache(content_key)  # hashes each file once, not in every epoch

    def plain(self, photos: Sequence[Indices]) -> Iterator[Tensor]:
        """Yields uint8 (photos, height, width, 3) for each group."""
        return self._read(photos, lambda index: load(self._photos[index], self._spec))

    def varied(self, photos: Sequence[Indices], seed: int, epoch: int) -> Iterator[Tensor]:
        """Yields tensors as `plain` does, varied at random depending on seed, epoch and index."""
        count = len(self._photos)
        drawn = _draw_views(photos, count, self._views, seed, epoch)

        def augmented(index: int) -> npt.NDArray[np.uint8]:
            rng = np.random.default_rng((seed, epoch, 2, index))
            index %= count
            if not self._varies[index]:
                return load(self._photos[index], self._spec)
            photo = cut(self._open(index), rng, mirror=self._may_mirror[index])
            return recolour(prepare(photo, self._spec), rng)

        def viewed(index: int) -> npt.NDArray[np.uint8]:
            time, index = divmod(index, count)
            view = int(drawn[time, index])
            if not self._varies[index] or (is_mirrored(view) and not self._may_mirror[index]):
                view = 0
            return prepare(show(self._open(index), view, self._key(self._photos[index])), self._spec)

        return self._read(photos, augmented if self._augmented else viewed)

    def _open(self, index: int) -> Image.Image:
        return open_photo(self._photos[index], at_least=self._spec.at_least)

    def _read(self, photos: Sequence[Indices], read: Callable[[int], npt.NDArray[np.uint8]]) -> Iterator[Tensor]:
        indices = (int(index) for group in photos for index in group)
        with contextlib.closing(prefetch(read, indices, threads=_READERS)) as images:
            for group in photos:
                yield torch.from_numpy(np.stack([next(images) for _ in group]))


def _draw_views(photos: Sequence[Indices], count: int, views: int, seed: int, epoch: int) -> Indices:
    """Draws a view for each showing of each of `count` photos in an epoch, (showings, count)."""
    showings = 1 + max((int(group.max()) // count for group in photos), default=0)
    seeds = [(seed, epoch, 1, time) if time else (seed, epoch, 1) for time in range(showings)]
    return np.stack([np.random.default_rng(each).integers(views, size=count) for each in seeds])


def report_unreadable(problems: Sequence[str], say: Callable[[str], None], *, allow_missing: bool) -> None:
    """Refuses photos that cannot be read, or prints that they are left out.

    Args:
        problems: one sentence per unreadable photo.
        say: prints a line.
        allow_missing: whether unreadable photos may be left out.

    Raises:
        CaptionerError: there are unreadable photos and `allow_missing` is false.
    """
    if not problems:
        return
    shown = " ".join(problems[:3])
    if not allow_missing:
        raise CaptionerError(
            f"{len(problems)} photos cannot be read: {shown} Repair them, or leave them out with --allow-missing."
        )
    say(f"warning: {len(problems)} photos left out: {shown}")


def unreadable_photos(photos: Sequence[Path], *, quiet: bool = False) -> dict[Path, str]:
    """Opens every photo before training starts; returns a sentence for each photo that cannot be read."""

    def problem(photo: Path) -> str | None:
        try:
            open_photo(photo)
        except ImageError as error:
            return str(error)
        return None

    problems = {}
    with Progress("photos", len(photos), "photos", quiet=quiet) as progress:
        for photo, found in zip(photos, prefetch(problem, photos, threads=_READERS), strict=True):
            progress.advance(1)
            if found:
                problems[photo] = found
    return problems
