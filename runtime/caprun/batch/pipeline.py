"""Captions many photos: reads them in threads, captions batches in one thread per core, and keeps the order.

A batch is the unit of computation: one thread runs encoder and search for it, and each operation uses one thread. A
decoder's steps are too small to be divided among cores, while batches are independent.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from caprun.caption import Caption
from caprun.errors import ImageError, UsageError
from caprun.inference.hardware import threads_for_all_cores
from caprun.photos.file import Photo

BATCH_SIZE = {"cpu": 8, "cuda": 64}
"""Photos per batch, by device; larger batches need more memory, and on a CPU they are hardly faster."""
MOST_BATCH = 1024

_Prepared: TypeAlias = npt.NDArray[np.uint8] | ImageError
_Results: TypeAlias = list[Caption | ImageError]


def caption_many(
    photos: Iterable[Photo],
    prepare: Callable[[Photo], npt.NDArray[np.uint8]],
    caption: Callable[[npt.NDArray[np.uint8]], Sequence[Caption]],
    *,
    batch_size: int,
    decoders: int | None,
    workers: int,
) -> Generator[Caption | ImageError, None, None]:
    """Captions many photos in batches, in their order.

    Photos are consumed as needed. `prepare` reads a photo as uint8 (height, width, 3) in `decoders` threads, by default
    one per core; `caption` captions a batch in `workers` threads.

    Returns:
        A caption or an error for each photo. Closing the generator stops the threads.

    Raises:
        UsageError: A number is out of range, or `photos` is a single photo.
    """
    if isinstance(photos, str | bytes | os.PathLike | Image.Image) or hasattr(photos, "read"):
        raise UsageError("caption_many takes a list of photos; use caption for a single photo.")
    threads = threads_for_all_cores() if decoders is None else decoders
    if not 1 <= batch_size <= MOST_BATCH:
        raise UsageError(f"batch_size is {batch_size}; it must be between 1 and {MOST_BATCH}.")
    if threads < 1:
        raise UsageError(f"decoders is {threads}; it must be at least 1.")

    def read(photo: Photo) -> _Prepared:
        try:
            return prepare(photo)
        except ImageError as error:
            return _without_frames(error)

    def work(waiting: Sequence[Future[_Prepared]]) -> _Results:
        prepared = [future.result() for future in waiting]
        sound = [image for image in prepared if not isinstance(image, ImageError)]
        captions = iter(caption(np.stack(sound)) if sound else ())
        return [image if isinstance(image, ImageError) else next(captions) for image in prepared]

    def run() -> Generator[Caption | ImageError, None, None]:
        # One batch for each worker and as many read ahead: memory depends neither on the number of photos nor on how
        # slowly the caller takes results.
        ahead = 2 * workers
        source = iter(photos)
        batches: deque[Future[_Results]] = deque()
        readers = ThreadPoolExecutor(threads, "caprun-decoder")
        captioners = ThreadPoolExecutor(workers, "caprun-worker")
        try:
            while True:
                while len(batches) <= ahead and (batch := list(itertools.islice(source, batch_size))):
                    batches.append(captioners.submit(work, [readers.submit(read, photo) for photo in batch]))
                if not batches:
                    return
                yield from batches.popleft().result()
        finally:
            # in this order: a worker that waits for a reader learns that the reading was cancelled
            readers.shutdown(wait=True, cancel_futures=True)
            captioners.shutdown(wait=True, cancel_futures=True)

    return run()


def _without_frames(error: ImageError) -> ImageError:
    """Drops the frames of an error and its causes, which would keep the photo's file and pixels in memory."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
