"""COCO and Karpathy JSON files are recognised by their content and read."""

from __future__ import annotations

import json

import pytest

from captioner.datasets import load_dataset
from captioner.errors import CaptionerError
from tests.captioner.datasets.folders import Files, found, without_splits, write

# --- COCO


@pytest.mark.parametrize("folder", ["", "images/", "image/"])
def test_coco_with_a_folder_per_split_is_read(tmp_path, folder):
    files: Files = {}
    for number, split in enumerate(("train", "val", "test"), 1):
        name = f"{number:012d}.jpg"
        files[f"{split}/captions.json"] = {
            "images": [{"id": number, "file_name": name}],
            "annotations": [{"image_id": number, "caption": f"Of {split} .\n"}],
        }
        write(tmp_path, {}, f"{split}/{folder}{name}")
    assert found(write(tmp_path, files)) == [
        (f"train/{folder}000000000001.jpg", ("Of train .",), "train"),
        (f"val/{folder}000000000002.jpg", ("Of val .",), "dev"),
        (f"test/{folder}000000000003.jpg", ("Of test .",), "test"),
    ]


def test_coco_in_an_eval_folder_is_the_test_split(tmp_path):
    rows = [{"image": "1.jpg", "caption": "A dog ."}]
    files = {f"{folder}/captions.json": rows for folder in ("train", "eval")}
    assert [split for *_, split in found(write(tmp_path, files, "train/1.jpg", "eval/1.jpg"))] == ["train", "test"]


@pytest.mark.parametrize("folder", ["val", "validation", "dev"])
def test_the_photos_of_a_coco_split_can_be_in_a_folder_with_another_name_of_the_split(tmp_path, folder):
    files = {f"captions_{split}.json": [{"image": "1.jpg", "caption": "A dog ."}] for split in ("train", "validation")}
    write(tmp_path, files, "train/1.jpg", f"{folder}/1.jpg")
    assert [photo for photo, *_ in found(tmp_path)] == ["train/1.jpg", f"{folder}/1.jpg"]


@pytest.mark.parametrize("wrap", [lambda rows: {"annotations": rows}, lambda rows: rows], ids=["object", "list"])
def test_coco_without_images_names_photos_by_their_12_digit_ids(tmp_path, wrap):
    rows = [{"image_id": 9, "caption": "A dog ."}, {"image_id": "25", "caption": "A cat ."}, {"image_id": 9}]
    for split in ("train", "val"):
        name = "000000000009.jpg"
        write(tmp_path, {f"{split}/captions.json": wrap(rows)}, f"{split}/{name}", f"{split}/images/000000000025.jpg")
    dataset = load_dataset(tmp_path)
    assert [(e.image.name, e.references, e.split) for e in dataset.examples] == [
        (name, references, split)
        for split in ("train", "dev")
        for name, references in (("000000000009.jpg", ("A dog .",)), ("000000000025.jpg", ("A cat .",)))
    ]
    assert len(dataset.problems.malformed) == 2


def test_a_2014_coco_photo_is_found_under_its_2017_name(tmp_path):
    annotations = {
        "images": [{"id": 9, "file_name": "COCO_train2014_000000000009.jpg"}],
        "annotations": [{"image_id": 9, "caption": "A dog ."}],
    }
    write(tmp_path, {"captions.json": annotations}, "train2017/000000000009.jpg")
    assert list(without_splits(found(tmp_path))) == ["train2017/000000000009.jpg"]


def test_the_name_of_the_dataset_folder_does_not_set_a_split(tmp_path):
    directory = tmp_path / "my-test-photos"
    rows = [{"image_id": i, "caption": "A dog ."} for i in range(40)]
    write(directory, {"captions.json": {"annotations": rows}}, *(f"{i:012d}.jpg" for i in range(40)))
    assert {split for *_, split in found(directory)} == {"train", "dev", "test"}


@pytest.mark.parametrize(("there", "year"), [(["2014"], "2014"), (["2017"], "2017"), (["2014", "2017"], "2017")])
def test_the_coco_year_with_photos_is_read_and_2017_if_both_have_photos(tmp_path, there, year):
    for each in ("2014", "2017"):
        for number, split in enumerate(("train", "val")):
            name = f"{number:012d}.jpg" if each == "2017" else f"COCO_{split}2014_{number:012d}.jpg"
            data = {
                "images": [{"id": number, "file_name": name}],
                "annotations": [{"image_id": number, "caption": f"Of {each} ."}],
            }
            photos = [f"{split}{each}/{name}"] if each in there else []
            write(tmp_path, {f"annotations/captions_{split}{each}.json": data}, *photos)
    dataset = load_dataset(tmp_path)
    assert {e.references for e in dataset.examples} == {(f"Of {year} .",)}
    assert f"(captions_train{year}.json, captions_val{year}.json)" in dataset.summary()[0]


