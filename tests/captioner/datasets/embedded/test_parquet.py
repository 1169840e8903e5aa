"""Parquet files with photos or photo paths are read as datasets."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from captioner.cli import main
from captioner.datasets import Dataset, DataSource, load_dataset, load_datasets
from captioner.datasets.embedded import image_folder
from captioner.errors import CaptionerError
from captioner.models.checkpoint import BEST, LAST
from tests.captioner.datasets.embedded.photos import png

pa = pytest.importorskip("pyarrow", reason="the extra `hub` is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="the extra `hub` is not installed")

FIRST, SECOND = "A dog runs, and a cat looks on.", "Two people stand on a beach."


@pytest.fixture(autouse=True)
def photos_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder that photos are written to; it is in a temporary cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "captioner" / "photos"


def write(file: Path, **columns: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)
    return file


def embedded(*numbers: int) -> list[dict[str, Any]]:
    """Returns cells with photos as Hugging Face's `datasets` writes them."""
    return [{"bytes": png(number), "path": f"{number}.png"} for number in numbers]


def data(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["data", *map(str, arguments)])


def captions(dataset: Dataset) -> list[tuple[str, ...]]:
    return [example.references for example in dataset.examples]


@pytest.mark.parametrize(
    "column",
    [
        {"image": embedded(1, 2)},
        {"img": [png(1), png(2)]},
        {"photo_bytes": pa.array([png(1), png(2)], pa.large_binary()), "hash": [b"1", b"2"]},
        {"mask": embedded(3, 4), "image": embedded(1, 2)},
        {"image": [{"bytes": png(1), "path": None}, {"bytes": png(2), "path": None}]},
    ],
)
def test_photos_in_cells_are_written_to_files_unchanged(tmp_path, column):
    dataset = load_dataset(write(tmp_path / "a.parquet", **column, caption=[FIRST, SECOND]))
    assert [example.image.read_bytes() for example in dataset.examples] == [png(1), png(2)]
    assert {example.image.suffix for example in dataset.examples} == {".png"}
    assert captions(dataset) == [(FIRST,), (SECOND,)]


@pytest.mark.parametrize(
    "columns",
    [
        {"caption": [[FIRST, SECOND]]},
        {"Captions": [[FIRST, SECOND]]},
        {"sentences": [[{"raw": FIRST, "tokens": ["a"]}, {"raw": SECOND, "tokens": ["two"]}]]},
        {"sentences": [{"raw": [FIRST, SECOND], "sentid": [1, 2]}]},
        {"sentences_raw": [[FIRST, SECOND]], "sentences_tokens": [[["a"], ["two"]]]},
        {"caption_1": [SECOND], "caption_0": [FIRST]},
    ],
)
def test_captions_are_read_in_the_formats_of_well_known_datasets(tmp_path, columns):
    file = write(tmp_path / "a.parquet", image=embedded(1, 2), **{name: cells * 2 for name, cells in columns.items()})
    assert captions(load_dataset(file)) == [(FIRST, SECOND)] * 2


def test_a_photo_in_several_rows_has_all_their_captions(tmp_path):
    dataset = load_dataset(write(tmp_path / "a.parquet", image=embedded(1, 2, 1), caption=[FIRST, "Other.", SECOND]))
    assert captions(dataset) == [(FIRST, SECOND), ("Other.",)]


def test_file_and_folder_names_set_the_split(tmp_path):
    for number, name in enumerate(["data/train-00000-of-00001", "data/flickr-validation-0", "test/0000"]):
        write(tmp_path / "set" / f"{name}.parquet", image=embedded(number), caption=[FIRST])
    assert [example.split for example in load_dataset(tmp_path / "set").examples] == ["dev", "train", "test"]


def test_a_split_column_takes_precedence_over_the_file_name(tmp_path):
    write(tmp_path / "set" / "test.parquet", image=embedded(1, 2), caption=[FIRST] * 2, split=["train", "val"])
    assert [example.split for example in load_dataset(tmp_path / "set").examples] == ["train", "dev"]


@pytest.mark.parametrize("name", ["train-00000-of-00001", "flickr"])
def test_splits_are_drawn_for_a_single_file_whatever_its_name(tmp_path, name):
    file = write(tmp_path / f"{name}.parquet", image=embedded(*range(40)), caption=[FIRST] * 40)
    dataset = load_dataset(file)
    assert {example.split for example in dataset.examples} == {"train", "dev", "test"}
    assert dataset.splits_from.startswith("drawn by photo")


