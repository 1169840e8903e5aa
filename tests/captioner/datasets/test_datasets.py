"""A folder of captioned photos has a format, splits and a list of missing photos."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from caprun.errors import UsageError
from captioner.config import DataConfig
from captioner.datasets import Dataset, load_dataset
from captioner.errors import CaptionerError


def write_photos(*photos: Path) -> None:
    for photo in photos:
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(photo, format="PNG")


def flickr8k(directory: Path, names: list[str], captions: int = 1) -> Path:
    """Writes photos and captions in Flickr8k's format, without split lists."""
    write_photos(*(directory / "images" / name for name in names))
    rows = [f"{name},Caption {i} .\n" for name in names for i in range(captions)]
    (directory / "captions.txt").write_text("".join(rows))
    return directory


def coco(file: Path, captions: dict[str, list[Any]]) -> None:
    """Writes a COCO file whose annotations are in a different order than its photos."""
    file.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": 100 + i, "file_name": name} for i, name in enumerate(captions)]
    ids = {image["file_name"]: image["id"] for image in images}
    pairs = [(ids[name], caption) for name in reversed(captions) for caption in captions[name]]
    annotations = [{"id": i, "image_id": key, "caption": caption} for i, (key, caption) in enumerate(pairs)]
    file.write_text(json.dumps({"images": images, "annotations": annotations}))


def found(dataset: Dataset) -> list[tuple[str, tuple[str, ...], str | None]]:
    return [(example.image.name, example.references, example.split) for example in dataset.examples]


# --- COCO


def test_a_single_coco_file_is_read_and_its_splits_are_drawn(tmp_path):
    coco(tmp_path / "captions.json", {f"{i}.jpg": [f" One {i} . ", f"Two {i} ."] for i in range(30)})
    write_photos(*(tmp_path / "images" / f"{i}.jpg" for i in range(30)))
    dataset = load_dataset(tmp_path)
    assert dataset.format == "COCO captions JSON"
    assert dataset.examples[4].references == ("One 4 .", "Two 4 .")
    assert [e.image.name for e in dataset.examples] == [f"{i}.jpg" for i in range(30)]
    assert dataset.splits_from.startswith("drawn by photo")


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco_files_per_split_define_the_splits(tmp_path, year):
    coco(tmp_path / f"annotations/captions_train{year}.json", {"1.jpg": ["A dog ."], "2.jpg": ["A cat .", "It ."]})
    coco(tmp_path / f"annotations/captions_val{year}.json", {"3.jpg": ["A bird ."]})
    write_photos(*(tmp_path / place for place in (f"train{year}/1.jpg", f"train{year}/2.jpg", f"val{year}/3.jpg")))
    (tmp_path / "annotations" / f"instances_val{year}.json").write_text("{}")
    dataset = load_dataset(tmp_path)
    assert found(dataset) == [
        ("1.jpg", ("A dog .",), "train"),
        ("2.jpg", ("A cat .", "It ."), "train"),
        ("3.jpg", ("A bird .",), "dev"),
    ]
    assert dataset.splits_from == "from the dataset"


def test_photos_with_the_same_name_in_two_splits_are_distinguished(tmp_path):
    for split in ("train", "val"):
        coco(tmp_path / f"annotations/captions_{split}2017.json", {"1.jpg": [f"Of {split} ."]})
        write_photos(tmp_path / f"{split}2017" / "1.jpg")
    photos = {example.split: example.image for example in load_dataset(tmp_path).examples}
    assert photos == {"train": tmp_path / "train2017" / "1.jpg", "dev": tmp_path / "val2017" / "1.jpg"}


def test_a_photo_with_captions_in_two_splits_is_refused(tmp_path):
    for split in ("train", "val"):
        coco(tmp_path / f"annotations/captions_{split}2017.json", {"1.jpg": ["A dog ."], f"{split}.jpg": ["A cat ."]})
    write_photos(*(tmp_path / "images" / name for name in ("1.jpg", "train.jpg", "val.jpg")))
    with pytest.raises(
        CaptionerError, match=r"1 photos of .* are in two of its splits: 1\.jpg; list each photo in one split\."
    ):
        load_dataset(tmp_path)


