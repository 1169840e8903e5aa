"""Datasets are joined with their splits and weights, and unsuitable combinations are refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from caprun.errors import UsageError
from captioner.cli import main
from captioner.config import TrainConfig, load_config, parse_settings
from captioner.datasets import Dataset, DataSource, load_datasets
from captioner.errors import CaptionerError
from captioner.evaluation.metrics import score, scores_by_dataset
from captioner.models.checkpoint import BEST, LAST, load_checkpoint
from captioner.recipes.folder import data_digest
from captioner.training.train import Job, train

ENGLISH = ["A dog runs on the grass .", "A man rides a red bicycle .", "Two children play on the beach ."]
GERMAN = ["Ein Hund läuft über die Wiese .", "Ein Mann fährt auf einem roten Fahrrad .", "Zwei Kinder spielen dort ."]
CHINESE = ["一只狗在草地上奔跑", "一个男人骑着红色的自行车", "两个孩子在海滩上玩"]


def dataset(directory: Path, captions: list[str], first: int = 0, **lists: list[int]) -> Path:
    """Writes a dataset in Flickr8k's format; each photo has a different colour, numbered from `first`."""
    (directory / "images").mkdir(parents=True)
    rows = ["image,caption"]
    for i, caption in enumerate(captions):
        Image.new("RGB", (8, 8), (first + i, 10, 200)).save(directory / "images" / f"{i}.png")
        rows.append(f"{i}.png,{caption}")
    (directory / "captions.txt").write_text("\n".join(rows) + "\n")
    for split, chosen in lists.items():
        (directory / f"Flickr_8k.{split}Images.txt").write_text("".join(f"{i}.png\n" for i in chosen))
    return directory


def together(*folders: Path, weights: tuple[float, ...] = ()) -> Dataset:
    pairs = zip(folders, weights or (1.0,) * len(folders), strict=True)
    return load_datasets([DataSource(folder, weight) for folder, weight in pairs])


# --- naming a dataset


@pytest.mark.parametrize(
    ("text", "weight"),
    [("data", 1), ("data=2", 2), ("data=0.2", 0.2), ("data=0.3333333", 0.3333333), ("a=b", 1)],
)
def test_a_source_is_a_folder_with_an_optional_weight(text, weight):
    source = DataSource.parse(text)
    assert source.weight == weight
    assert str(source) == text
    assert source.directory == Path("a=b" if text == "a=b" else "data")


