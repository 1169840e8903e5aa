"""Hugging Face image folders and .txt captions next to photos are recognised and read."""

from __future__ import annotations

import json

import pytest

from captioner.datasets import load_dataset
from tests.captioner.datasets.folders import found, without_splits, write

# --- Hugging Face


@pytest.mark.parametrize(
    ("row", "captions"),
    [
        ({"text": "A dog ."}, ("A dog .",)),
        ({"caption": " A dog . "}, ("A dog .",)),
        ({"captions": ["A dog .", "It runs .", "", None]}, ("A dog .", "It runs .")),
        ({"caption_2": "It runs .", "caption_0": "A dog .", "caption_10": "Far ."}, ("A dog .", "It runs .", "Far .")),
        ({"text": "", "caption": "A dog ."}, ("A dog .",)),
        ({"sentences": [{"raw": "A dog .", "tokens": ["a"]}, {"raw": "It runs ."}]}, ("A dog .", "It runs .")),
        ({"sentences": {"raw": ["A dog .", "It runs ."], "sentid": [1, 2]}}, ("A dog .", "It runs .")),
        ({"caption": {"text": "A dog ."}}, ("A dog .",)),
        ({"text": "Một con chó ."}, ("Một con chó .",)),
        ({"text": "half \ud83d of a pair"}, ("half ? of a pair",)),
    ],
)
def test_captions_are_found_in_any_known_column(tmp_path, row, captions):
    lines = [json.dumps({"file_name": "images/1.jpg"} | row), '{"file_name": "2.jpg", "text": "A cat ."}']
    write(tmp_path, {"metadata.jsonl": "\n".join(lines)}, "images/1.jpg", "2.jpg")
    assert without_splits(found(tmp_path)) == {"images/1.jpg": captions, "2.jpg": ("A cat .",)}


@pytest.mark.parametrize("validation", ["validation", "val", "valid", "dev"])
def test_metadata_in_a_split_folder_belongs_to_that_split(tmp_path, validation):
    for folder in ("train", validation, "test"):
        row = {"file_name": "1.jpg", "text": f"Of {folder} ."}
        write(tmp_path, {f"{folder}/metadata.jsonl": json.dumps(row)}, f"{folder}/1.jpg")
    assert found(tmp_path) == [
        ("train/1.jpg", ("Of train .",), "train"),
        (f"{validation}/1.jpg", (f"Of {validation} .",), "dev"),
        ("test/1.jpg", ("Of test .",), "test"),
    ]


def test_eval_is_another_name_for_the_test_split(tmp_path):
    files = {f"{folder}/metadata.jsonl": '{"image": "1.jpg", "text": "A ."}' for folder in ("train", "eval")}
    write(tmp_path, files, "train/1.jpg", "eval/1.jpg")
    assert [split for *_, split in found(tmp_path)] == ["train", "test"]


def test_metadata_for_all_photos_has_splits_from_rows_or_photo_folders(tmp_path):
    rows = [
        {"file_name": "train/1.jpg", "text": "A ."},
        {"file_name": "validation/1.jpg", "text": "B ."},
        {"file_name": "3.jpg", "text": "C .", "split": "test"},
    ]
    write(tmp_path, {"metadata.jsonl": "\n".join(map(json.dumps, rows))}, "train/1.jpg", "validation/1.jpg", "3.jpg")
    assert [split for *_, split in found(tmp_path)] == ["train", "dev", "test"]


def test_metadata_csv_is_read_with_quotes_and_line_breaks(tmp_path):
    text = 'file_name,text\n1.jpg,"A dog,\nand ""a"" cat ."\n2.jpg,A cow .\n3.jpg\n'
    dataset = load_dataset(write(tmp_path, {"metadata.csv": text}, "1.jpg", "2.jpg"))
    assert [e.references for e in dataset.examples] == [('A dog,\nand "a" cat .',), ("A cow .",)]
    assert len(dataset.problems.malformed) == 1


def test_an_unrelated_metadata_csv_is_not_taken_for_hugging_face(tmp_path):
    files = {"metadata.csv": "id,date\n1,2\n", "1.txt": "A dog .", "2.txt": "A cat ."}
    assert load_dataset(write(tmp_path, files, "1.jpg", "2.jpg")).format == "photos with .txt captions next to them"


def test_malformed_metadata_lines_are_counted_and_skipped(tmp_path):
    lines = [
        "not JSON",
        "[1]",
        '{"text": "No name ."}',
        '{"file_name": true, "text": "A ."}',
        '{"file_name": "1.jpg"}',
        "",
    ]
    good = [json.dumps({"file_name": f"{i}.jpg", "text": "A dog ."}) for i in (1, 2)]
    dataset = load_dataset(write(tmp_path, {"metadata.jsonl": "\n".join(good + lines)}, "1.jpg", "2.jpg"))
    assert len(dataset.examples) == 2
    assert dataset.problems.malformed == [f"metadata.jsonl:{number}" for number in range(3, 8)]


# --- .txt captions next to photos


@pytest.mark.parametrize("folder", ["", "images/", "photos/"])
def test_each_line_of_a_txt_file_next_to_a_photo_is_a_caption(tmp_path, folder):
    files = {f"{folder}a.txt": "A dog .\n\n It runs . \n", f"{folder}b.c.txt": "A cat .", f"{folder}d.TXT": "A cow ."}
    write(tmp_path, files, f"{folder}a.jpg", f"{folder}b.c.PNG", f"{folder}d.jpeg")
    assert without_splits(found(tmp_path)) == {
        f"{folder}a.jpg": ("A dog .", "It runs ."),
        f"{folder}b.c.PNG": ("A cat .",),
        f"{folder}d.jpeg": ("A cow .",),
    }


def test_txt_captions_get_their_split_from_the_folder(tmp_path):
    names = {"train/1": "train", "train/dogs/2": "train", "val/images/3": "dev", "images/test/4": "test"}
    write(tmp_path, {f"{name}.txt": "A ." for name in names}, *(f"{name}.jpg" for name in names))
    assert {name.removesuffix(".jpg"): split for name, _, split in found(tmp_path)} == names


def test_photos_without_txt_and_txt_files_without_photo_are_only_reported(tmp_path):
    files = {"a.txt": "A dog .", "b.txt": "A cat .", "empty.txt": " \n", "README.txt": "Read me ."}
    dataset = load_dataset(write(tmp_path, files, "a.jpg", "b.jpg", "empty.jpg", "none.jpg"))
    assert [e.image.name for e in dataset.examples] == ["a.jpg", "b.jpg"]
    assert dataset.problems.uncaptioned == ["empty.jpg", "none.jpg"]
    assert dataset.problems.malformed == ["README.txt (no photo has this name)"]


def test_txt_captions_next_to_photos_are_tried_last(tmp_path):
    files = {"captions.txt": "a.jpg,From the list .\nb.jpg,From the list .\n", "a.txt": "Beside .", "b.txt": "Beside ."}
    dataset = load_dataset(write(tmp_path, files, "a.jpg", "b.jpg", "captions.jpg"))
    assert {e.references for e in dataset.examples} == {("From the list .",)}
    assert [line.split()[0] for line in dataset.problems.unread] == ["a.txt", "b.txt"]
