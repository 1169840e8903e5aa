"""Opens photos one after another in this process, and prints the result and the cost of each.

    python -m tests.caprun.photos.support.hostile_run small | bombs | together

prints a line of JSON per photo: its name, the error (null if it was read), CPU seconds, and the peak memory in bytes
above the memory that the process used at its start. It runs in its own process, so that crashes and memory that is not
returned are noticed. Another line, before it, names the photo that is about to be opened.
"""

import gc
import json
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from caprun.errors import ImageError
from caprun.photos.preprocessing import ImageSpec, load
from tests.caprun.photos.support.hostile import photos
from tests.caprun.photos.support.hostile_bombs import (
    HIGH,
    WIDE,
    bombs,
    flat_jpeg,
    flat_png,
    segment,
    turned_exif,
)

SPEC = ImageSpec(260, 260, "squash", "bicubic", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
# imported at the start, so that their memory is not attributed to a photo
PLUGINS = (AvifImagePlugin, BmpImagePlugin, GifImagePlugin, ImageCms, JpegImagePlugin, PngImagePlugin, WebPImagePlugin)


def main(which: str) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (240, 240))
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    load(Image.new("RGB", (300, 200)), SPEC)
    with tempfile.TemporaryDirectory() as folder:
        if which == "together":
            _run([("two at once", lambda: _together(Path(folder)))])
            return
        made: Iterable[tuple[str, Callable[[], bytes]]]
        made = bombs() if which == "bombs" else ((name, lambda data=data: data) for name, data in photos())  # type: ignore[misc]
        path = Path(folder) / "photo"
        _run((name, _opening(path, make)) for name, make in made)


def _opening(path: Path, make: Callable[[], bytes]) -> Callable[[], object]:
    path.write_bytes(make())
    return lambda: load(path, SPEC)


def _together(folder: Path) -> None:
    """Opens photos of 50 megapixels in four threads; each is in memory twice while it is turned or made opaque."""
    turned = segment(0xE1, b"Exif\0\0" + turned_exif(6))
    jpeg, png = folder / "a.jpg", folder / "b.png"
    jpeg.write_bytes(flat_jpeg(WIDE, HIGH, 0xC0, 3, turned))
    png.write_bytes(flat_png(WIDE, HIGH, 8, 6))
    threads = [threading.Thread(target=load, args=(path, SPEC)) for path in (jpeg, png, jpeg, png)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _run(cases: Iterable[tuple[str, Callable[[], object]]]) -> None:
    start = _memory("VmRSS")
    for name, work in cases:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        print(json.dumps({"begun": name}), flush=True)
        began, wrong = time.process_time(), None
        try:
            work()
        except ImageError as error:
            wrong = str(error)
        took = time.process_time() - began
        print(
            json.dumps({"name": name, "wrong": wrong, "seconds": took, "bytes": _memory("VmHWM") - start}), flush=True
        )


def _memory(what: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1])