@pytest.mark.parametrize("path", ["images/1.png", "1.png", "{folder}/images/1.png"])
@pytest.mark.parametrize("nested", [False, True])
def test_photos_given_by_path_are_read_in_place_and_not_copied(tmp_path, photos_folder, path, nested):
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    for number in (1, 2):
        (folder / "images" / f"{number}.png").write_bytes(png(number))
    cells: list[Any] = [path.format(folder=folder), "images/2.png"]
    cells = [{"bytes": None, "path": cell} for cell in cells] if nested else cells
    write(folder / "captions.parquet", image=cells, caption=[FIRST, SECOND])
    dataset = load_dataset(folder)
    assert [example.image.read_bytes() for example in dataset.examples] == [png(1), png(2)]
    assert not [file for file in photos_folder.rglob("*.png") if not file.is_symlink()]


def test_image_folder_metadata_can_be_parquet(tmp_path):
    for split in ("train", "validation"):
        (tmp_path / "set" / split).mkdir(parents=True)
        (tmp_path / "set" / split / "1.png").write_bytes(png(1))
        write(tmp_path / "set" / split / "metadata.parquet", file_name=["1.png"], text=[split])
    examples = load_dataset(tmp_path / "set").examples
    assert [(example.references, example.split) for example in examples] == [
        (("train",), "train"),
        (("validation",), "dev"),
    ]


def test_the_folders_of_photos_in_parquet_metadata_set_the_split(tmp_path):
    paths = ["train/1.png", "validation/2.png", "test/3.png"]
    for number, path in enumerate(paths):
        (tmp_path / "set" / path).parent.mkdir(parents=True)
        (tmp_path / "set" / path).write_bytes(png(number))
    write(tmp_path / "set" / "metadata.parquet", file_name=paths, text=[FIRST] * 3)
    assert [example.split for example in load_dataset(tmp_path / "set").examples] == ["train", "dev", "test"]


@pytest.mark.parametrize("column", ["caption", "sentences"])
def test_the_description_that_datasets_writes_is_not_a_caption_file(tmp_path, column):
    write(tmp_path / "set" / "data" / "train-00000-of-00001.parquet", image=embedded(1, 2), **{column: [FIRST, SECOND]})
    features = {"image": {"_type": "Image"}, column: {"dtype": "string", "_type": "Value"}}
    (tmp_path / "set" / "dataset_infos.json").write_text(json.dumps({"default": {"features": features}}))
    assert captions(load_dataset(tmp_path / "set")) == [(FIRST,), (SECOND,)]


def test_rows_that_cannot_be_trained_on_are_reported(tmp_path, photos_folder):
    photos = [*embedded(1, 2, 3), None, {"bytes": b"no photo", "path": "5.jpg"}, {"bytes": png(6), "path": None}]
    texts = [FIRST, None, [], FIRST, FIRST, "🙂"]
    file = write(tmp_path / "a.parquet", image=photos, caption=[[t] if isinstance(t, str) else t for t in texts])
    dataset = load_dataset(file)
    assert len(dataset.examples) == 2
    assert dataset.problems.malformed == ["metadata.jsonl:2", "metadata.jsonl:3", "metadata.jsonl:4"]
    assert len(dataset.problems.wordless) == 1
    assert len([*photos_folder.rglob("*.png"), *photos_folder.rglob("*.jpg")]) == 3, "those with a caption"
    result = data(file)
    assert "3 rows are malformed and skipped" in result.stdout
    assert "1 photos cannot be read" in result.stdout


def test_missing_photos_with_captions_are_refused(tmp_path):
    file = write(tmp_path / "a.parquet", image=["1.png", "../2.png"], caption=[FIRST, SECOND])
    with pytest.raises(CaptionerError, match=r"2 photos of .*a\.parquet have captions but are missing"):
        load_dataset(file)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": embedded(1), "label": [3]}, r"no column for captions \(text, .*\); its columns are image, label\."),
        (
            {"url": ["http://a"], "caption": [FIRST]},
            r"no column for photos \(bytes, .*\); its columns are url, caption\.",
        ),
        (
            {"image": embedded(1), "Text": [FIRST], "text": ["A cat."]},
            r"caption columns whose names differ only in case: Text, text; rename one\.",
        ),
    ],
)
def test_missing_or_ambiguous_columns_are_refused_with_the_column_names(tmp_path, columns, message):
    file = write(tmp_path / "a.parquet", **columns)
    with pytest.raises(CaptionerError, match=rf"a\.parquet has {message}"):
        load_dataset(file)


