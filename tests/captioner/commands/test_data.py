"""`captioner data` describes a folder of captioned photos and lists its problems."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from caprun.commands.groups import ErrorsAsSentences
from captioner.commands.data import data
from captioner.config import DataConfig
from captioner.datasets import load_dataset
from captioner.datasets.inspection import Report, Spread, inspect

LISTS = {"train": "Flickr_8k.trainImages.txt", "dev": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}


def run(*arguments: str | Path) -> Result:
    main = ErrorsAsSentences(commands=[data])
    return CliRunner().invoke(main, ["data", *map(str, arguments)])


def photo(file: Path, colour: int, comment: str = "") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    info.add_text("Comment", comment)
    Image.new("RGB", (6, 4), (colour, 0, 0)).save(file, format="PNG", pnginfo=info)


def dataset(directory: Path, captions: dict[str, list[str]], **splits: list[str]) -> Path:
    """Writes a dataset in Flickr8k's format: photos of different colours, and split lists if given."""
    for number, name in enumerate(captions):
        photo(directory / "images" / name, number)
    rows = [f"{name},{caption}\n" for name, own in captions.items() for caption in own]
    (directory / "captions.txt").write_text("".join(rows), encoding="utf-8")
    for split, names in splits.items():
        (directory / LISTS[split]).write_text("\n".join(names))
    return directory


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Returns a minimal dataset with two splits and no problems."""
    return dataset(tmp_path / "pair", {"a.png": ["A dog ."], "b.png": ["A cat ."]}, train=["a.png"], dev=["b.png"])


def test_counts_splits_lengths_and_words_of_captions_are_reported(tmp_path):
    captions = {
        "a.png": ["A dog runs , runs !", "One", "Two words"],
        "b.png": ["a dog and a cat sit on the grass"],
        "c.png": ["A Dog", "a cat", "a t-shirt", "Dog's"],
    }
    report = inspect(dataset(tmp_path, captions, train=["a.png"], dev=["b.png"]))
    assert (report.photos, report.captions, report.unlisted) == (3, 8, 1)
    assert report.captions_per_photo == Spread(1, 3.0, 8 / 3, 4, 4)
    assert report.words_per_caption == Spread(1, 2.0, 23 / 8, 9, 9)
    assert report.splits == {"train": {"photos": 1, "captions": 3}, "dev": {"photos": 1, "captions": 1}}
    assert report.words[:3] == (("a", 6), ("dog", 3), ("cat", 2))
    assert (report.vocabulary, report.frequent) == (14, 1)
    lines = report.lines()
    assert "captions: 8, 1 to 4 a photo, mean 2.67" in lines
    assert "splits (from the dataset): train 1 photos, 3 captions; dev 1 photos, 1 captions" in lines
    assert "photos in no split, not used: 1" in lines
    assert "words per caption: 1 to 9, median 2, mean 2.9, 95% have at most 9" in lines
    assert "vocabulary: 14 words, 1 occur at least 5 times" in lines


def test_characters_and_scripts_are_counted(tmp_path):
    captions = {"a.png": ["两只狗在跑", "一只猫"], "b.png": ["A dog ran ."]}
    report = inspect(dataset(tmp_path, captions, train=["a.png"], dev=["b.png"]), photos=False)
    assert report.words[:2] == (("只", 2), ("a", 1))
    lines = report.lines()
    assert "scripts: Chinese or Japanese 2 captions, Latin 1 caption" in lines
    assert "words and characters per caption: 3 to 5, median 3, mean 3.7, 95% have at most 5" in lines
    assert "vocabulary: 10 words and characters, 0 occur at least 5 times" in lines


def test_no_problems_are_reported_for_a_valid_dataset(pair):
    result = run(pair)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-2:] == ["photos opened: 2", "problems: none found"]


def test_unreadable_photos_are_named_with_their_reasons(pair):
    (pair / "images" / "a.png").write_bytes(b"no photo")
    whole = (pair / "images" / "b.png").read_bytes()
    (pair / "images" / "b.png").write_bytes(whole[: len(whole) // 2])
    result = run(pair)
    assert result.exit_code == 0
    assert "  2 photos cannot be read:\n    images/a.png is not a JPEG" in result.stdout
    assert "    images/b.png is damaged or incomplete" in result.stdout


def test_the_first_of_many_problems_are_named_and_the_others_counted(pair):
    (pair / "captions.txt").write_text("a.png,A dog .\nb.png,A cat .\n" + "".join(f"{i}.png,A .\n" for i in range(25)))
    out = run(pair).stdout
    assert "  25 photos have captions but are missing:\n    0.png\n    1.png\n" in out
    assert "    9.png\n    ... and 15 more\n" in out
    assert "    10.png" not in out


def test_the_same_pixels_in_two_splits_are_found_whatever_else_differs(tmp_path):
    captions = {name: ["A dog ."] for name in ("a.png", "b.png", "c.png", "d.png", "e.png", "f.png")}
    dataset(tmp_path, captions, train=["a.png", "c.png", "d.png", "f.png"], dev=["b.png"])
    photo(tmp_path / "images" / "b.png", 0, "another file")  # the pixels of a.png
    photo(tmp_path / "images" / "d.png", 2)  # the pixels of c.png
    photo(tmp_path / "images" / "e.png", 5)  # the pixels of f.png; in no split
    report = inspect(tmp_path)
    assert report.problems == {
        "photos are in two splits under different names": ["train images/a.png = dev images/b.png"],
        "photos are in a split under different names": ["images/c.png = images/d.png", "images/e.png = images/f.png"],
    }
    assert "    train images/a.png = dev images/b.png" in report.lines()


def test_photos_with_the_same_bytes_in_another_shape_are_different(pair):
    for name, size in (("a.png", (6, 4)), ("b.png", (4, 6))):
        Image.new("RGB", size).save(pair / "images" / name)
    assert inspect(pair).problems == {}


def test_a_photo_listed_in_two_splits_is_reported_and_not_refused(tmp_path):
    for split in ("train", "val"):
        data = [{"image_id": 1, "caption": "A dog ."}, {"image_id": {"train": 2, "val": 3}[split], "caption": "A cat"}]
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"captions_{split}2017.json").write_text(json.dumps({"annotations": data}))
    for number in (1, 2, 3):
        photo(tmp_path / "images" / f"{number:012d}.jpg", number)
    report = inspect(tmp_path)
    assert report.problems["photos are listed in two splits"] == ["images/000000000001.jpg"]
    assert report.photos == 3


def test_missing_photos_missing_captions_and_malformed_rows_are_listed(pair):
    (pair / "captions.txt").write_text("a.png,A dog .\nb.png,A cat .\nno comma\ngone.png,A cow .\n")
    photo(pair / "images" / "alone.png", 9)
    (pair / "images" / "notes.txt").write_text("no photo")
    out = run(pair).stdout
    assert "  1 photos have captions but are missing:\n    gone.png\n" in out
    assert "  1 photos have no caption:\n    images/alone.png\n" in out
    assert "  1 rows are malformed and skipped:\n    captions.txt:3\n" in out


def test_photos_listed_twice_are_counted_once(tmp_path):
    rows = [{"file_name": name, "text": "A dog ."} for name in ("a.png", "./a.png", "b.png")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    photo(tmp_path / "a.png", 1)
    photo(tmp_path / "b.png", 2)
    report = inspect(tmp_path)
    assert (report.photos, report.captions) == (2, 3)
    assert report.problems == {}


def test_captions_that_training_would_cut_are_counted(pair):
    (pair / "captions.txt").write_text("a.png,A dog on a mat .\na.png,A dog .\nb.png,A cat on a mat .\n")
    out = run(pair, "--quick", "--set", "data.max_length=3").stdout
    assert "  1 training captions are longer than data.max_length (3) and cut:\n    a.png (5 pieces)\n" in out
    assert run(pair, "--quick").stdout.endswith("problems: none found\n")


def test_photos_outside_the_folder_of_texts_are_named_relative_to_it(pair):
    texts = pair / "Flickr8k_text"
    texts.mkdir()
    (texts / "Flickr8k.token.txt").write_text("a.png#0\tA dog .\n")
    (pair / "captions.txt").unlink()
    (pair / "images" / "a.png").write_bytes(b"no photo")
    assert inspect(texts).problems["photos have no caption"] == ["../images/b.png"]
    assert "../images/a.png is not a JPEG" in inspect(texts).problems["photos cannot be read"][0]


@pytest.mark.parametrize("text", ["image,caption\n", "gone.png,A dog .\n"])
def test_a_dataset_without_usable_captions_is_reported(tmp_path, text):
    (tmp_path / "captions.txt").write_text(text)
    result = run(tmp_path)
    assert result.exit_code == 0
    assert "photos: 0\ncaptions: 0, 0 to 0 a photo, mean 0.00\n" in result.stdout


def test_quick_opens_no_photos_and_reports_it(pair):
    (pair / "images" / "a.png").write_bytes(b"no photo")
    assert run(pair, "--quick").stdout.splitlines()[-2:] == ["photos opened: none", "problems: none found"]


def test_the_report_is_written_as_json_with_every_problem(pair, tmp_path):
    (pair / "captions.txt").write_text("a.png,Một con chó .\nb.png,A cat .\n" + "no comma\n" * 25, encoding="utf-8")
    assert run(pair, "--json", tmp_path / "report.json").exit_code == 0
    written = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert set(written) == set(Report.__dataclass_fields__)
    assert written["splits"] == {"train": {"photos": 1, "captions": 1}, "dev": {"photos": 1, "captions": 1}}
    assert len(written["problems"]["rows are malformed and skipped"]) == 25
    assert ["chó", 1] in written["words"]


def test_an_unwritable_report_file_is_an_error_after_the_printed_report(pair, tmp_path):
    result = run(pair, "--json", tmp_path)
    assert result.exit_code == 1
    assert result.stdout.startswith("dataset: ")
    assert result.stderr.startswith("Error: The report ")


def test_splits_are_drawn_as_in_training(tmp_path):
    dataset(tmp_path, {f"{i}.png": ["A dog ."] for i in range(60)})
    examples = load_dataset(tmp_path, DataConfig(splits=(50, 25, 25), split_seed=3)).examples
    counts = {split: sum(e.split == split for e in examples) for split in ("train", "dev", "test")}
    drawn = "; ".join(f"{split} {count} photos, {count} captions" for split, count in counts.items())
    result = run(tmp_path, "--splits", "50", "25", "25", "--split-seed", "3")
    assert f"splits (drawn by photo, 50:25:25, seed 3): {drawn}" in result.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
def test_file_names_that_are_not_text_are_reported(tmp_path):
    for name in ("a\udcff", "b\nc", "d"):
        (tmp_path / f"{name}.txt").write_text("A dog .")
        (tmp_path / f"{name}.png").write_bytes(b"no photo")
        (tmp_path / f"{name}-alone.png").write_bytes(b"no photo")
    result = run(tmp_path, "--json", tmp_path / "report.json")
    assert result.exit_code == 0
    assert "  3 photos cannot be read:" in result.stdout
    assert "    'b\\nc-alone.png'\n" in result.stdout
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["problems"]["photos have no caption"] == ["a\udcff-alone.png", "b\nc-alone.png", "d-alone.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 2, "Error: Invalid value for 'DATASET': Path 'nowhere' does not exist; see"),
        (["{empty}"], 1, "is not a dataset in a known format"),
        (["{pair}", "--splits", "0", "1", "1"], 1, "The splits 0 1 1 are invalid"),
        (["{pair}", "--tokenizer", "bytes"], 1, "data.tokenizer is 'bytes'; it must be auto, word, bpe"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(pair, tmp_path, arguments, code, message):
    (tmp_path / "empty").mkdir()
    result = run(*(argument.format(empty=tmp_path / "empty", pair=pair) for argument in arguments))
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