def vizwiz(split: str, *captions: tuple[str, bool, bool]) -> Files:
    """Returns VizWiz JSON for one photo; a caption is its text, `is_precanned` and `is_rejected`."""
    rows = [{"image_id": 7, "caption": c, "is_precanned": p, "is_rejected": r} for c, p, r in captions]
    return {"images": [{"id": 7, "file_name": f"VizWiz_{split}_7.jpg", "text_detected": True}], "annotations": rows}


def test_vizwiz_is_read_without_precanned_and_rejected_captions(tmp_path):
    files: Files = {
        "annotations/train.json": vizwiz("train", ("A can .", False, False), ("Too blurred .", True, False)),
        "annotations/val.json": vizwiz("val", ("A box .", False, False), ("Spam .", False, True)),
        "annotations/test.json": {"images": [{"id": 7, "file_name": "VizWiz_test_7.jpg"}]},
    }
    write(tmp_path, files, *(f"{split}/VizWiz_{split}_7.jpg" for split in ("train", "val", "test")))
    assert found(tmp_path) == [
        ("train/VizWiz_train_7.jpg", ("A can .",), "train"),
        ("val/VizWiz_val_7.jpg", ("A box .",), "dev"),
    ]
    assert load_dataset(tmp_path).problems.rejected == ["train.json, annotation 1", "val.json, annotation 1"]


@pytest.mark.parametrize("folder", ["", "val/", "images/"])
@pytest.mark.parametrize("place", ["", "annotations/"])
def test_nocaps_is_read(tmp_path, folder, place):
    rows = [{"image_id": i, "id": 10 * i + k, "caption": f"Caption {k} ."} for i in (0, 1) for k in range(10)]
    images = [{"id": i, "open_images_id": f"{i}a", "file_name": f"{i}a.jpg"} for i in (0, 1)]
    files = {f"{place}nocaps_val_4500_captions.json": {"images": images, "annotations": rows}}
    captions = tuple(f"Caption {k} ." for k in range(10))
    photos = [f"{folder}0a.jpg", f"{folder}1a.jpg"]
    assert found(write(tmp_path, files, *photos)) == [(photo, captions, "dev") for photo in photos]


def test_json_with_other_content_is_not_taken_for_captions(tmp_path):
    files: Files = {
        "annotations/train.json": {"images": [], "annotations": [{"image_id": 1}]},
        "a.json": "",
        "1.txt": "A",
    }
    assert load_dataset(write(tmp_path, files, "1.jpg")).format == "photos with .txt captions next to them"


@pytest.mark.parametrize(
    "content",
    [
        {"1.jpg": ["A dog .", "It runs ."], "images/2.jpg": "A cat ."},
        [{"image": "1.jpg", "caption": ["A dog .", "It runs ."]}, {"image": "2.jpg", "caption": "A cat ."}],
        [{"image": "1.jpg", "image_id": "coco_1", "caption": c} for c in ("A dog .", "It runs .")]
        + [{"image": "2.jpg", "image_id": "coco_2", "caption": "A cat ."}],
        [{"image_id": "1", "caption": '["A dog .", "It runs ."]'}, {"image_id": "2.jpg", "caption": "A cat ."}],
    ],
)
def test_json_can_be_a_mapping_or_list_of_photos_with_captions(tmp_path, content):
    first = "000000000001.jpg" if '"image_id": "1"' in json.dumps(content) else "1.jpg"
    assert without_splits(found(write(tmp_path, {"captions.json": content}, first, "images/2.jpg"))) == {
        first: ("A dog .", "It runs ."),
        "images/2.jpg": ("A cat .",),
    }


# --- Duplicate keys

TWICE = r"an object has the key '{}' twice; give it one value"


@pytest.mark.parametrize(
    ("file", "text", "key"),
    [
        ("captions.json", '{"images": [{"id": 1}], "images": [{"id": 2}], "annotations": []}', "images"),
        ("captions.json", '{"annotations": [{"image_id": 1, "caption": "A", "caption": "B"}]}', "caption"),
        ("dataset_coco.json", '{"images": [{"sentences": [{"raw": "A", "raw": "B"}]}]}', "raw"),
    ],
)
def test_two_values_for_a_key_are_refused_with_file_and_key(tmp_path, file, text, key):
    with pytest.raises(CaptionerError, match=file.replace(".", r"\.") + ".*" + TWICE.format(key)):
        load_dataset(write(tmp_path, {file: text}, "1.jpg"))


