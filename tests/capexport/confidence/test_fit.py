"""A confidence is fitted at export where there are photos for it, and holds on photos it has not seen."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capexport.confidence import fit as fitting
from capexport.confidence.card import PICTURE
from capexport.confidence.event import agreement, choose_event
from capexport.confidence.figures import auroc, calibration_error
from capexport.confidence.fit import Effort, Looked, fit_confidence, look, probabilities
from capexport.export import Format, Request, export
from caprun.bundle.confidence import Confidence, Linear
from caprun.bundle.manifest import MODEL_CARD
from caprun.bundle.reading import read_bundle
from caprun.engine import Captioner
from caprun.photos.preprocessing import load
from caprun.search.hypothesis import Hypothesis
from captioner.datasets import Example
from captioner.inference import load_captioner
from tests.capexport.conftest import draw_photos

_LITTLE = Effort(train=220, outliers=4, measured=3)
_WORDS = ("a", "the", "dog", "cat", "child", "man", "runs", "jumps", "in", "on", "through", "grass", "water", "snow")


def _sentences(rng: np.random.Generator, subject: Sequence[str], count: int) -> tuple[str, ...]:
    return tuple(" ".join([*rng.permutation(subject)[:6], *rng.choice(_WORDS, 2)]) for _ in range(count))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], list[Example]]:
    """Photos of a split, with three captions each that have most of their words in common."""
    folder = tmp_path_factory.mktemp("photos")

    def make(split: str, count: int) -> list[Example]:
        rng = np.random.default_rng(len(split))
        made = []
        for i, photo in enumerate(draw_photos(count, seed=len(split))):
            file = folder / f"{split}{i}.png"
            Image.fromarray(photo).save(file)
            subject = rng.choice(_WORDS, 8, replace=False)
            made.append(Example(file, _sentences(rng, subject, 3), split))  # type: ignore[arg-type]
        return made

    return make


@pytest.fixture(scope="module")
def model(checkpoint_file: Path) -> Captioner:
    """What is exported, before it is."""
    return load_captioner(checkpoint_file, "cpu")


def _in_the_models_words(model: Captioner, dev: list[Example]) -> list[Example]:
    """Half of the photos described as the model describes them, so that its captions are good of these."""
    said = model.caption_arrays(np.stack([load(one.image, model.spec.image) for one in dev]))
    return [
        replace(one, references=(caption.text, *one.references[:2])) if i % 2 else one
        for i, (one, caption) in enumerate(zip(dev, said, strict=True))
    ]


def _export_calibrated(
    form: Format, checkpoint_file: Path, output: Path, model: Captioner, examples: Callable[[str, int], list[Example]]
) -> None:
    dev, train = (_in_the_models_words(model, examples(split, 220)) for split in ("dev", "train"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "Effort", lambda: _LITTLE)
        export(Request(checkpoint_file, form, output, "small", train=train, dev=dev), lambda _: None)


@pytest.fixture(scope="module")
def calibrated(
    model: Captioner,
    checkpoint_file: Path,
    examples: Callable[[str, int], list[Example]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    output = tmp_path_factory.mktemp("calibrated") / "bundle"
    _export_calibrated("onnx", checkpoint_file, output, model, examples)
    return output


def test_an_export_with_enough_photos_writes_a_confidence_that_captions_carry(calibrated: Path) -> None:
    captioner = Captioner.load(calibrated, threads=1)
    captions = captioner.caption_arrays(draw_photos(6, seed=9))
    assert len({caption.confidence for caption in captions if caption.finished}) > 3
    assert all(caption.confidence is not None and 0 <= caption.confidence <= 1 for caption in captions)


def test_the_manifest_says_what_was_measured_for_every_search(calibrated: Path) -> None:
    confidence = read_bundle(calibrated).manifest.confidence
    assert confidence is not None
    measured = confidence.measured
    assert [(one["precision"], one["beam_size"]) for one in measured["found"]] == [
        ("fp32", 3),
        ("fp32", 1),
        ("fp32", 5),
    ]
    for one in measured["found"]:
        assert all(0 <= one[name] <= 1 for name in ("base_rate", "error_equal_mass", "error_equal_width", "auroc"))
    assert 0.3 <= measured["found"][0]["base_rate"] <= 0.7
    assert measured["photos"] == 220
    assert sum(one["captions"] for one in measured["reliability"]) == 220
    assert {one["kind"] for one in measured["outliers"]["kinds"]} == set(fitting.KINDS)
    assert f"{measured['threshold']:.2f}" in confidence.event


def test_the_card_has_the_figures_and_a_picture_that_the_bundle_vouches_for(calibrated: Path) -> None:
    manifest = read_bundle(calibrated).manifest
    assert manifest.confidence is not None
    card = (calibrated / MODEL_CARD).read_text(encoding="utf-8")
    assert manifest.confidence.event in card
    assert f"{manifest.confidence.measured['found'][0]['auroc']:.3f}" in card
    assert f"]({PICTURE})" in card
    assert PICTURE in manifest.files
    points = ET.parse(calibrated / PICTURE).iter("{http://www.w3.org/2000/svg}circle")
    assert len(list(points)) == len(manifest.confidence.measured["reliability"]) + 10


def test_the_manifest_stays_small(calibrated: Path) -> None:
    content = json.loads((calibrated / "model.json").read_text(encoding="utf-8"))
    weights = content["confidence"]["good"]["photo"] + content["confidence"]["familiar"]["photo"]
    assert max(len(repr(weight)) for weight in weights) <= 14


@pytest.mark.parametrize(("dev", "train"), [(3, 220), (220, 3), (0, 0)])
def test_too_few_photos_give_a_bundle_without_a_confidence_and_a_line_that_says_why(
    dev: int, train: int, model: Captioner, examples: Callable[[str, int], list[Example]]
) -> None:
    lines: list[str] = []
    given = {"fp32": model}
    assert fit_confidence(given, examples("train", train), examples("dev", dev), lines.append, _LITTLE) is None
    assert len(lines) == 1
    assert lines[0].startswith("no confidence: it takes 200 dev photos with two captions or more and 200 training")
    assert lines[0].endswith(f"there are {dev} and {train}")


def test_dev_photos_with_one_caption_do_not_count(
    model: Captioner, examples: Callable[[str, int], list[Example]]
) -> None:
    lines: list[str] = []
    dev = [replace(one, references=one.references[:1]) for one in examples("dev", 220)]
    given = {"fp32": model}
    assert fit_confidence(given, examples("train", 220), dev, lines.append, _LITTLE) is None
    assert "there are 0 and 220" in lines[0]


def test_captions_that_are_never_good_give_no_confidence(
    model: Captioner, examples: Callable[[str, int], list[Example]]
) -> None:
    lines: list[str] = []
    dev = [replace(one, references=("zebra giraffe", "zebra giraffe lion")) for one in examples("dev", 220)]
    given = {"fp32": model}
    assert fit_confidence(given, examples("train", 220), dev, lines.append, _LITTLE) is None
    assert lines == ["no confidence: by no measure of it are from 30 % to 70 % of the captions of dev good"]


def test_an_export_without_enough_photos_succeeds_without_a_confidence(checkpoint_file: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    output = tmp_path / "bundle"
    export(Request(checkpoint_file, "torchscript", output, "small"), lines.append)
    assert read_bundle(output).manifest.confidence is None
    assert not (output / PICTURE).exists()
    assert "Confidence" not in (output / MODEL_CARD).read_text(encoding="utf-8")
    assert any(line.startswith("no confidence: ") for line in lines)


def test_a_torchscript_bundle_has_the_same_confidence(
    calibrated: Path,
    checkpoint_file: Path,
    model: Captioner,
    examples: Callable[[str, int], list[Example]],
    tmp_path: Path,
) -> None:
    _export_calibrated("torchscript", checkpoint_file, tmp_path / "bundle", model, examples)
    found, expected = (read_bundle(path).manifest.confidence for path in (tmp_path / "bundle", calibrated))
    assert found is not None
    assert expected is not None
    assert found.event == expected.event
    assert found.good.photo == pytest.approx(expected.good.photo, abs=1e-3)


def _fake(rng: np.random.Generator, count: int, told: np.ndarray) -> tuple[Looked, np.ndarray]:
    """Captions whose chance of being good is known: by their log-probability and by one direction of the photo."""
    photos = rng.normal(0, 1, (count, 12)).astype(np.float32)
    mean = rng.uniform(-3, 0, count)
    chance = 1 / (1 + np.exp(-(2 * mean + 3 + photos @ told)))
    hypotheses = [Hypothesis((1, 2, 3), np.full(4, value), True, None) for value in mean]
    return Looked(photos, hypotheses, ["a b c"] * count), rng.random(count) < chance


def test_the_fit_finds_probabilities_that_hold_on_captions_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    told = np.eye(12)[0]
    looked, good = _fake(rng, 1500, told)
    others, good_others = _fake(rng, 4000, told)
    key = ("fp32", 3)
    direction = fitting.Weights(0.0, told)
    fitted = fitting._fit_good({key: fitting._rows(looked, direction)}, {key: good}, {key: np.ones(1500, bool)})
    found = fitting.sigmoid(fitted(fitting._rows(others, direction)))
    assert calibration_error(found, good_others) < 0.03
    assert auroc(found[good_others], found[~good_others]) > 0.75


def test_what_is_measured_on_dev_is_of_photos_that_were_not_in_the_fit() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (300, 60))  # so many features that the labels, which are chance, are learnt by heart
    good = {("fp32", 3): rng.random(300) < 0.5}
    given = {("fp32", 3): rows}
    fold = np.arange(300) % fitting.FOLDS
    of = good["fp32", 3]
    whole = {("fp32", 3): np.ones(300, bool)}
    learnt = fitting.sigmoid(fitting._fit_good(given, good, whole)(rows))
    honest = fitting._out_of_fold(given, good, whole, fold, ("fp32", 3))
    assert auroc(learnt[of], learnt[~of]) > 0.7
    assert auroc(honest[of], honest[~of]) < 0.6


def test_captions_that_were_cut_are_measured_as_they_ship_and_not_learnt_from() -> None:
    rng = np.random.default_rng(0)
    key, told = ("fp32", 3), fitting.Weights(0.0, np.eye(12)[0])
    looked, good = _fake(rng, 400, np.eye(12)[0])
    some = np.arange(400) % 3 == 0
    cut = [replace(one, finished=not lost) for one, lost in zip(looked.hypotheses, some, strict=True)]
    fold, rows = np.arange(400) % fitting.FOLDS, {key: fitting._rows(looked, told)}
    measured = [
        fitting._out_of_fold(rows, {key: labels}, {key: looked._replace(hypotheses=cut).whole}, fold, key)
        for labels in (good, good ^ some)
    ]
    assert (measured[0] == measured[1]).all()
    assert ((measured[0] == 0) == some).all()


def test_photos_are_told_from_outliers_of_a_kind_that_was_not_in_the_fit() -> None:
    rng = np.random.default_rng(0)
    photos = rng.normal(0, 1, (600, 30)) + np.eye(30)[0] * 3
    kinds = [rng.normal(0, 1, (60, 30)) - np.eye(30)[0] * 3 + np.eye(30)[i] * 4 for i in range(1, 6)]
    familiar = fitting._familiar(photos[:400].astype(np.float32), [one.astype(np.float32) for one in kinds[:-1]])
    assert auroc(familiar(photos[400:]), familiar(kinds[-1])) > 0.99
    assert (familiar(photos[400:]) > 0).mean() > 0.95


def test_the_runtime_gives_the_probability_that_the_fit_meant() -> None:
    rng = np.random.default_rng(0)
    looked, _ = _fake(rng, 50, np.eye(12)[0])
    good = fitting.Weights(-0.5, rng.normal(0, 0.5, 7))
    told, familiar = fitting.Weights(0.0, rng.normal(0, 1, 12)), fitting.Weights(1.0, rng.normal(0, 1, 12))
    event = fitting.Event(0.4, 0.8, "It is good.")
    confidence = fitting._confidence(event, good, told, familiar)
    expected = fitting.sigmoid(good(fitting._rows(looked, told))) * fitting.sigmoid(familiar(looked.photos))
    assert probabilities(confidence, looked) == pytest.approx(expected, rel=1e-4)


def test_looking_in_batches_finds_what_the_captioner_says(model: Captioner) -> None:
    photos = draw_photos(20, seed=5)
    looked = look(model, iter(photos))
    assert looked.captions == [caption.text for caption in model.caption_arrays(photos)]
    assert looked.photos.shape == (20, 64)
    assert looked.features.shape == (20, 6)


def test_people_agree_fully_where_they_say_the_same() -> None:
    same = [[f"a {noun} runs fast"] * 3 for noun in ("dog", "cat", "man")]
    assert agreement(same) == pytest.approx(10, abs=1e-6)


def test_nobody_agrees_with_themselves() -> None:
    assert agreement([["a dog", "one cat"], ["red house", "blue water"]]) == 0


def test_an_event_is_moderately_frequent_or_there_is_none() -> None:
    references = [[f"{a} {b} one two", f"{a} {b} three four"] for a in "efghij" for b in "klmnop"]
    captions = [texts[0] if i % 2 else "zebra" for i, texts in enumerate(references)]
    event = choose_event(captions, references)
    assert event is not None
    assert "half as well" in event.sentence
    assert event.threshold == round(event.human / 2, 2)
    assert choose_event(["zebra"] * len(references), references) is None
    assert choose_event(captions, [["lion", "tiger"]] * len(references)) is None


def test_a_confidence_refuses_weights_of_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="'colour', which this caprun does not know"):
        Linear(0.0, {"colour": 1.0})


def test_a_photo_of_another_size_than_the_weights_is_refused() -> None:
    confidence = Confidence("It is good.", Linear(0.0, {}, (1.0, 2.0)), Linear(0.0))
    with pytest.raises(ValueError, match="3 numbers and 2 weights"):
        confidence.probability(np.zeros(3, np.float32), Hypothesis((1,), np.zeros(2), True, None))


def test_an_empty_caption_or_one_that_was_cut_is_never_likely_to_be_good() -> None:
    """Whatever the photo, and however sure the model is that nothing is to be said."""
    sure = Confidence("It is good.", Linear(25.0, {"log_prob": 1.0}, (9.0,)), Linear(25.0))
    empty = Hypothesis((), np.zeros(1), True, None), Hypothesis((), np.empty(0), False, None)
    for hypothesis in (*empty, Hypothesis((5, 6), np.zeros(2), False, None)):
        assert sure.probability(np.ones(1, np.float32), hypothesis) == 0


def test_an_empty_caption_and_enormous_numbers_give_a_probability() -> None:
    names = ("log_prob", "mean_log_prob", "lowest_log_prob", "spread", "pieces", "finished")
    weights = Linear(1e9, dict.fromkeys(names, -1e9), (1e9, -1e9))
    confidence = Confidence("It is good.", weights, weights)
    for photo in (np.zeros(2, np.float32), np.array([1e30, -1e30], np.float32)):
        for hypothesis in (Hypothesis((), np.empty(0), False, None), Hypothesis((1,), np.full(2, -1e9), True, None)):
            assert 0 <= confidence.probability(photo, hypothesis) <= 1
    nothing = np.full(2, np.nan, np.float32)
    assert 0 <= confidence.probability(nothing, Hypothesis((1,), np.zeros(2), True, None)) < 1e-9
