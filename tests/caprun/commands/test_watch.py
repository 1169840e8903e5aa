"""`caprun watch` captions each photo that arrives in a folder once, and ends on a signal."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import Result
from PIL import Image

from caprun import Captioner
from caprun.batch.arrivals import changes
from caprun.commands import watching
from caprun.metadata import sidecars
from caprun.metadata.xmp import DESCRIPTION, Sidecar
from tests.caprun.server.support.serving import LONG, until
from tests.caprun.support.invoking import invoke

pytest.importorskip("watchfiles")

Watch = Callable[..., Result]
MANY = 1000


@pytest.fixture
def folder(tmp_path: Path, images: npt.NDArray[np.uint8]) -> Path:
    """Returns a folder with a.png and b.png."""
    (tmp_path / "in").mkdir()
    for name, image in zip("ab", images, strict=False):
        Image.fromarray(image).save(tmp_path / "in" / f"{name}.png")
    return tmp_path / "in"


@pytest.fixture
def watch(tiny: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Returns a function that watches the folder, runs some steps one after another, and ends."""
    monkeypatch.setenv("CAPRUN_MODEL", str(tiny))

    def run(*options: object, steps: tuple[Callable[[], object], ...] = ()) -> Result:
        def changed(*_: object, **__: object) -> Iterator[bool]:
            yield True
            for step in steps:
                step()
                yield True

        monkeypatch.setattr(watching, "changes", changed)
        return invoke("watch", folder, "--settle", 0, *options)

    return run


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "captions.jsonl"


def save(image: npt.NDArray[np.uint8], path: Path, modified: int) -> None:
    """Saves a photo with a given modification time, since two writes can fall within the clock's resolution."""
    Image.fromarray(image).save(path)
    os.utime(path, (modified, modified))


def rows(output: Path) -> list[tuple[str, str]]:
    """Returns the name of each row with its caption, its error or "abstained"."""
    found = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    return [(Path(row["image"]).name, row.get("caption", row.get("error", "abstained"))) for row in found]


def rows_of(output: Path) -> list[bytes]:
    """Returns the complete rows that a process has written so far."""
    return [line for line in output.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def text(photo: Path) -> str:
    return Sidecar(Path(f"{photo}.xmp").read_bytes()).text(DESCRIPTION)


def test_existing_and_arriving_photos_get_rows(watch, folder, output, images, captioner: Captioner) -> None:
    result = watch("--output", output, steps=[lambda: save(images[2], folder / "c.png", 3)])
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"Watching {folder}; press Ctrl-C to stop.",
        "2 photos done.",
        "3 photos done.",
    ]
    assert rows(output) == [(name, captioner.caption(folder / name).text) for name in ("a.png", "b.png", "c.png")]
    last = json.loads(output.read_text().splitlines()[-1])
    assert list(last)[:4] == ["image", "size", "modified", "caption"]
    assert (last["image"], last["modified"]) == (str(folder / "c.png"), 3)


def test_the_same_command_resumes_and_captions_no_photo_twice(watch, folder, output, images) -> None:
    (folder / "bad.jpg").write_text("no photo")
    watch("--output", output)
    with output.open("ab") as file:
        file.write(b'{"image": "cut')  # as a killed process leaves it
    save(images[2], folder / "c.png", 3)
    result = watch("--output", output)
    assert "1 photo done." in result.stderr
    assert [name for name, _ in rows(output)] == ["a.png", "b.png", "bad.jpg", "c.png"]


def test_a_broken_photo_is_reported_once_and_captioned_when_complete(watch, folder, output, images) -> None:
    (folder / "c.png").write_text("no photo")
    result = watch("--output", output, steps=[lambda: None, lambda: save(images[2], folder / "c.png", 3)])
    assert result.exit_code == 0
    assert result.stderr.count("Error: ") == 2
    assert result.stderr.count(f"Error: {folder / 'c.png'} is not a JPEG") == 1
    assert "Error: 1 of 4 photos could not be captioned; their rows say why." in result.stderr
    assert [name for name, _ in rows(output)] == ["a.png", "b.png", "c.png", "c.png"]


def test_a_photo_removed_before_it_is_captioned_is_not_an_error(watch, folder, output, monkeypatch) -> None:
    find = watching.Arrivals.look

    def look(arrivals: watching.Arrivals, now: float) -> object:
        found = find(arrivals, now)
        (folder / "a.png").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(watching.Arrivals, "look", look)
    result = watch("--output", output)
    assert "Error" not in result.stderr
    assert [name for name, _ in rows(output)] == ["b.png"]


def test_sidecars_are_written_once_and_again_when_a_photo_changes(watch, folder, images, captioner: Captioner) -> None:
    result = watch("--xmp", steps=[lambda: None, lambda: save(images[9], folder / "b.png", 3)])
    assert result.stderr.endswith("Captions written to sidecars: 3.\n")
    for name in ("a.png", "b.png"):
        assert text(folder / name) == captioner.caption(folder / name).text
    assert watch("--xmp").stderr.endswith("Captions written to sidecars: 0.\n")


