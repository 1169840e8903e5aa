"""Datasets on the Hugging Face hub are read by name; the tests use a local hub server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from captioner.cli import main
from captioner.datasets import DataSource, load_dataset
from captioner.datasets.embedded.hub import HubName
from captioner.errors import CaptionerError
from tests.captioner.datasets.embedded.photos import png
from tests.conftest import MakeOnce

pytest.importorskip("datasets", reason="the extra `hub` is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(make_once: MakeOnce) -> dict[str, Any]:
    """Returns the examples of each dataset, or its error."""

    def read(folder: Path) -> None:
        command = [sys.executable, "-m", "tests.captioner.datasets.embedded.hub_session", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        (folder / "found.json").write_text(done.stdout)

    return json.loads((make_once("hub", read) / "found.json").read_text())


def examples(found: dict[str, Any], name: str) -> list[tuple[bytes, list[str], str]]:
    assert isinstance(found[name], dict), found[name]
    return [(bytes.fromhex(photo), references, split) for photo, references, split in found[name]["examples"]]


def test_photos_captions_and_splits_are_read_from_the_hub(found):
    splits = ["train"] * 6 + ["dev"] * 2
    assert examples(found, "hf:own/shapes") == [
        (png(number), [f"A dog {number} .", "It runs ."], split) for number, split in enumerate(splits)
    ]
    assert found["hf:own/shapes"]["said"].startswith("dataset: hf:own/shapes at commit 000000000000; 8 files, 0.0 MB")


def test_a_word_of_a_splits_name_is_enough(found):
    splits = {split for *_, split in examples(found, "hf:own/karpathy")}
    assert "test" in splits
    assert None not in splits


def test_a_single_split_is_divided_unless_it_is_named(found):
    assert {split for *_, split in examples(found, "hf:own/held_out")} == {"train", "dev"}
    assert {split for *_, split in examples(found, "hf:own/held_out:test")} == {"test"}


@pytest.mark.parametrize("name", ["folder", "configs:de/train", "archive"])
def test_image_folders_configurations_and_archives_on_the_hub_are_read(found, name):
    captions = {
        "folder": [["A dog 1 ."], ["A dog 2 ."]],
        "configs:de/train": [["de"], ["de"]],
        "archive": [["A dog .", "It runs ."], ["A cat ."]],
    }
    read = examples(found, f"hf:own/{name}")
    assert [(photo, references) for photo, references, _ in read] == [
        (png(number), references) for number, references in enumerate(captions[name], 1)
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "cannot be read: Dataset 'own/none' doesn't exist on the Hub or cannot be accessed."),
        ("gated", "is a gated dataset on the Hub. You must be authenticated to access it; accept its conditions on "),
        ("script", "but found script.py; try the hub's Parquet copy, hf:OWNER/NAME@refs/convert/parquet."),
        ("shapes@v9", "cannot be read: Revision 'v9' doesn't exist for dataset 'own/shapes' on the Hub."),
        ("shapes:none", "has no split none; its splits are train, validation."),
        ("configs", "the available configs: ['en', 'de']; name one as hf:OWNER/NAME:CONFIG/SPLIT."),
        (
            "elsewhere",
            "has no captions (1 rows are malformed and skipped: metadata.jsonl:1; captions from caption)",
        ),
        ("labels", "has no column for captions (text, texts, caption, captions ...); its columns are image, label."),
        ("urls", "has no column for photos (bytes, or {bytes, path}); its columns are image, caption."),
    ],
)
def test_the_error_for_an_unreadable_dataset_gives_the_reason(found, name, message):
    assert found[f"hf:own/{name}"].startswith(f"hf:own/{name} ")
    assert message in found[f"hf:own/{name}"]


def test_reading_a_dataset_again_sends_no_requests(found):
    assert examples(found, "again") == examples(found, "hf:own/shapes")
    assert found["again"]["asked"] == 0


def test_an_interrupted_read_resumes_at_the_same_commit(found):
    assert examples(found, "resumed") == examples(found, "hf:own/shapes")
    assert "at commit 000000000000;" in found["resumed"]["said"]
    assert found["rows read by the second command"] == 8 - 3


def test_a_connection_error_suggests_checking_the_network(tmp_path, monkeypatch):
    def load_dataset_builder(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'own/shapes' on the Hub (ConnectError)")

    monkeypatch.setattr("datasets.load_dataset_builder", load_dataset_builder)
    with pytest.raises(CaptionerError, match=r"^hf:own/shapes cannot be read: Couldn't reach .*; check the network\.$"):
        load_dataset(Path("hf:own/shapes"), cache=tmp_path)


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    result = CliRunner().invoke(main, ["data", "hf:own/shapes", "--cache", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr == (
        'Error: hf:own/shapes needs the package datasets, which is not installed; run `pip install "captioner[hub]"`.\n'
    )


# --- dataset names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf:a/b", ("a/b", None, None, None)),
        ("hf:a/b@v1.0", ("a/b", "v1.0", None, None)),
        ("hf:a-1/b_2.c@refs/convert/parquet:train", ("a-1/b_2.c", "refs/convert/parquet", None, "train")),
        ("hf:a/b:2014_captions/validation", ("a/b", None, "2014_captions", "validation")),
    ],
)
def test_a_name_can_include_a_revision_a_configuration_and_a_split(text, name):
    assert HubName.parse(Path(text)) == name
    source = DataSource.parse(f"{text}=2")
    assert (source.directory, source.weight) == (Path(text), 2)


@pytest.mark.parametrize("text", ["hf:b", "hf:a/b/c", "hf:a/b@", "hf:a/b:", "hf:", "hf:a/b=two", "hf:a/b=2=2"])
def test_a_malformed_name_is_refused(text):
    result = CliRunner().invoke(main, ["train", "--data", text])
    assert result.exit_code == 2
    assert "is not a dataset name; write hf:OWNER/NAME[@REVISION][:SPLIT]" in result.stderr
