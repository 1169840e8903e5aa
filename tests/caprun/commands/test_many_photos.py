"""The command line captions folders and standard input, and writes result files."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import Result
from PIL import Image

from caprun import Captioner
from caprun.batch.listing import list_photos
from caprun.batch.results import Results
from caprun.commands.many_photos import plan_output, write_captions
from caprun.search.steps import Steps
from tests.caprun.support.invoking import invoke

Run = Callable[..., Result]


@pytest.fixture
def run(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `caprun` with $CAPRUN_MODEL set to the tiny bundle."""
    monkeypatch.setenv("CAPRUN_MODEL", str(tiny))
    return invoke


@pytest.fixture
def folder(tmp_path: Path, images: npt.NDArray[np.uint8]) -> Path:
    """Returns a folder with a.png, b.png, c.png, deeper/e.png, and d.jpg, which is a text file."""
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    for name, image in zip(("a", "b", "c", "deeper/e"), images, strict=False):
        Image.fromarray(image).save(folder / f"{name}.png")
    (folder / "d.jpg").write_text("no photo")
    return folder


@pytest.fixture
def sound(folder: Path) -> Path:
    """Returns the folder without d.jpg."""
    (folder / "d.jpg").unlink()
    return folder


@pytest.fixture
def said(captioner: Captioner, folder: Path) -> dict[str, str]:
    """Returns the caption of each photo by its path."""
    return {str(path): captioner.caption(path).text for path in sorted(folder.rglob("*.png"))}


def lines(captions: dict[str, str]) -> str:
    return "".join(f"{path}: {text}\n" for path, text in captions.items())


def test_a_folder_prints_one_line_per_photo_in_order(run: Run, sound: Path, said: dict[str, str]) -> None:
    said.pop(str(sound / "deeper" / "e.png"))
    result = run(sound)
    assert (result.stdout, result.stderr, result.exit_code) == (lines(said), "", 0)


def test_recursive_looks_into_subfolders(run: Run, sound: Path, said: dict[str, str]) -> None:
    assert run(sound, "--recursive").stdout == lines(said)


def test_a_folder_with_one_photo_still_prints_its_path(run: Run, folder: Path, said: dict[str, str]) -> None:
    photo = folder / "deeper" / "e.png"
    assert run(photo.parent).stdout == f"{photo}: {said[str(photo)]}\n"


def test_standard_input_names_photos(run: Run, sound: Path, said: dict[str, str]) -> None:
    assert run("-", "--batch-size", 1, stdin="\n".join(said).encode()).stdout == lines(said)


def test_many_named_photos_print_the_same_as_few(run: Run, sound: Path, said: dict[str, str]) -> None:
    assert run(*said, *said, *said, *said, *said).stdout == 5 * lines(said) == 5 * run(*said).stdout


def test_a_bad_photo_is_reported_and_counted_at_the_end(run: Run, folder: Path) -> None:
    result = run(folder)
    assert (result.exit_code, result.stdout.count("\n")) == (1, 3)
    assert result.stderr.splitlines() == [
        f"Error: {folder}/d.jpg is not a JPEG, PNG, WebP, GIF, BMP, HEIC or AVIF image; convert it to a JPEG.",
        "Error: 1 of 4 photos could not be captioned.",
    ]