def test_malformed_annotations_are_counted_and_skipped(tmp_path):
    coco(tmp_path / "captions.json", {"1.jpg": ["A dog ."], "2.jpg": ["A cat .", None, "  ", 5]})
    data = json.loads((tmp_path / "captions.json").read_text())
    data["annotations"] += [{"image_id": 999, "caption": "Of nobody ."}, {"image_id": [1], "caption": "x"}, "text", {}]
    (tmp_path / "captions.json").write_text(json.dumps(data))
    write_photos(tmp_path / "1.jpg", tmp_path / "2.jpg")
    dataset = load_dataset(tmp_path)
    assert [row[:2] for row in found(dataset)] == [("1.jpg", ("A dog .",)), ("2.jpg", ("A cat .",))]
    assert len(dataset.problems.malformed) == 7
    assert any(line.startswith("warning: 7 rows are malformed and skipped: capt") for line in dataset.summary())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not JSON",
        "[]",
        "{}",
        '{"images": []}',
        '{"images": 1, "annotations": []}',
        '{"images": [1], "annotations": []}',
        '{"images": [{"id": 1}], "annotations": []}',
        '{"images": [], "annotations": null}',
    ],
)
def test_json_that_is_not_coco_is_refused_with_its_file_name(tmp_path, text):
    (tmp_path / "captions.json").write_text(text)
    with pytest.raises(CaptionerError, match=r"captions\.json is not a COCO captions JSON file"):
        load_dataset(tmp_path)


# --- Splits


def test_splits_are_drawn_by_photo_and_never_by_caption(tmp_path):
    dataset = load_dataset(flickr8k(tmp_path, [f"{i}.jpg" for i in range(200)], captions=5))
    counts = Counter(example.split for example in dataset.examples)
    assert {len(example.references) for example in dataset.examples} == {5}
    assert len({example.image for example in dataset.examples}) == 200
    assert 140 <= counts["train"] <= 180
    assert all(8 <= counts[split] <= 35 for split in ("dev", "test"))


def test_adding_photos_does_not_change_the_split_of_other_photos(tmp_path):
    names = [f"{i}.jpg" for i in range(60)]
    before = {e.image.name: e.split for e in load_dataset(flickr8k(tmp_path / "before", names)).examples}
    after = load_dataset(flickr8k(tmp_path / "after", ["0000.jpg", *reversed(names), "new.jpg"], captions=2)).examples
    assert before.items() <= {e.image.name: e.split for e in after}.items()


def test_a_different_seed_draws_different_splits(tmp_path):
    flickr8k(tmp_path, [f"{i}.jpg" for i in range(60)])
    draws = {tuple(e.split for e in load_dataset(tmp_path, DataConfig(split_seed=seed)).examples) for seed in (0, 0, 1)}
    assert len(draws) == 2


@pytest.mark.parametrize("count", range(2, 12))
def test_even_a_few_photos_are_split_into_train_and_dev(tmp_path, count):
    dataset = load_dataset(flickr8k(tmp_path, [f"{i}.jpg" for i in range(count)]))
    chosen = [e.image for split in ("train", "dev", "test") for e in dataset.examples if e.split == split]
    assert dataset.split("train")
    assert dataset.split("dev")
    assert len(chosen) == len(set(chosen)) == count


def test_the_summary_shows_format_counts_and_splits(shapes):
    assert load_dataset(shapes).summary() == [
        "dataset: caption table (captions.txt), 24 photos, 48 captions",
        "columns: captions from caption",
        "splits (from the dataset): train 17, dev 4, test 3 photos",
    ]


def test_the_default_draw_matches_earlier_training_runs(tmp_path):
    dataset = load_dataset(flickr8k(tmp_path, [f"{i}.jpg" for i in range(20)]))
    assert "".join(str(e.split)[1] for e in dataset.examples) == "rrrreerreerrrerrrrrr"
    assert dataset.splits_from == "drawn by photo, 80:10:10, seed 0"


@pytest.mark.parametrize("parts", [(60, 30, 10), (0.6, 0.3, 0.1), (6, 3, 1)])
def test_split_parts_are_relative(tmp_path, parts):
    dataset = load_dataset(flickr8k(tmp_path, [f"{i}.jpg" for i in range(300)]), DataConfig(splits=parts))
    counts = Counter(example.split for example in dataset.examples)
    assert 150 <= counts["train"] <= 210
    assert 65 <= counts["dev"] <= 115
    assert 10 <= counts["test"] <= 50
    assert len({example.image for example in dataset.examples}) == 300


def test_a_draw_can_leave_out_test(tmp_path):
    dataset = load_dataset(flickr8k(tmp_path, [f"{i}.jpg" for i in range(100)]), DataConfig(splits=(50, 50, 0)))
    assert {example.split for example in dataset.examples} == {"train", "dev"}


@pytest.mark.parametrize("parts", [(0, 1, 1), (1, 0, 1), (1, 1, -1), (math.nan, 1, 1), (math.inf, 1, 1), (1, 1)])
def test_invalid_split_parts_are_refused(parts):
    with pytest.raises(UsageError, match=r"^The splits .* are invalid: train and dev must be above 0"):
        DataConfig(splits=parts)


