"""The pipeline returns the captions of single photos, in order, with several threads and bounded memory."""

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from caprun import Captioner, DeviceError, ImageError, SearchOptions, UsageError, engine
from caprun.inference import hardware
from caprun.photos.preprocessing import load
from caprun.search.steps import Steps

Arrays = npt.NDArray[np.uint8]


@pytest.fixture
def photos(images: Arrays) -> list[Image.Image]:
    return [Image.fromarray(image) for image in images]


class Wrapped:
    """A backend that records batch sizes and calls `before` ahead of each batch."""

    def __init__(self, captioner: Captioner) -> None:
        self.backend, self.batches = captioner.backend, list[int]()

    def encode(self, images: Arrays, *, alpha: bool = False) -> Steps:
        self.batches.append(len(images))
        self.before()
        return self.backend.encode(images, alpha=alpha)

    def before(self) -> None: ...


@pytest.fixture
def wrapped(captioner: Captioner) -> Wrapped:
    return Wrapped(captioner)


@pytest.fixture
def watched(captioner: Captioner, wrapped: Wrapped) -> Captioner:
    return Captioner(captioner.spec, captioner.vocabulary, wrapped)


@pytest.mark.parametrize("batch_size", [1, 3, 16, 100])
@pytest.mark.parametrize("how", [{"threads": 1}, {"threads": 3}, {"threads": 3, "many": True}])
def test_many_photos_get_the_captions_of_single_photos_in_order(
    tiny: Path, captioner: Captioner, photos: list[Image.Image], batch_size: int, how: Any
) -> None:
    many = Captioner.load(tiny, device="cpu", **how)
    results = list(many.caption_many(photos, batch_size=batch_size))
    alone = [captioner.caption(photo) for photo in photos]
    assert len({caption.text for caption in alone}) > 5
    assert [result.text for result in results if not isinstance(result, ImageError)] == [c.text for c in alone]


def test_search_options_apply_to_many_photos(captioner: Captioner, photos: list[Image.Image]) -> None:
    options = SearchOptions(beam_size=1, max_length=2)
    texts = [getattr(result, "text", None) for result in captioner.caption_many(photos, options)]
    assert texts == [captioner.caption(photo, options).text for photo in photos]


@pytest.mark.parametrize("bad", [{0}, {5}, {3, 4, 5}, set(range(16))])
def test_a_photo_that_cannot_be_read_is_an_error_in_its_place(
    captioner: Captioner, photos: list[Any], bad: set[int]
) -> None:
    mixed = [f"nowhere/{i}.jpg" if i in bad else photo for i, photo in enumerate(photos)]
    results = list(captioner.caption_many(mixed, batch_size=3))
    for i, (photo, result) in enumerate(zip(photos, results, strict=True)):
        if i in bad:
            assert isinstance(result, ImageError)
            assert str(result) == f"nowhere/{i}.jpg does not exist; check the path."
        else:
            assert not isinstance(result, ImageError)
            assert result.text == captioner.caption(photo).text


def test_batches_are_cut_by_position_even_if_a_photo_cannot_be_read(
    watched: Captioner, wrapped: Wrapped, photos: list[Any]
) -> None:
    list(watched.caption_many([*photos[:2], "nowhere", *photos[2:9]], batch_size=4))
    assert wrapped.batches == [3, 4, 2]


def test_an_empty_list_has_no_captions(captioner: Captioner) -> None:
    assert list(captioner.caption_many([])) == []


def test_every_photo_is_read_once(
    captioner: Captioner, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []

    def counting(photo: Any, spec: Any) -> Arrays:
        read.append(photo)
        return load(photo, spec)

    monkeypatch.setattr(engine, "load", counting)
    list(captioner.caption_many(photos, batch_size=3, decoders=2))
    assert sorted(map(id, read)) == sorted(map(id, photos))


def test_photos_are_taken_only_a_few_batches_ahead(captioner: Captioner, photos: list[Image.Image]) -> None:
    taken = 0

    def endless() -> Iterator[Image.Image]:
        nonlocal taken
        while True:
            taken += 1
            yield photos[0]

    results = captioner.caption_many(endless(), batch_size=2, decoders=2)
    for given in range(1, 30):
        next(results)
        assert taken <= given + 4 * 2
    results.close()  # type: ignore[attr-defined]


def test_several_batches_are_captioned_at_once(watched: Captioner, wrapped: Wrapped, photos: list[Any]) -> None:
    together = threading.Barrier(2, timeout=60)
    wrapped.before = together.wait  # type: ignore[method-assign,assignment]
    watched.workers = 2
    assert len(list(watched.caption_many(photos, batch_size=4))) == 16


def test_the_number_of_workers_is_the_given_threads_or_all_cores(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "threads_for_all_cores", lambda: 7)
    assert Captioner.load(tiny, device="cpu", many=True).workers == 7
    assert Captioner.load(tiny, device="cpu", many=True, threads=3).workers == 3
    assert Captioner.load(tiny, device="cpu", threads=3).workers == 1, "a batch has all threads"


def test_a_device_failure_is_raised_after_the_finished_captions(
    watched: Captioner, wrapped: Wrapped, photos: list[Any]
) -> None:
    def fail() -> None:
        if len(wrapped.batches) == 3:
            raise DeviceError("its memory is full")

    wrapped.before = fail  # type: ignore[method-assign]
    results = watched.caption_many(photos, batch_size=4)
    assert len([next(results) for _ in range(8)]) == 8
    with pytest.raises(DeviceError, match="memory"):
        next(results)


def test_closing_the_results_early_leaves_no_threads(captioner: Captioner, photos: list[Any]) -> None:
    before = threading.active_count()
    results = captioner.caption_many(photos, batch_size=1)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be between 1 and 1024"),
        ({"batch_size": 10**9}, "batch_size is 1000000000"),
        ({"decoders": 0}, "decoders is 0; it must be at least 1"),
    ],
)
def test_invalid_numbers_are_refused_before_the_first_result(captioner: Captioner, numbers: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        captioner.caption_many([], **numbers)


@pytest.mark.parametrize("photo", ["photo.jpg", b"", io.BytesIO(), Image.new("RGB", (1, 1))])
def test_a_single_photo_is_refused(captioner: Captioner, photo: Any) -> None:
    with pytest.raises(UsageError, match="use caption for a single photo"):
        captioner.caption_many(photo)
