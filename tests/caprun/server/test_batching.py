"""Photos of many requests: captioned together with equal results, and only while somebody waits for them."""

import asyncio
import json
import random
import threading
from typing import Any

import numpy as np
import pytest

from caprun import Captioner, DeviceError, ImageError, SearchOptions
from caprun.server import answers, batching
from caprun.server.queueing import Ask, Captioned, DeadlinePassed, Draining
from tests.caprun.server.support.service import ASK, batcher, one, photos, until, wait, watched

LONG = 3600.0


def same(first: Any, second: Any) -> bool:
    """Equal but for the noise of floats."""
    if isinstance(first, float):
        return bool(abs(first - second) < 1e-4)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


# Equal results


@pytest.mark.parametrize("seed", range(3))
def test_photos_have_the_captions_of_each_alone_whatever_is_asked_of_the_others(
    captioner: Captioner, seed: int
) -> None:
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

    async def work() -> list[Any]:
        together = batcher(many, batch_size=5, batch_delay=0.05)
        found = await asyncio.gather(*(one(together, photo, ask) for photo, ask in wanted))
        await together.close()
        return found

    found = wait(work())
    assert max(backend.batches) > 2
    for (photo, ask), answer in zip(wanted, found, strict=True):
        alone = captioner.caption(photo, ask.options, alpha=ask.alpha)
        expected = json.loads(answers.photo_caption(alone, (0, 0, 1, 1) if ask.alpha else None))
        assert same(answer, expected)
    assert len({answer["caption"] for answer in found}) > 5


def test_a_list_has_captions_and_errors_in_its_order(captioner: Captioner) -> None:
    files: list[bytes | ImageError] = [*photos(5)]
    files[1:1] = [b"no photo", ImageError("the photo is not base64")]

    async def work() -> list[Any]:
        together = batcher(captioner, batch_size=2)
        with together.admit(ASK, 100) as place:
            found = await together.caption(place, files)
        await together.close()
        return found

    found = wait(work())
    texts = [json.loads(r.body)["caption"] if isinstance(r, Captioned) else str(r) for r in found]
    assert texts[1].startswith("the photo is not a JPEG")
    assert texts[2] == "the photo is not base64"
    alone = [captioner.caption(photo).text for photo in photos(5)]
    assert [texts[0], *texts[3:]] == alone


# Batches


def test_photos_that_arrive_together_share_a_batch(captioner: Captioner) -> None:
    many, backend = watched(captioner)

    async def work() -> None:
        together = batcher(many, batch_delay=LONG)
        await asyncio.gather(*(one(together, photo) for photo in photos(4)))
        await together.close()

    wait(work())
    assert backend.batches == [4]


def test_a_photo_alone_waits_for_nobody(captioner: Captioner) -> None:
    async def work() -> None:
        together = batcher(captioner, batch_delay=LONG)
        await one(together, photos(1)[0])
        await together.close()

    wait(work())


def test_a_photo_does_not_wait_long_for_one_that_does_not_come(captioner: Captioner) -> None:
    async def work() -> None:
        together = batcher(captioner, batch_delay=0.02)
        with together.admit(ASK, 10):
            await one(together, photos(1)[0])
        await together.close()

    wait(work())


def test_a_photo_waits_no_longer_when_the_one_on_its_way_is_given_up(captioner: Captioner) -> None:
    async def work() -> None:
        together = batcher(captioner, batch_delay=LONG)
        other = together.admit(ASK, 10)
        task = asyncio.create_task(one(together, photos(1)[0]))
        await until(lambda: together.queue._ready and together.queue._changed._waiters)  # type: ignore[attr-defined]
        together.queue.leave(other)
        await task
        await together.close()

    wait(work())


def test_a_photo_does_not_wait_for_one_of_which_something_else_is_asked(captioner: Captioner) -> None:
    async def work() -> None:
        together = batcher(captioner, batch_delay=LONG)
        with together.admit(Ask(ASK.options, True), 10):
            await one(together, photos(1)[0])
        await together.close()

    wait(work())


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_batch_has_at_most_its_size(captioner: Captioner, size: int) -> None:
    many, backend = watched(captioner)

    async def work() -> None:
        together = batcher(many, batch_size=size, batch_delay=LONG)
        await asyncio.gather(*(one(together, photo) for photo in photos(10)))
        await together.close()

    wait(work())
    assert sum(backend.batches) == 10
    assert max(backend.batches) == size


def test_idle_workers_divide_what_is_ready(captioner: Captioner) -> None:
    many, backend = watched(captioner, workers=2)

    async def work() -> None:
        together = batcher(many, batch_delay=LONG)
        backend.gate.clear()
        tasks = [asyncio.create_task(one(together, photo)) for photo in photos(8)]
        await until(lambda: len(backend.batches) == 2)
        backend.gate.set()
        await asyncio.gather(*tasks)
        await together.close()

    wait(work())
    assert backend.batches == [4, 4]


