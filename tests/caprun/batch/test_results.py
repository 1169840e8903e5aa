"""Result files can be read back, refuse other runs, and lose no row."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import caprun.batch.results
from caprun import OutputError, UsageError
from caprun.batch.results import Results
from caprun.batch.rows import FORMATS

NAMES = ["a.jpg", 'two\nlines, "quoted".jpg', "cr\r.jpg", "\udcff\udcfe.jpg", "", "naïve ☃.jpg", "a.jpg"]
BOTH = pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
KILLING = Path(__file__).parents[1] / "support" / "killing.py"
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def entry(image: str, number: int = 0) -> dict[str, Any]:
    if number % 3 == 2:
        return {"image": image, "error": f'{image!r} is "broken", get another'}
    return {"image": image, "caption": "" if number == 1 else f"a caption, {number}", "log_prob": -number / 7}


def write(
    path: Path, names: list[str], stop: int | None = None, identity: Mapping[str, Any] | None = None, **options: Any
) -> Results:
    with Results(path, names, identity or {"model": "m"}, **options) as results:
        for number in range(results.done, len(names) if stop is None else stop):
            results.add(entry(names[number], number))
    return results


def test_every_name_can_be_read_back_from_json_lines(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", NAMES)
    content = (tmp_path / "rows.jsonl").read_bytes()
    assert [json.loads(line) for line in content.decode("utf-8").split("\n")[:-1]] == [
        entry(name, number) for number, name in enumerate(NAMES)
    ]
    assert os.fsencode(json.loads(content.split(b"\n")[3])["image"]) == b"\xff\xfe.jpg"


def test_an_option_that_is_not_utf8_identifies_a_run(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", NAMES, 3, {"suppress": "\udcff"})
    assert write(tmp_path / "rows.jsonl", NAMES, None, {"suppress": "\udcff"}).done == len(NAMES)


def test_every_name_can_be_read_back_from_csv(tmp_path: Path) -> None:
    write(tmp_path / "rows.csv", NAMES)
    with (tmp_path / "rows.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ("image", "caption", "log_prob", "error", "confidence", "abstained", "finished")
    expected = [{key: str(entry(name, number).get(key, "")) for key in columns} for number, name in enumerate(NAMES)]
    assert rows == expected


@BOTH
def test_a_file_cut_off_anywhere_is_completed(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, NAMES)
    path = tmp_path / name
    whole = path.read_bytes()
    for cut in range(0, len(whole), 3):
        path.write_bytes(whole[:cut])
        results = write(path, NAMES)
        assert path.read_bytes() == whole
        assert (results.done, results.failed) == (7, 2)


@BOTH
def test_data_after_the_last_complete_row_is_dropped(tmp_path: Path, name: str) -> None:
    whole = write(tmp_path / name, NAMES).path.read_bytes()
    (tmp_path / name).write_bytes(whole[:150] + b"\0" * 5000)  # a power cut can leave zeros
    assert write(tmp_path / name, NAMES).path.read_bytes() == whole


@BOTH
def test_finished_and_failed_rows_are_counted_when_a_run_resumes(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, NAMES, stop=6)
    again = write(tmp_path / name, NAMES, stop=0)
    assert (again.done, again.failed, again.finished) == (6, 2, False)
    assert write(tmp_path / name, NAMES).finished


@BOTH
@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda data: data.replace(b"a.jpg", b"b.jpg", 1), "row 1 is for another photo"),
        (lambda data: data[: data.rindex(b"\n", 0, -1) + 1] + data.splitlines(keepends=True)[1], "row 5 is for"),
        (lambda data: b"?" + data, "row 1 is for another photo|its header is wrong"),
        (lambda data: data + data.splitlines(keepends=True)[-1], "it has more rows than there are photos"),
    ],
)
def test_an_altered_file_is_refused_and_kept(
    tmp_path: Path, name: str, spoil: Callable[[bytes], bytes], problem: str
) -> None:
    path = tmp_path / name
    names = [f"{i}.jpg" for i in range(5)]
    names[0] = "a.jpg"
    write(path, names)
    spoilt = spoil(path.read_bytes())
    path.write_bytes(spoilt)
    with pytest.raises(UsageError, match=rf"was changed after this run wrote it \(({problem})") as error:
        write(path, names)
    assert "give another --output, or --overwrite to start over" in str(error.value)
    assert path.read_bytes() == spoilt
    write(path, names, overwrite=True)
    assert path.read_bytes() != spoilt


def test_another_run_for_the_same_file_is_refused_with_the_differences(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, NAMES, stop=2, identity={"model": "m", "beam_size": 3, "gone": 1})
    before = path.read_bytes()
    with pytest.raises(UsageError) as error:
        write(path, NAMES, identity={"model": "m", "beam_size": 5, "new": ("a", 1)})
    differences = "beam_size 3 (now 5), gone 1 (now unknown), new unknown (now ['a', 1])"
    assert f"{path} belongs to another run: {differences}; give another --output, or --overwrite" in str(error.value)
    assert path.read_bytes() == before


def test_a_file_that_no_run_wrote_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("precious\n")
    with pytest.raises(UsageError, match="exists, but was not written by a run that can resume"):
        write(path, NAMES)
    assert path.read_text() == "precious\n"
    assert list(tmp_path.iterdir()) == [path], "nothing else was left there"


def test_overwrite_starts_over_unless_the_same_run_is_unfinished(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("not precious\n")
    assert write(path, NAMES, overwrite=True).done == 7
    whole = path.read_bytes()
    write(path, NAMES, stop=3, identity={"model": "other"}, overwrite=True)
    with Results(path, NAMES, {"model": "other"}, overwrite=True) as results:
        assert results.done == 3, "this very run, unfinished, resumes"
    write(path, NAMES, identity={"model": "m"}, overwrite=True)
    assert path.read_bytes() == whole
    with Results(path, NAMES, {"model": "m"}, overwrite=True) as results:
        assert results.done == 0


def test_overwrite_removes_old_rows_before_it_replaces_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, NAMES, identity={"model": "other"})

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OutputError):
            write(path, NAMES, overwrite=True)
    assert path.read_bytes() == b""


def test_an_empty_file_of_another_run_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, NAMES, stop=0, identity={"model": "other"})
    assert write(path, NAMES).finished


def test_a_file_that_is_being_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with (
        Results(path, NAMES, {"model": "m"}),
        pytest.raises(OutputError, match="is being written by another run; wait for it"),
    ):
        write(path, NAMES, overwrite=True)
    assert write(path, NAMES).finished


@posix
def test_a_file_replaced_just_before_it_is_locked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, lock = tmp_path / "rows.jsonl", caprun.batch.results.try_lock

    def lock_late(file: int) -> bool:
        path.unlink()
        path.touch()
        return lock(file)

    with monkeypatch.context() as patch:
        patch.setattr(caprun.batch.results, "try_lock", lock_late)
        with pytest.raises(OutputError, match="is being written by another run"):
            write(path, NAMES)
    write(path, NAMES)
    assert path.read_bytes().count(b"\n") == len(NAMES)


def test_texts_are_written_in_their_folders_and_errors_have_no_text(tmp_path: Path) -> None:
    texts = [tmp_path / "sub" / f"{i}.txt" for i in range(7)]
    write(tmp_path / "rows.jsonl", NAMES, texts=texts)
    assert [text.read_text() if text.exists() else None for text in texts] == [
        "a caption, 0\n", "\n", None, "a caption, 3\n", "a caption, 4\n", None, "a caption, 6\n"
    ]  # fmt: skip


def test_existing_texts_are_kept_without_overwrite(tmp_path: Path) -> None:
    texts = [tmp_path / f"{i}.txt" for i in range(7)]
    for text in texts[2:4]:
        text.write_text("a person wrote this\n")
    with pytest.raises(UsageError, match=r"2\.txt exists and was not written by this run; .* --overwrite to replace"):
        write(tmp_path / "rows.jsonl", NAMES, texts=texts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.txt", "3.txt"]
    write(tmp_path / "rows.jsonl", NAMES, texts=texts, overwrite=True)
    assert (texts[2].exists(), texts[3].read_text()) == (False, "a caption, 3\n")


def test_all_captions_of_a_photo_are_lines_of_its_text(tmp_path: Path) -> None:
    with Results(tmp_path / "rows.csv", ["a.jpg"], {}, texts=[tmp_path / "a.txt"]) as results:
        results.add({"image": "a.jpg", "caption": "one", "log_prob": 0, "alternatives": [{"caption": "two"}]})
    assert (tmp_path / "a.txt").read_text() == "one\ntwo\n"


def test_paths_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no folder .*nowhere for rows\.csv; create it first"):
        write(tmp_path / "nowhere" / "rows.csv", NAMES)
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nowhere" / "rows.csv")
    with pytest.raises(OutputError, match=r"gone\.csv cannot be written \(No such file or directory\)"):
        write(tmp_path / "gone.csv", NAMES)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OutputError, match=r"folder\.csv cannot be written \(Is a directory\)"):
        write(tmp_path / "folder.csv", NAMES)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.csv")
        with pytest.raises(UsageError, match=r"pipe\.csv is not a regular file"):
            write(tmp_path / "pipe.csv", NAMES)


@pytest.mark.parametrize("length", [246, 300])  # for 246, only the state's longer name exceeds the limit
def test_a_name_that_is_too_long_is_reported(tmp_path: Path, length: int) -> None:
    with pytest.raises(OutputError, match=r"x\.jsonl.* cannot be written \(File name too long\)"):
        write(tmp_path / f"{'x' * length}.jsonl", NAMES)
    assert not list(tmp_path.iterdir())


def test_a_text_name_that_is_too_long_does_not_affect_the_other_texts(tmp_path: Path) -> None:
    texts = [tmp_path / name for name in ("a.txt", "b.txt", f"{'x' * 300}.txt")]
    write(tmp_path / "rows.jsonl", NAMES[:3], texts=texts)
    assert texts[0].read_text() == "a caption, 0\n"


@BOTH
@pytest.mark.parametrize("room", [0, 5, 100, 250])
@pytest.mark.parametrize("before", [0, 1])
def test_a_full_disk_keeps_complete_rows_and_the_same_run_resumes(
    tmp_path: Path, name: str, room: int, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / f"whole-{name}", NAMES)
    real, left = os.write, room

    def full(file: int, data: Any) -> int:
        nonlocal left
        if not left:
            raise OSError(28, "No space left on device")
        written = real(file, data[:left])
        left -= written
        return written

    path = tmp_path / name
    if before:
        write(path, NAMES, stop=before)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OutputError) as error:
            write(path, NAMES)
    done = re.fullmatch(
        rf"{path} cannot be written \(No space left on device\); the results for (\d) of 7 photos are kept\. "
        r"Solve the problem, then run the same command to resume\.",
        str(error.value),
    )
    assert done
    kept = path.read_bytes() if path.exists() else b""
    rows = list(FORMATS[path.suffix].entries(io.BytesIO(kept)))
    assert int(done[1]) == max(0, len(rows) - (name == "rows.csv"))
    assert kept[-1:] in (b"", b"\n")
    assert {path.suffix for path in tmp_path.glob(".*")} == {".run"}
    write(path, NAMES)
    assert path.read_bytes() == (tmp_path / f"whole-{name}").read_bytes()


@pytest.fixture
def photos(tmp_path: Path, images: npt.NDArray[np.uint8]) -> Path:
    """Returns a folder of 23 photos: two are not images, and one name has a line break."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(21):
        Image.fromarray(images[i % 16]).save(folder / ("05\n.png" if i == 5 else f"{i:02}.png"))
    (folder / "03bad.jpg").write_bytes(b"no photo")
    (folder / "20bad.jpg").touch()
    return folder