def test_dev_is_drawn_from_train_if_the_dataset_has_no_dev(tmp_path):
    names = [f"{i}.jpg" for i in range(100)]
    flickr8k(tmp_path, [*names, "t.jpg", "u.jpg"], captions=2)
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("\n".join(names))
    (tmp_path / "Flickr_8k.testImages.txt").write_text("t.jpg\n")
    dataset = load_dataset(tmp_path)
    assert [e.image.name for e in dataset.split("test")] == ["t.jpg"]
    assert 3 <= len(dataset.split("dev")) <= 25
    assert {e.image.name for s in ("train", "dev") for e in dataset.split(s)} == set(names)
    assert dataset.splits_from == "from the dataset; dev drawn from train by photo, 80:10:10, seed 0"
    assert dataset.unlisted == 1


@pytest.mark.parametrize("count", range(2, 12))
def test_dev_is_drawn_even_from_a_few_listed_photos(tmp_path, count):
    names = [f"{i}.jpg" for i in range(count)]
    (flickr8k(tmp_path, names) / "Flickr_8k.trainImages.txt").write_text("\n".join(names))
    dataset = load_dataset(tmp_path)
    assert dataset.split("train")
    assert dataset.split("dev")


def test_a_photo_listed_more_than_once_is_one_example(tmp_path):
    coco(tmp_path / "captions.json", {"a.jpg": ["A dog ."], "./a.jpg": ["It runs ."], "images/a.jpg": ["A dog ."]})
    write_photos(tmp_path / "images" / "a.jpg", tmp_path / "b.jpg")
    dataset = load_dataset(tmp_path)
    assert [row[:2] for row in found(dataset)] == [("a.jpg", ("A dog .", "It runs .", "A dog ."))]


# --- Missing photos, captions and folders


def test_missing_photos_are_counted_named_and_refused(own_shapes):
    for name in ("red-circle-white.png", "blue-square-grey.png", "green-circle-black.png", "red-square-grey.png"):
        (own_shapes / "images" / name).unlink()
    with pytest.raises(
        CaptionerError, match=r"^4 photos of .* have captions but are missing: .*--allow-missing\.$"
    ) as e:
        load_dataset(own_shapes)
    assert "red-circle-white.png" in str(e.value)


def test_missing_photos_are_skipped_with_allow_missing(own_shapes):
    (own_shapes / "images" / "red-circle-white.png").unlink()
    dataset = load_dataset(own_shapes, allow_missing=True)
    assert len(dataset.examples) == 23
    assert dataset.summary()[-1] == "warning: 1 photos have captions but are missing: red-circle-white.png"


def test_a_dataset_with_only_missing_photos_is_refused(tmp_path):
    (tmp_path / "captions.txt").write_text("a.jpg,A dog .\nb.jpg,A cat .\n")
    with pytest.raises(CaptionerError, match=r"^2 photos of .* have captions but are missing: a\.jpg, b\.jpg;"):
        load_dataset(tmp_path)
    with pytest.raises(CaptionerError, match=r"^All photos that have captions in .* are missing; check the path\.$"):
        load_dataset(tmp_path, allow_missing=True)


@pytest.mark.parametrize("text", ["image,caption\n", "image,caption\na.jpg,\n"])
def test_a_dataset_without_captions_is_refused(tmp_path, text):
    (tmp_path / "captions.txt").write_text(text)
    with pytest.raises(CaptionerError, match=r"has no captions \("):
        load_dataset(tmp_path)


def test_coco_without_captions_is_refused(tmp_path):
    coco(tmp_path / "captions.json", {"1.jpg": []})
    write_photos(tmp_path / "1.jpg")
    with pytest.raises(CaptionerError, match="has no captions"):
        load_dataset(tmp_path)


def test_a_missing_dataset_folder_is_named(tmp_path):
    with pytest.raises(CaptionerError, match=r"^There is no dataset folder .*nowhere; name one with --data\.$"):
        load_dataset(tmp_path / "nowhere")


def test_a_folder_in_an_unknown_format_is_refused_with_the_known_formats(tmp_path):
    write_photos(tmp_path / "a.jpg")
    with pytest.raises(
        CaptionerError, match="is not a dataset in a known format; its captions must be in one of: "
    ) as error:
        load_dataset(tmp_path)
    for file in (
        "dataset_*.json",
        "results.csv",
        "captions.txt",
        "Flickr8k.token.txt",
        "annotations/captions_*.json",
        "metadata.jsonl",
        "a .txt of the same name next to each photo",
    ):
        assert file in str(error.value)


@pytest.mark.parametrize("name", ["../outside.jpg", "images/../../outside.jpg", "{absolute}"])
def test_paths_outside_the_dataset_are_not_followed(tmp_path, name):
    write_photos(tmp_path / "outside.jpg", tmp_path / "data" / "inside.jpg", tmp_path / "data" / "images" / "a.jpg")
    name = name.format(absolute=tmp_path / "outside.jpg")
    (tmp_path / "data" / "captions.txt").write_text(f"{name},A secret .\ninside.jpg,A dog .\n")
    dataset = load_dataset(tmp_path / "data", allow_missing=True)
    assert [e.image.name for e in dataset.examples] == ["inside.jpg"]
    assert dataset.problems.missing == [name]
