"""No photo crashes the process, takes more than 5 seconds of CPU time, or uses more than 600 MB."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from caprun import Caption, Captioner, ImageError
from caprun.photos.extensions import EXTENSIONS, is_installed
from caprun.photos.reading import open_photo
from tests.caprun.photos.support.encoding import encode
from tests.caprun.photos.support.hostile import photos, picture
from tests.caprun.photos.support.hostile_bombs import bombs
from tests.caprun.photos.support.hostile_places import no_files, odd_names

ROOT = Path(__file__).parents[3]
MODES = [*"1LPIF", "PA", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I;16", "I;16B"]
MOST_SECONDS, MOST_BYTES = 5, 600_000_000


def run(which: str) -> list[dict[str, object]]:
    """Returns the line that `hostile_run` prints for each photo; if it dies, the failure names the photo begun last."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.caprun.photos.support.hostile_run", which],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"died after {lines[-1:]}: {done.stderr[-2000:]}"
    return [line for line in lines if "name" in line]


def test_there_are_at_least_500_files_with_unique_names() -> None:
    names = [name for name, _ in (*photos(), *bombs())]
    assert len(names) >= 500
    assert len(set(names)) == len(names)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the most memory of a moment is only told by Linux")
class TestCosts:
    @pytest.mark.parametrize("which", ["small", "bombs"])
    def test_each_photo_is_read_or_refused_within_the_time_and_memory_limits(self, which: str) -> None:
        found = run(which)
        assert len(found) == len(list(photos() if which == "small" else bombs()))
        assert [entry for entry in found if entry["seconds"] > MOST_SECONDS or entry["bytes"] > MOST_BYTES] == []  # type: ignore[operator]
        for entry in found:
            wrong = entry["wrong"]
            assert wrong is None or ("; " in str(wrong) and "\n" not in str(wrong)), entry

    def test_fifty_megapixel_photos_opened_at_once_stay_within_the_memory_limit(self) -> None:
        (both,) = run("together")
        assert both["bytes"] < MOST_BYTES  # type: ignore[operator]


def test_caption_many_gives_the_same_captions_and_errors_as_caption(captioner: Captioner) -> None:
    data = [data for _, data in photos()]
    together = list(captioner.caption_many(data, batch_size=16, decoders=2))
    for (name, photo), other in zip(photos(), together, strict=True):
        try:
            alone: Caption | ImageError = captioner.caption(photo)
        except ImageError as error:
            alone = error
        assert str(alone) == str(other) if isinstance(alone, ImageError) else alone.text == other.text, name  # type: ignore[union-attr]


def test_errors_hold_no_tracebacks_that_would_keep_photos_in_memory(captioner: Captioner) -> None:
    cut = encode(picture(), "PNG")[:-40]
    (error,) = captioner.caption_many([cut])
    assert isinstance(error, ImageError)
    link: BaseException | None = error
    while link is not None:
        assert link.__traceback__ is None
        link = link.__cause__ or link.__context__


