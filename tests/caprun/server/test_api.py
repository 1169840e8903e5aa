"""The HTTP API: captions, failures, and the other paths."""

import asyncio
import io
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from caprun import Captioner, DeviceError, SearchOptions
from caprun.caption import Caption
from caprun.server.app import Service, create_app
from caprun.server.settings import Settings
from tests.caprun.bundle.support.neutral import make_neutral
from tests.caprun.server.support.service import (
    JSON,
    PHOTO,
    Running,
    is_error,
    is_sentence,
    listed,
    photos,
    running,
    watched,
)


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    tiny = Captioner.load(Path(__file__).parents[2] / "tiny" / "bundle", device="cpu", threads=1)
    with running(tiny, Settings(max_bytes=100_000, max_photos=4, queue=8)) as found:
        yield found


# Captions


def as_answered(caption: Caption) -> dict[str, Any]:
    return {
        "caption": caption.text,
        "log_prob": pytest.approx(caption.log_prob, abs=1e-4),
        "finished": caption.finished,
        "words": [{"word": w.text, "log_prob": pytest.approx(w.log_prob, abs=1e-4)} for w in caption.words],
    }


@pytest.mark.parametrize("media_type", ["image/jpeg", "application/octet-stream", "text/html", "nonsense", None])
def test_the_bytes_of_a_photo_are_captioned_under_any_content_type(
    service: Running, captioner: Captioner, media_type: str | None
) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    answer = service.client.post("/v1/caption", content=PHOTO, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    timing = body.pop("timing_ms")
    assert body == as_answered(captioner.caption(PHOTO))
    assert list(timing) == ["receive", "decode", "queue", "caption", "total"]
    assert all(value >= 0 for value in timing.values())
    assert timing["total"] >= max(timing.values())


def test_alternatives_and_attention_are_returned_only_on_request(service: Running, captioner: Captioner) -> None:
    body = service.caption(PHOTO, n_best=3, attention="true").json()
    caption = captioner.caption(PHOTO, SearchOptions(3, 12, 1.0, n_best=3), alpha=True)
    assert [other["caption"] for other in body["alternatives"]] == [other.text for other in caption.alternatives]
    assert body["attention_box"] == [0, 0, 1, 1]
    for words, expected in zip(
        [body["words"], *(other["words"] for other in body["alternatives"])],
        [caption.words, *(other.words for other in caption.alternatives)],
        strict=True,
    ):
        for word, one in zip(words, expected, strict=True):
            assert one.alpha is not None
            np.testing.assert_allclose(word["alpha"], one.alpha, atol=1e-5)
    plain = service.caption(PHOTO).json()
    assert not {"alternatives", "attention_box"} & plain.keys()
    assert not any("alpha" in word for word in plain["words"])


def test_options_of_the_query_are_passed_to_the_search(service: Running, captioner: Captioner) -> None:
    query = {"temperature": 0.7, "seed": 9, "top_k": 5, "top_p": "9e-1", "n_best": 2, "max_length": 9, "min_length": 2}
    options = SearchOptions(3, 9, 1.0, temperature=0.7, seed=9, top_k=5, top_p=0.9, n_best=2, min_length=2)
    assert service.caption(PHOTO, **query).json()["caption"] == captioner.caption(PHOTO, options).text
    query = {"beam_size": 4, "groups": 2, "diversity": 1, "length_penalty": 0, "no_repeat_word": 1}
    options = SearchOptions(4, 12, 0.0, groups=2, diversity=1.0, no_repeat_word=1, no_repeat_ngram=2)
    assert (
        service.caption(PHOTO, **query, no_repeat_ngram=2).json()["caption"] == captioner.caption(PHOTO, options).text
    )


def test_a_list_is_answered_in_order_with_an_error_for_each_bad_photo(service: Running, captioner: Captioner) -> None:
    good = photos(2)
    body = listed(good[0], "QU!JD", b"no photo", good[1])
    answer = service.client.post("/v1/caption", content=body, headers=JSON)
    assert answer.status_code == 200
    first, second, third, fourth = answer.json()["results"]
    assert [first, fourth] == [as_answered(captioner.caption(photo)) for photo in good]
    for result, words in ((second, "base64"), (third, "not a JPEG")):
        assert list(result) == ["error"]
        is_sentence(result["error"], words)
    assert set(answer.json()["timing_ms"]) == {"receive", "decode", "queue", "caption", "total"}


def test_a_list_of_bad_photos_is_answered_with_a_list_of_errors(service: Running) -> None:
    answer = service.client.post("/v1/caption", content=listed("", "?"), headers=JSON)
    assert [list(result) for result in answer.json()["results"]] == [["error"], ["error"]]


def test_concurrent_requests_get_the_captions_of_single_photos(captioner: Captioner) -> None:
    files = photos(12)
    asks: list[dict[str, Any]] = [
        {"beam_size": 1},
        {"beam_size": 3},
        {"n_best": 2, "beam_size": 4},
        {"attention": "true"},
    ]
    wanted = [(photo, ask) for photo in files for ask in asks]
    random.Random(0).shuffle(wanted)
    with running(captioner) as together, ThreadPoolExecutor(8) as clients:
        found = list(clients.map(lambda one: together.caption(one[0], **one[1]).json(), wanted))
        assert together.metric("caprun_batch_size_sum") == len(wanted)
    for (photo, ask), answer in zip(wanted, found, strict=True):
        options = SearchOptions(ask.get("beam_size", 3), 12, 1.0, n_best=ask.get("n_best", 1))
        alone = captioner.caption(photo, options)
        assert answer["caption"] == alone.text
        assert answer["log_prob"] == pytest.approx(alone.log_prob, abs=1e-4)


# Failures


@pytest.mark.parametrize(("error", "status"), [(DeviceError("secret"), 503), (ZeroDivisionError("secret"), 500)])
def test_a_model_failure_is_an_error_and_the_next_photo_is_captioned(
    captioner: Captioner, error: Exception, status: int
) -> None:
    many, backend = watched(captioner)
    with running(many) as service:

        def fail(_images: Any) -> None:
            raise error

        backend.before = fail
        answer = service.caption(PHOTO)
        is_error(answer, status, "see the log for the cause")
        assert "secret" not in answer.text
        assert ("retry-after" in answer.headers) == (status == 503)
        is_error(service.client.post("/v1/caption", content=listed(PHOTO, PHOTO), headers=JSON), status)
        backend.before = lambda _images: None
        assert service.caption(PHOTO).status_code == 200


def test_an_unexpected_exception_is_answered_with_500(captioner: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(captioner) as service:
        monkeypatch.setattr(service.service.metrics, "text", lambda: 1 / 0)
        answer = service.client.get("/metrics")
        is_error(answer, 500, "see the log for the cause")
        assert answer.headers["x-content-type-options"] == "nosniff"


# Other paths and options


def test_v1_model_describes_the_model_and_the_limits(service: Running) -> None:
    model = service.client.get("/v1/model").json()
    limits = model.pop("limits")
    assert model == {
        "name": "tiny",
        "licence": "MIT",
        "language": None,
        "precision": "fp32",
        "device": "cpu",
        "attention": True,
        "neutral": False,
        "confidence": None,
        "min_confidence": 0.0,
        "search": {"beam_size": 3, "max_length": 12, "length_penalty": 1.0},
    }
    assert limits["max_bytes"] == 100_000
    assert limits["max_photos"] == 4
    assert limits["max_pixels"] == 50_000_000


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/v1/model", "/docs", "/openapi.json"])
def test_responses_have_security_headers_and_no_cors_headers(service: Running, path: str) -> None:
    answer = service.client.get(path, headers={"Origin": "https://elsewhere.example"})
    assert answer.status_code == 200
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not any(name.startswith("access-control-") for name in answer.headers)


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/v1/model", "/docs", "/openapi.json"])
def test_every_path_with_get_answers_head(service: Running, path: str) -> None:
    answer = service.client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


def test_a_list_longer_than_the_queue_is_refused(captioner: Captioner) -> None:
    with running(captioner, Settings(queue=2)) as small:
        assert small.client.get("/v1/model").json()["limits"]["max_photos"] == 2
        is_error(small.client.post("/v1/caption", content=listed(*photos(3)), headers=JSON), 413, "2 photos")


def test_unknown_paths_and_methods_get_errors_that_name_the_docs(service: Running) -> None:
    for path in ("/nothing", "/v1/caption/", "/v1", "/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/docs/oauth2"):
        is_error(service.client.get(path), 404, "/docs")
    for method in ("GET", "DELETE", "PATCH", "HEAD", "TRACE"):
        answer = service.client.request(method, "/v1/caption")
        assert answer.status_code == 405
        assert answer.headers["allow"] == "OPTIONS, POST, PUT"
        if method != "HEAD":
            is_error(answer, 405, "/docs")
    is_error(service.client.post("/healthz", content=b"x"), 405, "/docs")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/caption", "OPTIONS, POST, PUT"),
        ("/", "GET, HEAD, OPTIONS"),
        ("/page/page.js", "GET, HEAD, OPTIONS"),
    ],
)
def test_the_method_options_returns_the_allowed_methods_of_a_path(service: Running, path: str, allowed: str) -> None:
    answer = service.client.options(path)
    assert (answer.status_code, answer.content, answer.headers["allow"]) == (204, b"", allowed)


