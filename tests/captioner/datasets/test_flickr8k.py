"""Flickr8k's captions.txt is read with or without quotes and header, as saved by any editor."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from captioner.datasets import load_dataset
from captioner.errors import CaptionerError


def write(directory: Path, text: str | bytes, *photos: str) -> Path:
    """Writes captions.txt and photos (paths in the folder); returns the folder."""
    directory.mkdir(exist_ok=True)
    (directory / "captions.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    for photo in photos:
        (directory / photo).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(directory / photo, format="PNG")
    return directory


def captions_of(directory: Path) -> dict[str, tuple[str, ...]]:
    return {example.image.name: example.references for example in load_dataset(directory).examples}


@pytest.mark.parametrize(
    ("row", "caption"),
    [
        ("a.jpg,A dog runs .", "A dog runs ."),
        ("a.jpg, A dog runs . ", "A dog runs ."),
        ("a.jpg,A dog, a cat, and a bird .", "A dog, a cat, and a bird ."),
        ('a.jpg,"A dog, a cat, and a bird ."', "A dog, a cat, and a bird ."),
        ('a.jpg, "A dog, a cat" ', "A dog, a cat"),
        ('a.jpg,"A sign says ""stop"" ."', 'A sign says "stop" .'),
        ('a.jpg,A sign says "stop" .', 'A sign says "stop" .'),
        ('"a.jpg","A dog runs ."', "A dog runs ."),
        ("a.jpg,Một con chó chạy .", "Một con chó chạy ."),
    ],
)
def test_a_caption_is_read_with_its_commas_and_quotes(tmp_path, row, caption):
    assert captions_of(write(tmp_path, f"image,caption\n{row}\n", "a.jpg")) == {"a.jpg": (caption,)}


@pytest.mark.parametrize("header", ["image,caption\n", "Image, Caption\n", '"image","caption"\n', ""])
def test_a_header_is_not_read_as_a_caption(tmp_path, header):
    assert captions_of(write(tmp_path, f"{header}a.jpg,A dog .\n", "a.jpg")) == {"a.jpg": ("A dog .",)}


@pytest.mark.parametrize(
    "text",
    [
        b"image,caption\r\na.jpg,A dog .\r\na.jpg,It runs .\r\n",
        b"\xef\xbb\xbfimage,caption\na.jpg,A dog .\na.jpg,It runs .",
        b"\xef\xbb\xbfa.jpg,A dog .\n\n\na.jpg,It runs .\n",
    ],
    ids=["Windows line ends", "byte order mark", "byte order mark, no header, empty lines"],
)
def test_windows_line_ends_and_byte_order_marks_are_accepted(tmp_path, text):
    assert captions_of(write(tmp_path, text, "a.jpg")) == {"a.jpg": ("A dog .", "It runs .")}


@pytest.mark.parametrize("folder", ["", "images/", "Images/", "Flicker8k_Dataset/", "photos/"])
def test_photos_are_found_next_to_captions_txt_and_in_the_usual_folders(tmp_path, folder):
    (example,) = load_dataset(write(tmp_path, "a.jpg,A dog .\n", f"{folder}a.jpg")).examples
    assert example.image == tmp_path / folder / "a.jpg"


def test_photos_keep_the_order_of_their_first_caption(tmp_path):
    text = "b.jpg,One .\na.jpg,Two .\nb.jpg,Three .\n"
    assert captions_of(write(tmp_path, text, "a.jpg", "b.jpg")) == {"b.jpg": ("One .", "Three ."), "a.jpg": ("Two .",)}


def test_malformed_rows_are_counted_shown_and_skipped(tmp_path):
    long = "x" * 5000  # longer than a file name can be
    rows = ["a.jpg,A dog .", "no comma", "a.jpg,", ",A dog .", "a.jpg, ", 'a.jpg,"unfinished', f"{long},A dog ."]
    dataset = load_dataset(write(tmp_path, "\n".join(rows), "a.jpg"), allow_missing=True)
    assert dataset.examples[0].references == ("A dog .", '"unfinished')
    assert dataset.problems.mended == ["captions.txt:6"]
    assert len(dataset.problems.malformed) == 4
    assert dataset.problems.missing == [long]
    (warning,) = (line for line in dataset.summary() if "skipped" in line)
    assert warning.startswith("warning: 4 rows are malformed and skipped: captions.txt:2, ")
    assert warning.endswith(", ...")


def test_a_row_with_too_many_fields_is_reported_as_repaired(tmp_path):
    dataset = load_dataset(write(tmp_path, 'a.jpg,A dog .\na.jpg,"two","fields"\n', "a.jpg"))
    assert dataset.problems.mended == ["captions.txt:2"]


def test_split_lists_define_the_splits_and_unlisted_photos_are_not_used(tmp_path):
    write(tmp_path, "".join(f"{name}.jpg,A dog .\n" for name in "abcd"), *(f"images/{name}.jpg" for name in "abcd"))
    (tmp_path / "Flickr_8k.trainImages.txt").write_bytes(b"a.jpg\r\nc.jpg\r\n")
    (tmp_path / "Flickr_8k.devImages.txt").write_text("b.jpg\nnever-captioned.jpg\n")
    dataset = load_dataset(tmp_path)
    names = {split: [e.image.name for e in dataset.split(split)] for split in ("train", "dev")}
    assert names == {"train": ["a.jpg", "c.jpg"], "dev": ["b.jpg"]}
    assert len(dataset.examples) == 3
    assert dataset.splits_from == "from the dataset"
    assert "warning: 1 photos are in no split and not used" in dataset.summary()
    with pytest.raises(CaptionerError, match=r"no photos in split 'test'; its splits are train, dev\.$"):
        dataset.split("test")


def test_a_photo_in_the_train_and_dev_lists_is_in_dev_only(tmp_path):
    write(tmp_path, "".join(f"{name}.jpg,A dog .\n" for name in "ab"), "a.jpg", "b.jpg")
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("a.jpg\nb.jpg\n")
    (tmp_path / "Flickr_8k.devImages.txt").write_text("b.jpg\n")
    dataset = load_dataset(tmp_path)
    assert [(e.image.name, e.split) for e in dataset.examples] == [("a.jpg", "train"), ("b.jpg", "dev")]


def test_captions_that_are_not_utf8_are_refused_with_the_file_name(tmp_path):
    write(tmp_path, "a.jpg,Un café .\n".encode("latin-1"), "a.jpg")
    with pytest.raises(CaptionerError, match=r"captions\.txt is not UTF-8 text"):
        load_dataset(tmp_path)
