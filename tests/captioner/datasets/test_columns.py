"""Captions are read from columns with any usual name, in tables with any name."""

from __future__ import annotations

import json

import pytest

from captioner.datasets import load_dataset
from tests.captioner.datasets.folders import Files, found, without_splits, write


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("captions.csv", ",image,caption,url\n0,p0.jpg,A dog,x\n", "captions from caption; not used: url"),
        ("captions.csv", "image,caption_1,caption_2\np0.jpg,A dog,A cat\n", "captions from caption_1, caption_2"),
        ("captions.csv", "image,text,text\np0.jpg,A dog,A cat\n", "captions from text_1, text_2"),
        (
            "metadata.csv",
            "file_name,text,caption,split\np0.jpg,A dog,Un chien,train\n",
            "captions from text; not used: caption",
        ),
        (
            "metadata.jsonl",
            '{"file_name": "p0.jpg", "text": "A dog"}\n{"file_name": "p1.jpg", "caption": "A cat", "id": 1}\n',
            "captions from text, caption; not used: id",
        ),
    ],
)
def test_the_summary_names_caption_columns_and_unused_columns(tmp_path, name, text, columns) -> None:
    assert f"columns: {columns}" in load_dataset(write(tmp_path, {name: text}, "p0.jpg", "p1.jpg")).summary()


@pytest.mark.parametrize(
    "header",
    [
        "image,caption,caption_2,caption_3",
        "image,Caption #1,Caption #2,Caption #3",
        "image,sentence1,sentence2,sentence3",
        "image,description_0,description_1,description_2",
        "image,caption-1,caption-10,caption-11",
    ],
)
def test_caption_columns_can_be_numbered(tmp_path, header):
    files = {"captions.csv": f"{header}\n1.jpg,A dog,A cat,A cow\n"}
    assert without_splits(found(write(tmp_path, files, "1.jpg"))) == {"1.jpg": ("A dog", "A cat", "A cow")}


@pytest.mark.parametrize(
    "row",
    [
        {"captions": ["A dog", 5]},
        {"captions": [{"text": "A dog"}, {"words": "A cat"}]},
        {"text": "A dog", "text_2": True},
    ],
)
def test_a_row_with_a_caption_that_is_not_text_is_reported(tmp_path, row):
    rows = [{"file_name": "1.jpg"} | row, {"file_name": "2.jpg", "captions": ["A cow", None, float("nan")]}]
    dataset = load_dataset(write(tmp_path, {"metadata.jsonl": "\n".join(map(json.dumps, rows))}, "1.jpg", "2.jpg"))
    assert [e.references for e in dataset.examples] == [("A cow",)]
    assert dataset.problems.malformed == ["metadata.jsonl:1"]


CSV = "image;caption\n{}.jpg;A dog, {}\n"
LINE = '{{"image": "{}.jpg", "caption": "A dog, {}"}}'


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("train/captions.csv", "val/captions.csv"), CSV),
        (("train/captions.txt", "val/captions.tsv"), CSV),
        (("train.csv", "val.csv"), CSV),
        (("captions_train.tsv", "captions_dev.tsv"), CSV),
        (("train.jsonl", "validation.jsonl"), LINE),
    ],
)
def test_tables_for_several_splits_are_read_together(tmp_path, names, text):
    files = {name: text.format(number, number) for number, name in enumerate(names)}
    folders = [name.rpartition("/")[0] or "images" for name in names]
    photos = [f"{folder}/{number}.jpg" for number, folder in enumerate(folders)]
    assert sorted(found(write(tmp_path, files, *photos))) == [
        (photos[0], ("A dog, 0",), "train"),
        (photos[1], ("A dog, 1",), "dev"),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", CSV),
        ("My captions.TSV", CSV.replace(";", "\t")),
        ("annotations.jsonl", LINE + "\n"),
        ("results.csv", "image_name;comment_number;comment\n{}.jpg;0;A dog, {}\n"),
    ],
)
def test_a_table_with_known_columns_can_have_any_name(tmp_path, name, text):
    dataset = load_dataset(write(tmp_path, {name: text.format(1, 1), "data.csv": "id,date\n1,2\n"}, "1.jpg"))
    assert [e.references for e in dataset.examples] == [("A dog, 1",)]
    assert dataset.problems.unread == []


def test_txt_captions_take_precedence_over_a_table_with_an_unusual_name(tmp_path):
    files: Files = {"predictions.csv": CSV.format(1, 1), "1.txt": "A cat"}
    dataset = load_dataset(write(tmp_path, files, "1.jpg"))
    assert [e.references for e in dataset.examples] == [("A cat",)]
    assert [line.split()[0] for line in dataset.problems.unread] == ["predictions.csv"]
