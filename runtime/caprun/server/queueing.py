"""The bounded queue: which requests are accepted, and which photos are captioned together.

A request has its place from before its body is read until it is answered; of its photos, those count that are not yet
being captioned. The event loop gives places away, other threads decode and take photos: one lock guards it all, which
nobody holds for longer than a few operations on lists.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from caprun.errors import ImageError
from caprun.search.options import SearchOptions
from caprun.server.metrics import Metrics, Reason
from caprun.server.settings import Settings

_FEWEST = 2  # photos that idle workers do not divide: together they take a fifth less than one by one
_PATIENCE = 1.0  # seconds that a body has to arrive in while others wait for its place
_LONGEST_RETRY = 60


class Ask(NamedTuple):
    """What is asked about a photo; only photos of which the same is asked share a batch."""

    options: SearchOptions
    alpha: bool
    """Say where the model looked for each word."""
    min_confidence: float | None = None
    """Say no caption of which the model is less sure; None says all."""


class Busy(Exception):  # noqa: N818  (the service is, and that is no error)
    """A request that is not served now; `retry_after` is when to try again, in whole seconds."""

    reason: Reason

    def __init__(self, retry_after: int) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


class QueueFull(Busy):
    """No room for so many photos, or bytes."""

    reason = "queue"


class DeadlinePassed(Busy):
    """It has waited too long to be captioned."""

    reason = "deadline"


class Draining(Busy):
    """Nothing is accepted any more."""

    reason = "draining"


class Captioned(NamedTuple):
    """A photo's caption, and how long it took."""

    body: bytes
    """As it is answered."""
    decode_time: float
    """Seconds until it was decoded, waiting for a thread to do it included."""
    queue_time: float
    """Seconds it then waited to be captioned."""
    caption_time: float
    """Seconds its batch took."""


Result = Captioned | ImageError


class Photo:
    """A photo on its way through the threads."""

    __slots__ = ("array", "box", "data", "decoded", "index", "place", "received", "size", "taken", "waits")

    def __init__(self, place: "Place", index: int, data: bytes) -> None:
        self.place, self.index = place, index
        self.data: bytes | None = data  # until it is decoded
        self.size = len(data)
        self.array: npt.NDArray[np.uint8] | None = None
        self.box = (0.0, 0.0, 1.0, 1.0)
        self.waits = True
        """It is in the queue, and somebody wants its caption."""
        self.received = self.decoded = self.taken = time.perf_counter()


class Place:
    """A request's place in the queue, until it is left: `with queue.admit(...) as place`."""

    def __init__(self, queue: "Queue", ask: Ask, size: int) -> None:
        self._queue, self.ask = queue, ask
        self.photos = self.arriving = 1
        """Of the queue's; and of these, those that are still received or decoded."""
        self.size = size
        """Bytes of the queue's."""
        self.waiting: list[Photo] = []
        self.since = time.perf_counter()
        self.left = False
        self.on_eviction: Callable[[], object] | None = None
        """How to tell the request that another has its place now."""
        self.loop = asyncio.get_running_loop()
        self.deadline = math.inf
        """Of the loop's time: when it has waited too long to be captioned."""
        self.future: asyncio.Future[None] = self.loop.create_future()
        """Done when all results are there."""
        self.results: list[Result | None] = []

    def __enter__(self) -> "Place":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.leave(self)

    def holds(self, size: int) -> None:
        """The request has so many bytes in memory now.

        Raises:
            QueueFull: that is too much.
        """
        self._queue.resize(self, size)

    def received(self) -> None:
        """The body is there: from now on it is captioning that is waited for, and nobody else may have the place."""
        self._queue.keep(self)

    def withdraw(self, error: Exception) -> None:
        """Let who waits for results have an error instead; what is not being captioned will not be."""
        if not self.future.done() and not self.left:
            self.future.set_exception(error)


