"""Every format of captioned photos is recognised by its files, and read as its authors meant it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captioner.datasets import load_dataset
from captioner.errors import CaptionerError

Files = dict[str, Any]
Found = list[tuple[str, tuple[str, ...], str | None]]


def write(directory: Path, files: Files, *photos: str) -> Path:
    """A dataset of text files (JSON where the content is no text) and photos, by their paths in the folder."""
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    for photo in photos:
        (directory / photo).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(directory / photo, format="PNG")
    return directory


def found(directory: Path) -> Found:
    """Photos by their paths in the folder, with captions and splits."""
    examples = load_dataset(directory).examples
    return [(e.image.relative_to(directory).as_posix(), e.references, e.split) for e in examples]


def without_splits(examples: Found) -> dict[str, tuple[str, ...]]:
    return {name: references for name, references, _ in examples}


# --- Flickr30k

HEADER = "image_name| comment_number| comment\n"


@pytest.mark.parametrize("folder", ["", "images/", "flickr30k_images/", "flickr30k-images/"])
def test_flickr30k_is_read_wherever_its_photos_are(tmp_path, folder):
    rows = "1.jpg| 0| Two men | one hat .\n1.jpg| 1| They talk .\n\n2.jpg| 0| A dog, a cat .\n"
    write(tmp_path, {"results.csv": HEADER + rows}, f"{folder}1.jpg", f"{folder}2.jpg")
    assert without_splits(found(tmp_path)) == {
        f"{folder}1.jpg": ("Two men | one hat .", "They talk ."),
        f"{folder}2.jpg": ("A dog, a cat .",),
    }
    assert load_dataset(tmp_path).format == "Flickr30k results.csv"


def test_the_row_of_flickr30k_that_lost_its_bar_keeps_its_caption(tmp_path):
    rows = "2199200615.jpg| 3| A dog .\n2199200615.jpg| 4   A dog runs across the grass .\n2.jpg| 0| A cat .\n"
    dataset = load_dataset(write(tmp_path, {"results.csv": HEADER + rows}, "2199200615.jpg", "2.jpg"))
    assert dataset.examples[0].references == ("A dog .", "A dog runs across the grass .")
    assert dataset.problems.malformed == []
    assert len(dataset.problems.mended) == 1
    assert any(line.startswith("warning: 1 malformed rows mended, such as results.csv") for line in dataset.summary())


@pytest.mark.parametrize("row", ["1.jpg| 5", "1.jpg| 5|  ", "1.jpg", "| 0| A dog .", "1.jpg| x| A dog .", "1.jpg|4 "])
def test_other_malformed_rows_of_flickr30k_are_counted(tmp_path, row):
    write(tmp_path, {"results.csv": f"{HEADER}1.jpg| 0| A cat .\n{row}\n2.jpg| 0| A cow .\n"}, "1.jpg", "2.jpg")
    dataset = load_dataset(tmp_path)
    assert [e.references for e in dataset.examples] == [("A cat .",), ("A cow .",)]
    assert len(dataset.problems.malformed) == 1


def test_flickr30k_without_a_header_is_known_by_its_bars(tmp_path):
    write(tmp_path, {"results.csv": "1.jpg| 0| A dog .\n2.jpg| 0| A cat .\n"}, "1.jpg", "2.jpg")
    assert without_splits(found(tmp_path)) == {"1.jpg": ("A dog .",), "2.jpg": ("A cat .",)}


@pytest.mark.parametrize("file", ["captions.txt", "results.csv"])
def test_flickr30k_with_commas_does_not_take_the_number_for_a_word(tmp_path, file):
    rows = 'image_name,comment_number,comment\n1.jpg,0,"A dog, a cat ."\n1.jpg,1,A cow, a pig .\n2.jpg,0, It .\n'
    write(tmp_path, {file: rows}, "1.jpg", "2.jpg")
    expected = {"1.jpg": ("A dog, a cat .", "A cow, a pig ."), "2.jpg": ("It .",)}
    assert without_splits(found(tmp_path)) == expected
    assert load_dataset(tmp_path).unused == ()


def test_another_results_csv_is_not_taken_for_flickr30k(tmp_path):
    files = {"results.csv": "epoch,loss\n0,1.5\n", "captions.txt": "1.jpg,A dog .\n2.jpg,A cat .\n"}
    dataset = load_dataset(write(tmp_path, files, "1.jpg", "2.jpg"))
    assert (dataset.format, dataset.unused) == ("Flickr8k captions.txt", ())


# --- Token files

TOKENS = "a.jpg#0\tA dog .\na.jpg#1\tIt runs .\nb.jpg#0\tA cat # 1 .\n"


@pytest.mark.parametrize("file", ["Flickr8k.token.txt", "Flickr8k_text/Flickr8k.token.txt", "results_20130124.token"])
def test_token_files_are_read(tmp_path, file):
    write(tmp_path, {file: TOKENS}, "a.jpg", "b.jpg")
    assert without_splits(found(tmp_path)) == {"a.jpg": ("A dog .", "It runs ."), "b.jpg": ("A cat # 1 .",)}
    assert load_dataset(tmp_path).summary()[0].startswith(f"dataset: Flickr token file ({Path(file).name}), 2 photos")


@pytest.mark.parametrize("folder", ["", "Flickr8k_text/"])
def test_a_token_file_comes_with_flickr8ks_split_lists(tmp_path, folder):
    files = {
        "Flickr8k.token.txt": TOKENS + "c.jpg#0\tA cow .\n",
        f"{folder}Flickr_8k.trainImages.txt": "a.jpg\n",
        f"{folder}Flickr_8k.devImages.txt": "c.jpg\n",
        f"{folder}Flickr_8k.testImages.txt": "b.jpg\n",
    }
    write(tmp_path, files, *(f"Flicker8k_Dataset/{name}.jpg" for name in "abc"))
    splits = {Path(name).name: split for name, _, split in found(tmp_path)}
    assert splits == {"a.jpg": "train", "b.jpg": "test", "c.jpg": "dev"}


def test_a_name_in_a_token_file_may_hold_the_mark_of_a_number(tmp_path):
    write(tmp_path, {"Flickr8k.token.txt": "a#1.jpg#0\tA dog .\nb.jpg#0\tA cat .\n"}, "a#1.jpg", "b.jpg")
    assert without_splits(found(tmp_path)) == {"a#1.jpg": ("A dog .",), "b.jpg": ("A cat .",)}


@pytest.mark.parametrize("row", ["a.jpg\tNo number .", "a.jpg#0 no tab", "#0\tNo name .", "a.jpg#5\t ", "a.jpg#x\tA ."])
def test_malformed_rows_of_a_token_file_are_counted(tmp_path, row):
    dataset = load_dataset(write(tmp_path, {"Flickr8k.token.txt": f"{TOKENS}{row}\n"}, "a.jpg", "b.jpg"))
    assert [len(e.references) for e in dataset.examples] == [2, 1]
    assert len(dataset.problems.malformed) == 1


def test_a_stray_number_after_a_photos_name_is_mended_where_the_photo_is_there(tmp_path):
    rows = TOKENS + "c.jpg.1#0\tPeople wait .\nc.jpg.1#1\tA train .\na.jpg.1#0\tA third .\n"
    dataset = load_dataset(write(tmp_path, {"Flickr8k.token.txt": rows}, "a.jpg", "b.jpg", "c.jpg"))
    captions = {e.image.name: e.references for e in dataset.examples}
    assert captions["c.jpg"] == ("People wait .", "A train .")
    assert captions["a.jpg"] == ("A dog .", "It runs .", "A third .")
    assert len(dataset.problems.mended) == 3


def test_a_stray_number_after_the_name_of_no_photo_stops_no_training(tmp_path):
    rows = f"{TOKENS}2258277193_586949ec62.jpg.1#0\tPeople wait .\n2258277193_586949ec62.jpg.1#1\tA train .\n"
    dataset = load_dataset(write(tmp_path, {"Flickr8k.token.txt": rows}, "a.jpg", "b.jpg"))
    assert len(dataset.examples) == 2
    assert dataset.problems.missing == []
    assert len(dataset.problems.malformed) == 2


# --- COCO


@pytest.mark.parametrize("folder", ["", "images/"])
def test_coco_with_a_folder_a_split_is_read(tmp_path, folder):
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


@pytest.mark.parametrize("wrap", [lambda rows: {"annotations": rows}, lambda rows: rows], ids=["object", "list"])
def test_coco_without_images_calls_a_photo_by_its_id_in_12_digits(tmp_path, wrap):
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


def test_a_coco_photo_under_its_later_name_is_found(tmp_path):
    annotations = {
        "images": [{"id": 9, "file_name": "COCO_train2014_000000000009.jpg"}],
        "annotations": [{"image_id": 9, "caption": "A dog ."}],
    }
    write(tmp_path, {"captions.json": annotations}, "train2017/000000000009.jpg")
    assert list(without_splits(found(tmp_path))) == ["train2017/000000000009.jpg"]


def test_the_name_of_the_datasets_own_folder_says_nothing_about_splits(tmp_path):
    directory = tmp_path / "my-test-photos"
    rows = [{"image_id": i, "caption": "A dog ."} for i in range(40)]
    write(directory, {"captions.json": {"annotations": rows}}, *(f"{i:012d}.jpg" for i in range(40)))
    assert {split for *_, split in found(directory)} == {"train", "dev", "test"}


@pytest.mark.parametrize(("there", "year"), [(["2014"], "2014"), (["2017"], "2017"), (["2014", "2017"], "2017")])
def test_of_cocos_two_years_the_one_is_read_whose_photos_are_there(tmp_path, there, year):
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


# --- Karpathy


def karpathy(*photos: tuple[str, str, str | None]) -> Files:
    """Photos with folder, name and split."""
    images = [
        {"filename": name, "sentences": [{"raw": f"Of {name} .", "tokens": ["of"]}]}
        | ({"filepath": folder} if folder else {})
        | ({"split": split} if split else {})
        for folder, name, split in photos
    ]
    return {"images": images, "dataset": "any"}


@pytest.mark.parametrize("file", ["dataset_coco.json", "dataset_flickr8k.json", "dataset_flickr30k.json"])
def test_karpathys_splits_are_read(tmp_path, file):
    data = karpathy(("", "1.jpg", "train"), ("", "2.jpg", "restval"), ("", "3.jpg", "val"), ("", "4.jpg", "test"))
    write(tmp_path, {file: data}, *(f"images/{i}.jpg" for i in range(1, 5)))
    assert [(name, split) for name, _, split in found(tmp_path)] == [
        ("images/1.jpg", "train"),
        ("images/2.jpg", "train"),
        ("images/3.jpg", "dev"),
        ("images/4.jpg", "test"),
    ]


@pytest.mark.parametrize("place", ["val2014/1.jpg", "images/val2014/1.jpg", "1.jpg", "images/1.jpg"])
def test_karpathys_photos_are_found_with_and_without_their_folder(tmp_path, place):
    data = karpathy(("val2014", "1.jpg", "train"), ("", "2.jpg", "val"))
    assert found(write(tmp_path, {"dataset_coco.json": data}, place, "2.jpg"))[0] == (place, ("Of 1.jpg .",), "train")


def test_karpathys_tokens_stand_in_for_a_missing_sentence(tmp_path):
    data = karpathy(("", "1.jpg", "train"), ("", "2.jpg", "val"))
    data["images"][0]["sentences"] = [{"tokens": ["a", "dog"]}, {"raw": " ", "tokens": ["a", "cat"]}, {}, None]
    dataset = load_dataset(write(tmp_path, {"dataset_flickr8k.json": data}, "1.jpg", "2.jpg"))
    assert dataset.examples[0].references == ("a dog", "a cat")
    assert len(dataset.problems.malformed) == 2


def test_of_karpathys_files_the_one_about_these_photos_is_read(tmp_path):
    files = {
        f"dataset_{name}.json": karpathy(("", f"{name}1.jpg", "train"), ("", f"{name}2.jpg", "val"))
        for name in ("coco", "flickr30k", "flickr8k")
    }
    write(tmp_path, files, "images/flickr8k1.jpg", "images/flickr8k2.jpg")
    assert list(without_splits(found(tmp_path))) == ["images/flickr8k1.jpg", "images/flickr8k2.jpg"]
    assert "(dataset_flickr8k.json)" in load_dataset(tmp_path).summary()[0]


def test_karpathys_file_goes_before_other_captions_and_the_summary_says_so(tmp_path):
    files = {
        "dataset_flickr8k.json": karpathy(("", "1.jpg", "train"), ("", "2.jpg", "val")),
        "captions.txt": "1.jpg,Another .\n2.jpg,Another .\n",
        "Flickr8k.token.txt": "1.jpg#0\tA third .\n",
    }
    summary = load_dataset(write(tmp_path, files, "1.jpg", "2.jpg")).summary()
    assert summary[:3] == [
        "dataset: Karpathy's JSON (dataset_flickr8k.json), 2 photos, 2 captions",
        "also there, and not used: captions.txt (Flickr8k captions.txt)",
        "also there, and not used: Flickr8k.token.txt (Flickr token file)",
    ]


def test_another_dataset_json_is_not_taken_for_karpathys(tmp_path):
    files = {"dataset_infos.json": {"images": 5}, "captions.txt": "1.jpg,A dog .\n2.jpg,A cat .\n"}
    assert load_dataset(write(tmp_path, files, "1.jpg", "2.jpg")).format == "Flickr8k captions.txt"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"images": {}}', "[" * 100_000])
def test_json_that_is_not_karpathys_is_refused_by_name(tmp_path, text):
    with pytest.raises(CaptionerError, match=r"dataset_coco\.json is not Karpathy's JSON of captions"):
        load_dataset(write(tmp_path, {"dataset_coco.json": text}))


# --- Hugging Face


@pytest.mark.parametrize(
    ("row", "captions"),
    [
        ({"text": "A dog ."}, ("A dog .",)),
        ({"caption": " A dog . "}, ("A dog .",)),
        ({"captions": ["A dog .", "It runs .", "", None]}, ("A dog .", "It runs .")),
        ({"caption_2": "It runs .", "caption_0": "A dog .", "caption_10": "Far ."}, ("A dog .", "It runs .", "Far .")),
        ({"text": "", "caption": "A dog ."}, ("A dog .",)),
        ({"text": "Một con chó ."}, ("Một con chó .",)),
        ({"text": "half \ud83d of a pair"}, ("half ? of a pair",)),
    ],
)
def test_a_caption_is_found_in_whichever_column_it_is(tmp_path, row, captions):
    lines = [json.dumps({"file_name": "images/1.jpg"} | row), '{"file_name": "2.jpg", "text": "A cat ."}']
    write(tmp_path, {"metadata.jsonl": "\n".join(lines)}, "images/1.jpg", "2.jpg")
    assert without_splits(found(tmp_path)) == {"images/1.jpg": captions, "2.jpg": ("A cat .",)}


@pytest.mark.parametrize("validation", ["validation", "val", "valid", "dev"])
def test_metadata_in_the_folder_of_a_split_is_about_that_split(tmp_path, validation):
    for folder in ("train", validation, "test"):
        row = {"file_name": "1.jpg", "text": f"Of {folder} ."}
        write(tmp_path, {f"{folder}/metadata.jsonl": json.dumps(row)}, f"{folder}/1.jpg")
    assert found(tmp_path) == [
        ("train/1.jpg", ("Of train .",), "train"),
        (f"{validation}/1.jpg", (f"Of {validation} .",), "dev"),
        ("test/1.jpg", ("Of test .",), "test"),
    ]


def test_metadata_about_all_photos_takes_the_split_from_the_row_or_the_photos_folder(tmp_path):
    rows = [
        {"file_name": "train/1.jpg", "text": "A ."},
        {"file_name": "validation/1.jpg", "text": "B ."},
        {"file_name": "3.jpg", "text": "C .", "split": "test"},
    ]
    write(tmp_path, {"metadata.jsonl": "\n".join(map(json.dumps, rows))}, "train/1.jpg", "validation/1.jpg", "3.jpg")
    assert [split for *_, split in found(tmp_path)] == ["train", "dev", "test"]


def test_metadata_in_csv_is_read_quotes_line_breaks_and_all(tmp_path):
    text = 'file_name,text\n1.jpg,"A dog,\nand ""a"" cat ."\n2.jpg,A cow .\n3.jpg\n'
    dataset = load_dataset(write(tmp_path, {"metadata.csv": text}, "1.jpg", "2.jpg"))
    assert [e.references for e in dataset.examples] == [('A dog,\nand "a" cat .',), ("A cow .",)]
    assert len(dataset.problems.malformed) == 1


def test_another_metadata_csv_is_not_taken_for_hugging_faces(tmp_path):
    files = {"metadata.csv": "id,date\n1,2\n", "1.txt": "A dog .", "2.txt": "A cat ."}
    assert load_dataset(write(tmp_path, files, "1.jpg", "2.jpg")).format == "photos with .txt captions beside them"


def test_lines_of_metadata_that_are_no_rows_are_counted(tmp_path):
    lines = [
        "not JSON",
        "[1]",
        '{"text": "No name ."}',
        '{"file_name": 5, "text": "A ."}',
        '{"file_name": "1.jpg"}',
        "",
    ]
    good = [json.dumps({"file_name": f"{i}.jpg", "text": "A dog ."}) for i in (1, 2)]
    dataset = load_dataset(write(tmp_path, {"metadata.jsonl": "\n".join(good + lines)}, "1.jpg", "2.jpg"))
    assert len(dataset.examples) == 2
    assert dataset.problems.malformed == [f"metadata.jsonl:{number}" for number in range(3, 8)]


# --- Texts beside photos


@pytest.mark.parametrize("folder", ["", "images/", "photos/"])
def test_texts_beside_photos_are_their_captions_one_a_line(tmp_path, folder):
    files = {f"{folder}a.txt": "A dog .\n\n It runs . \n", f"{folder}b.c.txt": "A cat .", f"{folder}d.TXT": "A cow ."}
    write(tmp_path, files, f"{folder}a.jpg", f"{folder}b.c.PNG", f"{folder}d.jpeg")
    assert without_splits(found(tmp_path)) == {
        f"{folder}a.jpg": ("A dog .", "It runs ."),
        f"{folder}b.c.PNG": ("A cat .",),
        f"{folder}d.jpeg": ("A cow .",),
    }


def test_texts_beside_photos_in_folders_of_splits_have_these_splits(tmp_path):
    files = {"train/1.txt": "A .", "val/images/2.txt": "B .", "test/3.txt": "C ."}
    write(tmp_path, files, "train/1.jpg", "val/images/2.jpg", "test/3.jpg")
    assert [split for *_, split in found(tmp_path)] == ["train", "dev", "test"]


def test_photos_without_text_and_texts_without_photo_are_warned_of_and_stop_nothing(tmp_path):
    files = {"a.txt": "A dog .", "b.txt": "A cat .", "empty.txt": " \n", "README.txt": "Read me ."}
    dataset = load_dataset(write(tmp_path, files, "a.jpg", "b.jpg", "empty.jpg", "none.jpg"))
    assert [e.image.name for e in dataset.examples] == ["a.jpg", "b.jpg"]
    assert dataset.problems.uncaptioned == ["empty.jpg", "none.jpg"]
    assert dataset.problems.malformed == ["README.txt (no photo of that name)"]


def test_texts_beside_photos_are_tried_last(tmp_path):
    files = {"captions.txt": "a.jpg,From the list .\nb.jpg,From the list .\n", "a.txt": "Beside .", "b.txt": "Beside ."}
    dataset = load_dataset(write(tmp_path, files, "a.jpg", "b.jpg", "captions.jpg"))
    assert {e.references for e in dataset.examples} == {("From the list .",)}
    assert dataset.unused == ()


# --- Names


@pytest.mark.parametrize(("row", "photo"), [("ch\u00f3", "cho\u0301"), ("cho\u0301", "ch\u00f3")])
def test_a_name_that_a_mac_decomposed_is_found(tmp_path, row, photo):
    write(tmp_path, {"captions.txt": f"{row}.jpg,A dog .\nb.jpg,A cat .\n"}, f"images/{photo}.jpg", "b.jpg")
    assert set(without_splits(found(tmp_path))) == {f"images/{photo}.jpg", "b.jpg"}


def test_a_line_separator_within_a_caption_ends_no_row(tmp_path):
    rows = "a.jpg,A dog\u2028runs .\nb.jpg,A\x0ccat .\n"
    write(tmp_path, {"captions.txt": rows}, "a.jpg", "b.jpg")
    assert without_splits(found(tmp_path)) == {"a.jpg": ("A dog\u2028runs .",), "b.jpg": ("A\x0ccat .",)}


@pytest.mark.parametrize("name", ["a\0b.jpg", "a\0b/c.jpg", "x" * 5000 + "/c.jpg", ".", "images", "folder.jpg"])
def test_names_that_no_photo_can_have_are_missing_photos(tmp_path, name):
    (tmp_path / "folder.jpg").mkdir()
    write(tmp_path, {"captions.txt": f"{name},A dog .\nb.jpg,A cat .\n"}, "b.jpg", "images/c.jpg")
    dataset = load_dataset(tmp_path, allow_missing=True)
    assert [e.image.name for e in dataset.examples] == ["b.jpg"]
    assert dataset.problems.missing == [name]


def test_a_folder_that_holds_the_dataset_is_told_so(tmp_path):
    write(tmp_path, {"flickr30k_images/results.csv": f"{HEADER}1.jpg| 0| A dog .\n"}, "flickr30k_images/1.jpg")
    with pytest.raises(CaptionerError, match=r"flickr30k_images is one: did you mean that\?$"):
        load_dataset(tmp_path)