# every step of a first run that can be interrupted, then rows cut anywhere or between two rows
FIRST = ["ftruncate:0", "fsync:0", "replace:0", "write:0", "write:1", "write:77", "write:450"]
THEN = ["write:1", "write:29", "ftruncate:0", "write:300", "write:2", "write:301", "write:150", "write:151"]
POINTS = [*FIRST, *THEN, "write:444", "write:70", "write:71", "write:0", "write:100"]
# "write:0" kills between a photo's text and its row
SOME = ["replace:0", "write:77", "write:0", "write:460", "write:10", "write:0", "write:25", "write:200"]


@posix
@pytest.mark.parametrize(
    ("output", "points"),
    [
        ("rows.jsonl", POINTS),
        pytest.param("rows.csv", POINTS[7::2], marks=pytest.mark.slow),
        pytest.param("texts/", SOME, marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_twenty_times_ends_like_an_uninterrupted_run(
    tiny: Path, tmp_path: Path, photos: Path, output: str, points: list[str]
) -> None:
    def run(deaths: list[str], to: str) -> list[str]:
        arguments = [photos, "--model", tiny, "--batch-size", 4, "--threads", 2, "--output", f"{tmp_path}/{to}"]
        command = [sys.executable, "-W", "ignore", str(KILLING), ",".join(deaths), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout.split()

    assert len(POINTS) == 20
    assert run(["write:1000000"], f"whole-{output}") == ["1"], "the exit code tells of the bad photos"
    ends = run([*points, "write:1000000", "write:0"], output)
    assert ends == [*["killed"] * len(points), "1", "1"]
    written, whole = (tmp_path / name for name in (output, f"whole-{output}"))
    if output == "texts/":
        assert len([path for path in written.iterdir() if not path.name.startswith(".")]) == 21 + 1
        for path in whole.iterdir():
            assert (written / path.name).read_bytes() == path.read_bytes()
    assert written.is_dir() or written.read_bytes() == whole.read_bytes()