class Queue:
    """Requests that are accepted, and photos that are ready to be captioned.

    Args:
        settings: limits.
        metrics: told how long it is.
        batch_size: most photos captioned together.
    """

    def __init__(self, settings: Settings, metrics: Metrics, batch_size: int) -> None:
        self._settings, self._metrics, self._batch_size = settings, metrics, batch_size
        self._most_bytes = max(settings.queue_bytes, settings.max_bytes)
        self._changed = threading.Condition(threading.Lock())
        self._ready: dict[Ask, deque[Photo]] = {}
        self._arriving: dict[Ask, int] = {}
        self._receiving: dict[Place, None] = {}  # the oldest first
        self._photos = self._bytes = self._places = self._idle = 0
        self._pace = 0.0  # seconds a photo, lately
        self._closed = False
        self._on_empty: Callable[[], object] | None = None

    @property
    def photos(self) -> int:
        """How many are accepted and not yet being captioned."""
        return self._photos

    # What requests do, in the event loop

    def admit(self, ask: Ask, size: int) -> Place:
        """Accept a request before its body is read: of one photo, as long as nothing else is known.

        Args:
            ask: what is asked.
            size: bytes that its body will have, 0 where unknown.

        Raises:
            QueueFull: there is no room.
            Draining: after `close`.
        """
        with self._changed:
            if self._closed:
                raise Draining(1)
            while not self._has_room(1, size):
                self._evict()
            place = Place(self, ask, size)
            self._receiving[place] = None
            self._places += 1
            self._bytes += size
            self._count(1)
            self._arriving[ask] = self._arriving.get(ask, 0) + 1
        return place

    def resize(self, place: Place, size: int) -> None:
        """See `Place.holds`."""
        with self._changed:
            more = size - place.size
            if place.left:
                return
            if more > 0 and not self._has_room(0, more):
                raise QueueFull(self.retry_after())
            self._bytes += more
            place.size = size

    def keep(self, place: Place) -> None:
        """See `Place.received`."""
        place.deadline = place.loop.time() + self._settings.deadline
        with self._changed:
            self._receiving.pop(place, None)

    def put(self, place: Place, photos: list[Photo]) -> None:
        """Say which photos a request has.

        Raises:
            QueueFull: there is no room for so many.
        """
        more = len(photos) - place.photos
        with self._changed:
            if more > 0 and not self._has_room(more, 0):
                raise QueueFull(self.retry_after())
            place.photos += more
            self._count(more)
            place.waiting = photos
            self._arrive(place, -more)

    def leave(self, place: Place) -> None:
        """See `Place`; a second time it does nothing."""
        with self._changed:
            if not place.left:
                self._leave(place)

    def retry_after(self) -> int:
        """Whole seconds until what waits now is captioned, as things go."""
        return max(1, min(_LONGEST_RETRY, math.ceil(self._photos * self._pace)))

    def close(self, on_empty: Callable[[], object] | None = None) -> None:
        """Accept nothing more; `on_empty` is called when the last place is left, in the event loop or right now."""
        with self._changed:
            self._closed = True
            self._on_empty = on_empty
            self._end_if_empty()

    # What other threads do

    def ready(self, photo: Photo) -> bool:
        """A photo is decoded; false: nobody wants it any more."""
        return self._decoded(photo, sound=True)

    def drop(self, photo: Photo) -> bool:
        """A photo could not be decoded; false: nobody wants to know any more."""
        return self._decoded(photo, sound=False)

    def take(self) -> list[Photo]:
        """The next photos to caption together, as soon as there are any; none: there is no more to do."""
        with self._changed:
            self._idle += 1
            try:
                while True:
                    ask, wait = self._next()
                    if ask is not None:
                        return self._take(ask)
                    if self._closed and not self._places:
                        return []
                    self._changed.wait(wait)
            finally:
                self._idle -= 1

    def went(self, seconds: float) -> None:
        """Captioning a photo took so long, all workers together."""
        self._pace = 0.9 * self._pace + 0.1 * seconds if self._pace else seconds

    # With the lock held

    def _has_room(self, photos: int, size: int) -> bool:
        return self._photos + photos <= self._settings.queue and self._bytes + size <= self._most_bytes

    def _evict(self) -> None:
        """Take the place of the request whose body has been arriving longest, if that has been long.

        So whoever sends slowly, or nothing after a head, keeps nobody out.
        """
        oldest = next(iter(self._receiving), None)
        if oldest is None or oldest.on_eviction is None or time.perf_counter() - oldest.since < _PATIENCE:
            raise QueueFull(self.retry_after())
        self._leave(oldest)
        oldest.on_eviction()

    def _leave(self, place: Place) -> None:
        place.left = True
        self._receiving.pop(place, None)
        for photo in place.waiting:
            photo.waits, photo.data = False, None
        if place.waiting and (ready := self._ready.get(place.ask)):
            self._keep_ready(place.ask, [photo for photo in ready if photo.waits])
        place.waiting = []
        self._arrive(place, place.arriving)
        self._bytes -= place.size
        self._count(-place.photos)
        place.size = place.photos = 0
        self._places -= 1
        self._end_if_empty()

    def _end_if_empty(self) -> None:
        if self._closed and not self._places:
            self._changed.notify_all()
            if self._on_empty is not None:
                self._on_empty()
                self._on_empty = None

    def _count(self, more: int) -> None:
        if more:
            self._photos += more
            self._metrics.queue(self._photos)

    def _arrive(self, place: Place, photos: int) -> None:
        """So many photos of a request are not on their way any more."""
        if photos:
            place.arriving -= photos
            self._arriving[place.ask] -= photos
            if not self._arriving[place.ask]:
                del self._arriving[place.ask]
                self._changed.notify()  # those that waited for them need not

    def _decoded(self, photo: Photo, *, sound: bool) -> bool:
        with self._changed:
            place = photo.place
            if not photo.waits:
                return False
            if sound:
                self._ready.setdefault(place.ask, deque()).append(photo)
            else:
                self._settle(photo)
            self._bytes -= photo.size
            place.size -= photo.size
            self._arrive(place, 1)
            self._changed.notify()
        return True

    def _settle(self, photo: Photo) -> None:
        """A photo is not in the queue any more."""
        photo.waits = False
        photo.place.waiting.remove(photo)
        photo.place.photos -= 1
        self._count(-1)

    def _keep_ready(self, ask: Ask, photos: Iterable[Photo]) -> None:
        kept = deque(photos)
        if kept:
            self._ready[ask] = kept
        else:
            del self._ready[ask]

    def _next(self) -> tuple[Ask | None, float | None]:
        """What to caption now; or how long to wait unless something happens, None for as long as nothing does."""
        soonest = None
        now = time.perf_counter()
        for ask, ready in sorted(self._ready.items(), key=lambda item: item[1][0].decoded):
            left = ready[0].decoded + self._settings.batch_delay - now
            if ask not in self._arriving or left <= 0 or len(ready) >= self._share(ask):
                return ask, None
            soonest = left if soonest is None else min(soonest, left)
        return None, soonest

    def _take(self, ask: Ask) -> list[Photo]:
        ready = self._ready[ask]
        batch = [ready.popleft() for _ in range(min(len(ready), self._share(ask)))]
        self._keep_ready(ask, ready)
        now = time.perf_counter()
        for photo in batch:
            photo.taken = now
            self._settle(photo)
        if self._ready:  # whoever was woken for this may have slept through another
            self._changed.notify()
        return batch

    def _share(self, ask: Ask) -> int:
        """How many photos one worker takes of those of which the same is asked, where the idle ones divide them."""
        photos = len(self._ready[ask]) + self._arriving.get(ask, 0)
        return min(self._batch_size, max(_FEWEST, math.ceil(photos / self._idle)))