class TestPlaces:
    def test_broken_links_fifos_sockets_and_devices_are_refused_at_once(self, tmp_path: Path) -> None:
        for path in no_files(tmp_path):
            odd = any(word in path.name for word in ("pipe", "socket", "zero", "random"))
            with pytest.raises(ImageError, match="is not a regular file; " if odd else "; "):
                open_photo(path)

    def test_a_photo_can_have_any_name(self, tmp_path: Path) -> None:
        paths = odd_names(tmp_path)
        assert len(paths) > 10
        for path in paths:
            assert open_photo(os.fsdecode(path)).size == picture().size

    def test_a_folder_of_hostile_files_gives_one_row_per_file(self, tmp_path: Path, tiny: Path) -> None:
        folder = tmp_path / "photos"
        folder.mkdir()
        sound = {os.fsdecode(path) for path in odd_names(folder)}
        expected = sound | {str(path) for path in no_files(folder)}
        (folder / "folder.jpg").mkdir()  # not a photo; searched only with --recursive
        for name, data in list(photos())[::4]:
            (folder / name).write_bytes(data)
            extension = Path(name).suffix
            if extension in EXTENSIONS and is_installed(EXTENSIONS[extension]):
                expected.add(str(folder / name))
        rows = tmp_path / "rows.jsonl"
        command = [sys.executable, "-m", "caprun", str(folder), "--model", str(tiny), "--output", str(rows)]
        done = subprocess.run([*command, "--device", "cpu"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        assert done.returncode == 1, done.stderr
        assert b"Traceback" not in done.stderr
        found = [json.loads(line) for line in rows.read_text(encoding="utf-8", errors="surrogatepass").splitlines()]
        found = [row for row in found if "image" in row]
        assert {row["image"] for row in found} == expected
        assert len(found) == len(expected)
        assert all(("caption" in row) != ("error" in row) for row in found)
        assert all("caption" in row for row in found if row["image"] in sound)


class TestFilesThatChange:
    """A file is read with the size that it had when it was opened; bytes removed since then are missing."""

    def changed(self, path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
        original = os.fstat

        def fstat(file: int) -> os.stat_result:
            info = original(file)
            change()
            return info

        monkeypatch.setattr(os, "fstat", fstat)

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "photo.png"
        path.write_bytes(encode(picture(), "PNG"))
        return path

    def test_a_file_that_shrinks_is_refused_as_damaged(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.changed(path, monkeypatch, lambda: os.truncate(path, 200))
        with pytest.raises(ImageError, match="damaged or incomplete"):
            open_photo(path)

    def test_a_file_that_is_emptied_is_refused_as_empty(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.changed(path, monkeypatch, lambda: os.truncate(path, 0))
        with pytest.raises(ImageError, match="is empty"):
            open_photo(path)

    def test_a_file_that_grows_is_still_read(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def grow() -> None:
            with path.open("ab") as file:
                file.write(bytes(1000))

        self.changed(path, monkeypatch, grow)
        assert open_photo(path).size == picture().size

    def test_a_file_that_is_deleted_after_opening_is_still_read(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.changed(path, monkeypatch, lambda: path.unlink(missing_ok=True))
        assert open_photo(path).size == picture().size

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
    def test_a_file_that_becomes_a_fifo_is_refused_without_blocking(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        info = path.stat()
        path.unlink()
        os.mkfifo(path)
        monkeypatch.setattr(Path, "stat", lambda *_, **__: info)
        said: list[str] = []

        def read() -> None:
            try:
                open_photo(path)
            except ImageError as error:
                said.append(str(error))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        thread.join(timeout=60)
        assert said, "it blocked"
        assert "not a regular file" in said[0]


class TestImagesOfCallers:
    """A PIL image can have any mode, and may read its file only when it is used."""

    @pytest.mark.parametrize("mode", MODES)
    def test_every_mode_of_pillow_becomes_rgb(self, mode: str) -> None:
        assert open_photo(Image.new(mode, (5, 4))).mode == "RGB"

    def test_an_image_that_fails_to_load_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "cut.tiff"
        path.write_bytes(encode(picture(), "TIFF")[:1500])
        with Image.open(path) as lazy, pytest.raises(ImageError, match="damaged or incomplete"):
            open_photo(lazy)

    def test_a_closed_image_is_refused(self) -> None:
        closed = picture()
        closed.close()
        with pytest.raises(ImageError, match="; "):
            open_photo(closed)

    def test_an_image_that_raises_an_unexpected_error_is_refused(self) -> None:
        class Odd(Image.Image):
            def load(self) -> None:  # type: ignore[override]
                raise RuntimeError("by chance")

        odd = Odd()
        odd._size, odd._mode = (4, 4), "RGB"
        with pytest.raises(ImageError, match="; "):
            open_photo(odd)

    def test_an_interrupt_is_not_converted_to_an_image_error(self) -> None:
        class Stopped(Image.Image):
            def load(self) -> None:  # type: ignore[override]
                raise KeyboardInterrupt  # not a signal, which the process may ignore

        stopped = Stopped()
        stopped._size, stopped._mode = (4, 4), "RGB"
        with pytest.raises(KeyboardInterrupt):
            open_photo(stopped)
