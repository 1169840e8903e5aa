"""`--min-confidence` replaces an uncertain caption with the reason, which is not an error."""

import csv
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import Result
from PIL import Image

from caprun import Captioner
from caprun.bundle.confidence import Linear
from caprun.caption import Caption, as_row
from tests.caprun.bundle.support.calibrated import CONFIDENCE, calibrate
from tests.caprun.support.invoking import invoke

Run = Callable[..., Result]
LEAST = 0.4


@pytest.fixture
def run(calibrated: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `caprun` with $CAPRUN_MODEL set to the calibrated bundle."""
    monkeypatch.setenv("CAPRUN_MODEL", str(calibrated))
    return invoke


@pytest.fixture
def folder(tmp_path: Path, images: npt.NDArray[np.uint8]) -> Path:
    """Returns a folder of ten photos; the model is confident about some of them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, image in enumerate(images[:10]):
        Image.fromarray(image).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def captions(calibrated: Path, folder: Path) -> dict[str, Caption]:
    """Captions each photo without a minimum confidence."""
    captioner = Captioner.load(calibrated, device="cpu", threads=1)
    found = {str(path): captioner.caption(path) for path in sorted(folder.iterdir())}
    sure = [confidence_of(caption) >= LEAST for caption in found.values()]
    assert 2 <= sum(sure) <= 8
    return found


def confidence_of(caption: Caption) -> float:
    assert caption.confidence is not None
    return caption.confidence


def is_sure(caption: Caption) -> bool:
    return confidence_of(caption) >= LEAST


@pytest.fixture
def surest(captions: dict[str, Caption]) -> str:
    return max(captions, key=lambda path: confidence_of(captions[path]))


@pytest.fixture
def doubtful(captions: dict[str, Caption]) -> str:
    return min(captions, key=lambda path: confidence_of(captions[path]))


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


SENTENCE = r"The model abstains: its confidence in its caption is 0\.\d+, below 0\.4\."


# --- One photo


def test_a_confident_caption_is_printed(run: Run, surest: str, captions: dict[str, Caption]) -> None:
    result = run(surest, "--min-confidence", LEAST)
    assert (result.stdout, result.stderr, result.exit_code) == (f"{captions[surest].text}\n", "", 0)


def test_an_uncertain_caption_is_not_printed_which_is_not_an_error(run: Run, doubtful: str) -> None:
    result = run(doubtful, "--min-confidence", LEAST)
    assert (result.stdout, result.exit_code) == ("", 0)
    assert re.fullmatch(rf"{doubtful}: {SENTENCE}\n", result.stderr)


def test_json_has_the_reason_for_abstaining_and_the_confidence(
    run: Run, doubtful: str, captions: dict[str, Caption]
) -> None:
    result = run(doubtful, "--json", "--min-confidence", LEAST)
    (row,) = rows_of(result.stdout)
    assert list(row) == ["image", "abstained", "confidence"]
    assert row["image"] == doubtful
    assert re.fullmatch(SENTENCE, row["abstained"])
    assert row["confidence"] == pytest.approx(confidence_of(captions[doubtful]), abs=1e-6)
    assert (result.exit_code, result.stderr) == (0, f"{doubtful}: {row['abstained']}\n")


def test_json_has_the_confidence_of_every_caption(run: Run, surest: str) -> None:
    (row,) = rows_of(run(surest, "--json", "--n-best", 3).stdout)
    assert list(row) == ["image", "caption", "log_prob", "finished", "confidence", "words", "alternatives"]
    values = [one["confidence"] for one in (row, *row["alternatives"])]
    assert len(set(values)) == 3


def test_the_first_caption_decides_whether_alternatives_are_printed(run: Run, surest: str, doubtful: str) -> None:
    said = run(surest, "--n-best", 3, "--min-confidence", LEAST)
    assert (said.stdout.count("\n"), said.stderr) == (3, "")
    assert run(doubtful, "--n-best", 3, "--min-confidence", LEAST).stdout == ""


@pytest.mark.parametrize("option", ["--picture", "--attention"])
def test_no_picture_is_written_if_the_model_abstains(
    run: Run, doubtful: str, surest: str, tmp_path: Path, option: str
) -> None:
    target = tmp_path / "out.png"
    result = run(doubtful, option, target, "--min-confidence", LEAST)
    assert (result.exit_code, target.exists()) == (0, False)
    assert result.stderr.endswith(" No picture is written.\n")
    assert run(surest, option, target, "--min-confidence", LEAST).exit_code == 0
    assert target.exists()


def test_several_photos_each_have_a_caption_or_a_reason(run: Run, captions: dict[str, Caption]) -> None:
    result = run(*captions, "--min-confidence", LEAST)
    said = "".join(f"{path}: {caption.text}\n" for path, caption in captions.items() if is_sure(caption))
    assert (result.stdout, result.exit_code) == (said, 0)
    silent = [path for path, caption in captions.items() if not is_sure(caption)]
    assert [line.partition(": ")[0] for line in result.stderr.splitlines()] == silent


def test_a_photo_that_cannot_be_read_is_still_an_error(run: Run, doubtful: str, tmp_path: Path) -> None:
    result = run(doubtful, tmp_path / "nowhere.png", "--min-confidence", LEAST)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[1].startswith("Error: ")


def test_a_minimum_of_zero_prints_every_caption_and_one_prints_none(run: Run, captions: dict[str, Caption]) -> None:
    assert run(*captions, "--min-confidence", 0).stdout.count("\n") == len(captions)
    assert run(*captions, "--min-confidence", 1).stdout == ""


# --- Many photos


def test_a_folder_prints_captions_reasons_and_the_number_of_abstentions(
    run: Run, folder: Path, captions: dict[str, Caption]
) -> None:
    result = run(folder, "--min-confidence", LEAST)
    assert result.stdout == "".join(f"{p}: {c.text}\n" for p, c in captions.items() if is_sure(c))
    *reasons, last = result.stderr.splitlines()
    silent = [path for path, caption in captions.items() if not is_sure(caption)]
    assert [reason.partition(": ")[0] for reason in reasons] == silent
    assert all(re.fullmatch(SENTENCE, reason.partition(": ")[2]) for reason in reasons)
    assert last == f"The model abstained from {len(silent)} of 10 photos."
    assert result.exit_code == 0


def test_output_rows_are_the_same_as_with_json(
    run: Run, folder: Path, tmp_path: Path, captions: dict[str, Caption]
) -> None:
    output = tmp_path / "rows.jsonl"
    result = run(folder, "--output", output, "--min-confidence", LEAST)
    assert output.read_text() == run(folder, "--json", "--min-confidence", LEAST).stdout
    rows = rows_of(output.read_text())
    assert ["caption" in row for row in rows] == [is_sure(caption) for caption in captions.values()]
    assert ["abstained" in row for row in rows] == [not is_sure(caption) for caption in captions.values()]
    for row, caption in zip(rows, captions.values(), strict=True):
        assert row["confidence"] == pytest.approx(confidence_of(caption), abs=1e-5)
    silent = sum(not is_sure(caption) for caption in captions.values())
    assert result.stderr.endswith(f"The model abstained from {silent} of 10 photos; their rows say why.\n")
    assert (result.stdout, result.exit_code) == ("", 0)


def test_csv_has_columns_for_confidence_and_abstained(run: Run, folder: Path, tmp_path: Path) -> None:
    run(folder, "--output", tmp_path / "rows.csv", "--min-confidence", LEAST)
    rows = rows_of(run(folder, "--json", "--min-confidence", LEAST).stdout)
    with (tmp_path / "rows.csv").open(newline="") as file:
        for row, written in zip(rows, csv.DictReader(file), strict=True):
            columns = ["image", "caption", "log_prob", "error", "confidence", "abstained", "finished"]
            assert list(written) == columns
            finished = {True: "true", False: "false", None: ""}[row.get("finished")]
            assert written == {column: str(row.get(column, "")) for column in columns} | {"finished": finished}


def test_a_photo_without_a_caption_has_no_text_file(
    run: Run, folder: Path, tmp_path: Path, captions: dict[str, Caption]
) -> None:
    texts = tmp_path / "texts"
    assert run(folder, "--output", f"{texts}/", "--min-confidence", LEAST).exit_code == 0
    written = {path.name: path.read_text() for path in texts.glob("*.txt")}
    assert written == {f"{Path(p).stem}.txt": f"{c.text}\n" for p, c in captions.items() if is_sure(c)}
    assert run(folder, "--output", f"{texts}/", "--min-confidence", 1, "--overwrite").exit_code == 0
    assert list(texts.glob("*.txt")) == [], "nor one of the run before"


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
@pytest.mark.parametrize("kept", [0, 3, 9])
def test_a_resumed_run_ends_with_the_same_rows_and_counts(
    run: Run, folder: Path, tmp_path: Path, name: str, kept: int
) -> None:
    (folder / "5.png").write_text("no photo")
    output = tmp_path / name
    command = (folder, "--output", output, "--min-confidence", LEAST, "--batch-size", 2)
    counts = run(*command).stderr.splitlines()[-2:]
    assert counts[0].startswith("The model abstained from ")
    assert counts[1] == "Error: 1 of 10 photos could not be captioned; their rows say why."
    whole = output.read_bytes()
    output.write_bytes(b"".join(whole.splitlines(keepends=True)[: kept + name.endswith("csv")]))
    again = run(*command)
    assert (output.read_bytes(), again.stderr.splitlines()[-2:]) == (whole, counts)
    finished = run(*command)
    assert (finished.exit_code, finished.stderr.splitlines()[1:]) == (1, counts), "nor when there is nothing to do"


@pytest.mark.parametrize(
    ("options", "differs"),
    [
        (["--min-confidence", 0.5], r"min confidence 0\.4 \(now 0\.5\)"),
        ([], r"min confidence 0\.4 \(now none\)"),
    ],
)
def test_another_minimum_confidence_for_the_same_output_is_refused(
    run: Run, folder: Path, tmp_path: Path, options: list[object], differs: str
) -> None:
    output = tmp_path / "rows.jsonl"
    run(folder, "--output", output, "--min-confidence", LEAST)
    result = run(folder, "--output", output, *options)
    assert result.exit_code == 2
    assert re.search(rf"belongs to another run: {differs}; give another --output, or --overwrite", result.stderr)


def test_a_recalibrated_model_for_the_same_output_is_refused(
    run: Run, folder: Path, tmp_path: Path, calibrated: Path
) -> None:
    """The model's other files are the same."""
    output = tmp_path / "rows.jsonl"
    assert run(folder, "--output", output).exit_code == 0
    anew = calibrate(Path(shutil.copytree(calibrated, tmp_path / "anew")), replace(CONFIDENCE, familiar=Linear(2.0)))
    result = run(folder, "--output", output, "--model", anew)
    assert result.exit_code == 2
    assert re.search(r"belongs to another run: model tiny \w+ \(now tiny \w+\);", result.stderr)


@pytest.mark.parametrize("header", [b"image,caption,log_prob,error\n", b"image,caption,log_prob,error\n0.png,a,-1,\n"])
def test_rows_started_by_an_older_caprun_are_refused_and_kept(
    run: Run, folder: Path, tmp_path: Path, header: bytes
) -> None:
    output = tmp_path / "rows.csv"
    run(folder, "--output", output)
    state = tmp_path / ".rows.csv.run"
    identity = json.loads(state.read_bytes())
    del identity["min confidence"]
    state.write_text(json.dumps(identity | {"rows": 1}))
    output.write_bytes(header)
    result = run(folder, "--output", output)
    assert (result.exit_code, output.read_bytes()) == (2, header)
    assert re.fullmatch(
        rf"Error: {output} belongs to another run: rows 1 \(now 3\), min confidence unknown \(now none\); give another "
        r"--output, or --overwrite to start over\.\n",
        result.stderr,
    )


def test_a_csv_header_of_an_older_caprun_is_refused(run: Run, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    run(folder, "--output", output)
    output.write_bytes(b"image,caption,log_prob,error\n")
    result = run(folder, "--output", output)
    assert result.exit_code == 2
    assert "its header is wrong" in result.stderr


# --- Invalid options


@pytest.mark.parametrize(
    "more", [[], ["--json"], ["--output", "rows.jsonl"], ["--output", "rows.csv"], ["another.png"]], ids=" ".join
)
def test_an_uncalibrated_model_is_refused_before_any_photo_is_read(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    """The photos do not exist."""
    monkeypatch.chdir(tmp_path)
    result = run("nowhere.png", *more, "--model", tiny, "--min-confidence", 0)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == ("Error: The model tiny has no calibrated confidence; leave out --min-confidence.\n")
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "inf", "half", "", "40%"])
def test_invalid_probabilities_are_refused_in_one_line(run: Run, photo: Path, value: str) -> None:
    result = run(photo, f"--min-confidence={value}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch(r"Error: .*--min-confidence.*\n", result.stderr)


@pytest.mark.parametrize("value", ["half", "", "nan"])
def test_a_value_that_is_not_a_number_is_reported_as_such(run: Run, photo: Path, value: str) -> None:
    assert f"'--min-confidence': {value!r} is not a number" in run(photo, f"--min-confidence={value}").stderr


def test_the_rounded_confidence_is_compared_with_the_minimum() -> None:
    """A row therefore never states that 0.4 is below 0.4."""
    just_below = math.nextafter(0.4, 0)
    assert as_row(Caption("a dog", -1.0, (), True, confidence=just_below), 0.4)["caption"] == "a dog"
    assert as_row(Caption("a dog", -1.0, (), True, confidence=0.3999994), 0.4) == {
        "abstained": "The model abstains: its confidence in its caption is 0.399999, below 0.4.",
        "confidence": 0.399999,
    }


def test_the_library_returns_uncertain_captions(captions: dict[str, Caption], doubtful: str) -> None:
    assert captions[doubtful].text


# --- `caprun doctor`


def test_doctor_reports_what_the_confidence_predicts(
    run: Run, calibrated: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caprun.commands.doctor.MOST_TIMES", 1)
    event = "calibrated: A careful reader would call the caption right."
    assert f"  confidence: {event}\n" in run("doctor", "--model", calibrated).stdout
    assert json.loads(run("doctor", "--model", calibrated, "--json").stdout)["bundle"]["confidence"] == event
    assert "  confidence: not calibrated\n" in run("doctor", "--model", tiny).stdout
