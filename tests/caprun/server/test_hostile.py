"""A service answers hostile photos with captions or errors, keeps running, uses limited memory and logs nothing."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from caprun import Captioner, ImageError
from tests.caprun.photos.support.hostile import photos
from tests.caprun.photos.support.hostile_bombs import bombs
from tests.caprun.server.support.serving import Serving, serving

MOST_BYTES = 600_000_000
# one of each kind; tests/caprun/photos/test_hostile.py opens all of them
BOMBS = (
    "png rgba16 interlaced 50mp",
    "png 1 x 50 million",
    "png 15000 profiles",
    "png unknown chunks",
    "jpeg 65535 x 65535",
    "jpeg 1000 scans 50mp",
    "jpeg cmyk turned 50mp",
    "jpeg 300 exifs",
    "gif 65535 x 65535",
    "gif 500000 frames",
    "webp lossless 45mp",
    "webp 65536 tables",
    "bmp rle8 single pixels",
)
REFUSALS = {400, 413, 415, 422}


@pytest.fixture
def service(tiny: Path) -> Iterator[Serving]:
    # the largest photos take seconds, and far longer on a busy machine
    with serving(tiny, "--workers", 1, "--max-bytes", 25_000_000, "--deadline", 300) as running:
        yield running
        assert running.get("/healthz").status == 200
        assert running.get("/readyz").status == 200
        assert running.lines[1:] == []


@pytest.mark.slow
def test_each_photo_gets_the_caption_or_the_error_of_the_library(service: Serving, captioner: Captioner) -> None:
    for name, data in photos():
        answer = service.post(data)
        (expected,) = captioner.caption_many([data])
        if isinstance(expected, ImageError):
            assert answer.status in REFUSALS, (name, answer)
            same = answer.error.rstrip(".").lower() == str(expected).rstrip(".").lower()
            assert same or b"\0" not in data, name  # the service's error is about curl -d or an empty body
        else:
            assert answer.status == 200, (name, answer)
            assert json.loads(answer.body)["caption"] == expected.text, name


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the most memory of a moment is only told by Linux")
def test_bombs_stay_within_the_memory_limit_of_the_library(service: Serving) -> None:
    before = most_memory(service)
    chosen = bombs() if os.environ.get("CAPRUN_ALL_BOMBS") else [bomb for bomb in bombs() if bomb[0] in BOMBS]
    for name, make in chosen:
        answer = service.post(make())
        assert answer.status in {200, *REFUSALS}, (name, answer)
        assert answer.status == 200 or answer.error.endswith("."), name
        assert most_memory(service) - before < MOST_BYTES, name


def most_memory(service: Serving) -> int:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
