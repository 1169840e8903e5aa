"""Caption tables of Flickr8k and Flickr30k are recognised and read, despite variations in photo names."""

from __future__ import annotations

from pathlib import Path

import pytest

from captioner.datasets import load_dataset
from captioner.errors import CaptionerError
from tests.captioner.datasets.folders import found, without_splits, write

# --- Flickr30k

HEADER = "image_name| comment_number| comment\n"


@pytest.mark.parametrize("folder", ["", "images/", "flickr30k_images/", "flickr30k-images/"])
def test_flickr30k_is_read_from_any_usual_photo_folder(tmp_path, folder):
    rows = f"1.jpg| 0| Two men | one hat .\n1.jpg| 1| They talk .\n\n{HEADER}2.jpg| 0| A dog, a cat .\n"
    write(tmp_path, {"results.csv": HEADER + rows}, f"{folder}1.jpg", f"{folder}2.jpg")
    assert without_splits(found(tmp_path)) == {
        f"{folder}1.jpg": ("Two men | one hat .", "They talk ."),
        f"{folder}2.jpg": ("A dog, a cat .",),
    }
    assert load_dataset(tmp_path).format == "Flickr captions"


def test_the_flickr30k_row_with_a_missing_bar_is_repaired(tmp_path):
    rows = "2199200615.jpg| 3| A dog .\n2199200615.jpg| 4   A dog runs across the grass .\n2.jpg| 0| A cat .\n"
    dataset = load_dataset(write(tmp_path, {"results.csv": HEADER + rows}, "2199200615.jpg", "2.jpg"))
    assert dataset.examples[0].references == ("A dog .", "A dog runs across the grass .")
    assert dataset.problems.malformed == []
    assert len(dataset.problems.mended) == 1
    assert any(line.startswith("warning: 1 rows are malformed and repaired: results.csv") for line in dataset.summary())


@pytest.mark.parametrize("row", ["1.jpg| 5", "1.jpg| 5|  ", "1.jpg", "| 0| A dog .", "1.jpg| x| A dog .", "1.jpg|4 "])
def test_other_malformed_flickr30k_rows_are_counted_and_skipped(tmp_path, row):
    write(tmp_path, {"results.csv": f"{HEADER}1.jpg| 0| A cat .\n{row}\n2.jpg| 0| A cow .\n"}, "1.jpg", "2.jpg")
    dataset = load_dataset(tmp_path)
    assert [e.references for e in dataset.examples] == [("A cat .",), ("A cow .",)]
    assert len(dataset.problems.malformed) == 1


def test_flickr30k_without_a_header_is_recognised_by_its_bars(tmp_path):
    write(tmp_path, {"results.csv": "1.jpg| 0| A dog .\n2.jpg| 0| A cat .\n"}, "1.jpg", "2.jpg")
    assert without_splits(found(tmp_path)) == {"1.jpg": ("A dog .",), "2.jpg": ("A cat .",)}


@pytest.mark.parametrize("file", ["captions.txt", "results.csv"])
def test_comment_numbers_in_comma_separated_flickr30k_are_ignored(tmp_path, file):
    rows = 'image_name,comment_number,comment\n1.jpg,0,"A dog, a cat ."\n1.jpg,1,A cow, a pig .\n2.jpg,0, It .\n'
    write(tmp_path, {file: rows}, "1.jpg", "2.jpg")
    expected = {"1.jpg": ("A dog, a cat .", "A cow, a pig ."), "2.jpg": ("It .",)}
    assert without_splits(found(tmp_path)) == expected
    assert load_dataset(tmp_path).problems.unread == []


def test_an_unrelated_results_csv_is_not_taken_for_flickr30k(tmp_path):
    files = {"results.csv": "epoch,loss\n0,1.5\n", "captions.txt": "1.jpg,A dog .\n2.jpg,A cat .\n"}
    dataset = load_dataset(write(tmp_path, files, "1.jpg", "2.jpg"))
    assert (dataset.format, dataset.problems.unread) == ("caption table", [])


# --- Token files

TOKENS = "a.jpg#0\tA dog .\na.jpg#1\tIt runs .\nb.jpg#0\tA cat # 1 .\n"


@pytest.mark.parametrize(
    "file", ["Flickr8k.token.txt", "Flickr8k_text/Flickr8k.token.txt", "results_20130124.token", "captions.txt"]
)
def test_token_files_are_read(tmp_path, file):
    write(tmp_path, {file: TOKENS}, "a.jpg", "b.jpg")
    assert without_splits(found(tmp_path)) == {"a.jpg": ("A dog .", "It runs ."), "b.jpg": ("A cat # 1 .",)}
    assert ", 2 photos, 3 captions" in load_dataset(tmp_path).summary()[0]


@pytest.mark.parametrize("folder", ["", "Flickr8k_text/"])
def test_flickr8k_split_lists_apply_to_a_token_file(tmp_path, folder):
    files = {
        "Flickr8k.token.txt": TOKENS + "c.jpg#0\tA cow .\n",
        f"{folder}Flickr_8k.trainImages.txt": "a.jpg\n",
        f"{folder}Flickr_8k.devImages.txt": "c.jpg\n",
        f"{folder}Flickr_8k.testImages.txt": "b.jpg\n",
    }
    write(tmp_path, files, *(f"Flicker8k_Dataset/{name}.jpg" for name in "abc"))
    splits = {Path(name).name: split for name, _, split in found(tmp_path)}
    assert splits == {"a.jpg": "train", "b.jpg": "test", "c.jpg": "dev"}