def test_neutral_words_are_used_on_request_if_the_model_has_them(service: Running, bundle: Path) -> None:
    neutral = Captioner.load(make_neutral(bundle), device="cpu", threads=1)
    with running(neutral) as polite:
        assert polite.client.get("/v1/model").json()["neutral"] is True
        for photo in photos(6):
            expected = neutral.caption(photo, replace(neutral.spec.search, neutral=True)).text
            assert polite.caption(photo, neutral="true").json()["caption"] == expected
            assert polite.caption(photo, neutral="false").json()["caption"] == neutral.caption(photo).text
    is_error(service.caption(PHOTO, neutral="true"), 422, "no neutral words; leave out `neutral`")


def test_the_app_works_without_a_server(captioner: Captioner) -> None:
    """Calls the app directly over ASGI, as programs do that mount it or test with it."""

    async def ask() -> httpx.Response:
        service = Service(captioner)
        transport = httpx.ASGITransport(create_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            answer = await client.post("/v1/caption", content=PHOTO)
        service.batcher.close()
        return answer

    assert asyncio.run(ask()).json()["caption"] == captioner.caption(PHOTO).text


def test_warming_up_captions_a_photo(captioner: Captioner) -> None:
    many, backend = watched(captioner)
    service = Service(many)
    service.warm_up()
    assert backend.batches == [1]
    service.batcher.close()


def test_a_large_photo_within_the_limits_is_captioned(captioner: Captioner) -> None:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((5000, 4000)).save(file, "JPEG")
    with running(captioner) as service:
        assert service.caption(file.getvalue()).status_code == 200
