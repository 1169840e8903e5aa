"""Captions in real-world files are read completely or reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from captioner.datasets import load_dataset
from captioner.datasets.dataset import Dataset
from captioner.datasets.example import in_short
from captioner.datasets.inspection import inspect
from captioner.errors import CaptionerError

FIRST, SECOND = "A dog runs, and a cat looks on.", "Two people stand on a beach."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a folder with the photos p0.jpg to p3.jpg and no captions."""
    return with_photos(tmp_path / "data")


def with_photos(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"p{number}.jpg")
    return folder


def read(folder: Path, name: str, text: str) -> Dataset:
    (folder / name).write_text(text, encoding="utf-8")
    return load_dataset(folder)


def captions(dataset: Dataset) -> list[tuple[str, ...]]:
    return [example.references for example in dataset.examples]


@pytest.mark.parametrize("name", ["metadata.csv", "captions.csv", "captions.tsv"])
@pytest.mark.parametrize(
    ("header", "row", "mended"),
    [
        ("file_name,text", "{},{}", False),
        ("file_name,text", '{},"{}"', False),
        ("filename;caption", "{};{}", False),
        ("image\tsentence", "{}\t{}", False),
        (",image,caption", '0,{},"{}"', False),
        ("image,caption,split", '{},"{}",train', False),
        ("image,caption,source", "{},{},web", True),
        ("sep=;\nimage;caption", "{};{}", False),
        ("path,size,Caption", "./{},12,{}", False),
        ("image,caption", "{},{}", False),
        ('"Image","Caption"', '"{}","{}"', False),
        ("File Name, Text", '{}, "{}"', False),
        ("image,caption", "{},{},,", False),
        ("image,caption,,", "{},{}", False),
        ("\n\nimage_id,caption", '{},"{}"', False),
    ],
)
def test_captions_are_read_completely_in_any_table_dialect(folder, name, header, row, mended) -> None:
    lines = [header, row.format("p0.jpg", FIRST), row.format("p1.jpg", FIRST), header.split("\n")[-1]]
    dataset = read(folder, name, "\n".join(lines))
    assert captions(dataset) == [(FIRST,), (FIRST,)]
    assert bool(dataset.problems.mended) == mended
    assert not dataset.problems.malformed


@pytest.mark.parametrize("row", ['{},"{}"', "{}\t{}", "{};{}", '7,{},"{}"'])
@pytest.mark.parametrize("name", ["captions.csv", "captions.txt"])
def test_in_a_table_without_a_header_the_caption_follows_the_photo(folder, name, row) -> None:
    dataset = read(folder, name, "\n".join([row.format("p0.jpg", FIRST), row.format("p1.jpg", SECOND)]))
    assert captions(dataset) == [(FIRST,), (SECOND,)]
    assert not dataset.problems.malformed


@pytest.mark.parametrize("header", ["file_name,caption_1,caption_2", "file_name,text,caption"])
def test_an_unquoted_comma_in_a_row_of_several_captions_is_reported(folder, header) -> None:
    dataset = read(folder, "metadata.csv", f"{header}\np0.jpg,A dog, running,A cat\np1.jpg,A cow,A pig\n")
    assert [example.image.name for example in dataset.examples] == ["p1.jpg"]
    assert dataset.problems.malformed == ["metadata.csv:2"]


def test_a_lone_quotation_mark_joins_no_rows_if_names_have_no_extension(folder) -> None:
    dataset = read(folder, "metadata.csv", 'file_name,text\np0,"A dog\np1,A cat\np2,A 5" knife\n')
    assert captions(dataset) == [('"A dog',), ("A cat",), ('A 5" knife',)]


@pytest.mark.parametrize("separator", [",", "\t"])
def test_quotation_marks_inside_captions_join_no_rows_if_names_have_no_extension(folder, separator) -> None:
    texts = ['A 5" screen', "A dog", 'A 10" cake', "A cat"]
    rows = [f"p{number}{separator}{text}" for number, text in enumerate(texts)]
    dataset = read(folder, "captions.csv", "\n".join([f"image_id{separator}caption", *rows]))
    assert captions(dataset) == [(text,) for text in texts]


@pytest.mark.parametrize("name", ["captions.txt", "captions.csv"])
@pytest.mark.parametrize("row", ["{}| 0| A dog", "{},0,A dog"])
def test_the_number_of_a_caption_in_a_table_without_a_header_is_not_learnt(folder, name, row) -> None:
    dataset = read(folder, name, "\n".join([row.format("p0.jpg"), row.format("p1.jpg")]))
    assert [caption.strip() for (caption,) in captions(dataset)] == ["A dog", "A dog"]


