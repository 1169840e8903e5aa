"""The page in a real Chromium: how it takes photos, displays them and shows where the model looked."""

import io
import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageChops

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from caprun import Captioner
from caprun.photos.reading import open_photo
from tests.caprun.photos.support.encoding import encode
from tests.caprun.server.support.browser import Visit, an_answer
from tests.caprun.server.support.serving import Serving

pytestmark = pytest.mark.slow

Visiting = Callable[..., Visit]


# ---------------------------------------------------------------- taking and showing photos


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
    )  # otherwise the same file could not be picked again


def test_the_camera_takes_a_photo_and_is_released(visit: Visit) -> None:
    visit.page.get_by_role("button", name="Use the camera").click()
    visit.page.get_by_role("dialog").get_by_role("button", name="Take the photo").click()
    visit.wait_for("done")
    assert visit.sent[0].post_data_buffer.startswith(b"\xff\xd8\xff")
    assert visit.page.evaluate("document.getElementById('viewfinder').srcObject") is None
    assert visit.page.get_by_role("dialog").count() == 0


def test_closing_the_camera_without_a_photo_changes_nothing(visit: Visit, photos: list[bytes]) -> None:
    visit.caption(photos[0])
    said = visit.said
    visit.page.get_by_role("button", name="Use the camera").click()
    visit.page.get_by_role("dialog").wait_for()
    visit.page.keyboard.press("Escape")
    visit.page.get_by_role("dialog").wait_for(state="hidden")
    assert visit.said == said
    assert len(visit.sent) == 1


def test_the_camera_button_is_hidden_if_the_page_has_no_camera_access(visiting: Visiting) -> None:
    visit = visiting()
    visit.context.add_init_script("Object.defineProperty(navigator, 'mediaDevices', {value: undefined})")
    visit.page.reload()
    assert not visit.page.get_by_text("Use the camera").locator("visible=true").count()


def test_the_page_is_marked_while_a_file_is_dragged_over_it(visit: Visit) -> None:
    drag = """(kind) => {
        const files = new DataTransfer();
        files.items.add(new File(["x"], "x.png"));
        document.querySelector("h1").dispatchEvent(new DragEvent(kind, {bubbles: true, dataTransfer: files}));
        return document.body.classList.contains("dragging");
    }"""
    assert visit.page.evaluate(drag, "dragenter")
    assert not visit.page.evaluate(drag, "dragleave")


