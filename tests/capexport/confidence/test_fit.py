"""An export fits a confidence if it has enough photos, and otherwise reports the reason."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from capexport.card import PICTURE
from capexport.confidence import fit as fitting
from capexport.confidence import measurement
from capexport.confidence.fit import fit_confidence
from capexport.export import ExportRequest, Format, export
from caprun.bundle.confidence import Confidence
from caprun.bundle.manifest import MODEL_CARD
from caprun.bundle.reading import read_bundle
from caprun.engine import Captioner
from caprun.photos.preprocessing import load
from captioner.backends.loading import load_captioner
from captioner.datasets import Example
from tests.capexport.conftest import draw_photos

WORDS = ("a", "the", "dog", "cat", "child", "man", "runs", "jumps", "in", "on", "through", "grass", "water", "snow")
FIGURES = ("base_rate", "mean_confidence", "error_equal_mass", "error_equal_width", "auroc", "brier")
MakeExamples = Callable[[str, int], list[Example]]


def sentences(rng: np.random.Generator, subject: Sequence[str], count: int) -> tuple[str, ...]:
    return tuple(" ".join([*rng.permutation(subject)[:6], *rng.choice(WORDS, 2)]) for _ in range(count))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> MakeExamples:
    """Returns a function that draws photos of a split, with three captions each that share most of their words."""
    folder = tmp_path_factory.mktemp("photos")

    def make(split: str, count: int) -> list[Example]:
        rng = np.random.default_rng(len(split))
        made = []
        for i, photo in enumerate(draw_photos(count, seed=len(split))):
            file = folder / f"{split}{i}.png"
            Image.fromarray(photo).save(file)
            subject = rng.choice(WORDS, 8, replace=False)
            made.append(Example(file, sentences(rng, subject, 3), split))  # type: ignore[arg-type]
        return made

    return make


@pytest.fixture(scope="module")
def model(checkpoint_file: Path) -> Captioner:
    """Returns the model to export."""
    return load_captioner(checkpoint_file, "cpu")


def in_the_models_words(model: Captioner, examples: list[Example]) -> list[Example]:
    """Gives every second photo the model's caption as a reference, so that the model captions it well."""
    said = model.caption_arrays(np.stack([load(one.image, model.spec.image) for one in examples]))
    return [
        replace(one, references=(caption.text, *one.references[:2])) if i % 2 else one
        for i, (one, caption) in enumerate(zip(examples, said, strict=True))
    ]


def in_two_datasets(examples: list[Example]) -> list[Example]:
    return [replace(one, dataset="rooms" if i % 5 < 2 else "streets") for i, one in enumerate(examples)]


def calibrate(
    form: Format, checkpoint_file: Path, output: Path, train: list[Example], dev: list[Example]
) -> tuple[Confidence, list[str]]:
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "OUTLIERS", 4)
        patch.setattr(measurement, "OUTLIERS", 3)
        patch.setattr(measurement, "FEWEST_WHOLE", 20)  # a model with random weights rarely ends its captions
        export(ExportRequest(checkpoint_file, form, output, train=train, dev=dev), lines.append)
    confidence = read_bundle(output).manifest.confidence
    assert confidence is not None
    return confidence, lines


