"""The page in a real Chromium, before a real service: a photo comes in, its caption comes out, whatever happens."""

import io
import itertools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageChops

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from caprun import Captioner
from caprun.photos.reading import open_photo
from tests.caprun.bundle.support.neutral import make_neutral
from tests.caprun.server.support.browser import Visit, chromium, encoded, visits
from tests.caprun.server.support.serving import Serving, serving

pytestmark = pytest.mark.slow

Visiting = Callable[..., Visit]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def service(browser: Any, tiny: Path) -> Iterator[Serving]:
    with serving(tiny, "--max-bytes", 1_000_000) as running:
        yield running


@pytest.fixture
def visiting(browser: Any, service: Serving) -> Iterator[Visiting]:
    with visits(browser, service.port) as opening:
        yield opening


@pytest.fixture
def visit(visiting: Visiting) -> Visit:
    return visiting()


@pytest.fixture(scope="session")
def photos(images: npt.NDArray[np.uint8]) -> list[bytes]:
    """Photos that the tiny model has different captions for."""
    return [encoded(Image.fromarray(image).resize((90, 60))) for image in images[:4]]


def an_answer(caption: str, **more: Any) -> dict[str, Any]:
    words = [{"word": word, "log_prob": -0.5} for word in caption.split()]
    timing = {"receive": 1.0, "decode": 2.0, "queue": 3.0, "caption": 4.0, "total": 10.0}
    return {"caption": caption, "log_prob": -1.0, "finished": True, "words": words, "timing_ms": timing, **more}


# ---------------------------------------------------------------- what the service offers


def test_a_service_with_a_key_is_used_with_it(browser: Any, tiny: Path, photos: list[bytes]) -> None:
    with serving(tiny, environment={"CAPRUN_API_KEY": "secret"}) as service, visits(browser, service.port) as visiting:
        visit = visiting()
        visit.page.get_by_label("Key of this service").fill("secret")
        visit.page.get_by_role("button", name="Use this key").click()
        visit.page.locator("#about-model").wait_for()
        assert not visit.page.locator("#key-form").is_visible()
        assert visit.caption(photos[0])["caption"]


