"""`caprun --xmp` writes captions into sidecars that other programs can read, and keeps people's texts."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import Result
from PIL import Image

from caprun import Captioner
from caprun.bundle.reading import read_bundle
from caprun.bundle.writing import write_manifest
from caprun.metadata import sidecars
from caprun.metadata.xmp import ALT_TEXT, DESCRIPTION, Sidecar
from tests.caprun.support.invoking import invoke

PERSON = """<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:dc="http://purl.org/dc/elements/1.1/">
<rdf:Description rdf:about=""><dc:description>By hand</dc:description></rdf:Description></rdf:RDF>"""


@pytest.fixture
def run(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("CAPRUN_MODEL", str(tiny))
    return invoke


@pytest.fixture
def folder(tmp_path: Path, images: npt.NDArray[np.uint8]) -> Path:
    """Returns a folder with a.png, b.png and c.png."""
    for name, image in zip("abc", images, strict=False):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    return tmp_path


def text(path: Path, of: object = DESCRIPTION) -> str:
    return Sidecar(path.read_bytes()).text(of)  # type: ignore[arg-type]


def test_each_photo_gets_a_sidecar_with_its_caption(run, folder, captioner: Captioner) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = run(folder, "--xmp")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr.endswith("Captions written to sidecars: 3.\n")
    for path, content in before.items():
        assert path.read_bytes() == content
        assert text(Path(f"{path}.xmp")) == captioner.caption(path).text
        assert text(Path(f"{path}.xmp"), ALT_TEXT) == ""


def test_options_add_alternative_text_and_choose_the_sidecar_name(run, folder, captioner: Captioner) -> None:
    assert run(folder / "a.png", "--xmp", "--xmp-alt", "--xmp-name", "stem").exit_code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "a.xmp", "b.png", "c.png"]
    assert text(folder / "a.xmp", ALT_TEXT) == captioner.caption(folder / "a.png").text


def test_missing_sidecars_are_written_for_existing_and_for_new_rows(run, folder) -> None:
    rows = folder / "rows.jsonl"
    assert run(folder, "--output", rows).exit_code == 0
    result = run(folder, "--output", rows, "--xmp")
    assert result.exit_code == 0
    assert result.stderr.endswith("Captions written to sidecars: 3.\n")
    for line in rows.read_text().splitlines():
        row = json.loads(line)
        assert text(Path(f"{row['image']}.xmp")) == row["caption"]
    (folder / "b.png.xmp").unlink()
    assert run(folder, "--output", folder / "again.jsonl", "--xmp").stderr.endswith(
        "Captions written to sidecars: 1.\n"
    )


def test_a_second_run_captions_new_photos_and_another_search_captions_all(run, folder, images) -> None:
    run(folder, "--xmp")
    Image.fromarray(images[5]).save(folder / "d.png")
    assert len(run(folder, "--xmp", "--json").stdout.splitlines()) == 1
    assert len(run(folder, "--xmp", "--json").stdout.splitlines()) == 0
    assert len(run(folder, "--xmp", "--json", "--max-length", "3").stdout.splitlines()) == 4


def test_a_description_by_a_person_is_kept_without_overwrite(run, folder, captioner: Captioner) -> None:
    sidecar = folder / "a.png.xmp"
    sidecar.write_text(PERSON)
    result = run(folder, "--xmp")
    assert "kept as a person wrote them: 1;" in result.stderr
    assert sidecar.read_text() == PERSON
    run(folder, "--xmp", "--xmp-alt")
    assert (text(sidecar), text(sidecar, ALT_TEXT)) == ("By hand", captioner.caption(folder / "a.png").text)
    run(folder, "--xmp", "--overwrite")
    assert text(sidecar) == captioner.caption(folder / "a.png").text


def test_no_sidecar_is_written_if_the_model_abstains(run, folder, calibrated, monkeypatch) -> None:
    monkeypatch.setenv("CAPRUN_MODEL", str(calibrated))
    result = run(folder, "--xmp", "--min-confidence", "1")
    assert result.exit_code == 0
    assert not list(folder.glob("*.xmp"))
    assert "abstained from 3" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="no name may have a line break")
def test_a_sidecar_with_a_line_break_in_its_name_is_reported_on_one_line(run, folder, images) -> None:
    for name in ("a\nb.jpg", "a\nb.png"):
        Image.fromarray(images[4]).save(folder / name)
    (folder / "a\nb.png.xmp").write_text("no XML")
    assert [line for line in run(folder, "--xmp").stderr.splitlines() if "a\\nb.png.xmp' cannot be read as XMP" in line]
    assert len(run(folder, "--xmp", "--xmp-name", "stem").stderr.splitlines()) == 1


def test_a_sidecar_that_cannot_be_read_is_reported_and_the_others_are_written(run, folder) -> None:
    (folder / "a.png.xmp").write_text("no XML")
    result = run(folder, "--xmp")
    assert result.exit_code == 1
    assert f"Error: The sidecar {folder / 'a.png.xmp'} cannot be read as XMP" in result.stderr
    assert (folder / "a.png.xmp").read_text() == "no XML"
    assert (folder / "c.png.xmp").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_fifo_or_folder_as_sidecar_is_reported_and_not_waited_for(run, folder) -> None:
    os.mkfifo(folder / "a.png.xmp")
    (folder / "c.png.xmp").mkdir()
    result = run(folder, "--xmp")
    assert result.exit_code == 1
    assert result.stderr.count("is not a regular file; repair or remove it.") == 2
    assert "Captions written to sidecars: 1." in result.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everything")
def test_a_read_only_sidecar_is_kept(run, folder) -> None:
    (folder / "a.png.xmp").write_text(PERSON)
    (folder / "a.png.xmp").chmod(0o444)
    result = run(folder, "--xmp", "--overwrite")
    assert result.exit_code == 1
    assert "cannot be written (Permission denied)" in result.stderr
    assert (folder / "a.png.xmp").read_text() == PERSON


def test_a_full_disk_ends_the_run_with_one_error(run, folder, monkeypatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sidecars, "atomic_write", full)
    result = run(folder, "--xmp")
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert re.fullmatch(
        r"Error: The sidecar .*a\.png\.xmp cannot be written \(No space left on device\); make room.*", line
    )


def test_a_photo_named_twice_does_not_conflict_with_itself(run, folder, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    assert run("a.png", "./a.png", "--xmp").exit_code == 0


def test_two_photos_with_the_same_sidecar_are_refused_before_any_write(run, folder, images) -> None:
    Image.fromarray(images[4]).save(folder / "a.jpg")
    result = run(folder, "--xmp", "--xmp-name", "stem")
    assert result.exit_code == 2
    assert "would both be in" in result.stderr
    assert not list(folder.glob("*.xmp"))


@pytest.mark.parametrize(("option", "problem"), [("--xmp-alt", "needs --xmp"), ("--overwrite", "--output or --xmp")])
def test_sidecar_options_need_xmp(run, folder, option, problem) -> None:
    result = run(folder, option)
    assert result.exit_code == 2
    assert problem in result.stderr


@pytest.mark.parametrize(
    ("program", "arguments"),
    [("exiftool", ["-s3", "-XMP-dc:Description"]), ("exiv2", ["-g", "Xmp.dc.description", "-Pt"])],
)
def test_other_programs_read_the_caption(run, folder, captioner: Captioner, program, arguments) -> None:
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    run(folder / "a.png", "--xmp")
    command = [program, *arguments, str(folder / "a.png.xmp")]
    read = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert captioner.caption(folder / "a.png").text in read


def test_a_sidecar_rewritten_by_another_program_is_still_recognized(run, folder, captioner: Captioner) -> None:
    if not shutil.which("exiftool"):
        pytest.skip("exiftool is not installed")
    run(folder / "a.png", "--xmp")
    sidecar = folder / "a.png.xmp"
    subprocess.run(["exiftool", "-q", "-overwrite_original", "-XMP:Rating=5", str(sidecar)], check=True)
    assert "written to sidecars: 0." in run(folder / "a.png", "--xmp").stderr
    assert "written to sidecars: 1." in run(folder / "a.png", "--xmp", "--max-length", "3").stderr
    rating = subprocess.run(["exiftool", "-s3", "-Rating", str(sidecar)], capture_output=True, text=True, check=True)
    assert rating.stdout.strip() == "5"


def test_a_description_is_in_the_language_of_the_model(run, folder, tiny, tmp_path, monkeypatch) -> None:
    own = read_bundle(shutil.copytree(tiny, tmp_path / "zh"))
    write_manifest(own.path, replace(own.manifest, language="zh"), own.vocabulary, "")
    monkeypatch.setenv("CAPRUN_MODEL", str(own.path))
    assert run(folder, "--xmp").exit_code == 0
    written = (folder / "a.png.xmp").read_text()
    assert written.count('xml:lang="zh"') == written.count('xml:lang="x-default"') == 1