@pytest.fixture(scope="module")
def calibrated(
    model: Captioner, checkpoint_file: Path, examples: MakeExamples, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """Returns a bundle with a confidence fitted on two datasets, and the messages of its export."""
    output = tmp_path_factory.mktemp("calibrated") / "bundle"
    train, dev = (in_two_datasets(in_the_models_words(model, examples(split, 220))) for split in ("train", "dev"))
    return output, calibrate("onnx", checkpoint_file, output, train, dev)[1]


@pytest.fixture(scope="module")
def measured(calibrated: tuple[Path, list[str]]) -> dict[str, Any]:
    confidence = read_bundle(calibrated[0]).manifest.confidence
    assert confidence is not None
    return dict(confidence.measured)


def test_captions_have_a_confidence_if_the_export_had_enough_photos(calibrated: tuple[Path, list[str]]) -> None:
    captioner = Captioner.load(calibrated[0], threads=1)
    captions = captioner.caption_arrays(draw_photos(6, seed=9))
    assert len({caption.confidence for caption in captions if caption.finished}) > 3
    assert all(caption.confidence is not None and 0 <= caption.confidence <= 1 for caption in captions)


def test_the_manifest_has_figures_for_every_search(
    calibrated: tuple[Path, list[str]], measured: dict[str, Any]
) -> None:
    found = [(one["precision"], one["beam_size"]) for one in measured["found"]]
    assert found == [("fp32", 3), ("fp32", 1), ("fp32", 5)]
    for one in measured["found"]:
        assert all(0 <= one[name] <= 1 for name in FIGURES)
    assert 0.3 <= measured["found"][0]["base_rate"] <= 0.7
    assert measured["photos"] == 220
    assert measured["train_photos"] == 220
    assert sum(one["captions"] for one in measured["reliability"]) == 220
    assert {one["kind"] for one in measured["outliers"]["kinds"]} == set(fitting.KINDS)
    confidence = read_bundle(calibrated[0]).manifest.confidence
    assert confidence is not None
    assert "their captions agree with each other" in confidence.event
    assert measured["share"] in (0.25, 0.5, 0.75, 1.0)
    assert all(score > 0 for score in measured["human_cider"].values())


def test_the_manifest_has_figures_for_every_dataset_and_a_fit_without_it(
    calibrated: tuple[Path, list[str]], measured: dict[str, Any]
) -> None:
    assert [(one["dataset"], one["photos"]) for one in measured["datasets"]] == [("rooms", 88), ("streets", 132)]
    assert [one["transfer"]["fitted_on"] for one in measured["datasets"]] == [132, 88]
    for one in measured["datasets"]:
        assert all(0 <= one[name] <= 1 for name in FIGURES)
        assert all(0 <= one["transfer"][name] <= 1 for name in FIGURES)
        assert one["transfer"]["base_rate"] == one["base_rate"]
        assert one["transfer"]["mean_confidence"] != one["mean_confidence"]
    together = sum(one["photos"] * one["mean_confidence"] for one in measured["datasets"]) / 220
    assert together == pytest.approx(measured["found"][0]["mean_confidence"], abs=1e-3)
    lines = [line for line in calibrated[1] if line.startswith("confidence on ")]
    assert [line.split(":")[0] for line in lines] == ["confidence on rooms", "confidence on streets"]
    assert all("; fitted without it, calibration error 0." in line for line in lines)


def test_the_card_has_the_figures_and_a_picture_that_the_manifest_lists(
    calibrated: tuple[Path, list[str]], measured: dict[str, Any]
) -> None:
    output = calibrated[0]
    manifest = read_bundle(output).manifest
    assert manifest.confidence is not None
    card = (output / MODEL_CARD).read_text(encoding="utf-8")
    assert manifest.confidence.event in card
    assert f"{measured['found'][0]['auroc']:.3f}" in card
    for one in measured["datasets"]:
        assert f"| {one['dataset']} | {one['photos']} | " in card
        assert f"| {one['dataset']} | {one['transfer']['fitted_on']} | " in card
        assert f" {one['transfer']['auroc']:.3f} |" in card
    assert f"]({PICTURE})" in card
    assert PICTURE in manifest.files
    texts = [text.text for text in ET.parse(output / PICTURE).iter("{http://www.w3.org/2000/svg}text")]
    assert {"Reliability", "Risk and coverage"} < set(texts)


def test_weights_are_rounded_in_the_manifest(calibrated: tuple[Path, list[str]]) -> None:
    content = json.loads((calibrated[0] / "model.json").read_text(encoding="utf-8"))
    weights = content["confidence"]["good"]["photo"] + content["confidence"]["familiar"]["photo"]
    assert max(len(repr(weight)) for weight in weights) <= 14


@pytest.mark.slow
def test_torchscript_has_the_same_confidence_and_one_dataset_no_separate_figures(
    calibrated: tuple[Path, list[str]],
    checkpoint_file: Path,
    model: Captioner,
    examples: MakeExamples,
    tmp_path: Path,
) -> None:
    train, dev = (in_the_models_words(model, examples(split, 220)) for split in ("train", "dev"))
    found, lines = calibrate("torchscript", checkpoint_file, tmp_path / "bundle", train, dev)
    expected = read_bundle(calibrated[0]).manifest.confidence
    assert expected is not None
    assert found.event == expected.event
    assert found.good.photo == pytest.approx(expected.good.photo, abs=1e-3)
    assert "datasets" not in found.measured
    assert not [line for line in lines if line.startswith("confidence on ")]
    assert "By dataset" not in (tmp_path / "bundle" / MODEL_CARD).read_text(encoding="utf-8")


# --- Without a confidence


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list that collects the number of photos that each search captions."""
    counts: list[int] = []
    caption_examples = fitting.caption_examples

    def counting(*arguments: Any) -> Any:
        captioned = caption_examples(*arguments)
        counts.append(len(captioned.texts))
        return captioned

    monkeypatch.setattr(fitting, "caption_examples", counting)
    return counts


def refusal(model: Captioner, train: list[Example], dev: list[Example]) -> str:
    lines: list[str] = []
    assert fit_confidence({"fp32": model, "int8": model}, train, dev, lines.append) is None
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(("dev", "train"), [(3, 220), (220, 3), (0, 0)])
def test_too_few_photos_are_reported_before_any_photo_is_captioned(
    dev: int, train: int, model: Captioner, examples: MakeExamples, searches: list[int]
) -> None:
    line = refusal(model, examples("train", train), examples("dev", dev))
    expected = "no confidence: it needs 200 dev photos with at least two captions and 200 training photos; --data has"
    assert line == f"{expected} {dev} and {train}"
    assert searches == []


def test_dev_photos_with_one_caption_are_not_counted(
    model: Captioner, examples: MakeExamples, searches: list[int]
) -> None:
    dev = [replace(one, references=one.references[:1]) for one in examples("dev", 220)]
    assert refusal(model, examples("train", 220), dev).endswith("--data has 0 and 220")
    assert searches == []


def test_low_human_agreement_is_reported_before_any_photo_is_captioned(
    model: Captioner, examples: MakeExamples, searches: list[int]
) -> None:
    dev = [replace(one, references=("zebra giraffe", "zebra giraffe lion")) for one in examples("dev", 220)]
    line = refusal(model, examples("train", 220), dev)
    assert line == "no confidence: human captions of one dev photo agree no more than those of different photos"
    assert searches == []


def test_captions_never_good_are_reported_before_training_photos_are_captioned(
    model: Captioner, examples: MakeExamples, searches: list[int]
) -> None:
    dev = [replace(one, references=(f"zebra {i}", f"zebra {i} lion")) for i, one in enumerate(examples("dev", 220))]
    line = refusal(model, examples("train", 220), dev)
    assert line == "no confidence: no threshold makes between 30% and 70% of the dev captions good"
    assert searches == [220]


def test_a_dataset_whose_human_captions_do_not_agree_is_left_out_by_name(
    model: Captioner, examples: MakeExamples, searches: list[int]
) -> None:
    dev = [replace(one, references=(f"zebra {i}", f"zebra {i} lion")) for i, one in enumerate(examples("dev", 221))]
    dev = [replace(one, dataset="streets" if i < 220 else "one") for i, one in enumerate(dev)]
    lines: list[str] = []
    assert fit_confidence({"fp32": model}, examples("train", 220), dev, lines.append) is None
    reason = "human captions of one dev photo agree no more than those of different photos"
    assert lines == [
        f"confidence: one is left out, because {reason} (dev photos: 1)",
        "no confidence: no threshold makes between 30% and 70% of the dev captions good",
    ]
    assert searches == [220]


def test_cut_captions_are_reported_before_training_photos_are_captioned(
    model: Captioner, examples: MakeExamples, searches: list[int]
) -> None:
    spec = replace(model.spec, search=replace(model.spec.search, max_length=1))
    line = refusal(Captioner(spec, model.vocabulary, model.backend), examples("train", 220), examples("dev", 220))
    assert line.startswith("no confidence: ")
    assert line.endswith(" of 220 dev captions are neither empty nor cut at the maximum length; it needs 50")
    assert searches == [220]


def test_an_export_without_enough_photos_succeeds_without_a_confidence(checkpoint_file: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    output = tmp_path / "bundle"
    export(ExportRequest(checkpoint_file, "torchscript", output), lines.append)
    assert read_bundle(output).manifest.confidence is None
    assert not (output / PICTURE).exists()
    assert "Confidence" not in (output / MODEL_CARD).read_text(encoding="utf-8")
    assert any(line.startswith("no confidence: ") for line in lines)
