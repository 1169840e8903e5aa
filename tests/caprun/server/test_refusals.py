"""Refusals of a service: one sentence for each mistake, and no work on requests that get no caption."""

import base64
import socket
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from caprun import Captioner
from caprun.server.settings import Settings
from tests.caprun.photos.support.encoding import chunk, encode
from tests.caprun.server.support.service import (
    JSON,
    PHOTO,
    Running,
    gated,
    is_error,
    is_sentence,
    listed,
    running,
)
from tests.caprun.server.support.serving import LONG, head, read_answers, until


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    tiny = Captioner.load(Path(__file__).parents[2] / "tiny" / "bundle", device="cpu", threads=1)
    with running(tiny, Settings(max_bytes=100_000, max_photos=4, queue=8)) as found:
        yield found


# Invalid photos and options


def bomb() -> bytes:
    """Returns a PNG of 60 megapixels that is a small file."""
    rows = zlib.compress(bytes(10_000 // 8 + 1) * 6_000)
    header = struct.pack(">IIBBBBB", 10_000, 6_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


JPEG = encode(Image.effect_noise((200, 200), 90).convert("RGB"), "JPEG")


@pytest.mark.parametrize(
    ("photo", "status", "words"),
    [
        (b"", 400, "empty"),
        (b"%PDF-1.7\n%", 415, "not a JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not a JPEG"),
        (bomb(), 413, "50 megapixels"),
        (JPEG[:200], 422, "damaged"),
        (JPEG[: len(JPEG) // 2], 422, "damaged"),
        (b"\xff\xd8\xff" + bytes(100), 422, "damaged"),
        (b'{"photos": []}', 422, "list of photos is empty"),
    ],
)
def test_an_invalid_photo_is_refused_in_one_line(service: Running, photo: bytes, status: int, words: str) -> None:
    is_error(service.caption(photo), status, words)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "empty"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe\xfd", 400, "not JSON"),
        (b"[" * 15, 400, "not JSON"),
        (b"[" * 90_000, 422, "not a list of photos"),
        (b'{"photos": {"a": [' * 5_000, 422, "not a list of photos"),
        (b'["' + base64.b64encode(PHOTO) + b'"]', 422, "not a list of photos"),
        (b"null", 422, "not a list of photos"),
        (b"1" * 5_000, 400, "not JSON"),
        (b'{"photos": 3}', 422, "not a list of photos"),
        (b'{"photos": []}', 422, "empty"),
        (b'{"photos": [3]}', 422, "not text"),
        (b'{"photos": [null, [], {}]}', 422, "not text"),
        (b'{"photos": ["QQ=="], "beam_size": 33}', 422, "from 1 to 10"),
        (b'{"photos": ["QQ=="], "length_penalty": 1' + b"0" * 400 + b"}", 422, "from 0 to 10"),
        (b'{"Photos": ["QQ=="]}', 422, "not a list of photos"),
        (listed(*[PHOTO] * 5), 413, "more than 4 photos"),
        (b'{"photos": [' + b'"",' * 30_000 + b'""]}', 413, "more than 4 photos"),
    ],
)
def test_an_invalid_list_of_photos_is_refused_in_one_line(
    service: Running, body: bytes, status: int, words: str
) -> None:
    is_error(service.client.post("/v1/caption", content=body, headers=JSON), status, words)


@pytest.mark.parametrize("encoding", ["gzip", "identity, br"])
def test_content_encodings_are_refused(service: Running, encoding: str) -> None:
    headers = {"Content-Encoding": encoding}
    is_error(service.client.post("/v1/caption", content=PHOTO, headers=headers), 415, "Content-Encoding")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("beam_size=0", "from 1 to 10"),
        ("beam_size=11", "from 1 to 10"),
        ("beam_size=-1", "from 1 to 10"),
        (f"beam_size={10**9}", "from 1 to 10"),
        (f"beam_size={10**18}", "from 1 to 10"),
        (f"beam_size={10**30}", "whole number"),
        (f"beam_size={'9' * 20_000}", "whole number"),
        ("beam_size=", "whole number"),
        ("beam_size", "whole number"),
        ("beam_size=3.0", "whole number"),
        ("beam_size=+3", "whole number"),
        ("beam_size=%D9%A3", "whole number"),
        ("beam_size=1_0", "whole number"),
        ("beam_size=0x3", "whole number"),
        ("beam_size=3%00", "whole number"),
        ("beam_size=3%0A", "whole number"),
        ("beam_size=3&beam_size=3", "twice"),
        ("Beam_size=3", "no option"),
        ("repeatable=a", "no option"),
        ("beam=3", "no option"),
        ("=3", "no option"),
        ("suppress=man", "no option"),
        ("__class__=3", "no option"),
        ("%F0%9F%98%80" * 30 + "=1", "no option"),
        ("n_best=11", "from 1 to 10"),
        ("n_best=4", "at most `beam_size`"),
        ("groups=11", "from 1 to 10"),
        ("groups=2", "must divide"),
        ("max_length=65", "from 1 to 64"),
        ("min_length=12", "at most 11"),
        ("length_penalty=nan", "a number"),
        ("length_penalty=inf", "a number"),
        ("length_penalty=-Infinity", "a number"),
        ("length_penalty=1e999", "from 0 to 10"),
        ("length_penalty=-0.1", "from 0 to 10"),
        ("length_penalty=1e", "a number"),
        ("length_penalty=%EF%BC%91", "a number"),
        ("temperature=0.0001", "at least 0.001"),
        ("temperature=1&groups=3", "is only for search"),
        ("top_k=3", "is only for sampling"),
        ("temperature=1&top_p=0", "above 0"),
        ("seed=9223372036854775808&temperature=1", "from 0 to 9223372036854775807"),
        ("diversity=1", "needs several `groups`"),
        ("attention=1", "true or false"),
        ("attention=True", "true or false"),
        ("attention=", "true or false"),
        ("&".join(f"a{i}=1" for i in range(1000)), "more than 64 options"),
    ],
)
def test_an_invalid_option_is_refused_in_one_line(service: Running, query: str, words: str) -> None:
    answer = service.client.post(f"/v1/caption?{query}", content=PHOTO)
    is_error(answer, 422, words)
    assert len(answer.text) < 400


def test_attention_is_refused_for_a_model_without_it(captioner: Captioner) -> None:
    blind = Captioner(replace(captioner.spec, attention_grid=None), captioner.vocabulary, captioner.backend)
    with running(blind) as service:
        is_error(service.caption(PHOTO, attention="true"), 422, "has no attention")
        assert service.caption(PHOTO, attention="false").status_code == 200
        assert service.client.get("/v1/model").json()["attention"] is False


# Refusals before the whole body arrives


def test_a_full_queue_refuses_a_request_before_its_body_arrives(captioner: Captioner) -> None:
    with gated(captioner, queue=1) as (service, backend), ThreadPoolExecutor(2) as clients:
        first = clients.submit(service.caption, PHOTO)
        until(lambda: backend.batches)
        second = clients.submit(service.caption, PHOTO)
        until(lambda: service.service.batcher.photos == 1)
        assert service.metric("caprun_queue_length") == 1
        with socket.create_connection(("127.0.0.1", service.port), LONG) as client:
            client.sendall(head("/v1/caption", "POST", "Content-Length: 50000"))
            (answer,) = read_answers(client)
        assert answer.status == 429
        assert int(answer.headers["retry-after"]) >= 1
        is_sentence(answer.error, "Too many photos")
        assert service.client.get("/healthz").status_code == 200
        backend.gate.set()
        assert first.result().status_code == second.result().status_code == 200
        assert service.metric('caprun_refused_total{reason="queue"}') == 1


def test_too_large_a_content_length_is_refused_before_the_body_arrives(service: Running) -> None:
    for length in (100_001, 10**12):
        with socket.create_connection(("127.0.0.1", service.port), LONG) as client:
            client.sendall(head("/v1/caption", "POST", f"Content-Length: {length}"))
            (answer,) = read_answers(client)
        assert answer.status == 413
        is_sentence(answer.error, "100,000 bytes")


def test_a_body_of_unknown_length_is_refused_once_it_is_too_large(service: Running) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(20):
            yield bytes(10_000)

    is_error(service.client.post("/v1/caption", content=parts()), 413, "100,000 bytes")
    assert service.client.post("/v1/caption", content=iter([PHOTO[:50], PHOTO[50:]])).status_code == 200
    until(lambda: service.service.batcher.photos == 0)


def test_a_body_that_arrives_too_slowly_is_refused(captioner: Captioner) -> None:
    with running(captioner, Settings(body_timeout=0.05)) as service:
        with socket.create_connection(("127.0.0.1", service.port), LONG) as client:
            client.sendall(head("/v1/caption", "POST", "Content-Length: 1000") + b"\xff\xd8\xff")
            (answer,) = read_answers(client)
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        is_sentence(answer.error, "took longer than 0.05 seconds")
        assert service.service.batcher.photos == 0


# Disconnected clients and deadlines


def test_photos_of_disconnected_clients_are_not_captioned(captioner: Captioner) -> None:
    with gated(captioner) as (service, backend), ThreadPoolExecutor(2) as clients:
        first = clients.submit(service.caption, PHOTO)
        until(lambda: backend.batches)
        leaving = [socket.create_connection(("127.0.0.1", service.port), LONG) for _ in range(3)]
        for client in leaving:
            client.sendall(head("/v1/caption", "POST", f"Content-Length: {len(PHOTO)}") + PHOTO)
        staying = clients.submit(service.caption, PHOTO)
        until(lambda: service.service.batcher.photos == 4)
        for client in leaving:
            client.close()
        until(lambda: service.service.batcher.photos == 1)
        backend.gate.set()
        assert first.result().status_code == staying.result().status_code == 200
        assert backend.batches == [1, 1]
        assert service.metric('caprun_requests_total{code="499",path="/v1/caption"}') == 3


def test_a_client_that_disconnects_during_its_body_leaves_the_queue(service: Running) -> None:
    batcher = service.service.batcher
    with socket.create_connection(("127.0.0.1", service.port), LONG) as client:
        client.sendall(head("/v1/caption", "POST", "Content-Length: 1000") + b"\xff\xd8\xff")
        until(lambda: batcher.photos == 1)
    until(lambda: batcher.photos == 0)


def test_a_request_past_its_deadline_is_refused_and_not_captioned(captioner: Captioner) -> None:
    with gated(captioner, deadline=0.1) as (service, backend), ThreadPoolExecutor(2) as clients:
        first = clients.submit(service.caption, PHOTO)
        until(lambda: backend.batches)
        late = service.caption(PHOTO)
        is_error(late, 503, "waited too long")
        assert int(late.headers["retry-after"]) >= 1
        is_error(service.client.post("/v1/caption", content=listed(PHOTO, PHOTO), headers=JSON), 503, "waited too long")
        backend.gate.set()
        assert first.result().status_code == 200
        assert backend.batches == [1]
        assert service.metric('caprun_refused_total{reason="deadline"}') == 2