def test_a_damaged_file_is_named_in_one_line(tmp_path):
    file = write(tmp_path / "a.parquet", image=embedded(1), caption=[FIRST])
    file.write_bytes(file.read_bytes()[:100])
    result = data(file)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {file} cannot be read as Parquet (")
    assert result.stderr.count("\n") == 1


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    write(tmp_path / "set" / "a.parquet", image=embedded(1), caption=[FIRST])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(CaptionerError, match=r'needs the package pyarrow, .*pip install "captioner\[hub\]"'):
        load_dataset(tmp_path / "set")


def test_parquet_next_to_another_format_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "1.png").write_bytes(png(1))
    (tmp_path / "1.txt").write_text(FIRST)
    (tmp_path / "features.parquet").write_bytes(b"")
    assert captions(load_dataset(tmp_path)) == [(FIRST,)]


# --- the cache


def test_photos_are_written_once_for_each_version_of_a_table(tmp_path, photos_folder):
    file = write(tmp_path / "a.parquet", image=embedded(1, 2), caption=[FIRST, SECOND])
    before = load_dataset(file)
    times = {photo: photo.stat().st_mtime_ns for photo in photos_folder.rglob("*.png")}
    assert load_dataset(file).examples == before.examples
    assert {photo: photo.stat().st_mtime_ns for photo in photos_folder.rglob("*.png")} == times
    write(file, image=embedded(1, 3), caption=["New.", SECOND])
    assert captions(load_dataset(file)) == [("New.",), (SECOND,)]


def test_the_report_shows_how_much_was_written_and_where(tmp_path):
    file = write(tmp_path / "a.parquet", image=embedded(1, 2), caption=[FIRST, SECOND], id=[7, 8])
    result = data(file, "--cache", tmp_path / "named")
    (folder,) = (tmp_path / "named" / "photos").iterdir()
    assert f"format: Parquet, a.parquet; 2 files, 0.0 MB written to {folder}\n" in result.stdout
    assert [json.loads(line)["id"] for line in (folder / "metadata.jsonl").read_text().splitlines()] == [7, 8]


def test_an_interrupted_read_is_completed_without_rewriting_photos(tmp_path, photos_folder, monkeypatch):
    file = write(tmp_path / "a.parquet", image=embedded(1, 2, 3), caption=["One.", "Two.", "Three."])
    written: list[Path] = []
    whole: Callable[..., None] = image_folder.write_whole

    def interrupted(what: str, path: Path, content: bytes | str) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        whole(what, path, content)
        written.append(path)

    monkeypatch.setattr(image_folder, "write_whole", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_dataset(file)
    assert len(list(photos_folder.rglob("*.png"))) == 2
    monkeypatch.setattr(
        image_folder, "write_whole", lambda *arguments: (written.append(arguments[1]), whole(*arguments))
    )
    assert captions(load_dataset(file)) == [("One.",), ("Two.",), ("Three.",)]
    assert len([photo for photo in written if photo.suffix == ".png"]) == len(list(photos_folder.rglob("*.png"))) == 3


def test_an_unwritable_cache_is_refused_and_the_option_named(tmp_path):
    file = write(tmp_path / "a.parquet", image=embedded(1), caption=[FIRST])
    (tmp_path / "full").write_text("a file")
    result = data(file, "--cache", tmp_path / "full")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
    assert "--cache" in result.stderr


# --- joining and commands


def test_parquet_files_and_folders_are_joined(tmp_path):
    file = write(tmp_path / "rows.parquet", image=embedded(*range(10)), caption=[FIRST] * 10)
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(5, 20):  # five photos are in both
        (folder / f"{number}.png").write_bytes(png(number))
        (folder / f"{number}.txt").write_text(SECOND)
    dataset = load_datasets([DataSource.parse(f"{file}=2"), DataSource(folder)])
    assert dataset.weights == {"rows.parquet": 2, "folder": 1}
    assert any(note.startswith("5 photos are in both folder and rows.parquet") for note in dataset.notes)


@pytest.mark.parametrize("command", ["train", "evaluate", "average", "export", "recipe"])
def test_every_command_writes_parquet_photos_to_the_given_cache(tmp_path, trained, monkeypatch, command):
    file = write(tmp_path / "a.parquet", image=embedded(*range(9)), caption=[FIRST] * 9)
    arguments = {
        "train": ["--output", tmp_path / "run"],
        "evaluate": [trained / LAST],
        "average": [trained / BEST, trained / LAST, "--output", tmp_path / "mean.pt"],
        "export": [trained / LAST, "--output", tmp_path / "bundle"],
        "recipe": ["--output", tmp_path / "bundle"],
    }

    def stop(*_: object, **__: object) -> None:
        raise CaptionerError("The dataset was read.")

    monkeypatch.setattr("captioner.datasets.dataset.split_examples", stop)
    options = [*arguments[command], "--data", file, "--cache", tmp_path / "named"]
    result = CliRunner().invoke(main, [command, *map(str, options)])
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.endswith("The dataset was read.\n")
    assert len(list((tmp_path / "named" / "photos").rglob("*.png"))) == 9