def test_an_existing_folder_can_have_a_name_that_ends_like_a_weight(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run=2").mkdir()
    assert DataSource.parse("run=2") == DataSource(Path("run=2"), 1.0)


@pytest.mark.parametrize("weight", ["0", "-1", "inf", "nan"])
def test_a_weight_must_be_above_zero(weight):
    with pytest.raises(UsageError, match=f"The weight of --data data={weight} is {weight}; give a number above 0"):
        DataSource.parse(f"data={weight}")
    result = CliRunner().invoke(main, ["train", "--data", f"data={weight}"])
    assert result.exit_code == 2
    assert "give a number above 0" in result.stderr


def test_naming_a_dataset_twice_is_refused(tmp_path):
    folder = dataset(tmp_path / "one", ENGLISH)
    with pytest.raises(CaptionerError, match="twice"):
        together(folder, tmp_path / "two" / ".." / "one")


# --- content of joined datasets


def test_each_dataset_keeps_its_splits_or_has_them_drawn(tmp_path):
    first = dataset(tmp_path / "first", ENGLISH, train=[0, 1], dev=[2])
    second = dataset(tmp_path / "second", [*ENGLISH, *ENGLISH], first=100)
    joined = together(first, second)
    own = {e.image.name: e.split for e in joined.examples if e.dataset == "first"}
    assert own == {"0.png": "train", "1.png": "train", "2.png": "dev"}
    assert {e.split for e in joined.examples if e.dataset == "second"} >= {"train", "dev"}
    summary = "\n".join(joined.summary())
    assert "first: splits (from the dataset)" in summary
    assert "second: splits (drawn by photo" in summary


def test_a_single_dataset_has_no_parts_and_no_name(tmp_path):
    alone = together(dataset(tmp_path / "one", ENGLISH))
    assert alone.parts == ()
    assert {example.dataset for example in alone.examples} == {""}


def test_datasets_with_the_same_folder_name_get_distinct_names(tmp_path):
    joined = together(dataset(tmp_path / "a" / "data", ENGLISH), dataset(tmp_path / "b" / "data", ENGLISH, first=50))
    assert joined.names == ("a/data", "b/data")


def test_photos_in_two_datasets_are_noted_and_dev_photos_never_trained_on(tmp_path):
    first = dataset(tmp_path / "first", ENGLISH, train=[0, 1], dev=[2])
    second = dataset(tmp_path / "second", ENGLISH, first=100, train=[0, 1], dev=[2])
    for photo in ("0.png", "1.png"):
        shutil.copy(first / "images" / photo, second / "images" / photo)
    shutil.copy(first / "images" / "2.png", second / "images" / "1.png")  # dev of the first, train of the second
    joined = together(first, second)
    assert [(e.dataset, e.image.name) for e in joined.split("train")] == [
        ("first", "0.png"),
        ("first", "1.png"),
        ("second", "0.png"),
    ]
    notes = " ".join(joined.notes)
    assert "2 photos are in both first and second" in notes
    assert "1 training photos are dev or test photos of another dataset and are left out: 1.png" in notes


@pytest.mark.parametrize(
    ("captions", "note"),
    [
        (GERMAN, "seem to be in a different language"),
        (CHINESE, "in a different script than those of first (Chinese or Japanese, not Latin)"),
        ([caption.lower() for caption in ENGLISH], "0% of the captions of second have capital letters, and 100%"),
    ],
)
def test_captions_that_differ_from_the_first_dataset_are_noted(tmp_path, captions, note):
    joined = together(dataset(tmp_path / "first", ENGLISH), dataset(tmp_path / "second", captions, first=100))
    assert note in " ".join(joined.notes)
    assert any(line.startswith("warning: ") and note in line for line in joined.summary())


def test_captions_in_the_same_language_and_script_are_not_noted(tmp_path):
    english = together(dataset(tmp_path / "a", ENGLISH), dataset(tmp_path / "b", ENGLISH[::-1], first=100))
    chinese = together(dataset(tmp_path / "c", CHINESE[:2]), dataset(tmp_path / "d", CHINESE[2:], first=100))
    assert english.notes == chinese.notes == ()


def test_weights_change_the_data_digest(tmp_path):
    folders = dataset(tmp_path / "a", ENGLISH), dataset(tmp_path / "b", ENGLISH, first=100)
    assert data_digest(together(*folders)) != data_digest(together(*folders, weights=(1, 2)))


# --- training on joined datasets


@pytest.fixture
def two(shapes: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Returns the dataset of shapes, and a copy with rotated grey photos in the folder `mirrored`."""
    other = shutil.copytree(shapes, tmp_path / "mirrored")
    for photo in (other / "images").iterdir():
        Image.open(photo).rotate(90).convert("L").convert("RGB").save(photo)
    return shapes, other


def test_dev_is_scored_per_dataset_and_one_score_can_select_the_checkpoint(two, settings, cache, tmp_path):
    config = load_config(parse_settings([*settings, "train.epochs=1", "train.select_by=cider@mirrored"]))
    said: list[str] = []
    train(Job(together(*two, weights=(1, 0.5)), config, tmp_path / "run", cache, "the tests"), said.append)
    best = load_checkpoint(tmp_path / "run" / BEST)
    names = ("shapes0", "mirrored") if "cider@shapes0" in best.metrics else (two[0].name, "mirrored")
    assert all(f"cider@{name}" in best.metrics and f"bleu_4@{name}" in best.metrics for name in names)
    assert best.metrics["photos@mirrored"] == 4
    (epoch,) = [line for line in said if line.startswith("epoch 1/1")]
    assert "cider@mirrored" in epoch
    assert load_checkpoint(tmp_path / "run" / LAST).training["state"]["best"] == best.metrics["cider@mirrored"]
    assert [one["weight"] for one in best.provenance["datasets"]] == [1, 0.5]


def test_select_by_an_unknown_dataset_is_refused(two, settings, cache, tmp_path):
    config = load_config(parse_settings([*settings, "train.select_by=cider@elsewhere"]))
    with pytest.raises(CaptionerError, match="needs dev photos of elsewhere and of another dataset; this training has"):
        train(Job(together(*two), config, tmp_path / "run", cache, "the tests"), lambda _: None)


def test_select_by_the_only_dataset_with_dev_photos_is_refused(two, settings, cache, tmp_path):
    config = load_config(parse_settings([*settings, "train.select_by=cider@mirrored"]))
    joined = together(*two)
    kept = tuple(e for e in joined.examples if e.split != "dev" or e.dataset == "mirrored")
    with pytest.raises(CaptionerError, match="and of another dataset; this training has those of mirrored"):
        train(Job(replace(joined, examples=kept), config, tmp_path / "run", cache, "the tests"), lambda _: None)


def test_a_report_has_the_scores_of_each_dataset_and_the_dataset_of_each_photo(two, trained, tmp_path):
    arguments = ["evaluate", trained, "--data", two[0], "--data", two[1], "--json", tmp_path / "report.json"]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert "cider@mirrored" in report["scores_by_dataset"]
    assert {row["dataset"] for row in report["captions"]} == {two[0].name, "mirrored"}


@pytest.mark.parametrize("name", ["rouge_l", "cider@", "dev_loss@shapes"])
def test_select_by_an_unknown_score_is_refused(name):
    with pytest.raises(UsageError, match=r"train\.select_by"):
        TrainConfig(select_by=name)


def test_scores_of_a_dataset_are_computed_from_its_photos_only():
    captions, references = ["a dog", "a cat", "a red car"], [["a dog"], ["a bird sings"], ["a red car drives"]]
    found = scores_by_dataset(captions, references, ["x", "y", "x"])
    alone = score([captions[0], captions[2]], [references[0], references[2]])
    assert {key: found[f"{key}@x"] for key in alone} == alone
    assert (found["photos@x"], found["references@y"]) == (2, 1)
    assert scores_by_dataset(captions, references, ["x"] * 3) == {}


# --- the commands


def test_data_describes_several_datasets_one_by_one_and_compares_them(tmp_path):
    first = dataset(tmp_path / "first", ENGLISH, train=[0, 1], dev=[2])
    second = dataset(tmp_path / "second", GERMAN, first=100, train=[0, 1], dev=[2])
    shutil.copy(first / "images" / "0.png", second / "images" / "0.png")
    result = CliRunner().invoke(main, ["data", str(first), str(second), "--json", str(tmp_path / "report.json")])
    assert result.exit_code == 0
    assert [line for line in result.stdout.splitlines() if line.startswith("dataset: ")] == [
        f"dataset: {first}",
        f"dataset: {second}",
    ]
    assert "together: 6 photos" in result.stdout
    assert "1 photos are in both first and second: 0.png" in result.stdout
    assert "seem to be in a different language" in result.stdout
    assert [report["photos"] for report in json.loads((tmp_path / "report.json").read_text())] == [3, 3]


def test_evaluate_scores_all_datasets_together_and_each_separately(two, trained):
    arguments = ["evaluate", str(trained / BEST), "--data", str(two[0]), "--data", str(two[1])]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    titles = [line.partition(":")[0] for line in result.stdout.splitlines() if line.startswith("Free-running")]
    assert titles == ["Free-running", f"Free-running, {two[0].name}", "Free-running, mirrored"]
