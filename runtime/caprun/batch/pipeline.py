"""Many photos: read in threads, captioned in batches by as many threads as there are cores, given back in order.

A batch is the unit of everything that computes: one thread takes it through encoder and search, with one thread an
operation. Steps of a decoder are too small to be divided among cores, and batches divide by themselves.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from caprun.caption import Caption
from caprun.errors import ImageError, UsageError
from caprun.inference.hardware import threads_for_all_cores
from caprun.photos.file import Photo

BATCH_SIZE = {"cpu": 8, "cuda": 64}
"""Photos a batch by device: larger ones take more memory, and on a CPU hardly save time."""
MOST_BATCH = 1024

_Prepared: TypeAlias = npt.NDArray[np.uint8] | ImageError


def caption_many(
    photos: Iterable[Photo],
    prepare: Callable[[Photo], npt.NDArray[np.uint8]],
    caption: Callable[[npt.NDArray[np.uint8]], Sequence[Caption]],
    *,
    batch_size: int,
    decoders: int | None,
    workers: int,
) -> Iterator[Caption | ImageError]:
    """Captions many photos in batches, in their order.

    Args:
        photos: Taken as they are needed.
        prepare: Reads a photo: uint8 (height, width, 3), or an `ImageError`.
        caption: Captions a batch, uint8 (photos, height, width, 3).
        batch_size: Photos in a batch.
        decoders: Threads that read photos; None for one a core.
        workers: Threads that caption batches.

    Returns:
        A caption or an error for each photo.

    Raises:
        UsageError: A number is out of its range, or `photos` is one photo.
    """
    if isinstance(photos, str | bytes | os.PathLike):
        raise UsageError("caption_many takes several photos, as a list; caption takes one.")
    decoders = threads_for_all_cores() if decoders is None else decoders
    if not 1 <= batch_size <= MOST_BATCH:
        raise UsageError(f"batch_size is {batch_size}; it must lie between 1 and {MOST_BATCH}.")
    if decoders < 1:
        raise UsageError(f"decoders is {decoders}; it must be at least 1.")
    return _run(photos, prepare, caption, batch_size, decoders, workers)


def _run(
    photos: Iterable[Photo],
    prepare: Callable[[Photo], npt.NDArray[np.uint8]],
    caption: Callable[[npt.NDArray[np.uint8]], Sequence[Caption]],
    size: int,
    decoders: int,
    workers: int,
) -> Iterator[Caption | ImageError]:
    def read(photo: Photo) -> _Prepared:
        try:
            return prepare(photo)
        except ImageError as error:
            return _to_keep(error)

    def work(waiting: Sequence[Future[_Prepared]]) -> list[Caption | ImageError]:
        prepared = [future.result() for future in waiting]
        sound = [image for image in prepared if not isinstance(image, ImageError)]
        captions = iter(caption(np.stack(sound)) if sound else ())
        return [image if isinstance(image, ImageError) else next(captions) for image in prepared]

    # One batch for each worker, and as many read ahead: memory does not depend on how many photos there are, nor on
    # how slowly results are taken.
    ahead = 2 * workers
    source = iter(photos)
    batches: deque[Future[list[Caption | ImageError]]] = deque()
    readers = ThreadPoolExecutor(decoders, "caprun-decoder")
    captioners = ThreadPoolExecutor(workers, "caprun-worker")
    try:
        while True:
            while len(batches) <= ahead and (batch := list(itertools.islice(source, size))):
                batches.append(captioners.submit(work, [readers.submit(read, photo) for photo in batch]))
            if not batches:
                return
            yield from batches.popleft().result()
    finally:
        # in this order: a worker waits for what it was promised to be read, and hears that it will not be
        readers.shutdown(wait=True, cancel_futures=True)
        captioners.shutdown(wait=True, cancel_futures=True)


def _to_keep(error: ImageError) -> ImageError:
    """The error without the frames it came through: they hold the photo's file and pixels as long as it is kept."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
