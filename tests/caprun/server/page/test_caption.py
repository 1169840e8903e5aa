"""The page in a real Chromium: what it shows about a caption, and how it reports failures."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from tests.caprun.bundle.support.neutral import make_neutral
from tests.caprun.server.support.browser import Visit, an_answer, visits
from tests.caprun.server.support.serving import Serving, serving

pytestmark = pytest.mark.slow


# ---------------------------------------------------------------- keys and neutral words


def test_the_page_works_with_an_api_key(browser: Any, tiny: Path, photos: list[bytes]) -> None:
    with serving(tiny, environment={"CAPRUN_API_KEY": "secret"}) as service, visits(browser, service.port) as visiting:
        visit = visiting()
        visit.page.get_by_label("API key").fill("secret")
        visit.page.get_by_role("button", name="Use this key").click()
        visit.page.locator("#about-model").wait_for()
        assert not visit.page.locator("#key-form").is_visible()
        assert visit.caption(photos[0])["caption"]


def test_a_pasted_key_replaces_the_error_about_a_missing_one(browser: Any, tiny: Path, photos: list[bytes]) -> None:
    with serving(tiny, environment={"CAPRUN_API_KEY": "secret"}) as service, visits(browser, service.port) as visiting:
        visit = visiting()
        visit.pick(photos[0])
        visit.until(lambda: "API key" in visit.problem)
        field = visit.page.get_by_label("API key")
        field.evaluate(
            """field => field.dispatchEvent(
                new ClipboardEvent("paste", {bubbles: true, clipboardData: new DataTransfer()}))"""
        )
        assert visit.page.locator("#remark").text_content() == ""
        field.fill("secret\u200b ")
        visit.page.get_by_role("button", name="Use this key").click()
        visit.wait_for("done")
        assert visit.problem == ""


def test_only_a_model_with_neutral_words_has_a_switch_for_them(
    browser: Any, bundle: Path, visit: Visit, photos: list[bytes]
) -> None:
    visit.caption(photos[0])
    assert not visit.page.locator("#neutral-choice").is_visible()
    with serving(make_neutral(bundle)) as service, visits(browser, service.port) as visiting:
        polite = visiting()
        polite.caption(photos[0])
        with polite.page.expect_response("**/v1/caption*neutral=true*"):
            polite.page.get_by_label("Say person, people and child").check()
        polite.wait_for("done")


# ---------------------------------------------------------------- captions


def test_an_alternative_caption_can_be_chosen(visit: Visit, photos: list[bytes]) -> None:
    answer = visit.caption(photos[3])
    others = [other["caption"] for other in answer["alternatives"]]
    assert others
    choices = visit.page.get_by_role("radio")
    assert choices.count() == 1 + len(others)
    choices.nth(1).check()
    assert visit.said == others[0]
    assert visit.page.locator("#photo").get_attribute("alt") == others[0]
    visit.words.first.hover()
    assert visit.overlay() is not None


@pytest.mark.parametrize(
    ("confidence", "said"),
    [
        (1.0, "100%, very sure nearly all captions like this are good"),
        (0.83, "83%, fairly sure about 8 of 10 captions like this are good"),
        (0.5, "50%, somewhat sure about 5 of 10 captions like this are good"),
        (0.12, "12%, mostly guessing about 1 of 10 captions like this is good"),
        (0.001, "<1%, mostly guessing hardly any captions like this are good"),
        (0, "0%, mostly guessing hardly any captions like this are good"),
    ],
)
def test_a_confidence_is_also_shown_in_words(visit: Visit, photos: list[bytes], confidence: float, said: str) -> None:
    visit.answer(an_answer("a dog", confidence=confidence))
    visit.caption(photos[0])
    facts = str(visit.page.locator("#facts").text_content())
    assert f"Confidence{said}" in facts
    assert "Mean" not in facts


def test_the_event_of_the_confidence_is_shown_if_the_model_has_one(visit: Visit, photos: list[bytes]) -> None:
    visit.caption(photos[0])
    assert not visit.page.locator("#about-confidence").is_visible()
    model = visit.page.request.get(f"{visit.address}v1/model").json()
    event = "A reader would call it <b>right</b>."
    visit.page.route("**/v1/model", lambda route: route.fulfill(json={**model, "confidence": event}))
    visit.page.reload()
    visit.caption(photos[0])
    assert visit.page.locator("#about-confidence").inner_text().endswith(f": {event}")


def test_an_abstention_is_shown_and_its_caption_can_be_requested_anyway(visit: Visit, photos: list[bytes]) -> None:
    visit.answer({"abstained": "The model abstains.", "confidence": 0.18, "timing_ms": {"total": 9.0}})
    visit.pick(photos[0], "photo.png")
    visit.wait_for("abstained")
    assert visit.said == ""
    assert visit.problem == (
        "The model is not sure enough of its caption to show it. "
        "Its confidence is 18%: about 2 of 10 captions like this are good."
    )
    assert visit.page.locator("#photo").get_attribute("alt") == "Your photo, without a caption"
    visit.page.wait_for_selector("#figure:not([hidden])")
    visit.answer_as_usual()
    visit.answer(an_answer("a dog", confidence=0.18))
    visit.page.get_by_role("button", name="Show the caption anyway").click()
    visit.wait_for("done")
    assert visit.said == "a dog"
    assert ["min_confidence=0" in request.url for request in visit.sent] == [False, True]


def test_try_again_still_requests_the_caption_of_an_abstention(visit: Visit, photos: list[bytes]) -> None:
    visit.answer({"abstained": "The model abstains.", "confidence": 0.18, "timing_ms": {"total": 9.0}})
    visit.pick(photos[0], "photo.png")
    visit.wait_for("abstained")
    visit.answer({"error": "Too many photos are waiting; try again later."}, 429, **{"Retry-After": "0"})
    visit.page.get_by_role("button", name="Show the caption anyway").click()
    visit.wait_for("busy")
    visit.answer(an_answer("a dog"))
    visit.page.get_by_role("button", name="Try again", exact=True).click()
    visit.wait_for("done")
    assert ["min_confidence=0" in request.url for request in visit.sent] == [False, True, True]


def test_the_photo_after_an_abstention_is_captioned_as_usual(visit: Visit, photos: list[bytes]) -> None:
    visit.answer({"abstained": "The model abstains.", "confidence": 0, "timing_ms": {"total": 9.0}})
    visit.pick(photos[0], "photo.png")
    visit.wait_for("abstained")
    visit.answer(an_answer("a dog"))
    visit.caption(photos[1])
    assert visit.problem == ""
    assert not visit.page.get_by_role("button", name="Show the caption anyway").is_visible()
    assert "min_confidence" not in visit.sent[-1].url


def test_the_caption_is_copied_as_text_and_as_html(visit: Visit, photos: list[bytes]) -> None:
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.answer(an_answer('a "big" dog & <b>'))
    visit.pick(photos[0], 'my "photo".png')
    visit.wait_for("done")
    for button, text in (
        ("Copy alt text", 'a "big" dog & <b>'),
        ("Copy as HTML", '<img src="my%20%22photo%22.png" alt="a &quot;big&quot; dog &amp; &lt;b>">'),
    ):
        visit.page.get_by_role("button", name=button).click()
        visit.page.get_by_text("Copied.").wait_for()
        assert visit.page.evaluate("navigator.clipboard.readText()") == text


def test_copying_works_without_the_clipboard_api(visit: Visit, photos: list[bytes]) -> None:
    visit.context.grant_permissions(["clipboard-read"])
    visit.page.evaluate("() => void (navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed')))")
    visit.caption(photos[0])
    visit.page.get_by_role("button", name="Copy alt text").click()
    visit.page.get_by_text("Copied.").wait_for()
    assert visit.page.evaluate("navigator.clipboard.readText()") == visit.said
    assert visit.page.evaluate("document.activeElement.id") == "copy"


def test_a_caption_with_markup_is_shown_as_text(visit: Visit, photos: list[bytes]) -> None:
    hostile = "<img src=x onerror=alert(1)> &amp; <script>document.title='x'</script>"
    visit.answer(an_answer(hostile, alternatives=[an_answer(hostile)]))
    visit.caption(photos[0])
    assert visit.said == hostile
    assert visit.page.locator("main img").count() == 1
    assert visit.page.title() == "Draft alt text to check"


@pytest.mark.parametrize("caption", ["", "二匹の犬が走る", "a dog, running", "naïve café"])
def test_the_words_keep_the_spacing_of_the_caption(visit: Visit, photos: list[bytes], caption: str) -> None:
    texts = {"二匹の犬が走る": ["二", "匹", "の", "犬", "が", "走る"], "a dog, running": ["a", "dog", ",", "running"]}
    words = [{"word": text, "log_prob": -0.5} for text in texts.get(caption, caption.split())]
    visit.answer(an_answer(caption, words=words))
    visit.caption(photos[0])
    assert visit.said == (caption or "(no words)")
    assert visit.words.all_text_contents() == [word["word"] for word in words]


def test_the_page_names_the_model_and_its_licence_and_links_to_the_docs(visit: Visit) -> None:
    about = visit.page.get_by_role("contentinfo")
    about.get_by_text("tiny").wait_for()
    assert "tiny (fp32, cpu). Licence: MIT." in str(about.text_content())
    visit.page.get_by_role("link", name="API").click()
    visit.page.wait_for_url("**/docs")
    assert visit.page.get_by_text("/v1/caption").first.is_visible()
    visit.page.go_back()


# ---------------------------------------------------------------- failures


def test_a_damaged_file_shows_the_error_of_the_service(visit: Visit, photos: list[bytes], service: Serving) -> None:
    broken = photos[0][: len(photos[0]) // 2]
    for wrong in (b"this is no photo", broken, b""):
        visit.caption(photos[1])
        visit.pick(wrong, "wrong.jpg")
        visit.wait_for("error")
        assert visit.problem == service.post(wrong).error
        assert not visit.said
        assert not visit.page.locator("#retry").is_visible()


def test_a_photo_that_is_too_large_is_not_sent(visit: Visit) -> None:
    visit.page.locator("#about-model").wait_for()
    visit.pick(bytes(1_000_001))
    visit.wait_for("error")
    assert visit.problem == "This photo has 1 MB, more than 1 MB; scale it down first."
    assert not visit.sent


def test_a_photo_above_an_unknown_limit_shows_the_error_of_the_service(visit: Visit, service: Serving) -> None:
    visit.page.route("**/v1/model", lambda route: route.abort())
    visit.page.reload()
    large = bytes(3_000_000)
    visit.pick(large)
    visit.wait_for("error")
    assert visit.problem == service.post(large).error


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_can_be_retried_only_after_its_retry_after(
    visit: Visit, photos: list[bytes], status: int
) -> None:
    visit.answer({"error": "Too many photos are waiting; try again later."}, status, **{"Retry-After": "3"})
    visit.pick(photos[1])
    visit.wait_for("busy")
    assert visit.problem == "Too many photos are waiting; try again later."
    again = visit.page.get_by_role("button", name="Try again")
    assert again.text_content() in ("Try again in 3 s", "Try again in 2 s")
    again.click(force=True)
    assert len(visit.sent) == 1
    visit.answer_as_usual()
    visit.page.get_by_role("button", name="Try again", exact=True).click()
    visit.wait_for("done")
    assert visit.said
    assert visit.problem == ""


def test_an_unreachable_service_is_reported_and_retried_once_online(visit: Visit, photos: list[bytes]) -> None:
    visit.context.set_offline(True)
    visit.pick(photos[1])
    visit.wait_for("offline")
    assert "cannot be reached" in visit.problem
    visit.context.set_offline(False)  # the browser notifies the page
    visit.wait_for("done")


def test_an_error_page_of_a_proxy_is_reported_by_its_status(visit: Visit, photos: list[bytes]) -> None:
    visit.page.route("**/v1/caption*", lambda route: route.fulfill(status=502, body="<html>Bad Gateway"))
    visit.pick(photos[1])
    visit.wait_for("error")
    assert visit.problem == "The service gave no reason for status 502; try again later."
