"""Batches of photos from many requests: results equal those of single photos; abandoned photos are not captioned."""

import asyncio
import contextlib
import json
import random
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from caprun import Captioner, DeviceError, ImageError, SearchOptions
from caprun.caption import as_row
from caprun.server import batching
from caprun.server.batching import Ask, Batcher, CaptionedPhoto
from caprun.server.metrics import Metrics
from caprun.server.refusal import Refusal
from caprun.server.settings import Settings
from tests.caprun.server.support.service import ASK, PHOTO, Watched, batcher, one, photos, until, wait, watched

LONG = 3600.0


def working(captioner: Captioner, work: Callable[[Batcher], Awaitable[Any]], **settings: Any) -> Any:
    """Returns the result of `work`, called with a new batcher."""

    async def within() -> Any:
        together = batcher(captioner, **settings)
        found = await work(together)
        together.close()
        return found

    return wait(within())


async def all_of(together: Batcher, files: list[bytes]) -> list[Any]:
    return await asyncio.gather(*(one(together, photo) for photo in files))


async def busy(together: Batcher, backend: Watched) -> asyncio.Task[Any]:
    """Starts a photo that keeps the model busy until the gate opens; returns its task."""
    backend.gate.clear()
    task = asyncio.create_task(one(together, PHOTO))
    await until(lambda: backend.batches)
    return task


def same(first: Any, second: Any) -> bool:
    """Returns whether two results are equal up to rounding."""
    if isinstance(first, float):
        return bool(abs(first - second) < 1e-4)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


# Results


@pytest.mark.parametrize("seed", range(3))
def test_mixed_requests_get_the_results_of_single_photos(captioner: Captioner, seed: int) -> None:
    asks = [
        Ask(options, alpha)
        for options in (
            SearchOptions(1, 12, 1.0),
            SearchOptions(3, 12, 1.0),
            SearchOptions(4, 12, 1.0, n_best=3),
            SearchOptions(4, 8, 0.5, groups=2, n_best=2),
            SearchOptions(temperature=1.0, seed=3, max_length=12, n_best=2),
        )
        for alpha in (False, True)
    ]
    many, backend = watched(captioner, workers=2)
    files = photos(6)
    wanted = [(photo, ask) for photo in files for ask in asks]
    random.Random(seed).shuffle(wanted)

    async def work(together: Batcher) -> list[Any]:
        return await asyncio.gather(*(one(together, photo, ask) for photo, ask in wanted))

    found = working(many, work, batch_size=5, batch_delay=0.05)
    assert max(backend.batches) > 2
    for (photo, ask), answer in zip(wanted, found, strict=True):
        alone = captioner.caption(photo, ask.options, alpha=ask.alpha)
        expected = as_row(alone) | ({"attention_box": [0, 0, 1, 1]} if ask.alpha else {})
        assert same(answer, expected)
    assert len({answer["caption"] for answer in found}) > 5


def test_a_list_gets_its_captions_and_errors_in_order(captioner: Captioner) -> None:
    files: list[bytes | ImageError] = [*photos(5)]
    files[1:1] = [b"no photo", ImageError("the photo is not base64")]

    async def work(together: Batcher) -> list[Any]:
        with together.admit(ASK, 100) as admission:
            return await together.caption(admission, ASK, files)

    found = working(captioner, work, batch_size=2)
    texts = [json.loads(r.row)["caption"] if isinstance(r, CaptionedPhoto) else str(r) for r in found]
    assert texts[1].startswith("the photo is not a JPEG")
    assert texts[2] == "the photo is not base64"
    alone = [captioner.caption(photo).text for photo in photos(5)]
    assert [texts[0], *texts[3:]] == alone


# Batches


def test_photos_that_arrive_together_share_a_batch(captioner: Captioner) -> None:
    many, backend = watched(captioner)
    working(many, lambda together: all_of(together, photos(4)), batch_delay=LONG)
    assert backend.batches == [4]


def test_a_single_photo_does_not_wait_for_others(captioner: Captioner) -> None:
    working(captioner, lambda together: one(together, PHOTO), batch_delay=LONG)


def test_a_photo_waits_only_batch_delay_for_one_that_never_arrives(captioner: Captioner) -> None:
    async def work(together: Batcher) -> None:
        with together.admit(ASK, 10):
            await one(together, PHOTO)

    working(captioner, work, batch_delay=0.02)


def test_a_photo_stops_waiting_when_the_arriving_request_is_abandoned(captioner: Captioner) -> None:
    async def work(together: Batcher) -> None:
        with together.admit(ASK, 10):
            task = asyncio.create_task(one(together, PHOTO))
            await until(lambda: together._timer)
        await task

    working(captioner, work, batch_delay=LONG)


