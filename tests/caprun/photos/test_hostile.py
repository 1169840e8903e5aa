"""No photo crashes the process, takes over 5 s of CPU time, or 600 MB."""

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
    """Returns what `hostile_run` says of each photo; a process that dies names the one it had begun."""
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


def test_there_are_enough_of_them_and_each_has_its_own_name() -> None:
    names = [name for name, _ in (*photos(), *bombs())]
    assert len(names) >= 500
    assert len(set(names)) == len(names)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the most memory of a moment is only told by Linux")
class TestCosts:
    @pytest.mark.parametrize("which", ["small", "bombs"])
    def test_each_is_a_photo_or_an_error_within_seconds_and_megabytes(self, which: str) -> None:
        found = run(which)
        assert len(found) == len(list(photos() if which == "small" else bombs()))
        assert [entry for entry in found if entry["seconds"] > MOST_SECONDS or entry["bytes"] > MOST_BYTES] == []  # type: ignore[operator]
        for entry in found:
            wrong = entry["wrong"]
            assert wrong is None or ("; " in str(wrong) and "\n" not in str(wrong)), entry

    def test_two_of_fifty_megapixels_at_once_take_no_more_than_one(self) -> None:
        (both,) = run("together")
        assert both["bytes"] < MOST_BYTES  # type: ignore[operator]


def test_alone_and_together_with_others_each_has_the_same_caption_or_error(captioner: Captioner) -> None:
    data = [data for _, data in photos()]
    together = list(captioner.caption_many(data, batch_size=16, decoders=2))
    for (name, photo), other in zip(photos(), together, strict=True):
        try:
            alone: Caption | ImageError = captioner.caption(photo)
        except ImageError as error:
            alone = error
        assert str(alone) == str(other) if isinstance(alone, ImageError) else alone.text == other.text, name  # type: ignore[union-attr]


def test_an_error_that_is_kept_keeps_no_photo(captioner: Captioner) -> None:
    cut = encode(picture(), "PNG")[:-40]
    (error,) = captioner.caption_many([cut])
    assert isinstance(error, ImageError)
    link: BaseException | None = error
    while link is not None:
        assert link.__traceback__ is None
        link = link.__cause__ or link.__context__


class TestPlaces:
    def test_what_is_no_file_is_refused_without_waiting(self, tmp_path: Path) -> None:
        for path in no_files(tmp_path):
            odd = any(word in path.name for word in ("pipe", "socket", "zero", "random"))
            with pytest.raises(ImageError, match="is not a regular file; " if odd else "; "):
                open_photo(path)

    def test_a_photo_may_be_called_anything(self, tmp_path: Path) -> None:
        paths = odd_names(tmp_path)
        assert len(paths) > 10
        for path in paths:
            assert open_photo(os.fsdecode(path)).size == picture().size

    def test_a_folder_of_all_of_it_gives_a_row_each(self, tmp_path: Path, tiny: Path) -> None:
        folder = tmp_path / "photos"
        folder.mkdir()
        sound = {os.fsdecode(path) for path in odd_names(folder)}
        expected = sound | {str(path) for path in no_files(folder)}
        (folder / "folder.jpg").mkdir()  # is looked into with --recursive, and no photo
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
    """A file is what it was when it was opened; what is missing of it by then is missing."""

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

    def test_one_that_shrinks_is_damaged(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.changed(path, monkeypatch, lambda: os.truncate(path, 200))
        with pytest.raises(ImageError, match="damaged or incomplete"):
            open_photo(path)

    def test_one_that_is_emptied_is_empty(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.changed(path, monkeypatch, lambda: os.truncate(path, 0))
        with pytest.raises(ImageError, match="is empty"):
            open_photo(path)

    def test_one_that_grows_is_read_as_it_was(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def grow() -> None:
            with path.open("ab") as file:
                file.write(bytes(1000))

        self.changed(path, monkeypatch, grow)
        assert open_photo(path).size == picture().size

    def test_one_that_vanishes_once_it_is_open_is_still_read(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.changed(path, monkeypatch, lambda: path.unlink(missing_ok=True))
        assert open_photo(path).size == picture().size

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
    def test_one_that_becomes_a_fifo_is_not_waited_for(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """A PIL image may be of any mode, and only begin to be read when it is used."""

    @pytest.mark.parametrize("mode", MODES)
    def test_every_mode_of_pillow_becomes_rgb(self, mode: str) -> None:
        assert open_photo(Image.new(mode, (5, 4))).mode == "RGB"

    def test_one_that_fails_when_it_is_read_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "cut.tiff"
        path.write_bytes(encode(picture(), "TIFF")[:1500])
        with Image.open(path) as lazy, pytest.raises(ImageError, match="damaged or incomplete"):
            open_photo(lazy)

    def test_one_that_is_closed_is_an_error(self) -> None:
        closed = picture()
        closed.close()
        with pytest.raises(ImageError, match="; "):
            open_photo(closed)

    def test_one_whose_loading_raises_anything_is_an_error(self) -> None:
        class Odd(Image.Image):
            def load(self) -> None:  # type: ignore[override]
                raise RuntimeError("by chance")

        odd = Odd()
        odd._size, odd._mode = (4, 4), "RGB"
        with pytest.raises(ImageError, match="; "):
            open_photo(odd)

    def test_an_interrupt_is_none_of_it(self) -> None:
        class Stopped(Image.Image):
            def load(self) -> None:  # type: ignore[override]
                raise KeyboardInterrupt  # not a signal, which the caller may ignore

        stopped = Stopped()
        stopped._size, stopped._mode = (4, 4), "RGB"
        with pytest.raises(KeyboardInterrupt):
            open_photo(stopped)