def test_a_model_with_neutral_words_has_a_switch_for_them(
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


# ---------------------------------------------------------------- a photo comes in


@pytest.mark.parametrize("way", ["pick", "drop", "paste"])
def test_a_photo_that_is_picked_dropped_or_pasted_is_captioned(
    visit: Visit, photos: list[bytes], captioner: Captioner, way: str
) -> None:
    expected = captioner.caption(photos[1])
    getattr(visit, way)(photos[1])
    visit.wait_for("done")
    assert visit.said == expected.text
    assert visit.sent[0].post_data_buffer == photos[1]
    mean = math.exp(sum(word.log_prob for word in expected.words) / len(expected.words))
    facts = str(visit.page.locator("#facts").text_content())
    assert f"Mean word probability{mean:.0%}".replace("%", "") in facts
    assert re.search(r"Time\d+ ms", facts)
    assert (
        visit.page.evaluate("() => document.getElementById('file').files.length") == 0
    )  # or it could not be picked again


def test_the_camera_gives_a_photo_and_is_let_go(visit: Visit) -> None:
    visit.page.get_by_role("button", name="Use the camera").click()
    visit.page.get_by_role("dialog").get_by_role("button", name="Take the photo").click()
    visit.wait_for("done")
    assert visit.sent[0].post_data_buffer.startswith(b"\xff\xd8\xff")
    assert visit.page.evaluate("document.getElementById('viewfinder').srcObject") is None
    assert visit.page.get_by_role("dialog").count() == 0


def test_a_camera_that_is_closed_again_changes_nothing(visit: Visit, photos: list[bytes]) -> None:
    visit.caption(photos[0])
    said = visit.said
    visit.page.get_by_role("button", name="Use the camera").click()
    visit.page.get_by_role("dialog").wait_for()
    visit.page.keyboard.press("Escape")
    visit.page.get_by_role("dialog").wait_for(state="hidden")
    assert visit.said == said
    assert len(visit.sent) == 1


def test_where_a_page_may_not_have_the_camera_there_is_no_button_for_it(visiting: Visiting) -> None:
    visit = visiting()
    visit.context.add_init_script("Object.defineProperty(navigator, 'mediaDevices', {value: undefined})")
    visit.page.reload()
    assert not visit.page.get_by_text("Use the camera").locator("visible=true").count()


def test_what_is_dragged_over_the_page_is_welcomed_until_it_leaves(visit: Visit) -> None:
    drag = """(kind) => {
        const files = new DataTransfer();
        files.items.add(new File(["x"], "x.png"));
        document.querySelector("h1").dispatchEvent(new DragEvent(kind, {bubbles: true, dataTransfer: files}));
        return document.body.classList.contains("dragging");
    }"""
    assert visit.page.evaluate(drag, "dragenter")
    assert not visit.page.evaluate(drag, "dragleave")


def test_something_that_is_no_file_is_answered_and_leaves_the_photo_as_it_is(visit: Visit, photos: list[bytes]) -> None:
    visit.caption(photos[0])
    visit.page.evaluate(
        "document.body.dispatchEvent(new ClipboardEvent('paste', {bubbles: true, clipboardData: new DataTransfer()}))"
    )
    assert "no photo on the clipboard" in str(visit.page.locator("#remark").text_content())
    assert visit.said


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_photo_is_shown_as_the_model_sees_it_whatever_its_exif_says(visit: Visit, kind: str) -> None:
    corners = Image.new("RGB", (2, 3))
    corners.putdata([(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (30, 200, 200), (200, 30, 200)])
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = corners.resize((64, 96), Image.Resampling.NEAREST)
        photo = encoded(stored, kind, exif=exif, **({"quality": 95} if kind != "PNG" else {}))
        visit.caption(photo)
        seen, expected = visit.shown_photo().convert("RGB"), open_photo(photo)
        assert seen.size == expected.size, orientation
        difference = ImageChops.difference(seen.resize((16, 16)), expected.resize((16, 16)))
        assert np.asarray(difference).mean() < 4, orientation


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_shown(visit: Visit, kind: str) -> None:
    red, blue = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
    moving = {"save_all": True, "append_images": [blue], "duration": [50, 10_000], "loop": 0}
    visit.caption(encoded(red, kind, **moving))
    visit.page.wait_for_timeout(300)
    painted = Image.open(io.BytesIO(visit.page.locator("#photo").screenshot())).convert("RGB")
    assert np.abs(np.subtract(painted.getpixel((20, 15)), (255, 0, 0))).max() < 10


def test_what_is_transparent_is_white(visit: Visit) -> None:
    visit.caption(encoded(Image.new("RGBA", (40, 30), (0, 0, 0, 0))))
    assert (np.asarray(visit.shown_photo())[15, 20] == 255).all()


# ---------------------------------------------------------------- where the model looked


def at_cells(overlay: dict[str, Any], grid: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """How light the overlay is at the middle of each cell of the grid."""
    light = np.asarray(overlay["light"], float)
    rows, columns = (((np.arange(n) + 0.5) * size / n).astype(int) for n, size in zip(grid, light.shape, strict=True))
    return np.asarray(light[np.ix_(rows, columns)])


def test_pointing_at_a_word_lights_where_the_model_looked(visit: Visit, photos: list[bytes]) -> None:
    answer = visit.caption(photos[3])
    assert visit.overlay() is None
    shown = []
    for index, word in enumerate(answer["words"]):
        visit.words.nth(index).hover()
        overlay = visit.overlay()
        assert overlay is not None
        alpha = np.asarray(word["alpha"])
        light = at_cells(overlay, alpha.shape)
        assert light.argmax() == alpha.argmax(), word["word"]
        assert np.corrcoef(light.flat, np.maximum(alpha, alpha.mean()).flat)[0, 1] > 0.95, word["word"]
        assert overlay["box"] == pytest.approx([0, 0, 1, 1], abs=0.01)
        assert f"{math.exp(word['log_prob']):.0%}" in str(visit.page.locator("#readout").text_content())
        shown.append(overlay["light"])
    assert all(a != b for a, b in itertools.pairwise(shown))
    visit.page.mouse.move(1, 1)
    assert visit.overlay() is None


def test_the_light_moves_from_word_to_word_and_comes_to_rest_at_the_same_place(
    visiting: Visiting, photos: list[bytes]
) -> None:
    still, moving = visiting(), visiting(reduced_motion="no-preference")
    for visit in (still, moving):
        visit.caption(photos[3])
        visit.words.nth(0).hover()
        visit.until(visit.overlay)
        visit.words.nth(1).hover()
    expected = still.overlay()
    moving.until(lambda: moving.overlay() == expected)


def test_the_overlay_lies_on_the_part_that_the_model_saw(visit: Visit, photos: list[bytes]) -> None:
    words = [{"word": "middle", "log_prob": -0.1, "alpha": [[0.0, 1.0], [0.0, 0.0]]}]
    visit.answer(an_answer("middle", words=words, attention_box=[0.25, 0.0, 0.75, 1.0]))
    visit.caption(photos[0])
    visit.words.first.hover()
    overlay = visit.overlay()
    assert overlay is not None
    assert overlay["box"] == pytest.approx([0.25, 0, 0.75, 1], abs=0.01)
    # 0.25 + 0.75 of the half that was seen is 0.625 of the photo, which is its middle third
    assert "at the upper middle" in str(visit.page.locator("#readout").text_content())


def test_attention_that_is_spread_evenly_leaves_the_photo_as_it_is(visit: Visit, photos: list[bytes]) -> None:
    words = [{"word": "all", "log_prob": -0.1, "alpha": [[0.25, 0.25], [0.25, 0.25]]}]
    visit.answer(an_answer("all", words=words, attention_box=[0, 0, 1, 1]))
    visit.caption(photos[0])
    visit.words.first.hover()
    overlay = visit.overlay()
    assert overlay is not None
    assert not np.any(overlay["light"])
    assert "all over the photo" in str(visit.page.locator("#readout").text_content())


def test_a_model_without_attention_is_not_asked_for_it_and_promises_nothing(visit: Visit, photos: list[bytes]) -> None:
    model = visit.page.request.get(f"{visit.address}v1/model").json()
    visit.page.route("**/v1/model", lambda route: route.fulfill(json={**model, "attention": False}))
    visit.page.reload()
    visit.caption(photos[0])
    assert "attention" not in visit.sent[0].url
    assert "looked" not in str(visit.page.locator("main").text_content())
    visit.words.first.hover()
    assert visit.overlay() is None
    assert re.search(r"a probability of \d+%\.$", str(visit.page.locator("#readout").text_content()))


# ---------------------------------------------------------------- what is said of it


def test_another_of_the_captions_found_may_be_chosen(visit: Visit, photos: list[bytes]) -> None:
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


def test_a_confidence_is_called_so_where_the_service_gives_one(visit: Visit, photos: list[bytes]) -> None:
    visit.answer(an_answer("a dog", confidence=0.83))
    visit.caption(photos[0])
    facts = str(visit.page.locator("#facts").text_content())
    assert "Confidence83%, fairly sure about 8 of 10 captions like this are good" in facts
    assert "Mean" not in facts


@pytest.mark.parametrize(
    ("confidence", "said"),
    [
        (1.0, "100%, very sure nearly all captions like this are good"),
        (0.5, "50%, rather sure about 5 of 10 captions like this are good"),
        (0.12, "12%, mostly guessing about 1 of 10 captions like this is good"),
        (0.001, "<1%, mostly guessing hardly any captions like this are good"),
        (0, "0%, mostly guessing hardly any captions like this are good"),
    ],
)
def test_a_confidence_is_said_in_words(visit: Visit, photos: list[bytes], confidence: float, said: str) -> None:
    visit.answer(an_answer("a dog", confidence=confidence))
    visit.caption(photos[0])
    assert f"Confidence{said}" in str(visit.page.locator("#facts").text_content())


def test_what_the_confidence_is_of_is_said_where_there_is_one(visit: Visit, photos: list[bytes]) -> None:
    visit.caption(photos[0])
    assert not visit.page.locator("#about-confidence").is_visible()
    model = visit.page.request.get(f"{visit.address}v1/model").json()
    event = "A reader would call it <b>right</b>."
    visit.page.route("**/v1/model", lambda route: route.fulfill(json={**model, "confidence": event}))
    visit.page.reload()
    visit.caption(photos[0])
    assert visit.page.locator("#about-confidence").inner_text().endswith(f": {event}")


def test_where_the_model_abstains_the_page_says_so_and_can_ask_all_the_same(visit: Visit, photos: list[bytes]) -> None:
    asked: list[str] = []
    visit.page.on("request", lambda request: "/v1/caption" in request.url and asked.append(request.url))
    visit.answer({"abstained": "The model abstains.", "confidence": 0.18, "timing_ms": {"total": 9.0}})
    visit.pick(photos[0], "photo.png")
    visit.wait_for("abstained")
    assert visit.said == ""
    assert visit.problem == (
        "The model is not sure enough of its caption to say it. "
        "Its confidence is 18%: about 2 of 10 captions like this are good."
    )
    assert visit.page.locator("#photo").get_attribute("alt") == "Your photo, without a caption"
    visit.page.wait_for_selector("#figure:not([hidden])")
    visit.answer_as_usual()
    visit.answer(an_answer("a dog", confidence=0.18))
    visit.page.get_by_role("button", name="Show its caption all the same").click()
    visit.wait_for("done")
    assert visit.said == "a dog"
    assert ["min_confidence=0" in url for url in asked] == [False, True]


def test_a_caption_that_was_asked_for_all_the_same_is_asked_for_until_it_comes(
    visit: Visit, photos: list[bytes]
) -> None:
    asked: list[str] = []
    visit.page.on("request", lambda request: "/v1/caption" in request.url and asked.append(request.url))
    visit.answer({"abstained": "The model abstains.", "confidence": 0.18, "timing_ms": {"total": 9.0}})
    visit.pick(photos[0], "photo.png")
    visit.wait_for("abstained")
    visit.answer({"error": "Too many photos are waiting; try again later."}, 429, **{"Retry-After": "0"})
    visit.page.get_by_role("button", name="Show its caption all the same").click()
    visit.wait_for("busy")
    visit.answer(an_answer("a dog"))
    visit.page.get_by_role("button", name="Try again", exact=True).click()
    visit.wait_for("done")
    assert ["min_confidence=0" in url for url in asked] == [False, True, True]


def test_a_photo_after_one_without_a_caption_is_asked_about_as_ever(visit: Visit, photos: list[bytes]) -> None:
    asked: list[str] = []
    visit.page.on("request", lambda request: "/v1/caption" in request.url and asked.append(request.url))
    visit.answer({"abstained": "The model abstains.", "confidence": 0, "timing_ms": {"total": 9.0}})
    visit.pick(photos[0], "photo.png")
    visit.wait_for("abstained")
    visit.answer(an_answer("a dog"))
    visit.caption(photos[1])
    assert visit.problem == ""
    assert not visit.page.get_by_role("button", name="Show its caption all the same").is_visible()
    assert "min_confidence" not in asked[-1]


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


def test_without_a_clipboard_as_on_plain_http_copying_works_all_the_same(visit: Visit, photos: list[bytes]) -> None:
    visit.context.grant_permissions(["clipboard-read"])
    visit.page.evaluate("() => void (navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed')))")
    visit.caption(photos[0])
    visit.page.get_by_role("button", name="Copy alt text").click()
    visit.page.get_by_text("Copied.").wait_for()
    assert visit.page.evaluate("navigator.clipboard.readText()") == visit.said
    assert visit.page.evaluate("document.activeElement.id") == "copy"


def test_a_caption_is_text_whatever_it_holds(visit: Visit, photos: list[bytes]) -> None:
    hostile = "<img src=x onerror=alert(1)> &amp; <script>document.title='x'</script>"
    visit.answer(an_answer(hostile, alternatives=[an_answer(hostile)]))
    visit.caption(photos[0])
    assert visit.said == hostile
    assert visit.page.locator("main img").count() == 1
    assert visit.page.title() == "Draft alt text to check"


@pytest.mark.parametrize("caption", ["", "二匹の犬が走る", "a dog, running", "naïve café"])
def test_words_stand_where_the_caption_has_them(visit: Visit, photos: list[bytes], caption: str) -> None:
    texts = {"二匹の犬が走る": ["二", "匹", "の", "犬", "が", "走る"], "a dog, running": ["a", "dog", ",", "running"]}
    words = [{"word": text, "log_prob": -0.5} for text in texts.get(caption, caption.split())]
    visit.answer(an_answer(caption, words=words))
    visit.caption(photos[0])
    assert visit.said == (caption or "(no words)")
    assert visit.words.all_text_contents() == [word["word"] for word in words]


def test_the_page_says_which_model_it_is_and_its_licence_and_leads_to_the_description(visit: Visit) -> None:
    about = visit.page.get_by_role("contentinfo")
    about.get_by_text("tiny").wait_for()
    assert "tiny (fp32, cpu). Licence: MIT." in str(about.text_content())
    visit.page.get_by_role("link", name="API").click()
    visit.page.wait_for_url("**/docs")
    assert visit.page.get_by_text("/v1/caption").first.is_visible()
    visit.page.go_back()


# ---------------------------------------------------------------- when it does not go well


def test_a_broken_file_is_answered_with_the_services_sentence(
    visit: Visit, photos: list[bytes], service: Serving
) -> None:
    broken = photos[0][: len(photos[0]) // 2]
    for wrong in (b"this is no photo", broken, b""):
        visit.caption(photos[1])
        visit.pick(wrong, "wrong.jpg")
        visit.wait_for("error")
        assert visit.problem == service.post(wrong).error
        assert not visit.said
        assert not visit.page.locator("#retry").is_visible()


def test_a_photo_that_is_too_large_is_not_even_sent(visit: Visit) -> None:
    visit.page.locator("#about-model").wait_for()
    visit.pick(bytes(1_000_001))
    visit.wait_for("error")
    assert visit.problem == "This photo has 1 MB, more than 1 MB; scale it down first."
    assert not visit.sent


def test_a_photo_too_large_for_a_service_that_did_not_say_so_is_answered_with_its_sentence(
    visit: Visit, service: Serving
) -> None:
    visit.page.route("**/v1/model", lambda route: route.abort())
    visit.page.reload()
    large = bytes(3_000_000)
    visit.pick(large)
    visit.wait_for("error")
    assert visit.problem == service.post(large).error


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again_when_it_said(visit: Visit, photos: list[bytes], status: int) -> None:
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


def test_a_service_that_cannot_be_reached_is_said_and_asked_again(visit: Visit, photos: list[bytes]) -> None:
    visit.context.set_offline(True)
    visit.pick(photos[1])
    visit.wait_for("offline")
    assert "cannot be reached" in visit.problem
    visit.context.set_offline(False)  # which the browser tells the page
    visit.wait_for("done")


def test_a_proxy_that_answers_in_its_own_words_is_no_riddle(visit: Visit, photos: list[bytes]) -> None:
    visit.page.route("**/v1/caption*", lambda route: route.fulfill(status=502, body="<html>Bad Gateway"))
    visit.pick(photos[1])
    visit.wait_for("error")
    assert visit.problem == "The service answered 502, and not why; try again later."


def test_cancelling_ends_the_request_so_that_nothing_is_captioned(
    visit: Visit, photos: list[bytes], service: Serving
) -> None:
    visit.page.locator("#about-model").wait_for()
    network = visit.context.new_cdp_session(visit.page)
    network.send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 100_000},
    )
    captioned = re.compile(rb"^caprun_photos_total\S* (\S+)$", re.MULTILINE)
    before = captioned.findall(service.get("/metrics").body)
    with visit.page.expect_event("requestfailed"):
        visit.pick(photos[1] + bytes(900_000))
        visit.wait_for("sending")
        visit.until(lambda: 0 < float(visit.page.locator("#progress").get_attribute("value") or 0) < 1)
        visit.page.get_by_role("button", name="Cancel").click()
    visit.wait_for("idle")
    assert visit.page.evaluate("document.activeElement.id") == "file"
    assert captioned.findall(service.get("/metrics").body) == before


def test_a_second_photo_replaces_one_that_is_still_on_its_way(visit: Visit, photos: list[bytes]) -> None:
    visit.leave_waiting()
    visit.pick(photos[0])
    visit.wait_for("sending")
    visit.until(lambda: visit.sent)
    visit.answer_as_usual()
    with visit.page.expect_event("requestfailed") as ended:
        second = visit.caption(photos[1])
    assert ended.value == visit.sent[0]
    assert visit.said == second["caption"]


def test_the_caption_of_a_photo_never_stands_under_another(visit: Visit, photos: list[bytes]) -> None:
    first = visit.caption(photos[0])
    visit.words.first.hover()
    visit.leave_waiting()
    visit.pick(photos[1])
    visit.page.wait_for_selector("#figure:not([hidden])")
    assert visit.said == ""
    assert visit.page.locator("#photo").get_attribute("alt") == "Your photo, not captioned yet"
    assert first["caption"] not in str(visit.page.locator("main").text_content())
    assert visit.overlay() is None