def test_a_photo_does_not_wait_for_a_request_with_other_options(captioner: Captioner) -> None:
    async def work(together: Batcher) -> None:
        with together.admit(Ask(ASK.options, True), 10):
            await one(together, PHOTO)

    working(captioner, work, batch_delay=LONG)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_batch_has_at_most_batch_size_photos(captioner: Captioner, size: int) -> None:
    many, backend = watched(captioner)
    working(many, lambda together: all_of(together, photos(10)), batch_size=size, batch_delay=LONG)
    assert sum(backend.batches) == 10
    assert max(backend.batches) == size


def test_idle_workers_share_the_photos_that_are_ready(captioner: Captioner) -> None:
    many, backend = watched(captioner, workers=2)

    async def work(together: Batcher) -> None:
        backend.gate.clear()
        tasks = [asyncio.create_task(one(together, photo)) for photo in photos(8)]
        await until(lambda: len(backend.batches) == 2)
        backend.gate.set()
        await asyncio.gather(*tasks)

    working(many, work, batch_delay=LONG)
    assert backend.batches == [4, 4]


def test_a_batch_grows_while_all_workers_are_busy(captioner: Captioner) -> None:
    many, backend = watched(captioner)

    async def work(together: Batcher) -> None:
        first = await busy(together, backend)
        others = [asyncio.create_task(one(together, photo)) for photo in photos(6)]
        await until(lambda: sum(map(len, together._ready.values())) == 6)
        backend.gate.set()
        await asyncio.gather(first, *others)

    working(many, work, batch_delay=0.0)
    assert backend.batches == [1, 6]


# Time


def test_a_photo_that_waits_too_long_is_refused_and_not_captioned(captioner: Captioner) -> None:
    many, backend = watched(captioner)

    async def work(together: Batcher) -> None:
        first = await busy(together, backend)
        with pytest.raises(Refusal) as passed:
            await one(together, PHOTO)
        assert (passed.value.status, passed.value.reason) == (503, "deadline")
        assert passed.value.retry_after
        assert together.photos == 0
        backend.gate.set()
        assert await first, "what is being captioned is not given up"

    working(many, work, deadline=0.05)
    assert backend.batches == [1]


def test_photos_of_abandoned_requests_are_not_captioned(captioner: Captioner) -> None:
    many, backend = watched(captioner)

    async def work(together: Batcher) -> None:
        first = await busy(together, backend)
        given_up = [asyncio.create_task(one(together, photo)) for photo in photos(5)]
        kept = asyncio.create_task(one(together, PHOTO))
        await until(lambda: sum(map(len, together._ready.values())) == 6)
        for task in given_up:
            task.cancel()
        await asyncio.wait(given_up)
        assert together.photos == 1
        backend.gate.set()
        await asyncio.gather(first, kept)

    working(many, work)
    assert backend.batches == [1, 1]