def test_a_number_that_begins_only_the_first_caption_is_part_of_it(folder) -> None:
    dataset = read(folder, "captions.txt", "p0.jpg,3, maybe 4 dogs\np1.jpg,A dog, running\n")
    assert captions(dataset) == [("3, maybe 4 dogs",), ("A dog, running",)]


def test_a_row_without_a_split_belongs_to_the_split_of_its_photo(folder) -> None:
    text = "file_name,text,split\np0.jpg,A dog,train\np0.jpg,A pet,\np1.jpg,A cat,\np1.jpg,A tom,val\n"
    dataset = read(folder, "metadata.csv", text)
    found = [(example.references, example.split) for example in dataset.examples]
    assert found == [(("A dog", "A pet"), "train"), (("A cat", "A tom"), "dev")]


def test_quotation_marks_are_kept_if_a_row_is_not_quoted_as_csv(folder) -> None:
    rows = ['"Big" dogs run', '"A \\"big\\" dog"']
    dataset = read(folder, "metadata.csv", f"file_name,text\np0.jpg,{rows[0]}\np1.jpg,{rows[1]}\n")
    assert captions(dataset) == [(row,) for row in rows]
    assert dataset.problems.mended == ["metadata.csv:2", "metadata.csv:3"]


def test_the_header_of_an_appended_file_is_not_a_row(folder) -> None:
    text = "\ufeffimage,caption\np{}.jpg,A dog\n"
    dataset = read(folder, "captions.txt", text.format(0) + text.format(1))
    assert captions(dataset) == [("A dog",), ("A dog",)]


def test_captions_txt_can_have_lists_and_line_breaks_like_any_table(folder) -> None:
    dataset = read(
        folder, "captions.txt", "image,caption\np0.jpg,\"['A dog', 'A cat']\"\np1.jpg,\"A cow\nruns, fast\"\n"
    )
    assert captions(dataset) == [("A dog", "A cat"), ("A cow\nruns, fast",)]


def test_a_column_can_set_the_split(folder) -> None:
    dataset = read(folder, "captions.csv", "image,caption,split\np0.jpg,A dog,train\np1.jpg,A cat,val\n")
    assert [example.split for example in dataset.examples] == ["train", "dev"]


def test_a_lone_quotation_mark_does_not_affect_other_rows(folder) -> None:
    dataset = read(
        folder, "metadata.csv", f'file_name,text\np0.jpg,"A dog\np1.jpg,{SECOND}\np2.jpg,"A cat\non a mat"\n'
    )
    assert captions(dataset) == [('"A dog',), (SECOND,), ("A cat\non a mat",)]
    assert dataset.problems.mended == ["metadata.csv:2"]


def test_a_lone_quotation_mark_loses_no_row_if_names_are_last(folder) -> None:
    text = 'text,file_name\n"A dog,p0.jpg\nA cat, asleep,p1.jpg\nA "cow,p2.jpg\n"A pig\nruns",p3.jpg\n'
    assert captions(read(folder, "metadata.csv", text)) == [
        ('"A dog',),
        ("A cat, asleep",),
        ('A "cow',),
        ("A pig\nruns",),
    ]


def test_a_lone_quotation_mark_does_not_affect_a_quoted_name(folder) -> None:
    assert captions(read(folder, "metadata.csv", 'file_name,text\n"p0.jpg","A dog\n')) == [('"A dog',)]


@pytest.mark.parametrize(
    "cell",
    [
        json.dumps([FIRST, SECOND]),
        repr([FIRST, SECOND]),
        f"['{FIRST}'\n '{SECOND}']",
        json.dumps([FIRST, None, SECOND]),
        json.dumps([{"raw": FIRST}, {"raw": SECOND}]),
        repr([{"raw": FIRST, "tokens": ["a"]}, {"raw": SECOND}]),
        repr((FIRST, SECOND)),
        f"array(['{FIRST}', '{SECOND}'], dtype=object)",
        repr([[FIRST], [SECOND]]),
    ],
)
def test_a_cell_can_contain_a_list_of_captions(folder, cell) -> None:
    quoted = cell.replace('"', '""')
    assert captions(read(folder, "metadata.csv", f'file_name,captions\np0.jpg,"{quoted}"\np1.jpg,[one] dog\n')) == [
        (FIRST, SECOND),
        ("[one] dog",),
    ]