def test_while_all_workers_are_busy_a_batch_grows(captioner: Captioner) -> None:
    many, backend = watched(captioner)

    async def work() -> None:
        together = batcher(many, batch_delay=0.0)
        backend.gate.clear()
        first = asyncio.create_task(one(together, photos(1)[0]))
        await until(lambda: backend.batches)
        others = [asyncio.create_task(one(together, photo)) for photo in photos(6)]
        await until(lambda: sum(map(len, together.queue._ready.values())) == 6)
        backend.gate.set()
        await asyncio.gather(first, *others)
        await together.close()

    wait(work())
    assert backend.batches == [1, 6]


# Time


def test_who_waits_too_long_is_told_so_and_not_captioned(captioner: Captioner) -> None:
    many, backend = watched(captioner)

    async def work() -> None:
        together = batcher(many, deadline=0.05)
        backend.gate.clear()
        first = asyncio.create_task(one(together, photos(1)[0]))
        await until(lambda: backend.batches)
        with pytest.raises(DeadlinePassed) as passed:
            await one(together, photos(1)[0])
        assert passed.value.retry_after >= 1
        assert together.queue.photos == 0
        backend.gate.set()
        assert await first, "what is being captioned is not given up"
        await together.close()

    wait(work())
    assert backend.batches == [1]


def test_what_nobody_waits_for_is_not_captioned(captioner: Captioner) -> None:
    many, backend = watched(captioner)

    async def work() -> None:
        together = batcher(many)
        backend.gate.clear()
        first = asyncio.create_task(one(together, photos(1)[0]))
        await until(lambda: backend.batches)
        given_up = [asyncio.create_task(one(together, photo)) for photo in photos(5)]
        kept = asyncio.create_task(one(together, photos(1)[0]))
        await until(lambda: sum(map(len, together.queue._ready.values())) == 6)
        for task in given_up:
            task.cancel()
        await asyncio.wait(given_up)
        assert together.queue.photos == 1
        backend.gate.set()
        await asyncio.gather(first, kept)
        await together.close()

    wait(work())
    assert backend.batches == [1, 1]


def test_what_nobody_waits_for_is_not_even_decoded(captioner: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, gate = list[bytes](), threading.Event()

    def opening(data: bytes, **_: Any) -> Any:
        opened.append(data)
        gate.wait(60)
        raise ImageError("it is of no matter")

    monkeypatch.setattr(batching, "opened", opening)

    async def work() -> None:
        together = batcher(captioner, decoders=1)
        tasks = [asyncio.create_task(one(together, photo)) for photo in photos(3)]
        await until(lambda: opened)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        gate.set()
        await together.close()

    wait(work())
    assert len(opened) == 1


# Failures


@pytest.mark.parametrize("error", [DeviceError("its memory is full"), MemoryError(), ZeroDivisionError("a fault")])
def test_a_photo_that_the_model_fails_on_takes_no_other_with_it(captioner: Captioner, error: Exception) -> None:
    many, backend = watched(captioner)
    files = photos(4)

    def fail(images: Any) -> None:
        if (images == np.asarray(images[0] * 0 + bad)).all((1, 2, 3)).any():
            raise error

    from caprun.photos.preprocessing import load

    bad = load(files[2], captioner.spec.image)
    backend.before = fail

    async def work() -> list[Any]:
        together = batcher(many, batch_delay=LONG)
        found = await asyncio.gather(*(one(together, photo) for photo in files), return_exceptions=True)
        again = await one(together, files[0])
        await together.close()
        return [*found, again]

    found = wait(work())
    assert found[2] is error
    assert [type(found[i]) for i in (0, 1, 3, 4)] == [dict] * 4
    assert backend.batches == [4, 1, 1, 1, 1, 1], "one by one where together they fail"


def test_a_fault_in_decoding_costs_no_thread(captioner: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "seen_box", lambda *_: 1 / 0)

    async def work() -> None:
        together = batcher(captioner, decoders=1)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await one(together, photos(1)[0])
        await together.close()

    wait(work())


# The end


def test_what_was_accepted_is_captioned_before_the_end_and_no_thread_stays(captioner: Captioner) -> None:
    many, backend = watched(captioner)

    async def work() -> None:
        together = batcher(many, batch_size=1)
        backend.gate.clear()
        tasks = [asyncio.create_task(one(together, photo)) for photo in photos(5)]
        await until(lambda: backend.batches and together.queue.photos == 4)
        arriving = together.admit(ASK, 10)
        closing = asyncio.create_task(together.close())
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            together.admit(ASK, 0)
        backend.gate.set()
        assert len(await asyncio.gather(*tasks)) == 5
        assert not closing.done()
        with arriving:
            assert len(await together.caption(arriving, photos(1))) == 1
        await closing
        assert not any(thread.is_alive() for thread in (*together._decoders, *together._workers))

    wait(work())


def test_an_idle_batcher_ends_at_once(captioner: Captioner) -> None:
    wait(batcher_closed(captioner))


async def batcher_closed(captioner: Captioner) -> None:
    await batcher(captioner).close()