def test_split_lists_match_photo_names_in_any_case_or_without_extension(tmp_path):
    files = {
        "Flickr8k.token.txt": "a b.jpg#0\tA dog .\nc.jpg#0\tA cat .\n",
        "Flickr_8k.trainImages.txt": "./c\n",
        "Flickr_8k.devImages.txt": "A B.JPG \n",
    }
    write(tmp_path, files, "a b.jpg", "c.jpg")
    assert [split for *_, split in found(tmp_path)] == ["dev", "train"]


def test_a_photo_name_in_a_token_file_can_contain_a_number_sign(tmp_path):
    write(tmp_path, {"Flickr8k.token.txt": "a#1.jpg#0\tA dog .\nb.jpg#0\tA cat .\n"}, "a#1.jpg", "b.jpg")
    assert without_splits(found(tmp_path)) == {"a#1.jpg": ("A dog .",), "b.jpg": ("A cat .",)}


@pytest.mark.parametrize("row", ["a.jpg\tNo number .", "a.jpg#0 no tab", "#0\tNo name .", "a.jpg#5\t ", "a.jpg#x\tA ."])
def test_malformed_token_file_rows_are_counted_and_skipped(tmp_path, row):
    dataset = load_dataset(write(tmp_path, {"Flickr8k.token.txt": f"{TOKENS}{row}\n"}, "a.jpg", "b.jpg"))
    assert [len(e.references) for e in dataset.examples] == [2, 1]
    assert len(dataset.problems.malformed) == 1


def test_a_stray_number_after_a_photo_name_is_removed_if_the_photo_exists(tmp_path):
    rows = TOKENS + "c.jpg.1#0\tPeople wait .\nc.jpg.1#1\tA train .\na.jpg.1#0\tA third .\n"
    dataset = load_dataset(write(tmp_path, {"Flickr8k.token.txt": rows}, "a.jpg", "b.jpg", "c.jpg"))
    captions = {e.image.name: e.references for e in dataset.examples}
    assert captions["c.jpg"] == ("People wait .", "A train .")
    assert captions["a.jpg"] == ("A dog .", "It runs .", "A third .")
    assert len(dataset.problems.mended) == 3


def test_rows_with_a_stray_number_and_no_photo_are_malformed_not_missing(tmp_path):
    rows = f"{TOKENS}2258277193_586949ec62.jpg.1#0\tPeople wait .\n2258277193_586949ec62.jpg.1#1\tA train .\n"
    dataset = load_dataset(write(tmp_path, {"Flickr8k.token.txt": rows}, "a.jpg", "b.jpg"))
    assert len(dataset.examples) == 2
    assert dataset.problems.missing == []
    assert len(dataset.problems.malformed) == 2


# --- Names


@pytest.mark.parametrize(("row", "photo"), [("ch\u00f3", "cho\u0301"), ("cho\u0301", "ch\u00f3")])
def test_composed_and_decomposed_photo_names_match(tmp_path, row, photo):
    write(tmp_path, {"captions.txt": f"{row}.jpg,A dog .\nb.jpg,A cat .\n"}, f"images/{photo}.jpg", "b.jpg")
    assert set(without_splits(found(tmp_path))) == {f"images/{photo}.jpg", "b.jpg"}


def test_a_line_separator_in_a_caption_does_not_end_the_row(tmp_path):
    rows = "a.jpg,A dog\u2028runs .\nb.jpg,A\x0ccat .\n"
    write(tmp_path, {"captions.txt": rows}, "a.jpg", "b.jpg")
    assert without_splits(found(tmp_path)) == {"a.jpg": ("A dog\u2028runs .",), "b.jpg": ("A\x0ccat .",)}


@pytest.mark.parametrize("name", ["a\0b.jpg", "a\0b/c.jpg", "x" * 5000 + "/c.jpg", ".", "images", "folder.jpg"])
def test_impossible_photo_names_count_as_missing_photos(tmp_path, name):
    (tmp_path / "folder.jpg").mkdir()
    write(tmp_path, {"captions.txt": f"b.jpg,A cat .\n{name},A dog .\n"}, "b.jpg", "images/c.jpg")
    dataset = load_dataset(tmp_path, allow_missing=True)
    assert [e.image.name for e in dataset.examples] == ["b.jpg"]
    assert [missing.split(" (did you mean")[0] for missing in dataset.problems.missing] == [name]


def test_the_error_for_a_parent_folder_names_the_dataset_inside(tmp_path):
    write(tmp_path, {"flickr30k_images/results.csv": f"{HEADER}1.jpg| 0| A dog .\n"}, "flickr30k_images/1.jpg")
    with pytest.raises(CaptionerError, match=r"flickr30k_images is a dataset; use it\.$"):
        load_dataset(tmp_path)
