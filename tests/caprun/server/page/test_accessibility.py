"""Accessibility of the page: keyboard, screen readers, touch, small screens, light and dark."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from tests.caprun.photos.support.encoding import encode
from tests.caprun.server.support.browser import Visit, visits
from tests.caprun.server.support.serving import Serving

pytestmark = pytest.mark.slow

Visiting = Callable[..., Visit]

PHONE = {"viewport": {"width": 320, "height": 640}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
STATES = ("idle", "sending", "done", "abstained", "error", "busy", "offline")


@pytest.fixture
def visiting(browser: Any, service: Serving) -> Iterator[Visiting]:
    def visit(**window: Any) -> Visit:
        opened = opening(**window)
        opened.page.locator("#about-model").wait_for()
        return opened

    with visits(browser, service.port) as opening:
        yield visit


@pytest.fixture(scope="session")
def photo(images: npt.NDArray[np.uint8]) -> bytes:
    """A photo that the tiny model captions with more than one word."""
    return encode(Image.fromarray(images[2]).resize((90, 60)), "PNG")


def bring_to(visit: Visit, state: str, photo: bytes) -> None:
    if state == "sending":
        visit.leave_waiting()
    if state == "abstained":
        visit.answer({"abstained": "The model abstains.", "confidence": 0.18})
    if state == "busy":
        visit.answer({"error": "Too many photos are waiting; try again later."}, 429, **{"Retry-After": "60"})
    if state == "offline":
        visit.context.set_offline(True)
    if state != "idle":
        visit.pick(b"no photo" if state == "error" else photo)
    visit.wait_for(state)
    if state in ("sending", "done", "busy"):
        visit.page.wait_for_selector("#figure:not([hidden])")


def focused(visit: Visit) -> str:
    """Returns the text of the focused element, or its id if it has no text."""
    return str(visit.page.evaluate("() => document.activeElement.textContent || document.activeElement.id"))


# ---------------------------------------------------------------- keyboard


def test_tab_follows_the_reading_order(visit: Visit, photo: bytes) -> None:
    visit.caption(photo)
    visit.page.evaluate("() => document.activeElement.blur()")
    order = []
    for _ in range(7):
        visit.page.keyboard.press("Tab")
        order.append(focused(visit))
    first = str(visit.words.first.text_content())
    assert order == ["API", "file", "Use the camera", first, "Copy alt text", "Copy as HTML", ""]
    assert visit.page.evaluate("() => document.activeElement.type") == "radio"


def test_arrow_keys_move_between_words_and_show_where_the_model_looked(visit: Visit, photo: bytes) -> None:
    answer = visit.caption(photo)
    words = [word["word"] for word in answer["words"]]
    assert visit.page.locator("#caption [tabindex='0']").count() == 1
    visit.words.first.focus()
    first = visit.overlay()
    assert first is not None
    went = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End", "ArrowRight", "Home", "ArrowLeft"):
        visit.page.keyboard.press(key)
        went.append(focused(visit))
        assert visit.overlay() is not None
    assert went == [words[i] for i in (1, 2, 1, -1, -1, 0, 0)]
    visit.page.keyboard.press("ArrowRight")
    assert visit.overlay() != first
    assert visit.words.nth(1).get_attribute("tabindex") == "0"
    assert visit.page.locator("#caption [tabindex='0']").count() == 1


def test_escape_and_leaving_the_words_clear_the_overlay(visit: Visit, photo: bytes) -> None:
    visit.caption(photo)
    visit.words.first.focus()
    assert visit.overlay() is not None
    visit.page.keyboard.press("Escape")
    assert visit.overlay() is None
    visit.page.keyboard.press("ArrowRight")
    assert visit.overlay() is not None
    visit.page.keyboard.press("Tab")
    assert visit.overlay() is None


def test_the_overlay_of_the_focused_word_returns_when_the_pointer_leaves(visit: Visit, photo: bytes) -> None:
    visit.caption(photo)
    visit.words.nth(0).focus()
    at_focus = visit.overlay()
    visit.words.nth(1).hover()
    assert visit.overlay() != at_focus
    visit.page.mouse.move(1, 1)
    assert visit.overlay() == at_focus


def test_arrow_keys_follow_the_screen_in_right_to_left_captions(visit: Visit, photo: bytes) -> None:
    words = [{"word": word, "log_prob": -0.5} for word in ("كلب", "يجري", "سريعا")]
    visit.answer({"caption": "كلب يجري سريعا", "log_prob": -1, "finished": True, "words": words, "timing_ms": {}})
    visit.caption(photo)
    boxes = [visit.words.nth(i).bounding_box() for i in range(3)]
    assert boxes[0]["x"] > boxes[1]["x"] > boxes[2]["x"]
    visit.words.first.focus()
    visit.page.keyboard.press("ArrowLeft")
    assert focused(visit) == "يجري"
    visit.page.keyboard.press("ArrowRight")
    assert focused(visit) == "كلب"


def test_a_keyboard_can_pick_cancel_and_try_again(visit: Visit, photo: bytes) -> None:
    visit.page.locator("#file").focus()
    visit.leave_waiting()
    visit.page.keyboard.press("Enter")
    visit.until(lambda: visit.choosers)[0].set_files({"name": "photo.png", "mimeType": "image/png", "buffer": photo})
    visit.wait_for("sending")
    visit.page.keyboard.press("Escape")
    visit.wait_for("idle")
    visit.answer({"error": "Too many photos are waiting; try again later."}, 429, **{"Retry-After": "1"})
    visit.pick(photo)
    again = visit.page.get_by_role("button", name="Try again", exact=True)
    again.wait_for()
    visit.answer_as_usual()
    again.press("Enter")
    visit.wait_for("done")
    # the button is gone, and Tab goes to the caption, not to the top of the page
    visit.page.keyboard.press("Tab")
    assert focused(visit) == visit.words.first.text_content()


def test_focused_elements_have_a_visible_outline(visit: Visit, photo: bytes) -> None:
    visit.caption(photo)
    visit.page.evaluate("() => document.activeElement.blur()")
    for _ in range(7):
        visit.page.keyboard.press("Tab")
        outline = visit.page.evaluate(
            """() => {
                const one = document.activeElement;
                const seen = one.matches(".file input") ? one.nextElementSibling : one;
                const {outlineStyle, outlineWidth} = getComputedStyle(seen);
                return [outlineStyle, parseFloat(outlineWidth)];
            }"""
        )
        assert outline[0] == "solid", focused(visit)
        assert outline[1] >= 2, focused(visit)


# ---------------------------------------------------------------- screen readers


def test_a_caption_is_announced_and_is_the_photos_alternative_text(visit: Visit, photo: bytes) -> None:
    answer = visit.caption(photo)
    assert visit.page.locator("#status").text_content() == f"Caption: {answer['caption']}"
    assert visit.page.locator("#status").get_attribute("role") == "status"
    assert visit.page.get_by_role("img", name=answer["caption"], exact=True).count() == 1


def test_an_error_is_announced_as_an_alert(visit: Visit, photo: bytes) -> None:
    visit.pick(b"no photo")
    visit.wait_for("error")
    assert "JPEG" in str(visit.page.get_by_role("alert").text_content())


def test_a_words_label_has_its_probability_and_where_the_model_looked(visit: Visit, photo: bytes) -> None:
    words = [
        {"word": "dog", "log_prob": -0.6931, "alpha": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]},
        {"word": "grass", "log_prob": -9.0, "alpha": [[1 / 9] * 3] * 3},
        {"word": "runs", "log_prob": -0.1, "alpha": [[0.15, 0.09, 0.09]] * 3},
    ]
    visit.answer({"caption": "dog grass runs", "log_prob": -1, "finished": True, "words": words, "timing_ms": {}})
    visit.caption(photo)
    line = visit.page.get_by_role("toolbar", name="Caption")
    assert [line.get_by_role("button").nth(i).get_attribute("aria-label") for i in range(3)] == [
        "dog, 50%, looked at the lower right",
        "grass, <1%, looked all over the photo",
        "runs, 90%, looked all over the photo, a little more at the left",
    ]


def test_the_page_has_landmarks_labels_and_languages(visit: Visit, photo: bytes) -> None:
    visit.caption(photo)
    for landmark in ("banner", "main", "contentinfo", "navigation"):
        assert visit.page.get_by_role(landmark).count() == 1, landmark
    assert visit.page.get_by_role("heading", level=1).text_content() == " Draft alt text to check"
    assert visit.page.get_by_label("Choose a photo", exact=True).and_(visit.page.locator("input")).count() == 1
    assert visit.page.get_by_role("group", name="Captions, best first").get_by_role("radio").count() > 1
    assert visit.page.locator("html").get_attribute("lang") == "en"
    # the language of a caption is unknown, and is not the language of the page around it
    assert visit.page.locator("#caption").get_attribute("lang") == ""
    assert visit.page.locator("#caption").get_attribute("dir") == "auto"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES)
def test_axe_finds_no_violations(visiting: Visiting, photo: bytes, state: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    visit = visiting(color_scheme=scheme)
    bring_to(visit, state, photo)
    found = axe.Axe().run(visit.page).response["violations"]
    assert not [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
    if state == "done":
        visit.words.first.focus()
        assert not axe.Axe().run(visit.page).response["violations"]


# ---------------------------------------------------------------- preferences


def test_the_page_follows_the_preferred_color_scheme(visiting: Visiting) -> None:
    brightness = {}
    for scheme in ("light", "dark"):
        page = visiting(color_scheme=scheme).page
        brightness[scheme] = page.evaluate(
            "() => getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).map(Number)"
        )
    assert min(brightness["light"]) > 230
    assert max(brightness["dark"]) < 40


def test_the_overlay_has_no_transition_if_reduced_motion_is_preferred(visiting: Visiting) -> None:
    moving = "() => [getComputedStyle(document.getElementById('attention')).transitionDuration]"
    assert visiting(reduced_motion="reduce").page.evaluate(moving) == ["0s"]
    assert visiting(reduced_motion="no-preference").page.evaluate(moving) != ["0s"]


# ---------------------------------------------------------------- phones


@pytest.mark.parametrize("state", STATES)
def test_a_narrow_screen_never_scrolls_sideways(visiting: Visiting, photo: bytes, state: str) -> None:
    visit = visiting(**PHONE)
    bring_to(visit, state, photo)
    width = "() => [document.documentElement.scrollWidth, innerWidth]"
    assert visit.page.evaluate(width) == [320, 320]


def test_a_word_longer_than_the_screen_does_not_widen_the_page(visiting: Visiting, photo: bytes) -> None:
    visit = visiting(**PHONE)
    long = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
    words = [{"word": long, "log_prob": -0.5}]
    visit.answer({"caption": long, "log_prob": -1, "finished": True, "words": words, "timing_ms": {}})
    visit.caption(photo)
    assert visit.page.evaluate("() => document.documentElement.scrollWidth") == 320


def test_a_tap_on_a_word_shows_the_overlay_and_one_on_the_photo_clears_it(visiting: Visiting, photo: bytes) -> None:
    visit = visiting(**PHONE)
    visit.caption(photo)
    assert "Tap a word" in str(visit.page.locator("#readout").text_content())
    visit.words.nth(0).tap()
    first = visit.until(visit.overlay)
    visit.words.nth(1).tap()
    assert visit.until(visit.overlay) != first
    visit.page.locator("#photo").tap()
    assert visit.overlay() is None


def test_targets_are_large_enough_for_a_finger(visiting: Visiting, photo: bytes) -> None:
    visit = visiting(**PHONE)
    visit.caption(photo)
    for target in visit.page.locator("button, .button, a, #choice-list label").all():
        if target.is_visible():
            box = target.bounding_box()
            assert min(box["width"], box["height"]) >= 24, target.text_content()


def test_a_phone_without_camera_access_takes_photos_with_its_own_app(visiting: Visiting, photo: bytes) -> None:
    visit = visiting(**PHONE)
    visit.context.add_init_script("Object.defineProperty(navigator, 'mediaDevices', {value: undefined})")
    visit.page.reload()
    visit.page.get_by_text("Use the camera").locator("visible=true").tap()
    (chooser,) = visit.until(lambda: visit.choosers)
    assert chooser.element.get_attribute("capture") == "environment"
    chooser.set_files({"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": photo})
    visit.wait_for("done")
