"""Many photos: read in threads, captioned in batches by as many threads as there are cores, given back in order.

A batch is the unit of everything that computes: one thread takes it through encoder and search, with one thread an
operation. Steps of a decoder are too small to be divided among cores, and batches divide by themselves.
"""

import itertools
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from caprun.errors import ImageError, UsageError
from caprun.hardware import cores
from caprun.image import Photo, load

if TYPE_CHECKING:
    from caprun.decoding import SearchOptions
    from caprun.engine import Caption, Captioner

BATCH_SIZE = {"cpu": 8, "cuda": 64}
"""Photos a batch by device: larger ones take more memory, and on a CPU hardly save time."""
MOST_BATCH = 1024

_Prepared: TypeAlias = npt.NDArray[np.uint8] | ImageError


def threads_for_all_cores() -> int:
    """How many threads it takes to keep every core that this process may use busy."""
    return math.ceil(cores().usable)


def default_batch_size(captioner: "Captioner") -> int:
    """Photos a batch where nobody says."""
    return BATCH_SIZE[getattr(captioner.backend, "device", "cpu")]


def caption_many(
    captioner: "Captioner",
    photos: Iterable[Photo],
    options: "SearchOptions | None" = None,
    *,
    batch_size: int | None = None,
    decoders: int | None = None,
) -> "Iterator[Caption | ImageError]":
    """See `Captioner.caption_many`."""
    if isinstance(photos, str | bytes | os.PathLike):
        raise UsageError("caption_many takes several photos, as a list; caption takes one.")
    size = default_batch_size(captioner) if batch_size is None else batch_size
    decoders = threads_for_all_cores() if decoders is None else decoders
    if not 1 <= size <= MOST_BATCH:
        raise UsageError(f"batch_size is {size}; it must lie between 1 and {MOST_BATCH}.")
    if decoders < 1:
        raise UsageError(f"decoders is {decoders}; it must be at least 1.")
    return _run(captioner.for_many(), photos, options, size, decoders)


def _run(
    captioner: "Captioner", photos: Iterable[Photo], options: "SearchOptions | None", size: int, decoders: int
) -> "Iterator[Caption | ImageError]":
    def prepare(photo: Photo) -> _Prepared:
        try:
            return load(photo, captioner.spec.image)
        except ImageError as error:
            return _to_keep(error)

    def work(waiting: "Sequence[Future[_Prepared]]") -> "list[Caption | ImageError]":
        prepared = [future.result() for future in waiting]
        sound = [image for image in prepared if not isinstance(image, ImageError)]
        captions = iter(captioner.caption_arrays(np.stack(sound), options) if sound else ())
        return [image if isinstance(image, ImageError) else next(captions) for image in prepared]

    # One batch for each worker, and as many read ahead: memory does not depend on how many photos there are, nor on
    # how slowly results are taken.
    ahead = 2 * captioner.workers
    source = iter(photos)
    batches: deque[Future[list[Caption | ImageError]]] = deque()
    readers = ThreadPoolExecutor(decoders, "caprun-decoder")
    workers = ThreadPoolExecutor(captioner.workers, "caprun-worker")
    try:
        while True:
            while len(batches) <= ahead and (batch := list(itertools.islice(source, size))):
                batches.append(workers.submit(work, [readers.submit(prepare, photo) for photo in batch]))
            if not batches:
                return
            yield from batches.popleft().result()
    finally:
        # in this order: a worker waits for what it was promised to be read, and hears that it will not be
        readers.shutdown(wait=True, cancel_futures=True)
        workers.shutdown(wait=True, cancel_futures=True)


def _to_keep(error: ImageError) -> ImageError:
    """The error without the frames it came through: they hold the photo's file and pixels as long as it is kept."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
