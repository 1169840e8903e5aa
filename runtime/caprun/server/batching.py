"""Photos of many requests captioned together: threads that decode, threads that caption, and who waits for them.

The event loop accepts requests and hears of results; a photo goes from thread to thread without it.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from caprun.caption import Abstention, abstention
from caprun.engine import default_batch_size
from caprun.errors import DeviceError, ImageError
from caprun.inference.hardware import threads_for_all_cores
from caprun.photos.preprocessing import prepare, seen_box
from caprun.photos.reading import opened
from caprun.server.metrics import Metrics
from caprun.server.priority import step_back
from caprun.server.queueing import Ask, Captioned, DeadlinePassed, Photo, Place, Queue, Result
from caprun.server.settings import MOST_DECODERS, Settings

if TYPE_CHECKING:
    from caprun.caption import Caption
    from caprun.engine import Captioner

T = TypeVar("T")
Box: TypeAlias = tuple[float, float, float, float]
Render: TypeAlias = "Callable[[Caption, Box | None, Abstention | None], bytes]"
"""How a caption is answered, or why it is not; with the box of `seen_box` where attention is wanted."""

log = logging.getLogger(__name__)


class Batcher:
    """Captions what requests bring, in batches.

    Args:
        captioner: what captions; as many threads do as it has workers when it is made for many photos.
        settings: limits.
        metrics: what is counted.
        render: how a caption is answered, which is worked out in the threads that caption.
    """

    def __init__(self, captioner: "Captioner", settings: Settings, metrics: Metrics, render: Render) -> None:
        self.captioner = captioner.for_many()
        self._metrics, self._render = metrics, render
        self.queue = Queue(settings, metrics, settings.batch_size or default_batch_size(self.captioner))
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        decoders = settings.decoders or min(MOST_DECODERS, threads_for_all_cores())
        # daemons: a process that is told to end now does not wait for them
        self._decoders = [
            threading.Thread(target=self._decode_all, name=f"caprun-decoder-{i}", daemon=True) for i in range(decoders)
        ]
        self._workers = [
            threading.Thread(target=self._caption_all, name=f"caprun-worker-{i}", daemon=True)
            for i in range(self.captioner.workers)
        ]
        for thread in (*self._decoders, *self._workers):
            thread.start()

    def admit(self, ask: Ask, size: int) -> Place:
        """Accept a request before its body is read; see `Queue.admit`."""
        return self.queue.admit(ask, size)

    async def caption(self, place: Place, photos: Sequence[bytes | ImageError]) -> list[Result]:
        """Caption a request's photos.

        Args:
            place: the request's, its body received.
            photos: encoded photos, or why there is none.

        Returns:
            In their order, a caption or what is wrong with the photo.

        Raises:
            QueueFull: there is no room for so many.
            DeadlinePassed: they have waited too long.
            DeviceError: the model failed.
        """
        waiting = [Photo(place, index, photo) for index, photo in enumerate(photos) if isinstance(photo, bytes)]
        place.results = [None if isinstance(photo, bytes) else photo for photo in photos]
        del photos  # each is given up when it is decoded
        self.queue.put(place, list(waiting))
        for photo in waiting:
            self._jobs.put(partial(self._decode, photo))
        if waiting:
            timer = place.loop.call_at(place.deadline, self._expire, place)
            try:
                await place.future
            finally:
                timer.cancel()
        return [result for result in place.results if result is not None]

    async def run(self, place: Place, job: Callable[[], T]) -> T:
        """Do something of the decoders' kind for a request, where they do.

        Raises:
            DeadlinePassed: none of them had time for it.
        """
        loop = place.loop
        future: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            if future.done():
                return
            try:
                value = job()
            except Exception as error:  # noqa: BLE001  (whatever it is, it is the caller's)
                _tell(loop, _settle, future, error)
            else:
                _tell(loop, _settle, future, value)

        self._jobs.put(work)
        try:
            async with asyncio.timeout_at(place.deadline):
                return await future
        except TimeoutError:
            raise DeadlinePassed(self.queue.retry_after()) from None

    async def close(self) -> None:
        """Accept nothing more, finish what was accepted, and end the threads."""
        empty = asyncio.Event()
        self.queue.close(empty.set)
        await empty.wait()
        for _ in self._decoders:
            self._jobs.put(None)
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        for thread in (*self._decoders, *self._workers):  # what they still do is for nobody
            thread.join()

    def _expire(self, place: Place) -> None:
        if place.waiting:
            place.withdraw(DeadlinePassed(self.queue.retry_after()))

    def _deliver(self, results: list[tuple[Photo, Result | Exception]]) -> None:
        for photo, result in results:
            place = photo.place
            if isinstance(result, Captioned | ImageError):
                place.results[photo.index] = result
                if not place.future.done() and None not in place.results:
                    place.future.set_result(None)
            else:
                place.withdraw(result)

    # Threads that decode

    def _decode_all(self) -> None:
        step_back()
        while (job := self._jobs.get()) is not None:
            job()
            del job  # nothing of it is kept while there is nothing to do

    def _decode(self, photo: Photo) -> None:
        data, photo.data = photo.data, None
        if not photo.waits or data is None:
            return
        spec = self.captioner.spec.image
        try:
            with opened(data, name="the photo") as image:  # large ones come one after the other until they are small
                photo.box = seen_box(image.size, spec)
                photo.array = prepare(image, spec)
        except Exception as error:
            if not isinstance(error, ImageError):  # a fault of ours, which must not cost the thread
                log.exception("A photo could not be decoded.")
            if self.queue.drop(photo):
                self._metrics.failed("bad")
                _tell(photo.place.loop, self._deliver, [(photo, error)])
            return
        photo.decoded = time.perf_counter()
        self.queue.ready(photo)

    # Threads that caption

    def _caption_all(self) -> None:
        step_back()
        while batch := self.queue.take():
            results = self._caption(batch)
            _tell(batch[0].place.loop, self._deliver, results)
            del batch, results

    def _caption(self, batch: list[Photo]) -> list[tuple[Photo, Result | Exception]]:
        ask, began = batch[0].place.ask, time.perf_counter()
        self._metrics.batch(len(batch))
        try:
            arrays = np.stack([photo.array for photo in batch if photo.array is not None])
            captions = self.captioner.caption_arrays(arrays, ask.options, alpha=ask.alpha)
            abstentions = [abstention(caption, ask.min_confidence) for caption in captions]
            bodies = [
                self._render(caption, photo.box if ask.alpha else None, why)
                for photo, caption, why in zip(batch, captions, abstentions, strict=True)
            ]
        except Exception as error:
            if len(batch) > 1:  # what is wrong with one is not the others' affair; and a full memory may hold one
                return [result for photo in batch for result in self._caption([photo])]
            if isinstance(error, DeviceError):
                log.error("A photo could not be captioned: %s", error)
            else:  # a fault of ours, which must not cost the thread
                log.exception("A photo could not be captioned.")
            self._metrics.failed("failed")
            return [(batch[0], error)]
        took = time.perf_counter() - began
        self.queue.went(took / len(batch) / len(self._workers))
        results: list[tuple[Photo, Result | Exception]] = []
        for photo, body, why in zip(batch, bodies, abstentions, strict=True):
            decoding, waiting = photo.decoded - photo.received, photo.taken - photo.decoded
            self._metrics.captioned(decoding, waiting, took, abstained=why is not None)
            results.append((photo, Captioned(body, decoding, waiting, took)))
        return results


def _settle(future: "asyncio.Future[T]", outcome: T | Exception) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[..., object], *arguments: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
        loop.call_soon_threadsafe(what, *arguments)