@pytest.mark.parametrize(
    "cell", ["['A dog's ball', 'A cat']", "['A dog''s ball', 'A cat']", "['A dog', 'A cat'", "[]", "[A dog, A cat]"]
)
def test_a_malformed_list_is_reported(folder, cell) -> None:
    dataset = read(
        folder,
        "metadata.jsonl",
        "\n".join(json.dumps({"file_name": f"p{n}.jpg", "text": t}) for n, t in enumerate([cell, FIRST])),
    )
    assert captions(dataset) == [(FIRST,)]
    assert dataset.problems.malformed == ["metadata.jsonl:1"]


def test_a_row_with_a_malformed_list_is_skipped_entirely(folder) -> None:
    row = {"file_name": "p0.jpg", "caption_0": FIRST, "caption_1": "['A dog'", "caption_2": SECOND}
    dataset = read(folder, "metadata.jsonl", "\n".join(map(json.dumps, [row, {"file_name": "p1.jpg", "text": FIRST}])))
    assert captions(dataset) == [(FIRST,)]
    assert dataset.problems.malformed == ["metadata.jsonl:1"]


def test_captions_without_a_word_are_reported_and_left_out(folder) -> None:
    rows = [("p0.jpg", "🙂"), ("p1.jpg", "NaN"), ("p1.jpg", "两只狗"), ("p2.jpg", "5")]
    lines = "".join(json.dumps({"file_name": name, "text": text}) + "\n" for name, text in rows)
    dataset = read(folder, "metadata.jsonl", lines)
    assert captions(dataset) == [("两只狗",), ("5",)]
    assert dataset.problems.wordless == ["p0.jpg: 🙂", "p1.jpg: NaN"]
    assert inspect(folder, photos=False).problems["captions have no word"] == dataset.problems.wordless


@pytest.mark.parametrize(("of_photo", "of_caption"), [(7, "7"), ("7", 7), (7, "000000000007"), ("0", 0), (7.0, 7)])
def test_numeric_ids_match_ids_written_as_text(folder, of_photo, of_caption) -> None:
    content = {
        "images": [{"id": of_photo, "file_name": "p0.jpg"}],
        "annotations": [{"image_id": of_caption, "caption": FIRST}],
    }
    assert captions(read(folder, "captions.json", json.dumps(content))) == [(FIRST,)]


def test_an_annotation_with_an_unknown_image_id_is_reported(folder) -> None:
    content = {"images": [{"id": 1, "file_name": "p0.jpg"}], "annotations": [{"image_id": 2, "caption": FIRST}]}
    with pytest.raises(CaptionerError, match=r"annotation 0 \(no image has this id\)"):
        read(folder, "captions.json", json.dumps(content))


def test_missing_and_shared_image_ids_are_reported_and_not_used(folder) -> None:
    images = [("p0.jpg", 0), ("p1.jpg", 1), ("p2.jpg", 1), ("p3.jpg", None), (None, 4)]
    content = {
        "images": [{"id": key, "file_name": name} for name, key in images],
        "annotations": [{"image_id": key, "caption": FIRST} for key in (0, 1, None, True, 4)],
    }
    dataset = read(folder, "captions.json", json.dumps(content))
    assert [(example.image.name, example.references) for example in dataset.examples] == [("p0.jpg", (FIRST,))]
    assert dataset.problems.malformed == [
        "captions.json, image 3",
        "captions.json, image 4",
        "captions.json, id 1 is shared by p1.jpg, p2.jpg",
        *(f"captions.json, annotation {position} (no image has this id)" for position in range(1, 5)),
    ]


@pytest.mark.parametrize(
    ("photos", "texts", "named"),
    [
        ("Images/Images", "", ""),
        ("Flickr8k_Dataset/Flicker8k_Dataset", "Flickr8k_text", ""),
        ("Images", "Flickr_TextData", ""),
        ("IMAGES", "", ""),
        ("Images", "Flickr_TextData", "Flickr_TextData"),
    ],
)
def test_unpacked_archives_are_read_without_moving_files(tmp_path, photos, texts, named) -> None:
    with_photos(tmp_path / photos)
    (tmp_path / texts).mkdir(exist_ok=True)
    (tmp_path / texts / "Flickr8k.token.txt").write_text(f"p0.jpg#0\t{FIRST}\n")
    assert captions(load_dataset(tmp_path / named)) == [(FIRST,)]


def test_files_that_operating_systems_add_are_ignored(folder) -> None:
    (folder / "p0.txt").write_text(FIRST)
    for name in ("._p0.txt", "._p0.jpg", ".DS_Store"):
        (folder / name).write_bytes(b"\xff\x00")
    (folder / "Thumbs.db").write_bytes(b"\xff\x00")
    (folder.parent / "__MACOSX").mkdir()
    (folder.parent / "__MACOSX" / "captions.txt").write_bytes(b"\xff\x00")
    dataset = load_dataset(folder)
    assert captions(dataset) == [(FIRST,)]
    assert not dataset.problems.malformed
    assert captions(load_dataset(folder.parent)) == [(FIRST,)]