def test_photos_of_abandoned_requests_are_not_decoded(captioner: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, gate = list[bytes](), threading.Event()

    def opening(data: bytes, **_: Any) -> Any:
        opened.append(data)
        gate.wait(60)
        raise ImageError("it is of no matter")

    monkeypatch.setattr(batching, "opened", opening)

    async def work(together: Batcher) -> None:
        tasks = [asyncio.create_task(one(together, photo)) for photo in photos(3)]
        await until(lambda: opened)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        gate.set()

    working(captioner, work, decoders=1)
    assert len(opened) == 1


# Failures


@pytest.mark.parametrize("error", [DeviceError("its memory is full"), MemoryError(), ZeroDivisionError("a fault")])
def test_a_photo_that_the_model_fails_on_does_not_fail_its_batch(captioner: Captioner, error: Exception) -> None:
    many, backend = watched(captioner)
    files = photos(4)

    def fail(images: Any) -> None:
        if (images == np.asarray(images[0] * 0 + bad)).all((1, 2, 3)).any():
            raise error

    from caprun.photos.preprocessing import load

    bad = load(files[2], captioner.spec.image)
    backend.before = fail

    async def work(together: Batcher) -> list[Any]:
        found = await asyncio.gather(*(one(together, photo) for photo in files), return_exceptions=True)
        again = await one(together, files[0])
        return [*found, again]

    found = working(many, work, batch_delay=LONG)
    assert found[2] is error
    assert [type(found[i]) for i in (0, 1, 3, 4)] == [dict] * 4
    assert backend.batches == [4, 1, 1, 1, 1, 1], "one by one where together they fail"


def test_a_decoding_thread_survives_an_unexpected_exception(
    captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "seen_box", lambda *_: 1 / 0)

    async def work(together: Batcher) -> None:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await one(together, PHOTO)

    working(captioner, work, decoders=1)


def test_a_batch_that_is_retried_photo_by_photo_is_counted_once(captioner: Captioner) -> None:
    many, backend = watched(captioner)

    def fail(images: Any) -> None:
        if len(images) > 1:
            raise MemoryError

    backend.before = fail

    async def work() -> bytes:
        metrics = Metrics()
        together = Batcher(many, Settings(batch_delay=LONG), metrics)
        await all_of(together, photos(3))
        together.close()
        return metrics.text()

    lines = wait(work()).decode().splitlines()
    assert {"caprun_batch_size_sum 3.0", "caprun_batch_size_count 1.0"} <= set(lines)
    assert 'caprun_photos_total{result="captioned"} 3.0' in lines
    assert backend.batches == [3, 1, 1, 1]


# The queue


def test_a_full_queue_refuses_requests_until_one_leaves(captioner: Captioner) -> None:
    async def work(together: Batcher) -> None:
        with together.admit(ASK, 0):
            with together.admit(ASK, 0), pytest.raises(Refusal) as full, together.admit(ASK, 0):
                pass
            assert (full.value.status, full.value.reason) == (429, "queue")
            assert full.value.retry_after
            with together.admit(ASK, 0):
                assert together.photos == 2

    working(captioner, work, queue=2)


def test_photos_being_captioned_are_not_in_the_queue(captioner: Captioner) -> None:
    many, backend = watched(captioner)

    async def work(together: Batcher) -> None:
        first = await busy(together, backend)
        assert together.photos == 0
        second = asyncio.create_task(one(together, PHOTO))
        await until(lambda: together.photos == 1)
        with pytest.raises(Refusal), together.admit(ASK, 0):
            pass
        backend.gate.set()
        await asyncio.gather(first, second)

    working(many, work, queue=1)


def test_each_photo_of_a_list_counts_in_the_queue(captioner: Captioner) -> None:
    async def work(together: Batcher) -> None:
        with together.admit(ASK, 0), together.admit(ASK, 0) as admission, pytest.raises(Refusal):
            await together.caption(admission, ASK, photos(4))
        assert together.photos == 0
        with together.admit(ASK, 0), together.admit(ASK, 0) as admission:
            assert len(await together.caption(admission, ASK, photos(3))) == 3

    working(captioner, work, queue=4)


def test_queued_bytes_are_limited_and_unknown_lengths_are_max_bytes_until_known(captioner: Captioner) -> None:
    async def work(together: Batcher) -> None:
        with together.admit(ASK, 500):
            with together.admit(ASK, None) as admission:
                with pytest.raises(Refusal), together.admit(ASK, 501):
                    pass
                with together.admit(ASK, 500):
                    pass
                together.received(admission, 400)
                with together.admit(ASK, 1000):
                    pass
            with together.admit(ASK, 1000):
                pass

    working(captioner, work, max_bytes=1000, queue_bytes=2000)


@pytest.mark.parametrize("seed", range(3))
def test_random_arrivals_and_cancellations_leave_nothing_behind(captioner: Captioner, seed: int) -> None:
    draw = random.Random(seed)
    asks = [ASK, Ask(ASK.options, True)]
    files = photos(4)

    async def client(together: Batcher) -> None:
        with contextlib.suppress(Refusal), together.admit(draw.choice(asks), draw.randrange(1000)) as admission:
            await asyncio.sleep(0.001 * draw.randrange(10))
            sent = [draw.choice([*files, b"no photo", ImageError("It is bad.")]) for _ in range(draw.randrange(1, 4))]
            await together.caption(admission, ASK, sent)

    async def work(together: Batcher) -> None:
        tasks = [asyncio.create_task(client(together)) for _ in range(60)]
        for task in tasks:
            assert 0 <= together.photos <= 20
            await asyncio.sleep(0)
            if draw.random() < 0.3:
                asyncio.get_running_loop().call_later(0.001 * draw.randrange(20), task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: together._idle == together.captioner.workers)
        assert together.photos == together._bytes == len(together._ready) == len(together._arriving) == 0

    working(captioner, work, queue=20, batch_size=3, decoders=2)


def test_a_closed_batcher_refuses_requests(captioner: Captioner) -> None:
    together = batcher(captioner)
    together.close()
    with pytest.raises(Refusal, match="shutting down"), together.admit(ASK, 0):
        pass