def test_pasting_without_a_photo_is_reported_and_keeps_the_caption(visit: Visit, photos: list[bytes]) -> None:
    visit.caption(photos[0])
    visit.page.evaluate(
        "document.body.dispatchEvent(new ClipboardEvent('paste', {bubbles: true, clipboardData: new DataTransfer()}))"
    )
    assert "no photo on the clipboard" in str(visit.page.locator("#remark").text_content())
    assert visit.said


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_photo_is_shown_in_the_orientation_that_the_model_sees(visit: Visit, kind: str) -> None:
    corners = Image.new("RGB", (2, 3))
    corners.putdata([(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (30, 200, 200), (200, 30, 200)])
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = corners.resize((64, 96), Image.Resampling.NEAREST)
        photo = encode(stored, kind, exif=exif, **({"quality": 95} if kind != "PNG" else {}))
        visit.caption(photo)
        seen, expected = visit.shown_photo().convert("RGB"), open_photo(photo)
        assert seen.size == expected.size, orientation
        difference = ImageChops.difference(seen.resize((16, 16)), expected.resize((16, 16)))
        assert np.asarray(difference).mean() < 4, orientation


def test_transparent_pixels_are_shown_white(visit: Visit) -> None:
    visit.caption(encode(Image.new("RGBA", (40, 30), (0, 0, 0, 0)), "PNG"))
    painted = Image.open(io.BytesIO(visit.page.locator("#photo").screenshot())).convert("RGB")
    assert painted.getpixel((painted.width // 2, painted.height // 2)) == (255, 255, 255)


# ---------------------------------------------------------------- where the model looked


def at_cells(overlay: dict[str, Any], grid: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Returns the brightness of the overlay in the middle of each cell of the grid."""
    light = np.asarray(overlay["light"], float)
    rows, columns = (((np.arange(n) + 0.5) * size / n).astype(int) for n, size in zip(grid, light.shape, strict=True))
    return np.asarray(light[np.ix_(rows, columns)])


def test_pointing_at_a_word_shows_where_the_model_looked(visit: Visit, photos: list[bytes]) -> None:
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


def test_the_overlay_ends_the_same_with_and_without_reduced_motion(visiting: Visiting, photos: list[bytes]) -> None:
    still, moving = visiting(), visiting(reduced_motion="no-preference")
    for visit in (still, moving):
        visit.caption(photos[3])
        visit.words.nth(0).hover()
        visit.until(visit.overlay)
        visit.words.nth(1).hover()
    expected = still.overlay()
    moving.until(lambda: moving.overlay() == expected)


def looked_at(visit: Visit, photo: bytes, alpha: list[list[float]], box: list[float]) -> tuple[dict[str, Any], str]:
    """Points at a word with this attention; returns the overlay and the text that the page shows for the word."""
    visit.answer(an_answer("all", words=[{"word": "all", "log_prob": -0.1, "alpha": alpha}], attention_box=box))
    visit.caption(photo)
    visit.words.first.hover()
    overlay = visit.overlay()
    assert overlay is not None
    return overlay, str(visit.page.locator("#readout").text_content())


def test_the_overlay_covers_only_the_part_that_the_model_saw(visit: Visit, photos: list[bytes]) -> None:
    overlay, said = looked_at(visit, photos[0], [[0.0, 1.0], [0.0, 0.0]], [0.25, 0.0, 0.75, 1.0])
    assert overlay["box"] == pytest.approx([0.25, 0, 0.75, 1], abs=0.01)
    # 0.25 + 0.75 of the half that the model saw is 0.625 of the photo, in its middle third
    assert "at the upper middle" in said


def test_evenly_spread_attention_leaves_the_photo_unchanged(visit: Visit, photos: list[bytes]) -> None:
    overlay, said = looked_at(visit, photos[0], [[0.25, 0.25], [0.25, 0.25]], [0.0, 0.0, 1.0, 1.0])
    assert not np.any(overlay["light"])
    assert "all over the photo" in said


def test_attention_is_not_requested_or_mentioned_if_the_model_has_none(visit: Visit, photos: list[bytes]) -> None:
    model = visit.page.request.get(f"{visit.address}v1/model").json()
    visit.page.route("**/v1/model", lambda route: route.fulfill(json={**model, "attention": False}))
    visit.page.reload()
    visit.caption(photos[0])
    assert "attention" not in visit.sent[0].url
    assert "looked" not in str(visit.page.locator("main").text_content())
    visit.words.first.hover()
    assert visit.overlay() is None
    assert re.search(r"a probability of \d+%\.$", str(visit.page.locator("#readout").text_content()))


# ---------------------------------------------------------------- several photos


def test_cancelling_ends_the_request_before_the_photo_is_captioned(
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


def test_a_second_photo_cancels_the_pending_request_of_the_first(visit: Visit, photos: list[bytes]) -> None:
    visit.leave_waiting()
    visit.pick(photos[0])
    visit.wait_for("sending")
    visit.until(lambda: visit.sent)
    visit.answer_as_usual()
    with visit.page.expect_event("requestfailed") as ended:
        second = visit.caption(photos[1])
    assert ended.value == visit.sent[0]
    assert visit.said == second["caption"]


def test_a_new_photo_clears_the_caption_of_the_previous_one(visit: Visit, photos: list[bytes]) -> None:
    first = visit.caption(photos[0])
    visit.words.first.hover()
    visit.leave_waiting()
    visit.pick(photos[1])
    visit.page.wait_for_selector("#figure:not([hidden])")
    assert visit.said == ""
    assert visit.page.locator("#photo").get_attribute("alt") == "Your photo, not captioned yet"
    assert first["caption"] not in str(visit.page.locator("main").text_content())
    assert visit.overlay() is None
