"""Where a batch's photos come from: what the encoder's frozen part gives, or files that are read again every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from caprun.errors import ImageError
from caprun.photos.preprocessing import ImageSpec, prepare
from caprun.photos.reading import open_photo
from captioner.errors import CaptionerError
from captioner.progress import Progress
from captioner.training.inputs.batches import Indices
from captioner.training.inputs.features import Features, content_key
from captioner.training.inputs.views import cut, is_mirrored, recolour, show

R = TypeVar("R")

_READERS = 4  # threads; Pillow lets go of Python's lock while it decodes and resizes
_AHEAD = 3  # batches read before they are asked for


class View(NamedTuple):
    """Another view of the photos of a split."""

    features: Features
    allowed: npt.NDArray[np.bool_]  # (photos,): whether the photo's captions are true of it


class CachedFeatures:
    """What the frozen part of an encoder gives; see `captioner.training.inputs.batches.Source`.

    Args:
        features: of the split's photos.
        views: other views of the same photos, of which `varied` draws one a photo, the photo itself among them.
    """

    def __init__(self, features: Features, views: Sequence[View] = ()) -> None:
        self._views = [View(features, np.ones(len(features.rows), bool)), *views]

    def plain(self, photos: Sequence[Indices]) -> Iterator[Tensor]:
        """float32 (photos, *shape) of each group."""
        return (self._views[0].features.of(group) for group in photos)

    def varied(self, photos: Sequence[Indices], seed: int, epoch: int) -> Iterator[Tensor]:
        """The same, each photo in a view that is drawn for it."""
        count = len(self._views[0].features.rows)
        allowed = np.array([view.allowed for view in self._views])
        drawn = {}
        for time in _times(photos, count):
            views = _draw_views(count, len(self._views), seed, epoch, time)
            drawn[time] = np.where(allowed[views, np.arange(count)], views, 0)
        for group in photos:
            shown = [(int(index) % count, int(index) // count) for index in group]
            yield torch.cat([self._views[drawn[time][photo]].features.of([photo]) for photo, time in shown])


class PhotoFiles:
    """Photos read from their files, for augmentation drawn anew or an encoder of which all learns; see
    `captioner.training.inputs.batches.Source`.

    Args:
        photos: their files.
        spec: how they are prepared.
        may_mirror: for each photo, whether its captions stay true in a mirror.
        augmented: whether `varied` draws another crop, side and colour for each.
        views: where it does not, how many numbered views it draws one a photo of, as `CachedFeatures` does.
    """

    def __init__(
        self,
        photos: Sequence[Path],
        spec: ImageSpec,
        may_mirror: Sequence[bool],
        *,
        augmented: bool,
        views: int = 1,
    ) -> None:
        self._photos, self._spec, self._may_mirror = photos, spec, may_mirror
        self._augmented, self._views = augmented, views
        self._key = cache(content_key)  # a file is hashed once, not in every epoch

    def plain(self, photos: Sequence[Indices]) -> Iterator[Tensor]:
        """uint8 (photos, height, width, 3) of each group."""
        return self._read(photos, lambda index: prepare(open_photo(self._photos[index]), self._spec))

    def varied(self, photos: Sequence[Indices], seed: int, epoch: int) -> Iterator[Tensor]:
        """Yields the same, each photo as seed, epoch and its index draw it."""
        count = len(self._photos)
        drawn = {time: _draw_views(count, self._views, seed, epoch, time) for time in _times(photos, count)}

        def augmented(index: int) -> npt.NDArray[np.uint8]:
            rng = np.random.default_rng((seed, epoch, 2, index))
            index %= count
            photo = cut(open_photo(self._photos[index]), rng, mirror=self._may_mirror[index])
            return recolour(prepare(photo, self._spec), rng)

        def viewed(index: int) -> npt.NDArray[np.uint8]:
            time, index = divmod(index, count)
            file, view = self._photos[index], int(drawn[time][index])
            if is_mirrored(view) and not self._may_mirror[index]:
                view = 0
            return prepare(show(open_photo(file), view, self._key(file)), self._spec)

        return self._read(photos, augmented if self._augmented else viewed)

    def _read(self, photos: Sequence[Indices], read: Callable[[int], npt.NDArray[np.uint8]]) -> Iterator[Tensor]:
        with ThreadPoolExecutor(_READERS) as pool:
            groups = ([pool.submit(read, int(index)) for index in group] for group in photos)
            try:
                for waiting in _ahead(groups, _AHEAD):
                    yield torch.from_numpy(np.stack([future.result() for future in waiting]))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _draw_views(photos: int, views: int, seed: int, epoch: int, time: int = 0) -> Indices:
    """Draws the view of each photo, for each time that an epoch shows it."""
    return np.random.default_rng((seed, epoch, 1, time) if time else (seed, epoch, 1)).integers(views, size=photos)


def _times(photos: Sequence[Indices], count: int) -> range:
    """Returns 0 up to the most often that one of `count` photos is shown."""
    return range(1 + max((int(group.max()) // count for group in photos), default=0))


def _ahead(groups: Iterator[list[Future[R]]], count: int) -> Iterator[list[Future[R]]]:
    """The same groups, each begun while the `count` before it are still in use."""
    begun = list(islice(groups, count))
    while begun:
        yield begun.pop(0)
        begun.extend(islice(groups, 1))


def report_unreadable(problems: Sequence[str], say: Callable[[str], None], *, allow_missing: bool) -> None:
    """Refuse photos that cannot be read, or say that they are left out.

    Args:
        problems: a sentence each.
        say: prints a line.
        allow_missing: whether they may be left out.

    Raises:
        CaptionerError: there are some, and they may not.
    """
    if not problems:
        return
    shown = " ".join(problems[:3])
    if not allow_missing:
        raise CaptionerError(
            f"{len(problems)} photos cannot be read: {shown} Mend them, or go on without them with --allow-missing."
        )
    say(f"warning: {len(problems)} photos left out: {shown}")


def unreadable_photos(photos: Sequence[Path], *, quiet: bool = False) -> dict[Path, str]:
    """Those that cannot be read, and why in a sentence: better known now than in the middle of an epoch."""

    def problem(photo: Path) -> str | None:
        try:
            open_photo(photo)
        except ImageError as error:
            return str(error)
        return None

    problems = {}
    with ThreadPoolExecutor(_READERS) as pool, Progress("photos", len(photos), "photos", quiet=quiet) as progress:
        for photo, found in zip(photos, pool.map(problem, photos), strict=True):
            progress.advance(1)
            if found:
                problems[photo] = found
    return problems