@pytest.mark.parametrize(
    ("file", "row"),
    [
        ("metadata.jsonl", '{"file_name": "1.jpg", "text": "A", "text": "B"}'),
        ("metadata.jsonl", '{"file_name": "1.jpg", "text": "A", "Text": "B"}'),
        ("metadata.jsonl", '{"file_name": "1.jpg", "text": {"raw": "A", "raw": "B"}}'),
        ("metadata.csv", '1.jpg,"{""raw"": ""A"", ""raw"": ""B""}"'),
    ],
)
def test_a_row_with_two_values_for_a_key_is_reported(tmp_path, file, row):
    lines = [row, '{"file_name": "2.jpg", "text": "C", "id": 1, "id": 1}']
    lines = ["file_name,text", row, "2.jpg,C"] if file.endswith(".csv") else lines
    dataset = load_dataset(write(tmp_path, {file: "\n".join(lines)}, "1.jpg", "2.jpg"))
    assert [e.references for e in dataset.examples] == [("C",)]
    assert dataset.problems.malformed == [f"{file}:{lines.index(row) + 1}"]


# --- Karpathy


def karpathy(*photos: tuple[str, str, str | None]) -> Files:
    """Returns Karpathy JSON for photos, each given by folder, name and split."""
    images = [
        {"filename": name, "sentences": [{"raw": f"Of {name} .", "tokens": ["of"]}]}
        | ({"filepath": folder} if folder else {})
        | ({"split": split} if split else {})
        for folder, name, split in photos
    ]
    return {"images": images, "dataset": "any"}


@pytest.mark.parametrize("file", ["dataset_coco.json", "dataset_flickr8k.json", "dataset_flickr30k.json"])
def test_karpathy_splits_are_read(tmp_path, file):
    data = karpathy(("", "1.jpg", "train"), ("", "2.jpg", "restval"), ("", "3.jpg", "val"), ("", "4.jpg", "test"))
    write(tmp_path, {file: data}, *(f"images/{i}.jpg" for i in range(1, 5)))
    assert [(name, split) for name, _, split in found(tmp_path)] == [
        ("images/1.jpg", "train"),
        ("images/2.jpg", "train"),
        ("images/3.jpg", "dev"),
        ("images/4.jpg", "test"),
    ]


@pytest.mark.parametrize("place", ["val2014/1.jpg", "images/val2014/1.jpg", "1.jpg", "images/1.jpg"])
def test_karpathy_photos_are_found_with_and_without_their_folder(tmp_path, place):
    data = karpathy(("val2014", "1.jpg", "train"), ("", "2.jpg", "val"))
    assert found(write(tmp_path, {"dataset_coco.json": data}, place, "2.jpg"))[0] == (place, ("Of 1.jpg .",), "train")


def test_karpathy_tokens_replace_a_missing_raw_sentence(tmp_path):
    data = karpathy(("", "1.jpg", "train"), ("", "2.jpg", "val"))
    data["images"][0]["sentences"] = [{"tokens": ["a", "dog"]}, {"raw": " ", "tokens": ["a", "cat"]}, {}, None]
    dataset = load_dataset(write(tmp_path, {"dataset_flickr8k.json": data}, "1.jpg", "2.jpg"))
    assert dataset.examples[0].references == ("a dog", "a cat")
    assert len(dataset.problems.malformed) == 2


def test_the_karpathy_file_for_the_photos_present_is_read(tmp_path):
    files = {
        f"dataset_{name}.json": karpathy(("", f"{name}1.jpg", "train"), ("", f"{name}2.jpg", "val"))
        for name in ("coco", "flickr30k", "flickr8k")
    }
    write(tmp_path, files, "images/flickr8k1.jpg", "images/flickr8k2.jpg")
    assert list(without_splits(found(tmp_path))) == ["images/flickr8k1.jpg", "images/flickr8k2.jpg"]
    assert "(dataset_flickr8k.json)" in load_dataset(tmp_path).summary()[0]


def test_an_unrelated_dataset_json_is_not_taken_for_karpathy(tmp_path):
    files = {"dataset_infos.json": {"images": 5}, "captions.txt": "1.jpg,A dog .\n2.jpg,A cat .\n"}
    assert load_dataset(write(tmp_path, files, "1.jpg", "2.jpg")).format == "caption table"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"images": {}}', "[" * 100_000])
def test_json_that_is_not_karpathy_is_refused_with_its_file_name(tmp_path, text):
    with pytest.raises(CaptionerError, match=r"dataset_coco\.json is not a Karpathy captions JSON file"):
        load_dataset(write(tmp_path, {"dataset_coco.json": text}))
