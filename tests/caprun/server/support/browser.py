"""Starts Chromium and opens the page; a visit fails on script errors and on requests to other hosts."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from tests.caprun.server.support.serving import LONG, until

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Starts the Chromium of this machine; skips the test if there is none."""
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """The page in its own window.

    Args:
        browser: A browser from `chromium`.
        address: The URL of the service.
        window: Arguments of `browser.new_context`. Motion is reduced by default, so that tests need not wait for it.
    """

    def __init__(self, browser: Any, address: str, **window: Any) -> None:
        self.context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **window}
        )
        self.context.set_default_timeout(1000 * LONG)
        self.page = self.context.new_page()
        self.address = address
        self.sent: list[Any] = []
        """Requests for captions."""
        self.choosers: list[Any] = []
        """File dialogs that the page has opened."""
        self._wrong: list[str] = []
        self._how: Callable[[Any], None] | None = None
        self.page.on("pageerror", lambda error: self._wrong.append(f"script: {error}"))
        self.page.on("console", self._listen)
        self.page.on("request", self._watch)
        self.page.on("filechooser", lambda chooser: self.choosers.append(chooser))
        self.page.goto(address)

    def _listen(self, message: Any) -> None:
        # errors of HTTP responses, which tests check on the page, and a hint about how tests read a canvas
        known = ("Failed to load resource", "willReadFrequently")
        if message.type in ("error", "warning") and not any(text in message.text for text in known):
            self._wrong.append(f"console: {message.text}")

    def _watch(self, request: Any) -> None:
        if "/v1/caption" in request.url:
            self.sent.append(request)
        if not request.url.startswith(("blob:", self.address)):
            self._wrong.append(f"asks elsewhere: {request.url}")

    def close(self) -> None:
        """Closes the window; fails if a script failed, the policy was violated or another host was contacted."""
        self.context.close()
        assert not self._wrong, self._wrong

    # ------------------------------------------------------------ user actions

    def pick(self, photo: bytes, name: str = "photo.png") -> None:
        self.page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": photo})

    def drop(self, photo: bytes, name: str = "photo.png") -> None:
        self._hand_over("drop", photo, name)

    def paste(self, photo: bytes, name: str = "image.png") -> None:
        self._hand_over("paste", photo, name)

    def _hand_over(self, event: str, photo: bytes, name: str) -> None:
        self.page.evaluate(
            """([event, bytes, name]) => {
                const files = new DataTransfer();
                files.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
                const common = {bubbles: true, cancelable: true};
                document.body.dispatchEvent(
                    event === "drop"
                        ? new DragEvent("drop", {...common, dataTransfer: files})
                        : new ClipboardEvent("paste", {...common, clipboardData: files}));
            }""",
            [event, list(photo), name],
        )

    def caption(self, photo: bytes) -> dict[str, Any]:
        """Picks a photo and waits for its caption; returns the response of the service."""
        with self.page.expect_response("**/v1/caption*") as waiting:
            self.pick(photo)
        self.wait_for("done")
        return dict(waiting.value.json())

    # ------------------------------------------------------------ what the page shows

    def wait_for(self, state: str) -> None:
        self.page.wait_for_selector(f'body[data-state="{state}"]')

    def until(self, condition: Callable[[], Any]) -> Any:
        """Waits until a condition holds and returns its value; events of the page arrive only while it waits."""
        return until(lambda: condition() or self.page.wait_for_timeout(20))

    @property
    def words(self) -> Any:
        return self.page.locator("#caption .word")

    @property
    def said(self) -> str:
        """The caption that the page shows; empty if it shows none."""
        line = self.page.locator("#caption")
        return str(line.text_content()) if line.is_visible() else ""

    @property
    def problem(self) -> str:
        return str(self.page.locator("[role=alert]").text_content())

    def overlay(self) -> dict[str, Any] | None:
        """Returns the overlay's brightness, (rows, columns) from 0 to 255, and its box; None if it is not visible."""
        seen = self.page.evaluate(
            """() => {
                const canvas = document.getElementById("attention");
                if (Number(getComputedStyle(canvas).opacity) < 0.99) return null;
                const {width, height} = canvas;
                const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
                const box = canvas.getBoundingClientRect();
                const photo = document.getElementById("photo").getBoundingClientRect();
                return {
                    light: Array.from({length: height}, (_, y) => Array.from({length: width}, (_, x) => {
                        const [red, , , opacity] = data.slice(4 * (y * width + x));
                        return red ? opacity : -opacity;
                    })),
                    box: [(box.left - photo.left) / photo.width, (box.top - photo.top) / photo.height,
                          (box.right - photo.left) / photo.width, (box.bottom - photo.top) / photo.height],
                };
            }"""
        )
        return dict(seen) if seen else None

    def shown_photo(self) -> Image.Image:
        """Returns the photo as the browser draws it, at its natural size."""
        self.page.wait_for_selector("#figure:not([hidden])")
        data = self.page.evaluate(
            """() => {
                const photo = document.getElementById("photo");
                const canvas = document.createElement("canvas");
                [canvas.width, canvas.height] = [photo.naturalWidth, photo.naturalHeight];
                const pen = canvas.getContext("2d");
                pen.drawImage(photo, 0, 0);
                return [canvas.width, canvas.height, [...pen.getImageData(0, 0, canvas.width, canvas.height).data]];
            }"""
        )
        return Image.frombytes("RGBA", (data[0], data[1]), bytes(data[2]))

    # ------------------------------------------------------------ responses of the service

    def answer(self, body: object, status: int = 200, **headers: str) -> None:
        """Makes the service answer requests for captions with this response."""
        text = json.dumps(body, ensure_ascii=False)
        kind = {"Content-Type": "application/json; charset=utf-8"}
        self._reply(lambda route: route.fulfill(status=status, headers={**kind, **headers}, body=text))

    def leave_waiting(self) -> None:
        """Leaves requests for captions unanswered."""
        self._reply(lambda route: None)

    def answer_as_usual(self) -> None:
        """Lets the service answer new requests again; earlier ones stay unanswered."""
        self._reply(lambda route: route.continue_())

    def _reply(self, how: Callable[[Any], None]) -> None:
        if self._how is None:  # not before it is needed, because a route changes the timing of events
            self.page.route("**/v1/caption*", lambda route: self._how and self._how(route))
        self._how = how


def an_answer(caption: str, **more: Any) -> dict[str, Any]:
    """Returns a response of the service with a caption."""
    words = [{"word": word, "log_prob": -0.5} for word in caption.split()]
    timing = {"receive": 1.0, "decode": 2.0, "queue": 3.0, "caption": 4.0, "total": 10.0}
    return {"caption": caption, "log_prob": -1.0, "finished": True, "words": words, "timing_ms": timing, **more}


@contextlib.contextmanager
def visits(browser: Any, port: int) -> Iterator[Callable[..., Visit]]:
    """Yields a function that opens the page in a new window; closes all windows at the end."""
    opened: list[Visit] = []

    def visit(**window: Any) -> Visit:
        opened.append(Visit(browser, f"http://127.0.0.1:{port}/", **window))
        return opened[-1]

    try:
        yield visit
    finally:
        for one in opened:
            one.close()