def test_photos_that_need_a_missing_extra_are_left_out_and_counted(
    run: Run, sound: Path, said: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said.pop(str(sound / "deeper" / "e.png"))
    monkeypatch.setattr("caprun.batch.listing.is_installed", lambda name: name != "HEIF")
    for name in ("IMG_0001.HEIC", "IMG_0002.heic"):
        (sound / name).touch()
    result = run(sound)
    assert (result.stdout, result.exit_code) == (lines(said), 0)
    assert result.stderr == 'Photos left out: 2 .heic; to read them, run pip install "captioner[heif]".\n'


def test_json_prints_one_object_per_photo_including_errors(run: Run, folder: Path) -> None:
    result = run(folder, "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(row["image"]).name for row in rows] == ["a.png", "b.png", "c.png", "d.jpg"]
    caption = {"image", "caption", "log_prob", "finished", "words"}
    assert [set(row) for row in rows] == [caption] * 3 + [{"image", "error"}]


def test_output_holds_what_json_prints(run: Run, folder: Path, tmp_path: Path) -> None:
    result = run(folder, "--output", tmp_path / "captions.jsonl")
    assert (result.exit_code, result.stdout) == (1, "")
    assert (tmp_path / "captions.jsonl").read_text() == run(folder, "--json").stdout
    first, last = result.stderr.splitlines()
    assert re.fullmatch(rf"4 photos in {tmp_path}/captions\.jsonl, [\d.,]+ photos/s\.", first)
    assert last == "Error: 1 of 4 photos could not be captioned; their rows say why."


def test_csv_output_holds_what_json_prints_except_words(run: Run, folder: Path, tmp_path: Path) -> None:
    run(folder, "--output", tmp_path / "captions.csv")
    rows = [json.loads(line) for line in run(folder, "--json").stdout.splitlines()]
    with (tmp_path / "captions.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    for row, written in zip(rows, found, strict=True):
        columns = ("image", "caption", "log_prob", "error", "confidence", "abstained", "finished")
        finished = {True: "true", False: "false", None: ""}[row.get("finished")]
        assert written == {key: str(row.get(key, "")) for key in columns} | {"finished": finished}


def test_an_output_folder_gets_one_text_per_captioned_photo_and_all_rows(
    run: Run, folder: Path, tmp_path: Path, said: dict[str, str]
) -> None:
    run(folder, "--recursive", "--output", f"{tmp_path}/texts/")
    texts = {path: (tmp_path / "texts" / Path(path).relative_to(folder)).with_suffix(".txt") for path in said}
    assert {path: text.read_text() for path, text in texts.items()} == {path: f"{said[path]}\n" for path in said}
    rows = (tmp_path / "texts" / "captions.jsonl").read_text()
    assert rows == run(folder, "--recursive", "--json").stdout
    assert not (tmp_path / "texts" / "d.txt").exists()


def test_texts_can_be_written_next_to_the_photos(run: Run, sound: Path, said: dict[str, str]) -> None:
    assert run(sound, "--output", sound).exit_code == 0
    assert (sound / "a.txt").read_text() == said[str(sound / "a.png")] + "\n"
    assert "is already finished" in run(sound, "--output", sound).stderr


def test_a_text_that_a_person_wrote_is_not_overwritten(run: Run, sound: Path) -> None:
    (sound / "b.txt").write_text("mine\n")
    result = run(sound, "--output", sound)
    assert (result.exit_code, (sound / "b.txt").read_text()) == (2, "mine\n")
    assert f"{sound}/b.txt exists and was not written by this run" in result.stderr


def test_two_photos_with_the_same_text_file_are_refused(run: Run, sound: Path, tmp_path: Path) -> None:
    (sound / "a.jpg").write_bytes((sound / "a.png").read_bytes())
    result = run(sound, "--output", f"{tmp_path}/texts/")
    assert result.exit_code == 2
    assert f"The captions of {sound}/a.jpg and {sound}/a.png would both be in {tmp_path}/texts/a.txt" in result.stderr


def test_a_finished_run_is_reported_as_finished_and_not_repeated(run: Run, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "captions.jsonl"
    first = run(folder, "--output", output)
    before = output.stat().st_mtime_ns, output.read_bytes()
    again = run(folder, "--output", output)
    assert (again.exit_code, first.exit_code) == (1, 1)
    assert again.stderr.splitlines()[0] == f"{output} is already finished; --overwrite starts over."
    assert (output.stat().st_mtime_ns, output.read_bytes()) == before


def test_an_interrupted_run_resumes_and_reports_it(run: Run, sound: Path, tmp_path: Path) -> None:
    output = tmp_path / "captions.jsonl"
    run(sound, "--output", output)
    whole = output.read_bytes()
    output.write_bytes(whole[: whole.index(b"\n") + 20])
    result = run(sound, "--output", output)
    assert result.stderr.startswith(f"{output} has 1 of 3 photos; resuming.\n")
    assert output.read_bytes() == whole


def test_a_resumed_run_computes_the_batches_of_an_uninterrupted_run(
    captioner: Captioner, sound: Path, tmp_path: Path
) -> None:
    batches: list[int] = []

    class Watched:
        def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> Steps:
            batches.append(len(images))
            return captioner.backend.encode(images, alpha=alpha)

    watched = Captioner(captioner.spec, captioner.vocabulary, Watched())
    photos = list_photos([str(sound)] * 4, io.BytesIO())[:10]
    output = plan_output(f"{tmp_path}/captions.jsonl", photos)
    for kept in (7, 4, 9, 10):
        how = {"batch_size": 4, "decoders": 1, "overwrite": False}
        write_captions(watched, photos, captioner.spec.search, output, **how)
        rows = output.file.read_bytes().splitlines(keepends=True)
        output.file.write_bytes(b"".join(rows[:kept]))
    assert batches == [4, 4, 2, 4, 2, 4, 2, 2]


@pytest.mark.parametrize(
    ("options", "differs"),
    [
        (["--beam-size", "5"], r"beam_size \d \(now 5\)"),
        (["--batch-size", "3"], r"batch_size 8 \(now 3\)"),
        (["--recursive"], r"photos 3 \w+ \(now 4 \w+\)"),
    ],
)
def test_other_options_or_photos_for_the_same_output_are_refused(
    run: Run, sound: Path, tmp_path: Path, options: list[str], differs: str
) -> None:
    output = tmp_path / "captions.jsonl"
    run(sound, "--output", output)
    before = output.read_bytes()
    result = run(sound, "--output", output, *options)
    assert (result.exit_code, result.stdout, output.read_bytes()) == (2, "", before)
    assert re.fullmatch(
        rf"Error: {output} belongs to another run: {differs}; give another --output, or --overwrite to start over\.\n",
        result.stderr,
    )
    assert run(sound, "--output", output, *options, "--overwrite").exit_code == 0


def test_another_model_for_the_same_output_is_refused(
    run: Run, sound: Path, tmp_path: Path, bundle: Path, edit_manifest: Callable[..., None]
) -> None:
    output = tmp_path / "captions.jsonl"
    run(sound, "--output", output)
    edit_manifest(
        bundle, lambda data: data["image"].update(fit="crop" if data["image"]["fit"] == "squash" else "squash")
    )
    result = run(sound, "--output", output, "--model", bundle)
    assert result.exit_code == 2
    assert re.search(r"belongs to another run: model tiny \w+ \(now tiny \w+\);", result.stderr)


def test_the_same_names_in_another_folder_are_other_photos(
    run: Run, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sound / "deeper" / "a.png").write_bytes((sound / "b.png").read_bytes())
    monkeypatch.chdir(sound)
    run("a.png", "--output", tmp_path / "captions.jsonl")
    monkeypatch.chdir(sound / "deeper")
    assert run("a.png", "--output", tmp_path / "captions.jsonl").exit_code == 2


def test_a_second_run_writing_the_same_output_is_refused(run: Run, sound: Path, tmp_path: Path) -> None:
    with Results(tmp_path / "captions.csv", [], {}):
        result = run(sound, "--output", tmp_path / "captions.csv")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "captions.csv is being written by another run" in result.stderr


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--output", "captions.txt"], "--output captions.txt is neither a .jsonl nor a .csv file nor a folder"),
        (["--output", "x.csv", "--json"], "--json prints rows and --output writes them"),
        (["--overwrite"], "--overwrite needs --output"),
        (["--attention", "x.png"], "--attention and --picture take one photo file, and no --output"),
        (["--batch-size", "0"], "0 is not in the range"),
        (["--decoders", "0"], "0 is not in the range"),
        (["--output", "nowhere/x.csv"], "There is no folder nowhere for x.csv"),
    ],
)
def test_invalid_options_are_refused_in_one_line(run: Run, folder: Path, options: list[str], problem: str) -> None:
    result = run(folder, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch(r"Error: .+\n", result.stderr)
    assert problem in result.stderr


@pytest.mark.parametrize("options", [[], ["--output", "captions.jsonl"], ["--output", "texts/"]])
def test_a_photo_name_that_is_too_long_is_an_error_in_its_place(
    run: Run, sound: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.chdir(sound)
    result = run("a.png", f"{'x' * 300}.png", "b.png", *options, *(() if options else ("--json",)))
    file = Path("captions.jsonl" if "captions.jsonl" in options else "texts/captions.jsonl")
    rows = [json.loads(line) for line in (file.read_text() if options else result.stdout).splitlines()]
    assert (result.exit_code, ["error" in row for row in rows]) == (1, [False, True, False])


@pytest.mark.parametrize("ending", [".jsonl", ".csv", "/"])
def test_an_output_name_that_is_too_long_is_reported_in_one_line(
    run: Run, sound: Path, tmp_path: Path, ending: str
) -> None:
    result = run(sound, "--output", f"{tmp_path}/{'x' * 300}{ending}")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert re.match(
        rf"Error: (The folder )?{tmp_path}/x{{300}}.* cannot be (written|created) \(File name too long\); give",
        result.stderr,
    )


def test_csv_output_is_refused_with_several_captions_per_photo(run: Run, sound: Path, tmp_path: Path) -> None:
    result = run(sound, "--n-best", 2, "--output", tmp_path / "captions.csv")
    assert (result.exit_code, (tmp_path / "captions.csv").exists()) == (2, False)
    assert "A .csv row holds one caption; with --n-best above 1, give a .jsonl file or a folder" in result.stderr
    assert run(sound, "--n-best", 2, "--output", f"{tmp_path}/captions.jsonl").exit_code == 0


def test_an_empty_folder_is_refused_in_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / "empty")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert f"{tmp_path}/empty holds no photos" in result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode on other systems")
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_names_of_any_bytes_can_be_read_back(tiny: Path, sound: Path, tmp_path: Path, suffix: str) -> None:
    names = [b"\xff\xfe.png", b"two\nlines.png", b'a,"b".png', b"\xc3\xa9.png"]
    for name in names:
        Path(os.fsdecode(os.fsencode(sound) + b"/" + name)).write_bytes((sound / "a.png").read_bytes())
    output = tmp_path / f"captions.{suffix}"
    stdin = b"".join(os.fsencode(sound) + b"/" + name + b"\0" for name in names)
    command = [sys.executable, "-m", "caprun", "-", "--model", str(tiny), "--output", str(output)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    with output.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(map(json.loads, file)) if suffix == "jsonl" else list(csv.DictReader(file))
    assert [os.fsencode(row["image"]).rpartition(b"/")[2] for row in rows] == names
    assert len({row["caption"] for row in rows}) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_fifo_or_broken_link_is_an_error_row_and_is_not_waited_for(run: Run, sound: Path) -> None:
    os.mkfifo(sound / "pipe.jpg")
    (sound / "loop.jpg").symlink_to(sound / "loop.jpg")
    (sound / "gone.jpg").symlink_to(sound / "nowhere")
    rows = [json.loads(line) for line in run(sound, "--json").stdout.splitlines()]
    errors = {Path(row["image"]).name: row["error"] for row in rows if "error" in row}
    assert set(errors) == {"pipe.jpg", "loop.jpg", "gone.jpg"}
    assert "is not a regular file" in errors["pipe.jpg"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_file_size_limit_is_reported_in_one_line_and_keeps_finished_rows(
    tiny: Path, sound: Path, tmp_path: Path
) -> None:
    import resource

    output = tmp_path / "captions.jsonl"
    command = [sys.executable, "-m", "caprun", "--model", str(tiny), *[str(sound)] * 3, "--output", str(output)]

    def caprun(limit: int | None = None) -> subprocess.CompletedProcess[str]:
        limited = None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limited)

    failed = caprun(1500)
    assert failed.returncode == 1
    assert re.fullmatch(
        rf"Error: {output} cannot be written \(File too large\); the results for \d of 9 photos are kept\. "
        r"Solve the problem, then run the same command to resume\.\n",
        failed.stderr,
    )
    kept = output.read_text()
    assert kept.endswith("}\n")
    assert caprun().returncode == 0
    assert output.read_text().startswith(kept)
    assert output.read_text().count("\n") == 9
