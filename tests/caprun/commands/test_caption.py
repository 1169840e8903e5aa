"""The command line prints captions; any failure is one line and an exit code."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from caprun import Captioner
from caprun.cli import main
from caprun.photos.extensions import _WRITTEN

Run = Callable[..., Result]
EditManifest = Callable[[Path, Callable[[dict[str, Any]], object]], None]


@pytest.fixture
def run(tiny: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `caprun` with $CAPRUN_MODEL set to the tiny bundle, and checks that native code prints nothing."""
    monkeypatch.setenv("CAPRUN_MODEL", str(tiny))

    def invoke(*arguments: object) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert capfd.readouterr() == ("", "")
        return result

    return invoke


def caprun(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `caprun` in a separate process."""
    command = [sys.executable, "-m", "caprun", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


@pytest.fixture
def failure(run: Run) -> Callable[..., str]:
    """Runs a command that must fail; returns its only line on stderr, without `Error: `."""

    def invoke(*arguments: object, code: int = 1, stdout: str = "") -> str:
        result = run(*arguments)
        assert (result.exit_code, result.stdout) == (code, stdout)
        line = re.fullmatch(r"Error: (.+)\n", result.stderr)
        assert line, result.stderr
        assert "Traceback" not in result.stderr
        return line[1]

    return invoke


Failure = Callable[..., str]


@pytest.fixture
def photos(tmp_path: Path, images: npt.NDArray[np.uint8]) -> list[Path]:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, image in zip(paths, images, strict=False):
        Image.fromarray(image).save(path)
    return paths


def test_a_photo_is_captioned(run: Run, captioner: Captioner, photo: Path) -> None:
    result = run(photo)
    assert (result.stdout, result.stderr, result.exit_code) == (f"{captioner.caption(photo).text}\n", "", 0)


def test_a_separate_process_prints_the_same_caption(tiny: Path, captioner: Captioner, photo: Path) -> None:
    done = caprun("--model", tiny, photo)
    assert (done.stdout, done.stderr, done.returncode) == (f"{captioner.caption(photo).text}\n", "", 0)


def test_options_can_precede_the_photo_and_the_word_caption_is_optional(run: Run, tiny: Path, photo: Path) -> None:
    expected = run(photo).stdout
    for arguments in (
        ["--model", tiny, photo],
        [photo, "--model", tiny],
        ["caption", photo],
        ["caption", "--device", "cpu", photo],
        ["--threads", "1", photo],
        ["--", photo],
    ):
        assert run(*arguments).stdout == expected


def test_the_model_option_overrides_the_environment(
    run: Run, tiny: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPRUN_MODEL", "nowhere")
    assert run(photo).exit_code == 1
    assert run("--model", tiny, photo).exit_code == 0


def test_several_photos_are_captioned_in_order_with_their_names(
    run: Run, captioner: Captioner, photos: list[Path]
) -> None:
    captions = [captioner.caption(photo).text for photo in photos]
    assert len(set(captions)) == 3
    lines = [f"{photo}: {caption}" for photo, caption in zip(photos, captions, strict=True)]
    assert run(*photos).stdout.splitlines() == lines


def test_exclude_leaves_out_named_photos(run: Run, failure: Failure, photos: list[Path]) -> None:
    result = run(*photos[:2], "--exclude", photos[1].name)
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == [str(photos[0])]
    assert "--exclude leaves out every photo" in failure(photos[0], "--exclude", photos[0].name, code=2)


def test_jpeg_decoding_follows_the_manifest_for_one_photo_and_for_a_folder(
    run: Run, bundle: Path, tmp_path: Path, edit_manifest: EditManifest
) -> None:
    photo = tmp_path / "large.jpg"
    noise = np.random.default_rng(1).integers(0, 256, (1000, 1500, 3), np.uint8)
    Image.fromarray(noise).save(photo)
    full = json.loads(run(photo, "--json", "--model", bundle).stdout)
    edit_manifest(bundle, lambda data: data["image"].update(jpeg_decoding="scaled"))
    scaled = json.loads(run(photo, "--json", "--model", bundle).stdout)
    assert scaled["log_prob"] != full["log_prob"]
    assert json.loads(run(tmp_path, "--json", "--model", bundle).stdout) == scaled
    run(photo, "--model", bundle, "--picture", tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width == 1024  # the maximum; for the model the photo is decoded at a width of 188


def test_search_options_change_the_search(run: Run, captioner: Captioner, photo: Path) -> None:
    assert len(run(photo, "--max-length", "1", "--beam-size", "1").stdout.split()) == 1
    options = ("--beam-size", 5, "--length-penalty", 0)
    assert json.loads(run(photo, "--json", *options).stdout)["log_prob"] != captioner.caption(photo).log_prob


@pytest.mark.parametrize("option", ["--suppress", "--bad-endings"])
@pytest.mark.parametrize("folder", [False, True])
def test_a_word_that_the_model_cannot_spell_is_refused_with_the_option_as_typed(
    failure: Failure, photo: Path, option: str, folder: bool
) -> None:
    said = failure(photo.parent if folder else photo, option, "A", code=2)
    assert said.startswith(f"`{option}` names 'A', which is not in the model's vocabulary")


def test_json_prints_one_object_per_photo(run: Run, captioner: Captioner, photos: list[Path]) -> None:
    lines = run(*photos, "--json").stdout.splitlines()
    for photo, line in zip(photos, lines, strict=True):
        caption = captioner.caption(photo)
        assert json.loads(line) == {
            "image": str(photo),
            "caption": caption.text,
            "log_prob": pytest.approx(caption.log_prob, abs=1e-5),
            "finished": caption.finished,
            "words": [
                {"word": word.text, "log_prob": pytest.approx(word.log_prob, abs=1e-5)} for word in caption.words
            ],
        }


@pytest.mark.parametrize("option", ["--attention", "--picture"])
@pytest.mark.parametrize(("extension", "format_"), [*_WRITTEN.items(), (".JPG", "JPEG"), ("", "PNG")])
def test_a_picture_has_the_format_of_its_extension(
    run: Run, photo: Path, tmp_path: Path, option: str, extension: str, format_: str
) -> None:
    path = tmp_path / f"written{extension}"
    result = run(photo, option, path)
    assert (result.exit_code, result.stderr) == (0, "")
    with Image.open(path) as picture:
        assert picture.format == format_
        assert min(picture.size) > 60


@pytest.mark.parametrize("option", ["--attention", "--picture"])
def test_an_unknown_extension_is_refused_before_the_model_is_loaded(
    failure: Failure, photo: Path, tmp_path: Path, option: str
) -> None:
    said = failure(photo, "--model", tmp_path / "nowhere", option, tmp_path / "picture.tiff", code=2)
    assert said.startswith(f"{option} {tmp_path}/picture.tiff has an unknown extension; use one of .bmp .dib .gif ")


def test_a_picture_does_not_change_standard_output(run: Run, photo: Path, tmp_path: Path) -> None:
    assert run(photo, "--picture", tmp_path / "picture.png").stdout == run(photo).stdout


@pytest.mark.parametrize("option", ["--attention", "--picture"])
def test_a_picture_of_two_photos_is_refused(failure: Failure, photos: list[Path], tmp_path: Path, option: str) -> None:
    assert "take one photo file, and no --output" in failure(*photos[:2], option, tmp_path / "picture.png", code=2)


@pytest.mark.parametrize("option", ["--attention", "--picture"])
@pytest.mark.parametrize("place", ["nowhere/picture.png", "directory"])
def test_a_picture_that_cannot_be_written_is_named(
    failure: Failure, run: Run, photo: Path, tmp_path: Path, option: str, place: str
) -> None:
    (tmp_path / "directory").mkdir()
    said = failure(photo, option, tmp_path / place, code=2, stdout=run(photo).stdout)
    assert f"The picture {tmp_path / place} cannot be written" in said


def test_a_photo_that_vanishes_before_it_is_drawn_has_one_row(
    failure: Failure, run: Run, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = run(photo, "--json").stdout
    caption_arrays = Captioner.caption_arrays

    def then_remove(*arguments: Any, **options: Any) -> Any:
        found = caption_arrays(*arguments, **options)
        photo.unlink()
        return found

    monkeypatch.setattr(Captioner, "caption_arrays", then_remove)
    said = failure(photo, "--json", "--picture", tmp_path / "picture.png", stdout=row)
    assert said == f"{photo} does not exist; check the path."


def test_a_missing_font_is_named(failure: Failure, run: Run, photo: Path, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    said = failure(photo, "--picture", picture, "--font", tmp_path / "no.ttf", code=2, stdout=run(photo).stdout)
    assert str(tmp_path / "no.ttf") in said
    assert not picture.exists()


def spoilt(kind: str, photo: Path) -> Path:
    """Returns a path next to `photo` that is missing or not a valid photo."""
    path = photo.parent / f"{kind.replace(' ', '-')}.jpg"
    if kind == "an empty file":
        path.touch()
    elif kind == "a truncated JPEG":
        Image.open(photo).save(path)
        path.write_bytes(path.read_bytes()[:-400])
    elif kind == "text":
        path.write_text("These are\nwords.\n")
    return path


SPOILT = ["no file", "an empty file", "a truncated JPEG", "text"]


@pytest.mark.parametrize("kind", SPOILT)
def test_a_missing_or_damaged_photo_is_one_line_with_its_path(failure: Failure, photo: Path, kind: str) -> None:
    path = spoilt(kind, photo)
    assert failure(path).startswith(str(path))


@pytest.mark.parametrize("kind", SPOILT)
def test_other_photos_are_captioned_despite_a_bad_photo(
    failure: Failure, run: Run, photos: list[Path], kind: str
) -> None:
    bad = spoilt(kind, photos[0])
    captions = run(*photos).stdout
    assert failure(photos[0], bad, *photos[1:], stdout=captions).startswith(str(bad))


def test_json_has_the_error_of_a_bad_photo_in_its_place(run: Run, photos: list[Path]) -> None:
    result = run("--json", photos[0], "nowhere.jpg", photos[1])
    assert result.exit_code == 1
    objects = [json.loads(line) for line in result.stdout.splitlines()]
    assert [entry["image"] for entry in objects] == [str(photos[0]), "nowhere.jpg", str(photos[1])]
    assert set(objects[1]) == {"image", "error"}
    assert result.stderr == f"Error: {objects[1]['error']}\n"


def test_a_name_with_a_line_break_is_reported_in_one_line(failure: Failure, photo: Path) -> None:
    assert r"two\nlines.jpg" in failure("two\nlines.jpg")
    assert "two lines" in failure("--model", "two\nlines", photo)


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode on other systems")
@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_name_that_cannot_be_encoded_is_printed_escaped(
    tiny: Path, photo: Path, options: list[str], encoding: str
) -> None:
    name = os.fsdecode(os.fsencode(photo.parent) + b"/\xff.png")
    photo.rename(name)
    done = caprun("--model", tiny, name, name, *options, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    if encoding == "utf-8":
        assert r"\udcff.png" in lines[0]
    if encoding == "utf-8" and options:
        assert json.loads(lines[0])["image"] == name


def test_a_missing_bundle_is_reported_in_one_line(failure: Failure, photo: Path, tmp_path: Path) -> None:
    assert f"There is no bundle at {tmp_path / 'none'}" in failure("--model", tmp_path / "none", photo)


@pytest.mark.parametrize("file", ["model.json", "vocab.json", "encoder_model.onnx", "decoder_model.onnx"])
def test_a_missing_or_altered_bundle_file_is_reported_in_one_line(
    failure: Failure, bundle: Path, photo: Path, file: str
) -> None:
    path = bundle / file
    sound = bytearray(path.read_bytes())
    sound[len(sound) // 2] ^= 4
    path.write_bytes(sound)
    assert str(path) in failure("--model", bundle, photo)
    path.unlink()
    said = failure("--model", bundle, photo)
    assert str(bundle) in said
    assert file in said


def test_a_separate_process_reports_an_error_in_one_line(bundle: Path, photo: Path) -> None:
    (bundle / "vocab.json").unlink()
    done = caprun("--model", bundle, photo)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"Error: .*vocab\.json is missing.*\n", done.stderr)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--beam-size", "0"], "Invalid value for '--beam-size': 0 is not in the range 1<=x<=100"),
        (["--beam-size", 10**9], "Invalid value for '--beam-size': 1000000000 is not in the range"),
        (["--max-length", "0"], "Invalid value for '--max-length': 0 is not in the range"),
        (["--length-penalty", "nan"], "Invalid value for '--length-penalty': 'nan' is not a number"),
        (["--beam-size", "three"], "'three' is not a valid integer; see `main caption --help`"),
        (["--threads", "0"], "0 is not in the range"),
        (["--device", "tpu"], "'tpu' is not one of"),
        (["--beamsize", "3"], "No such option"),
    ],
)
def test_an_invalid_option_is_one_line_and_exit_code_2(
    failure: Failure, photo: Path, options: list[object], problem: str
) -> None:
    assert problem in failure(photo, *options, code=2)
    assert problem in failure("caption", *options, photo, code=2)


def test_a_command_without_photos_reports_the_missing_argument(failure: Failure) -> None:
    assert "Missing argument 'PHOTO...'" in failure("caption", code=2)
    assert "Missing argument 'PHOTO...'" in failure("--json", code=2)


def test_unavailable_cuda_is_reported_in_one_line(failure: Failure, photo: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    assert "use --device cpu" in failure(photo, "--device", "cuda")


def test_a_missing_onnx_runtime_is_reported_in_one_line(
    run: Run, failure: Failure, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install onnxruntime, or" in failure(photo)
    result = run("doctor")
    assert result.stdout.startswith("versions\n  python: ")
    assert "pip install onnxruntime, or" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_and_no_arguments_print_the_usage(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: ")
    assert result.stdout.count("\n") > 8


def test_the_version_is_printed(run: Run) -> None:
    assert re.fullmatch(r"caprun, version \d+\.\d+.*\n", run("--version").stdout)


def test_a_reader_that_stops_reading_is_not_an_error(tiny: Path, photos: list[Path]) -> None:
    command = [sys.executable, "-m", "caprun", "--model", str(tiny), *map(str, photos)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_reported_in_one_line(tiny: Path, photo: Path) -> None:
    command = [sys.executable, "-m", "caprun", "--model", str(tiny), str(photo)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "Error: [Errno 28] No space left on device\n")


def test_an_interruption_is_reported_in_one_line(run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Captioner, "load", interrupt)
    result = run(photo)
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "\nError: Interrupted.\n", "the terminal's ^C keeps a line of its own"


def test_a_program_that_calls_main_gets_the_exception(photo: Path) -> None:
    with pytest.raises(click.UsageError):
        main.main(["caption"], standalone_mode=False)
