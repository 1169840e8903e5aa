"""The bounded queue: who is accepted, what is given back, and that its counts are right whatever happens."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import NoReturn

import numpy as np
import pytest

from caprun import Captioner
from caprun.server.body import read
from caprun.server.metrics import Metrics
from caprun.server.queueing import Ask, Photo, Place, Queue, QueueFull
from caprun.server.refusal import Refusal
from caprun.server.settings import Settings
from tests.caprun.server.support.service import ASK, batcher, one, photos, until, wait, watched


def test_beyond_its_length_the_queue_is_full_until_a_place_is_left(captioner: Captioner) -> None:
    async def work() -> None:
        together = batcher(captioner, queue=3)
        places = [together.admit(ASK, 0) for _ in range(3)]
        with pytest.raises(QueueFull) as full:
            together.admit(ASK, 0)
        assert full.value.retry_after >= 1
        together.queue.leave(places[0])
        together.queue.leave(places[0])  # it has but one
        places[0] = together.admit(ASK, 0)
        with pytest.raises(QueueFull):
            together.admit(ASK, 0)
        for place in places:
            together.queue.leave(place)
        await together.close()

    wait(work())


def test_photos_that_are_being_captioned_are_not_in_the_queue(captioner: Captioner) -> None:
    many, backend = watched(captioner)

    async def work() -> None:
        together = batcher(many, queue=1)
        backend.gate.clear()
        first = asyncio.create_task(one(together, photos(1)[0]))
        await until(lambda: backend.batches)
        assert together.queue.photos == 0
        second = asyncio.create_task(one(together, photos(1)[0]))
        await until(lambda: together.queue.photos == 1)
        with pytest.raises(QueueFull):
            together.admit(ASK, 0)
        backend.gate.set()
        await asyncio.gather(first, second)
        await together.close()

    wait(work())


def test_a_list_counts_as_so_many_photos(captioner: Captioner) -> None:
    async def work() -> None:
        together = batcher(captioner, queue=4)
        with together.admit(ASK, 0), together.admit(ASK, 0) as place, pytest.raises(QueueFull):
            await together.caption(place, photos(4))
        assert together.queue.photos == 0
        with together.admit(ASK, 0), together.admit(ASK, 0) as place:
            assert len(await together.caption(place, photos(3))) == 3
        await together.close()

    wait(work())


def test_bytes_are_bounded_too_and_given_up_when_photos_are_decoded(captioner: Captioner) -> None:
    many, backend = watched(captioner)

    async def work() -> None:
        together = batcher(many, max_bytes=1000, queue_bytes=2000)
        place = together.admit(ASK, 1000)
        with pytest.raises(QueueFull):
            together.admit(ASK, 1001)
        with together.admit(ASK, 0) as chunked:
            chunked.holds(1000)
            with pytest.raises(QueueFull):
                chunked.holds(1001)
        backend.gate.clear()
        (photo,) = photos(1)
        place.holds(len(photo))
        task = asyncio.create_task(together.caption(place, [photo]))
        await until(lambda: backend.batches)
        assert together.queue._bytes == 0
        backend.gate.set()
        await task
        together.queue.leave(place)
        assert together.queue._bytes == 0
        await together.close()

    wait(work())


def test_a_body_that_comes_slowly_loses_its_place_to_others_and_only_to_them(
    captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caprun.server.queueing._PATIENCE", 0.0)

    async def work() -> None:
        together = batcher(captioner, queue=2)
        lost: list[int] = []
        places = [together.admit(ASK, 10) for _ in range(2)]
        for number, place in enumerate(places):
            place.on_eviction = lambda number=number: lost.append(number)
        places[0].received()
        assert not lost
        third = together.admit(ASK, 10)
        assert lost == [1]
        assert places[1].left
        assert not places[0].left
        third.received()
        with pytest.raises(QueueFull):
            together.admit(ASK, 10)
        for place in (*places, third):
            together.queue.leave(place)
        assert together.queue.photos == together.queue._bytes == 0
        await together.close()

    wait(work())


def test_a_body_whose_time_is_over_can_lose_its_place_at_the_same_moment(
    captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caprun.server.queueing._PATIENCE", 0.0)

    async def never() -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError

    async def work() -> None:
        together = batcher(captioner, queue=1)
        slow = together.admit(ASK, 10)
        body = asyncio.create_task(read(never, 10, slow, Settings(body_timeout=0.01)))
        await asyncio.sleep(0)
        admitted = slow.loop.create_future()
        slow.loop.call_later(0.02, lambda: admitted.set_result(together.admit(ASK, 10)))
        time.sleep(0.03)  # both are due
        with pytest.raises(Refusal):
            await body
        together.queue.leave(await admitted)
        await together.close()

    wait(work())


def test_a_request_that_is_given_up_keeps_no_photo_in_memory(captioner: Captioner) -> None:
    async def work() -> None:
        queue = Queue(Settings(), Metrics(), 3)
        place = queue.admit(ASK, 4)
        photo = Photo(place, 0, b"file")  # on its way to a thread that decodes
        queue.put(place, [photo])
        queue.leave(place)
        assert photo.data is None

    wait(work())


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_in_whatever_order_the_queue_counts_right(seed: int, captioner: Captioner) -> None:
    draw = random.Random(seed)
    settings = Settings(queue=12, queue_bytes=500, max_bytes=100, batch_delay=0.0)
    asks = [ASK, Ask(ASK.options, True)]

    async def work() -> None:
        queue = Queue(settings, Metrics(), 3)
        places: list[Place] = []
        arriving: list[Photo] = []
        taken: list[Photo] = []

        def admit() -> None:
            places.append(queue.admit(draw.choice(asks), draw.randrange(100)))

        def put() -> None:
            empty = [place for place in places if not place.waiting and place.photos]
            if not empty:
                return
            place = draw.choice(empty)
            sizes = [draw.randrange(1, 9) for _ in range(draw.randrange(5))]
            place.holds(sum(sizes))
            found = [Photo(place, i, bytes(size)) for i, size in enumerate(sizes)]
            queue.put(place, list(found))
            arriving.extend(found)

        def decode() -> None:
            if not arriving:
                return
            photo = arriving.pop(draw.randrange(len(arriving)))
            photo.array = np.zeros((1, 1, 3), np.uint8)
            before = photo.waits
            assert draw.choice([queue.ready, queue.drop])(photo) == before

        def leave() -> None:
            if places:
                queue.leave(places.pop(draw.randrange(len(places))))

        def take() -> None:
            if not queue._ready:
                return
            batch = queue.take()
            assert 0 < len(batch) <= 3
            assert len({photo.place.ask for photo in batch}) == 1
            assert not any(photo.place.left or photo in taken for photo in batch)
            taken.extend(batch)

        for _ in range(600):
            step: Callable[[], None] = draw.choice([admit, admit, put, put, decode, decode, leave, take])
            with contextlib.suppress(QueueFull):
                step()
            assert 0 <= queue.photos == sum(place.photos for place in places) <= settings.queue
            assert 0 <= queue._bytes == sum(place.size for place in places) <= settings.queue_bytes
            assert sum(queue._arriving.values()) == sum(place.arriving for place in places)
            assert all(count > 0 for count in queue._arriving.values())
            assert all(photo.waits for ready in queue._ready.values() for photo in ready)
        for place in places:
            queue.leave(place)
        assert queue.photos == queue._bytes == len(queue._ready) == len(queue._arriving) == 0

    wait(work())
