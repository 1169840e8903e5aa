"""Decides which requests are accepted into a bounded queue, and which photos are captioned together.

All state belongs to the event loop. Threads only decode photos and caption batches.
"""

import asyncio
import contextlib
import functools
import json
import logging
import math
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from caprun.caption import as_row, rounded
from caprun.engine import Captioner, default_batch_size
from caprun.errors import DeviceError, ImageError
from caprun.inference.hardware import threads_for_all_cores
from caprun.photos.preprocessing import prepare, seen_box
from caprun.photos.reading import opened
from caprun.search.options import SearchOptions
from caprun.server.metrics import Metrics
from caprun.server.refusal import queue_full, shutting_down, too_late
from caprun.server.settings import MOST_DECODERS, Settings

_FEWEST = 2  # photos that idle workers do not split, since a batch of two takes a fifth less time
_LONGEST_RETRY = 60
_NICE = 5  # added niceness of the threads, so that the event loop responds at once when all cores are busy

log = logging.getLogger(__name__)


class Ask(NamedTuple):
    """The options of a request; only photos with the same options share a batch."""

    options: SearchOptions
    alpha: bool = False
    """Return where the model looked for each word."""
    min_confidence: float | None = None
    """Abstain below this confidence; None returns every caption."""


class CaptionedPhoto(NamedTuple):
    """A photo's result and timings."""

    row: bytes
    """JSON of its caption or abstention."""
    abstained: bool
    decode_time: float
    """Seconds until it was decoded, including the wait for a thread."""
    queue_time: float
    """Seconds that it then waited to be captioned."""
    caption_time: float
    """Seconds that its batch took."""


class Admission:
    """A request's place in the queue."""

    def __init__(self, ask: Ask, size: int) -> None:
        self.ask, self.size = ask, size
        """The options, and the bytes that are reserved for the body."""
        self.photos = self.arriving = 1
        """Photos that are not yet being captioned, and the number of them that are not yet decoded."""
        self.deadline = math.inf
        """Time after which the request has waited too long, on the event loop's clock."""


class _DecodedPhoto:
    """A photo that is ready to be captioned."""

    def __init__(
        self, admission: Admission, image: npt.NDArray[np.uint8], box: tuple[float, ...], received: float
    ) -> None:
        self.admission, self.image, self.box, self.received = admission, image, box, received
        self.decoded = self.taken = time.perf_counter()
        self.is_taken = asyncio.Event()
        self.outcome: asyncio.Future[CaptionedPhoto | Exception] = asyncio.get_running_loop().create_future()


