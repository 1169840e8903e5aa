"""The JSON Schema of a manifest describes the manifests that caprun reads, and is generated from the dataclasses."""

import json
import runpy
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from caprun import BundleError
from caprun.bundle.reading import read_bundle
from tests.caprun.bundle.support.calibrated import calibrate

ROOT = Path(__file__).parents[3]
TINY = ROOT / "tests" / "tiny" / "bundle"
SCHEMA = json.loads(files("caprun.bundle").joinpath("model.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
Data = dict[str, Any]
Edit = Callable[[Path, Callable[[Data], object]], None]


def manifest(bundle: Path) -> Any:
    return json.loads((bundle / "model.json").read_text(encoding="utf-8"))


def test_the_schema_is_up_to_date() -> None:
    generated = runpy.run_path(str(ROOT / "scripts" / "bundle_schema.py"))["schema"]()
    assert generated == SCHEMA, "run `python scripts/bundle_schema.py`"


def test_the_schema_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_tiny_and_the_packaged_bundle_match_the_schema(packaged: Path) -> None:
    for bundle in (TINY, packaged):
        VALIDATOR.validate(manifest(bundle))


def test_a_written_manifest_matches_the_schema(tmp_path: Path) -> None:
    VALIDATOR.validate(manifest(calibrate(Path(shutil.copytree(TINY, tmp_path / "bundle")))))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(speed=3),
        lambda data: data.pop("image"),
        lambda data: data.pop("format_version"),
        lambda data: data.update(format_version=2),
        lambda data: data.update(format="onnx2"),
        lambda data: data.update(attention_grid=[4]),
        lambda data: data.update(attention_grid=[4, 4, 4]),
        lambda data: data["image"].update(fit="stretch"),
        lambda data: data["image"].update(mean=[0.5, 0.5, "0.5"]),
        lambda data: data["special"].update(end=None),
        lambda data: data["search"].update(beam_size="3"),
        lambda data: data["files"]["vocab.json"].pop("sha256"),
        lambda data: data["precisions"]["fp32"].update(measured="unknown"),
        lambda data: data["graphs"]["encoder"]["inputs"][0].update(role="photo"),
        lambda data: data.update(confidence={"event": "It rains."}),
    ],
)
def test_caprun_refuses_manifests_that_do_not_match_the_schema(
    bundle: Path, edit_manifest: Edit, change: Callable[[Data], object]
) -> None:
    edit_manifest(bundle, change)
    assert not VALIDATOR.is_valid(manifest(bundle))
    with pytest.raises(BundleError):
        read_bundle(bundle)


@pytest.fixture
def packaged() -> Path:
    import caprun_weights

    return Path(caprun_weights.default_bundle())