@pytest.mark.parametrize(
    "name", ["./p0.jpg", "P0.JPG", "data\\p0.jpg", "data/p0.jpg", "Data/P0.jpg", "p0", " p0.jpg", "p0.jpg#4"]
)
def test_a_photo_is_found_under_variants_of_its_name(folder, name) -> None:
    (folder.parent / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": FIRST}))
    (folder.parent / "p0.jpg").write_bytes((folder / "p0.jpg").read_bytes())
    assert captions(load_dataset(folder.parent)) == [(FIRST,)]


@pytest.mark.parametrize(("photo", "text"), [("IMG_1.JPG", "img_1.txt"), ("cafe\u0301.jpg", "caf\xe9.TXT")])
def test_txt_captions_match_photos_in_another_case_or_unicode_form(tmp_path, photo, text) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / photo)
    assert captions(read(tmp_path, text, FIRST)) == [(FIRST,)]


def test_text_files_can_end_in_caption_or_follow_the_full_photo_name(folder) -> None:
    for name, text in (("p0.caption", FIRST), ("p0.txt", "dog, cat"), ("p1.jpg.txt", SECOND)):
        (folder / name).write_text(text)
    dataset = load_dataset(folder)
    assert captions(dataset) == [(FIRST,), (SECOND,)]
    assert dataset.problems.malformed == ["p0.txt (its photo has another text)"]


def test_a_list_in_a_text_file_is_read_or_reported(folder) -> None:
    dataset = read(folder, "p0.txt", f'{json.dumps([FIRST, SECOND])}\n["A dog\n')
    assert captions(dataset) == [(FIRST, SECOND)]
    assert dataset.problems.malformed == ["p0.txt:2"]


def test_metadata_columns_can_have_capitals_and_unknown_columns_are_named(folder) -> None:
    assert captions(read(folder, "metadata.jsonl", '{"File_Name": "p0.jpg", "Text": "A dog"}')) == [("A dog",)]
    with pytest.raises(CaptionerError, match=r"captions from none; not used: bild, titel\); check"):
        read(folder, "metadata.jsonl", '{"bild": "p0.jpg", "titel": "Ein Hund"}')


def test_a_table_in_another_encoding_is_refused(folder) -> None:
    (folder / "captions.csv").write_bytes("image,caption\np0.jpg,A dog\n".encode("utf-16"))
    with pytest.raises(CaptionerError, match=r"captions\.csv is not UTF-8 text; convert it first"):
        load_dataset(folder)


@pytest.mark.parametrize("name", ["captions.csv", "captions.txt"])
def test_a_table_with_unknown_columns_is_refused_with_its_first_line(folder, name) -> None:
    with pytest.raises(CaptionerError, match=rf"{name} starts with 'photo;legende'; a table needs a column for"):
        read(folder, name, "photo;legende\np0.jpg;Un chien\n")


def test_a_caption_longer_than_the_csv_field_limit_is_read(folder) -> None:
    long = "dog " * 40_000
    assert captions(read(folder, "captions.csv", f"filename,caption\np0.jpg,{long}\n")) == [(long.strip(),)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "captions.csv",
            f"image,caption,url\np0.jpg,{FIRST},x\np0.jpg,A dog,x\np1.jpg,🙂,x\np2.jpg,,x\np9.jpg,A cat,x\n",
        ),
        ("captions.txt", f"p0.jpg,{FIRST}\nno caption\np9.jpg,A cat\np1.jpg,...\n"),
        ("metadata.jsonl", '{"file_name": "p0.jpg", "text": "A dog"}\n{"file_name": "p9.jpg", "text": "A cat"}\n{}\n'),
        ("captions.json", '[{"image_id": 1, "caption": "A dog"}, {"image_id": 2, "caption": "A cat"}, {}]'),
        ("p0.txt", "A dog\n🙂\n"),
    ],
)
def test_report_and_summary_contain_the_same_warnings_and_columns(folder, name, text) -> None:
    (folder / "p0.jpg").rename(folder / "000000000001.jpg") if name == "captions.json" else None
    (folder / name).write_text(text, encoding="utf-8")
    report, summary = inspect(folder, photos=False), load_dataset(folder, allow_missing=True).summary()
    assert report.problems
    assert [line for line in summary if line.startswith("warning: ")] == [
        f"warning: {in_short(kind, seen)}" for kind, seen in report.problems.items()
    ]
    assert [line for line in summary if line.startswith("columns: ")] == [f"columns: {one}" for one in report.columns]