class Batcher:
    """Captions the photos of many requests, in batches."""

    def __init__(self, captioner: Captioner, settings: Settings, metrics: Metrics) -> None:
        self.captioner = captioner
        self._settings, self._metrics = settings, metrics
        self._batch_size = settings.batch_size or default_batch_size(self.captioner)
        self._most_bytes = max(settings.queue_bytes, settings.max_bytes)
        decoders = settings.decoders or min(MOST_DECODERS, threads_for_all_cores())
        self._decoders = ThreadPoolExecutor(decoders, "caprun-decoder", _step_back)
        self._workers = ThreadPoolExecutor(self.captioner.workers, "caprun-worker", _step_back)
        self._idle = self.captioner.workers
        self._ready: dict[Ask, deque[_DecodedPhoto]] = {}
        self._arriving: Counter[Ask] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._bytes = 0
        self._pace = 0.0  # moving average of seconds per photo
        self._closed = False
        self.photos = 0
        """Photos accepted and not yet being captioned."""

    @property
    def retry_after(self) -> int:
        """Estimated whole seconds until all photos that are waiting now have been captioned."""
        return max(1, min(_LONGEST_RETRY, math.ceil(self.photos * self._pace)))

    @contextlib.contextmanager
    def admit(self, ask: Ask, size: int | None) -> Iterator[Admission]:
        """Reserves room for one photo until the block ends, before the body of `size` bytes is read.

        An unknown size counts as the maximum until `received` is called.

        Raises:
            Refusal: The queue is full, or the batcher is closed.
        """
        if self._closed:
            raise shutting_down()
        size = self._settings.max_bytes if size is None else size
        if self.photos >= self._settings.queue or self._bytes + size > self._most_bytes:
            raise queue_full(self.retry_after)
        admission = Admission(ask, size)
        self._bytes += size
        self._arriving[ask] += 1
        self._count(1)
        try:
            yield admission
        finally:
            self._bytes -= admission.size
            self._count(-admission.photos)
            self._arrived(admission, admission.arriving)

    def received(self, admission: Admission, size: int) -> None:
        """Reserves the actual size of a body that has arrived."""
        self._bytes += size - admission.size
        admission.size = size

    async def caption(
        self, admission: Admission, ask: Ask, photos: Sequence[bytes | ImageError]
    ) -> list[CaptionedPhoto | ImageError]:
        """Captions a request's photos, whose deadline starts now; returns a result for each photo, in order.

        The body can contain more photos and other options than were known at admission.

        Raises:
            Refusal: The queue has no room for all photos, or they have waited too long.
            DeviceError: The model failed.
        """
        more = len(photos) - admission.photos
        if more > 0 and self.photos + more > self._settings.queue:
            raise queue_full(self.retry_after)
        admission.deadline = asyncio.get_running_loop().time() + self._settings.deadline
        self._arrived(admission, admission.arriving)
        admission.ask, admission.photos, admission.arriving = ask, len(photos), len(photos)
        self._arriving[ask] += len(photos)
        self._count(more)
        tasks = [asyncio.create_task(self._result(admission, photo)) for photo in photos]
        del photos  # each photo is freed once decoded
        try:
            return await asyncio.gather(*tasks)
        except TimeoutError:
            raise too_late(self.retry_after) from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """Stops accepting requests; each thread ends after its current task."""
        self._closed = True
        for pool in (self._decoders, self._workers):
            pool.shutdown(wait=False, cancel_futures=True)

    # In the event loop

    async def _result(self, admission: Admission, data: bytes | ImageError) -> CaptionedPhoto | ImageError:
        received = time.perf_counter()
        try:
            if isinstance(data, ImageError):
                raise data
            async with asyncio.timeout_at(admission.deadline):
                job = functools.partial(self._decode, data)
                del data
                image, box = await asyncio.get_running_loop().run_in_executor(self._decoders, job)
                del job
        except ImageError as error:
            self._metrics.photos.labels("bad").inc()
            self._leave_queue(admission)
            return error
        finally:
            self._arrived(admission, 1)
        photo = _DecodedPhoto(admission, image, box, received)
        self._ready.setdefault(admission.ask, deque()).append(photo)
        try:
            async with asyncio.timeout_at(admission.deadline):
                await photo.is_taken.wait()
        finally:
            if not photo.is_taken.is_set():  # its request was cancelled or timed out
                self._ready[admission.ask].remove(photo)
                self._forget_empty(admission.ask)
        result = await photo.outcome
        if isinstance(result, Exception):
            self._metrics.photos.labels("failed").inc()
            raise result
        self._metrics.photos.labels("abstained" if result.abstained else "captioned").inc()
        for stage, seconds in zip(("decode", "queue", "caption"), result[2:], strict=True):
            self._metrics.stages.labels(stage).observe(seconds)
        return result

    def _dispatch(self) -> None:
        """Starts batches on idle workers, and schedules itself for the next ones."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle and self._ready:
            now = time.perf_counter()
            waits = {ask: self._wait(ask, now) for ask in self._ready}
            ask = min(waits, key=lambda ask: (waits[ask], self._ready[ask][0].decoded))
            if waits[ask] > 0:
                self._timer = asyncio.get_running_loop().call_later(waits[ask], self._dispatch)
                return
            self._start(ask)

    def _wait(self, ask: Ask, now: float) -> float:
        """Returns the seconds for which the photos of an ask still wait for others that are arriving."""
        ready = self._ready[ask]
        if not self._arriving[ask] or len(ready) >= self._share(ask):
            return 0.0
        return max(0.0, ready[0].decoded + self._settings.batch_delay - now)

    def _share(self, ask: Ask) -> int:
        """Returns the size of one worker's batch when the idle workers share the photos of an ask."""
        photos = len(self._ready[ask]) + self._arriving[ask]
        return min(self._batch_size, max(_FEWEST, math.ceil(photos / self._idle)))

    def _start(self, ask: Ask) -> None:
        ready = self._ready[ask]
        batch = [ready.popleft() for _ in range(min(len(ready), self._share(ask)))]
        self._forget_empty(ask)
        now = time.perf_counter()
        for photo in batch:
            photo.taken = now
            photo.is_taken.set()
            self._leave_queue(photo.admission)
        self._idle -= 1
        self._metrics.batch_size.observe(len(batch))
        work = asyncio.get_running_loop().run_in_executor(self._workers, self._caption, ask, batch)
        work.add_done_callback(functools.partial(self._deliver, batch))

    def _deliver(self, batch: list[_DecodedPhoto], work: "asyncio.Future[list[CaptionedPhoto | Exception]]") -> None:
        self._idle += 1
        if work.cancelled():
            return
        seconds = [one.caption_time for one in work.result() if isinstance(one, CaptionedPhoto)]
        took = sum(seconds) / len(batch) / self.captioner.workers
        self._pace = 0.9 * self._pace + 0.1 * took / len(batch) if self._pace else took / len(batch)
        for photo, outcome in zip(batch, work.result(), strict=True):
            if not photo.outcome.done():
                photo.outcome.set_result(outcome)
        self._dispatch()

    def _arrived(self, admission: Admission, photos: int) -> None:
        """Counts photos of a request that are no longer arriving."""
        admission.arriving -= photos
        self._arriving[admission.ask] -= photos
        if not self._arriving[admission.ask]:
            del self._arriving[admission.ask]
        # deferred, since the photo that has arrived is about to be ready
        asyncio.get_running_loop().call_soon(self._dispatch)

    def _leave_queue(self, admission: Admission) -> None:
        admission.photos -= 1
        self._count(-1)

    def _count(self, more: int) -> None:
        self.photos += more
        self._metrics.queue.set(self.photos)

    def _forget_empty(self, ask: Ask) -> None:
        if not self._ready[ask]:
            del self._ready[ask]

    # In threads

    def _decode(self, data: bytes) -> tuple[npt.NDArray[np.uint8], tuple[float, ...]]:
        spec = self.captioner.spec.image
        # large photos wait for each other until they are resized
        with opened(data, name="the photo", at_least=spec.at_least) as image:
            return prepare(image, spec), seen_box(image.size, spec)

    def _caption(self, ask: Ask, batch: list[_DecodedPhoto]) -> list[CaptionedPhoto | Exception]:
        began = time.perf_counter()
        try:
            images = np.stack([photo.image for photo in batch])
            captions = self.captioner.caption_arrays(images, ask.options, alpha=ask.alpha)
            rows = [as_row(caption, ask.min_confidence) for caption in captions]
        except Exception as error:
            if len(batch) > 1:  # one photo may be at fault, or memory may suffice for one at a time
                return [outcome for photo in batch for outcome in self._caption(ask, [photo])]
            if isinstance(error, DeviceError):
                log.error("A photo could not be captioned: %s", error)
            else:
                log.exception("A photo could not be captioned.")
            return [error]
        for photo, row in zip(batch, rows, strict=True):
            if ask.alpha and "caption" in row:
                row["attention_box"] = [rounded(edge) for edge in photo.box]
        encoded = [encode(row) for row in rows]
        took = time.perf_counter() - began
        return [
            CaptionedPhoto(row, "abstained" in data, photo.decoded - photo.received, photo.taken - photo.decoded, took)
            for photo, row, data in zip(batch, encoded, rows, strict=True)
        ]


def encode(answer: object) -> bytes:
    """Returns plain data as JSON in UTF-8."""
    return json.dumps(answer, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _step_back() -> None:
    """Lowers the priority of the calling thread; on Linux only, where each thread has its own priority."""
    with contextlib.suppress(AttributeError, OSError):
        if os.uname().sysname == "Linux":
            nice = min(19, os.getpriority(os.PRIO_PROCESS, 0) + _NICE)
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