def test_existing_rows_are_written_to_sidecars(watch, folder, output, images, captioner: Captioner) -> None:
    watch("--output", output, steps=[lambda: save(images[9], folder / "b.png", 3)])
    before = output.read_bytes()
    assert watch("--output", output, "--xmp").stderr.endswith("Captions written to sidecars: 2.\n")
    assert output.read_bytes() == before
    assert text(folder / "b.png") == captioner.caption(folder / "b.png").text


def test_a_sidecar_conflict_is_reported_and_other_photos_are_captioned(watch, folder, images) -> None:
    save(images[3], folder / "a.jpg", 3)
    result = watch("--xmp", "--xmp-name", "stem", steps=[lambda: None])
    assert result.exit_code == 0
    assert result.stderr.count("would both be in") == 1
    assert (folder / "b.xmp").exists()


def test_exclude_and_min_confidence_apply_as_in_a_folder_run(watch, folder, output, calibrated, monkeypatch) -> None:
    monkeypatch.setenv("CAPRUN_MODEL", str(calibrated))
    result = watch("--output", output, "--exclude", "b.*", "--min-confidence", 1)
    assert rows(output) == [("a.png", "abstained")]
    assert "The model abstained from 1 of 1 photo; their rows say why." in result.stderr


@pytest.mark.parametrize("change", [("--max-length", "3"), ("--min-confidence", "0.5")])
def test_other_options_for_the_same_output_are_refused(
    watch, output, calibrated, monkeypatch, change: tuple[str, str]
) -> None:
    monkeypatch.setenv("CAPRUN_MODEL", str(calibrated))
    watch("--output", output)
    before = output.read_bytes()
    result = watch("--output", output, *change)
    assert result.exit_code == 2
    assert "belongs to another run" in result.stderr
    assert output.read_bytes() == before
    assert watch("--output", output, *change, "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "A watch prints no captions; give --output FILE.jsonl, --xmp or both."),
        (
            ["--output", "captions.csv"],
            "--output captions.csv is not a .jsonl file, the only format that a watch writes.",
        ),
        (["--output", "."], "--output . is not a .jsonl file, the only format that a watch writes."),
        (["--xmp-alt", "--output", "x.jsonl"], "--xmp-alt needs --xmp."),
    ],
)
def test_wrong_options_are_refused(watch, arguments, sentence) -> None:
    result = watch(*arguments)
    assert (result.exit_code, result.stderr) == (2, f"Error: {sentence}\n")


def test_a_file_or_missing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, problem in (("file", "is not a folder"), ("none", "does not exist")):
        result = invoke("watch", tmp_path / name, "--xmp")
        assert (result.exit_code, result.stderr) == (
            2,
            f"Error: {tmp_path / name} {problem}; name a folder to watch.\n",
        )


def test_a_missing_extra_is_named(watch, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    result = watch("--xmp")
    sentence = 'watchfiles must be installed to watch a folder: pip install "captioner[watch]".'
    assert (result.exit_code, result.stderr) == (1, f"Error: {sentence}\n")


def test_a_removed_folder_ends_the_watch_with_an_error(watch, folder, output) -> None:
    result = watch("--output", output, steps=[lambda: shutil.rmtree(folder)])
    assert result.exit_code == 1
    assert result.stderr.endswith(
        f"\nError: The folder {folder} no longer exists; run the same command when it is back.\n"
    )
    assert len(rows(output)) == 2


def test_a_full_disk_ends_the_watch_with_an_error(watch, monkeypatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sidecars, "atomic_write", full)
    result = watch("--xmp")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].endswith(
        "a.png.xmp cannot be written (No space left on device); make room on the disk."
    )


def test_a_folder_that_the_system_cannot_watch_is_polled(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> Iterator[object]:
        raise RuntimeError("OS file watch limit reached")

    monkeypatch.setattr("watchfiles.watch", refuse)
    found = changes(str(tmp_path), recursive=True, seconds=0, ended=watching.Event())
    assert [next(found) for _ in range(3)] == [True, True, True]


# --- A process


@contextlib.contextmanager
def watching_process(bundle: Path, folder: Path, *options: object) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Starts a process that watches a folder; yields it and its standard error."""
    command = [sys.executable, "-m", "caprun", "watch", folder, "--model", bundle, "--threads", 1, "--settle", 0.2]
    with subprocess.Popen([*map(str, [*command, *options])], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("Watching ")
            yield process, process.stderr
        finally:
            process.kill()


def drop(images: npt.NDArray[np.uint8], folder: Path, numbers: range) -> None:
    for number in numbers:
        Image.fromarray(images[number % len(images)]).save(folder / f"{number:04}.png")


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_a_thousand_photos_at_once_are_captioned_across_stops_and_kills(tiny, tmp_path, output, images) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with watching_process(tiny, folder, "--output", output) as (process, _):
        drop(images, folder, range(MANY))
        until(lambda: rows_of(output))
        process.kill()
    with watching_process(tiny, folder, "--output", output) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONG) == 0
    with watching_process(tiny, folder, "--output", output) as (process, said):
        shutil.copy(folder / "0000.png", folder / os.fsdecode(b"\xff.png"))  # watchfiles sends no event for this name
        until(lambda: len(rows_of(output)) > MANY)
        process.send_signal(signal.SIGINT)
        assert process.wait(LONG) == 0
        assert "Error" not in said.read()
    assert sorted(name for name, _ in rows(output)) == sorted(path.name for path in folder.iterdir())
