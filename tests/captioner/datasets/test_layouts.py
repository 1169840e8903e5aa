"""Photos and captions are found in the usual places and under the usual names."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from captioner.datasets import load_dataset
from captioner.datasets.example import split_in
from captioner.datasets.inspection import inspect
from captioner.errors import CaptionerError
from tests.captioner.datasets.folders import Files, found, without_splits, write

TABLE = "image,caption\np0.jpg,A dog .\np1.jpg,A cat .\n"
LIST = [{"image": "p0.jpg", "caption": "A dog ."}, {"filename": "p1.jpg", "captions": ["A cat ."]}]
BOTH = {"p0.jpg": ("A dog .",), "p1.jpg": ("A cat .",)}


def within(folder: str) -> dict[str, tuple[str, ...]]:
    return {f"{folder}{name}": captions for name, captions in BOTH.items()}


@pytest.mark.parametrize("folder", ["imgs/", "data/raw/", "JPEGImages/"])
@pytest.mark.parametrize("files", [{"captions.csv": TABLE}, {"captions.txt": TABLE}, {"captions.json": LIST}])
def test_photos_in_a_folder_with_any_name_are_found(tmp_path, folder, files) -> None:
    write(tmp_path, files | {"masks/notes": ""}, f"{folder}p0.jpg", f"{folder}p1.jpg", "masks/p0.png")
    assert without_splits(found(tmp_path)) == within(folder)


def test_photos_in_several_unusual_folders_are_missing_and_suggested(tmp_path) -> None:
    write(tmp_path, {"captions.csv": TABLE}, "imgs/p0.jpg", "imgs/p1.jpg", "thumbs/p0.jpg", "thumbs/p1.jpg")
    hint = "p0.jpg (did you mean imgs/p0.jpg, thumbs/p0.jpg?)"
    with pytest.raises(CaptionerError) as error:
        load_dataset(tmp_path)
    assert hint in str(error.value)
    assert hint in inspect(tmp_path, photos=False).problems["photos have captions but are missing"]


def test_a_single_missing_photo_is_not_taken_from_another_folder(tmp_path) -> None:
    write(tmp_path, {"captions.csv": TABLE}, "images/p0.jpg", "thumbs/p1.jpg")
    dataset = load_dataset(tmp_path, allow_missing=True)
    assert [example.image.name for example in dataset.examples] == ["p0.jpg"]
    assert dataset.problems.missing == ["p1.jpg (did you mean thumbs/p1.jpg?)"]


@pytest.mark.parametrize("name", ["captions.txt", "Flickr8k.token.txt"])
@pytest.mark.parametrize("row", ["{} {}", "{}#0 {}", "{}  {}", "{}: {}"])
def test_a_space_can_separate_photo_name_and_caption(tmp_path, name, row) -> None:
    rows = [row.format("a b.jpg", "A dog, a cat ."), row.format("p1.JPG", "A cow ."), row.format("p1.JPG", "It .")]
    write(tmp_path, {name: "\n".join(rows)}, "a b.jpg", "p1.JPG")
    assert without_splits(found(tmp_path)) == {"a b.jpg": ("A dog, a cat .",), "p1.JPG": ("A cow .", "It .")}


def test_a_space_before_a_comma_is_not_a_separator(tmp_path) -> None:
    write(tmp_path, {"captions.txt": "p0.jpg , A dog .\np1.jpg ,A cat .\n"}, *BOTH)
    assert without_splits(found(tmp_path)) == BOTH


@pytest.mark.parametrize(
    ("name", "photo"),
    [
        ('"12.0"', "12.jpg"),
        ("12", "000000000012.jpg"),
        ("12.0", "0012.png"),
        ('"012"', "12.jpg"),
        ('"a.jpg"', "a.jpeg"),
        ('"A.png"', "a.jpg"),
        ('"my%20photo.jpg"', "my photo.jpg"),
    ],
)
@pytest.mark.parametrize("folder", ["", "imgs/"])
def test_a_name_similar_to_exactly_one_photo_is_matched_and_reported(tmp_path, name, photo, folder) -> None:
    write(tmp_path, {"metadata.jsonl": f'{{"image": {name}, "text": "A dog ."}}'}, f"{folder}{photo}", f"{folder}b.jpg")
    assert without_splits(found(tmp_path)) == {f"{folder}{photo}": ("A dog .",)}
    assert load_dataset(tmp_path).problems.guessed == [f"{json.loads(name)} ({photo})"]


@pytest.mark.parametrize(("name", "photos"), [("12", ["0012.jpg", "012.jpg"]), ("a.jpg", ["a.png", "a.webp"])])
def test_a_name_similar_to_several_photos_is_reported_as_missing(tmp_path, name, photos) -> None:
    write(tmp_path, {"captions.csv": f"image,caption\n{name},A dog .\np1.jpg,A cat .\n"}, *photos, "p1.jpg")
    dataset = load_dataset(tmp_path, allow_missing=True)
    assert dataset.problems.missing == [f"{name} (did you mean {', '.join(photos)}?)"]


@pytest.mark.parametrize("folder", ["", "images/", "imgs/"])
@pytest.mark.parametrize(
    "outer", ["C:\\Users\\me\\set\\", "/home/me/set/", "https://example.org/", "data/", "{folder}/"]
)
def test_folders_that_do_not_exist_here_are_dropped_from_paths(tmp_path, folder, outer) -> None:
    outer = outer.format(folder=tmp_path / "data")
    rows = [f'{outer}{folder}{name},"{caption}"' for name, (caption,) in BOTH.items()]
    write(tmp_path / "data", {"captions.csv": "\n".join(["image,caption", *rows])}, *within(folder))
    assert without_splits(found(tmp_path / "data")) == within(folder)


@pytest.mark.parametrize("outer", ["/home/me/", "C:\\", ""])
def test_folders_that_distinguish_photos_are_not_dropped(tmp_path, outer) -> None:
    text = f"image,caption\n{outer}p1.jpg,A cow .\n{outer}dogs/p0.jpg,A dog .\n{outer}cats/p0.jpg,A cat .\n"
    dataset = load_dataset(
        write(tmp_path, {"captions.csv": text}, "images/p0.jpg", "images/p1.jpg"), allow_missing=True
    )
    assert [example.references for example in dataset.examples] == [("A cow .",)]
    assert len(dataset.problems.missing) == 2


@pytest.mark.parametrize(
    ("files", "folder"),
    [
        ({"Captions.txt": "p0.jpg,A dog .\np1.jpg,A cat .\n"}, ""),
        ({"CAPTIONS.CSV": TABLE}, "IMAGES/"),
        ({"flickr8k.token.txt": "p0.jpg#0\tA dog .\np1.jpg#0\tA cat .\n"}, ""),
        ({"Results.csv": "p0.jpg| 0| A dog .\np1.jpg| 0| A cat .\n"}, ""),
        ({"Train/Captions.csv": TABLE}, "Train/"),
        ({"Annotations/captions_train2017.json": LIST}, "train2017/"),
        ({"text/captions_train.csv": TABLE}, "images/"),
        ({"annotations_x/dataset_x.json": {"images": [
            {"filename": name, "sentences": [{"raw": c} for c in captions]} for name, captions in BOTH.items()
        ]}}, "X_images/"),
    ],
    ids=lambda files: " ".join(files) if isinstance(files, dict) else "",
)  # fmt: skip
def test_caption_files_can_differ_in_case_or_be_in_a_separate_folder(tmp_path, files: Files, folder) -> None:
    assert without_splits(found(write(tmp_path, files, *within(folder)))) == within(folder)


def test_split_folders_can_be_capitalised(tmp_path) -> None:
    files: Files = {f"{split}/captions.csv": TABLE for split in ("Train", "Val")}
    write(tmp_path, files, *within("Train/"), *within("Val/"))
    assert {(name.split("/")[0], split) for name, _, split in found(tmp_path)} == {("Train", "train"), ("Val", "dev")}


def test_a_table_in_a_separate_folder_keeps_the_split_in_its_name(tmp_path) -> None:
    files: Files = {"lists/captions_train.csv": "image,caption\np0.jpg,A dog .\n"}
    files |= {"lists/captions_val.csv": "image,caption\np1.jpg,A cat .\n"}
    assert [split for *_, split in found(write(tmp_path, files, *within("images/")))] == ["train", "dev"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("captions_train2014", "train"),
        ("val2", "dev"),
        ("Validation-captions", "dev"),
        ("my.TEST", "test"),
        ("evaluation", "test"),
        ("captions_restval", "train"),
        ("trainval", "train"),
        ("trainCaptions", "train"),
        ("testset", "test"),
        ("traindata", "train"),
        ("valcaptions", "dev"),
        ("train-00000-of-00001", "train"),
        ("valley", None),
        ("devices", None),
        ("tested_photos", None),
        ("latest", None),
        ("captions", None),
    ],
)
def test_a_split_in_a_file_name_is_a_word_of_its_own(name, split) -> None:
    assert split_in(name) == split


@pytest.mark.parametrize("name", ["valley.csv", "devices.csv", "testimony.json"])
def test_splits_are_drawn_for_a_file_whose_name_only_begins_like_a_split(tmp_path, name) -> None:
    write(tmp_path, {name: LIST if name.endswith("json") else TABLE}, *BOTH)
    assert {split for *_, split in found(tmp_path)} == {"train", "dev"}


def test_txt_captions_are_read_once_from_every_folder(tmp_path) -> None:
    folders = ("", "10_dogs/", "img/more/", "images/cats/")
    write(tmp_path, {f"{folder}p.txt": f"In {folder} ." for folder in folders}, *(f"{f}p.jpg" for f in folders))
    write(tmp_path, {"img/left/q.txt": "No photo ."}, "img/right/r.jpg")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert without_splits(found(tmp_path)) == {f"{folder}p.jpg": (f"In {folder} .",) for folder in folders}
    problems = load_dataset(tmp_path).problems
    assert problems.malformed == ["img/left/q.txt (no photo has this name)"]
    assert problems.uncaptioned == ["img/right/r.jpg"]


@pytest.mark.parametrize(
    ("texts", "photos"), [("captions/", "images/"), ("labels/train/", "images/train/"), ("t/", "")]
)
def test_txt_captions_in_another_folder_than_their_photos_are_refused(tmp_path, texts, photos) -> None:
    write(tmp_path, {f"{texts}007.txt": "A dog ."}, f"{photos}007.jpg")
    told = f"{texts}007.txt has the name of {photos}007.jpg; put each text next to its photo."
    with pytest.raises(CaptionerError, match=told.replace(".", r"\.") + "$"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"captions.yaml": "a", "data.zip": "b"}, r"Parquet files\. It has captions\.yaml, data\.zip\.$"),
        (
            {"all.tsv": "bild\ttitel\n"},
            r"all\.tsv starts with 'bild\\ttitel'; a table needs a column for file names \(file_",
        ),
        ({"a/captions.csv": TABLE, "b/captions.csv": TABLE}, r"/a, .*/b are datasets; use one or more\.$"),
    ],
)
def test_the_error_for_an_unknown_layout_names_what_the_folder_contains(tmp_path, files, told) -> None:
    with pytest.raises(CaptionerError, match=told):
        load_dataset(write(tmp_path, files, "p0.jpg"))


@pytest.mark.parametrize("rows", [LIST, {"annotations": LIST}])
def test_json_with_any_name_can_list_photos_with_captions(tmp_path, rows) -> None:
    assert without_splits(found(write(tmp_path, {"export.json": rows}, *BOTH))) == BOTH


def test_the_flickr30k_table_from_the_hub_is_read(tmp_path) -> None:
    cell = json.dumps(["A dog, big .", 'A "dog" .']).replace('"', '""')
    text = f'raw,sentids,split,filename,img_id\n"{cell}","[0, 1]",test,p0.jpg,0\n'
    assert found(write(tmp_path, {"flickr_annotations_30k.csv": text}, "p0.jpg")) == [
        ("p0.jpg", ("A dog, big .", 'A "dog" .'), "test")
    ]


def test_a_table_with_unknown_columns_among_others_is_reported(tmp_path) -> None:
    write(tmp_path, {"train/captions.csv": TABLE, "test/captions.csv": "bild,titel\np2.jpg,Ein Hund\n"}, "test/p2.jpg")
    (unread,) = load_dataset(write(tmp_path, {}, *within("train/"))).problems.unread
    assert unread.startswith("test/captions.csv (starts with 'bild,titel'; a table needs ")


def test_texts_are_read_in_folders_five_levels_deep(tmp_path: Path) -> None:
    photos = ["x/a.jpg", "photos/2023/05/b.jpg", "photos/family/2023/05/12/c.jpg"]
    texts = {photo.replace(".jpg", ".txt"): f"A dog {number}" for number, photo in enumerate(photos)}
    read = without_splits(found(write(tmp_path, texts, *photos)))
    assert read == {photo: (f"A dog {number}",) for number, photo in enumerate(photos)}


@pytest.mark.parametrize("listed", ["annotations", "images", "list"])
def test_splits_in_coco_json_are_kept(tmp_path: Path, listed: str) -> None:
    splits = ["train", "val", "test"]
    annotations = [{"image_id": i, "caption": f"A dog {i}"} for i in range(3)]
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(3)]
    data: Any = {"images": images, "annotations": annotations}
    if listed == "list":
        data = [{"image": f"{i}.jpg", "caption": f"A dog {i}", "split": split} for i, split in enumerate(splits)]
    else:
        for entry, split in zip(data[listed], splits, strict=True):
            entry["split"] = split
    read = found(write(tmp_path, {"captions.json": data}, *(f"{i}.jpg" for i in range(3))))
    assert [split for _, _, split in read] == ["train", "dev", "test"]


def test_a_folder_that_cannot_be_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"metadata.csv": "file_name,text\na.jpg,A dog\nb.jpg,A cat\n"}, "a.jpg", "b.jpg")
    (tmp_path / "lost+found").mkdir()
    scandir, access = os.scandir, os.access

    def refuse(path: Any) -> Any:
        if Path(path).name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "lost+found" and access(path, mode))
    assert len(found(tmp_path)) == 2


def test_the_splits_drawn_for_a_copy_with_decomposed_names_are_the_same(tmp_path: Path) -> None:
    drawn = []
    for form in ("NFC", "NFD"):
        names = [unicodedata.normalize(form, f"été{number}.jpg") for number in range(20)]
        rows = "".join(f"{name},A dog\n" for name in names)
        folder = write(tmp_path / form, {"metadata.csv": f"file_name,text\n{rows}"}, *names)
        drawn.append([split for _, _, split in found(folder)])
    assert drawn[0] == drawn[1]
