"""A confidence is read from the manifest, and an invalid confidence is refused in one sentence."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caprun import BundleError
from caprun.bundle.confidence import Linear
from caprun.bundle.reading import read_bundle
from tests.caprun.bundle.support.calibrated import CONFIDENCE, FEATURES, calibrate
from tests.caprun.bundle.test_manifest import OTHERS, assert_read_or_refused_in_a_line, places, put

Edit = Callable[[Path, Callable[[dict[str, Any]], object]], None]


def test_a_written_confidence_is_read(bundle: Path) -> None:
    calibrate(bundle)
    assert read_bundle(bundle).manifest.confidence == CONFIDENCE


def test_a_bundle_can_have_no_confidence(tiny: Path) -> None:
    assert read_bundle(tiny).manifest.confidence is None


def test_null_means_no_confidence(bundle: Path, edit_manifest: Edit) -> None:
    edit_manifest(bundle, lambda data: data.update(confidence=None))
    assert read_bundle(bundle).manifest.confidence is None


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ((), "0.5", "confidence must be a table of keys and values"),
        (("event",), "", "the event of its confidence is not one line"),
        (("event",), " ", "the event of its confidence is not one line"),
        (("event",), "a\nb", "the event of its confidence is not one line"),
        (("event",), "\x1b[31mred", "the event of its confidence is not one line"),
        (("event",), "x" * 501, "the event of its confidence is not one line"),
        (("good",), None, "confidence.good must be a table of keys and values"),
        (("good", "bias"), "1", "confidence.good.bias is '1'"),
        (("good", "bias"), 1e300, "its confidence has weights that are too large"),
        (("good", "caption", "mean_log_prob"), -1e10, "its confidence has weights that are too large"),
        (("good", "caption", "mood"), 1.0, "mood"),
        (("good", "photo"), [0.5] * (FEATURES - 1), "its confidence does not fit the state that its encoder returns"),
        (("familiar", "photo"), [0.5] * (FEATURES + 1), "does not fit the state that its encoder returns"),
        (("familiar", "photo"), [0.5, None], "confidence.familiar.photo[1] is None"),
        (("familiar", "photo"), [1e308] * FEATURES, "its confidence has weights that are too large"),
        (("odd",), 1, "unknown key 'confidence.odd'"),
        (("measured",), [], "confidence.measured must be a table of keys and values"),
    ],
    ids=repr,
)
def test_an_invalid_confidence_is_refused(
    bundle: Path, edit_manifest: Edit, path: tuple[Any, ...], value: object, problem: str
) -> None:
    calibrate(bundle)
    edit_manifest(bundle, put(("confidence", *path), value))
    with pytest.raises(BundleError) as caught:
        read_bundle(bundle)
    assert problem in str(caught.value)
    assert str(caught.value).startswith(f"{bundle / 'model.json'} is not a manifest: ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: repr(other)[:20])
def test_any_other_value_is_accepted_or_refused_in_one_line(bundle: Path, edit_manifest: Edit, other: object) -> None:
    calibrate(bundle)
    before = (bundle / "model.json").read_bytes()
    confidence = json.loads(before)["confidence"]
    for path in places(confidence, ("confidence",)):
        edit_manifest(bundle, put(path, other))
        assert_read_or_refused_in_a_line(bundle, path)
        (bundle / "model.json").write_bytes(before)


def test_a_confidence_is_refused_if_the_encoder_returns_another_state(bundle: Path, edit_manifest: Edit) -> None:
    """A confidence finds the hidden and the cell state by name."""
    calibrate(bundle, replace(CONFIDENCE, good=Linear(1.0)))

    def rename(data: dict[str, Any]) -> None:
        graphs = data["graphs"]
        for tensors in (graphs["encoder"]["outputs"], graphs["decoder"]["inputs"], graphs["decoder"]["outputs"]):
            for tensor in tensors:
                tensor["name"] = tensor["name"].replace("cell", "memory")

    edit_manifest(bundle, rename)
    with pytest.raises(BundleError, match="does not fit the state that its encoder returns"):
        read_bundle(bundle)


def test_a_confidence_can_depend_only_on_the_caption(bundle: Path) -> None:
    alone = replace(CONFIDENCE, good=Linear(1.0, {"mean_log_prob": 1.5}))
    assert read_bundle(calibrate(bundle, alone)).manifest.confidence == alone
