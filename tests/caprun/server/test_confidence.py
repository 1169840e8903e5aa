"""Confidence over HTTP: each caption has one, and the service abstains below a minimum."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from caprun import Captioner, SearchOptions
from caprun.server.settings import Settings
from tests.caprun.bundle.support.calibrated import EVENT
from tests.caprun.server.support.service import JSON, Running, is_error, listed, photos, running
from tests.caprun.server.support.serving import serving
from tests.caprun.server.test_command import fails

PHOTOS = photos(12)
LEAST = 0.4


@pytest.fixture(scope="module")
def sure(calibrated: Path) -> Captioner:
    return Captioner.load(calibrated, device="cpu", threads=1)


@pytest.fixture(scope="module")
def service(sure: Captioner) -> Iterator[Running]:
    with running(sure) as found:
        yield found


@pytest.fixture(scope="module")
def strict(sure: Captioner) -> Iterator[Running]:
    """A service that abstains unless a request sets another minimum."""
    with running(sure, Settings(min_confidence=LEAST)) as found:
        yield found


@pytest.fixture(scope="module")
def confidences(sure: Captioner) -> list[float]:
    found = [sure.caption(photo).confidence or 0.0 for photo in PHOTOS]
    assert 2 <= sum(value >= LEAST for value in found) <= len(found) - 2
    return found


@pytest.fixture(scope="module")
def doubtful(confidences: list[float]) -> bytes:
    return PHOTOS[confidences.index(min(confidences))]


@pytest.fixture(scope="module")
def surest(confidences: list[float]) -> bytes:
    return PHOTOS[confidences.index(max(confidences))]


def abstains(answer: dict[str, Any], confidence: float, least: float = LEAST) -> None:
    assert set(answer) - {"timing_ms"} == {"abstained", "confidence"}
    assert answer["confidence"] == pytest.approx(confidence, abs=1e-5)
    sentence = rf"The model abstains: its confidence in its caption is [\d.]+, below {least}\."
    assert re.fullmatch(sentence, answer["abstained"])


def test_every_caption_and_alternative_has_its_confidence(service: Running, sure: Captioner) -> None:
    for photo in PHOTOS[:4]:
        answer = service.caption(photo, n_best=3).json()
        caption = sure.caption(photo, SearchOptions(3, 12, 1.0, n_best=3))
        found = [one["confidence"] for one in (answer, *answer["alternatives"])]
        expected = [one.confidence for one in (caption, *caption.alternatives)]
        assert found == pytest.approx(expected, abs=1e-5)


def test_a_request_can_set_a_minimum_confidence(service: Running, doubtful: bytes, confidences: list[float]) -> None:
    answer = service.caption(doubtful, min_confidence=LEAST, attention=True, n_best=2)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    abstains(answer.json(), min(confidences))
    assert answer.json()["timing_ms"]["total"] > 0


def test_a_caption_above_the_minimum_is_returned_unchanged(service: Running, surest: bytes) -> None:
    plain, asked = service.caption(surest).json(), service.caption(surest, min_confidence=LEAST).json()
    del plain["timing_ms"], asked["timing_ms"]
    assert asked == plain


def test_each_photo_of_a_list_gets_a_caption_an_abstention_or_an_error(
    service: Running, surest: bytes, doubtful: bytes, confidences: list[float]
) -> None:
    body = listed(surest, doubtful, b"no photo")
    answer = service.client.post(f"/v1/caption?min_confidence={LEAST}", content=body, headers=JSON)
    assert answer.status_code == 200
    said, silent, bad = answer.json()["results"]
    assert said["caption"]
    abstains(silent, min(confidences))
    assert list(bad) == ["error"]


def test_a_request_overrides_the_minimum_of_the_service(
    strict: Running, doubtful: bytes, surest: bytes, confidences: list[float]
) -> None:
    abstains(strict.caption(doubtful).json(), min(confidences))
    abstains(strict.caption(doubtful, max_length=12).json(), min(confidences))
    assert strict.caption(surest).json()["caption"]
    assert strict.caption(doubtful, min_confidence=0).json()["caption"]
    abstains(strict.caption(surest, min_confidence=1).json(), max(confidences), 1.0)


def test_v1_model_reports_the_event_and_the_minimum_of_the_confidence(service: Running, strict: Running) -> None:
    model = service.client.get("/v1/model").json()
    assert (model["confidence"], model["min_confidence"]) == (EVENT, 0)
    assert strict.client.get("/v1/model").json()["min_confidence"] == LEAST


def test_abstentions_are_counted(sure: Captioner, doubtful: bytes, surest: bytes) -> None:
    with running(sure, Settings(min_confidence=LEAST)) as found:
        for photo in (doubtful, surest, doubtful):
            found.caption(photo)
        assert found.metric('caprun_photos_total{result="abstained"}') == 2
        assert found.metric('caprun_photos_total{result="captioned"}') == 1
        assert found.metric('caprun_requests_total{code="200",path="/v1/caption"}') == 3


@pytest.mark.parametrize("value", ["-0.1", "1.5", "nan", "high", ""])
def test_a_min_confidence_that_is_not_a_probability_is_refused(service: Running, value: str) -> None:
    is_error(service.caption(PHOTOS[0], min_confidence=value), 422, "min_confidence")


@pytest.mark.parametrize("value", [0, 0.5])
def test_min_confidence_is_refused_for_a_model_without_confidence(captioner: Captioner, value: float) -> None:
    with running(captioner) as found:
        answer = found.caption(PHOTOS[0], min_confidence=value)
        is_error(answer, 422, "The model tiny has no calibrated confidence; leave out `min_confidence`.")
        assert "confidence" not in found.caption(PHOTOS[0]).json()


def test_the_api_description_documents_abstentions(service: Running, strict: Running) -> None:
    api = service.client.get("/openapi.json").json()
    operation = api["paths"]["/v1/caption"]["post"]
    (parameter,) = (one for one in operation["parameters"] if one["name"] == "min_confidence")
    assert parameter["schema"] == {"type": "number", "minimum": 0, "maximum": 1, "default": 0}
    answers = operation["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"]
    assert {"$ref": "#/components/schemas/AbstainedPhoto"} in answers
    assert set(api["components"]["schemas"]["AbstainedPhoto"]["required"]) == {"abstained", "confidence"}
    assert "confidence" not in api["components"]["schemas"]["PhotoCaption"]["required"]
    assert "min_confidence" in api["info"]["description"]
    page = service.client.get("/docs").text
    assert "min_confidence" in page
    assert "AbstainedPhoto" in page
    (parameter,) = (
        one
        for one in strict.client.get("/openapi.json").json()["paths"]["/v1/caption"]["post"]["parameters"]
        if one["name"] == "min_confidence"
    )
    assert parameter["schema"]["default"] == LEAST


# --- `caprun serve --min-confidence`


@pytest.mark.parametrize("workers", [1, 2])
def test_the_option_is_refused_for_a_bundle_without_confidence(tiny: Path, workers: int) -> None:
    code, sentence = fails(tiny, "--min-confidence", 0, "--workers", workers)
    assert code != 0
    assert sentence == "The model tiny has no calibrated confidence; leave out --min-confidence."


def test_the_option_does_not_accept_nan(calibrated: Path) -> None:
    code, sentence = fails(calibrated, "--min-confidence", "nan")
    assert code == 2
    assert "'nan' is not a number" in sentence


def test_the_option_sets_the_default_of_requests(calibrated: Path, doubtful: bytes, confidences: list[float]) -> None:
    with serving(calibrated, "--min-confidence", LEAST) as found:
        answer = found.post(doubtful)
        assert answer.status == 200
        assert b'"abstained": "The model abstains: ' in answer.body
        assert b'"caption": "' not in answer.body
        assert b'"caption": "' in found.post(doubtful, "/v1/caption?min_confidence=0").body
