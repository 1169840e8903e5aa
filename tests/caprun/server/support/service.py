"""A service in the process of the tests, on a loopback port; its model can wait, count batches or fail."""

import asyncio
import base64
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import httpx
import numpy as np
import numpy.typing as npt
import uvicorn
from PIL import Image

from caprun import Captioner, SearchOptions
from caprun.search.steps import Steps
from caprun.server.app import Service
from caprun.server.batching import Ask, Batcher, CaptionedPhoto
from caprun.server.metrics import Metrics
from caprun.server.options import request_options
from caprun.server.process import server_config
from caprun.server.settings import Settings
from tests.caprun.photos.support.encoding import encode
from tests.caprun.server.support.serving import LONG
from tests.caprun.server.support.serving import until as wait_until

T = TypeVar("T")
JSON = {"Content-Type": "application/json"}


class Watched:
    """A backend that records the sizes of its batches, and waits while its gate is closed."""

    def __init__(self, captioner: Captioner) -> None:
        self.backend = captioner.backend
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.before: Callable[[npt.NDArray[np.uint8]], object] = lambda images: None

    def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> Steps:
        self.batches.append(len(images))
        assert self.gate.wait(LONG)
        self.before(images)
        return self.backend.encode(images, alpha=alpha)


def watched(captioner: Captioner, *, workers: int = 1) -> tuple[Captioner, Watched]:
    """Returns a captioner like this one and its watched backend."""
    backend = Watched(captioner)
    other = Captioner(captioner.spec, captioner.vocabulary, backend)
    other.workers = workers
    return other, backend


def photos(count: int) -> list[bytes]:
    """Returns small PNG photos, all different."""
    patches = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return [encode(Image.fromarray(patch.repeat(8, 0).repeat(8, 1)), "PNG") for patch in patches]


PHOTO = photos(1)[0]


def wait(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine and returns its result; raises TimeoutError after `LONG` seconds."""

    async def within() -> T:
        async with asyncio.timeout(LONG):
            return await coroutine

    return asyncio.run(within())


async def until(condition: Callable[[], object]) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(LONG):
        while not condition():
            await asyncio.sleep(0.002)


ASK = Ask(SearchOptions(3, 12, 1.0))


def batcher(captioner: Captioner, **settings: Any) -> Batcher:
    return Batcher(captioner, Settings(**settings), Metrics())


async def one(batcher: Batcher, photo: bytes, ask: Ask = ASK) -> Any:
    """Captions one photo and returns its result."""
    with batcher.admit(ask, len(photo)) as admission:
        (result,) = await batcher.caption(admission, ask, [photo])
    assert isinstance(result, CaptionedPhoto), result
    return json.loads(result.row)


class Running:
    """A service that answers on a port."""

    def __init__(self, service: Service, port: int) -> None:
        self.service, self.port = service, port
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LONG, trust_env=False)

    def caption(self, photo: bytes, **query: Any) -> httpx.Response:
        return self.client.post("/v1/caption", content=photo, params=query)

    def metric(self, name: str) -> float:
        """Returns the value of a metric; the name includes the labels."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name)


@contextlib.contextmanager
def running(captioner: Captioner, settings: Settings | None = None) -> Iterator[Running]:
    """Serves a model until the block ends."""
    service = Service(captioner, settings)
    server = uvicorn.Server(server_config(service))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        found = Running(service, listener.getsockname()[1])
        try:
            with found.client:
                yield found
        finally:
            wait_until(lambda: server.started)
            server.should_exit = True
            thread.join(LONG)
            assert not thread.is_alive(), "the service did not end"


@contextlib.contextmanager
def gated(captioner: Captioner, **settings: Any) -> Iterator[tuple[Running, Watched]]:
    """Serves a model that works on one photo, and on no other until its gate is opened."""
    many, backend = watched(captioner)
    with running(many, Settings(**{"batch_size": 1, **settings})) as found:
        backend.gate.clear()
        try:
            yield found, backend
        finally:
            backend.gate.set()


def is_error(answer: httpx.Response, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error"]
    is_sentence(body["error"], *words)


def is_sentence(text: str, *words: str) -> None:
    assert text.endswith(".")
    assert "\n" not in text
    assert text[0].isupper() or text.split()[0].strip("`") in request_options(Settings())
    for word in words:
        assert word in text, text


def listed(*items: bytes | str) -> bytes:
    """Returns the JSON body of a list of photos; text is taken as base64 already."""
    texts = [item if isinstance(item, str) else base64.b64encode(item).decode() for item in items]
    return json.dumps({"photos": texts}).encode()
