"""Small models learn, and their training runs can be repeated and resumed."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from captioner.backends.loading import load_captioner
from captioner.config import DataConfig
from captioner.datasets import Example, load_dataset
from captioner.datasets.example import in_short
from captioner.datasets.inspection import inspect
from captioner.errors import CaptionerError
from captioner.evaluation.metrics import TITLES
from captioner.models.checkpoint import BEST, LAST, build_model, load_checkpoint
from captioner.models.decoder import pad_captions
from captioner.models.encoder import build_encoder
from captioner.text.tokenizer import SPECIAL
from captioner.text.words import restore_words
from captioner.training import loop
from captioner.training.losses import Losses
from captioner.training.train import Job, train
from tests.captioner.trees import differing

Train = Callable[..., list[str]]


def log(output: Path) -> list[dict[str, float]]:
    """Returns the history of a run, a row per epoch."""
    return load_checkpoint(output / LAST).training["state"]["history"]


def scores(cider: float) -> dict[str, float]:
    return dict.fromkeys(TITLES, 0.5) | {"cider": cider}


def interrupt_after(monkeypatch: pytest.MonkeyPatch, epochs: int, run: Callable[[], object]) -> None:
    """Runs a training and interrupts it in the epoch after `epochs`, before the third step."""
    learn = loop.Trainer._learn

    def interrupted(trainer: loop.Trainer, *arguments: Any) -> bool:
        if trainer.state.epoch == epochs and trainer.state.batch == 2:
            raise KeyboardInterrupt
        return learn(trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_learn", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()


# --- Learning


@pytest.mark.parametrize("length", [3, 12])
def test_captions_that_are_cut_are_counted_as_in_the_dataset_report(
    train_shapes: Train, shapes: Path, tmp_path: Path, length: int
) -> None:
    said = train_shapes(tmp_path, f"data.max_length={length}", "train.epochs=1")
    problems = inspect(shapes, DataConfig(max_length=length), photos=False).problems
    assert [line for line in said if "and cut: " in line] == [
        f"warning: {in_short(kind, seen)}" for kind, seen in problems.items()
    ]
    assert bool(problems) == (length == 3)


def sighted_weights(examples: list[Example], path: Path) -> Path:
    """Saves random weights with batch norms fitted to the photos, which would otherwise look nearly the same."""
    torch.manual_seed(0)
    network = timm.create_model("test_efficientnet").train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all photos
    photos = torch.stack([torch.from_numpy(np.array(Image.open(example.image))) for example in examples])
    with torch.no_grad():
        network(photos.permute(0, 3, 1, 2) / 127.5 - 1)
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def learnt(train_shapes: Train, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a run of forty epochs without regularisation, so that the model memorises its photos."""
    output = tmp_path_factory.mktemp("learnt")
    weights = sighted_weights(load_dataset(shapes).split("train"), output / "weights.pth")
    nothing = ("model.dropout=0", "model.word_dropout=0", "train.label_smoothing=0", "train.average=0.5")
    train_shapes(output, "train.epochs=40", "train.lr=0.02", f"model.encoder_weights={weights}", *nothing)
    return output


def test_a_model_memorises_its_training_photos(learnt, shapes):
    losses = [row["train_loss"] for row in log(learnt)]
    assert losses[0] > 2
    assert losses[-1] < 0.3
    captioner = load_captioner(learnt / LAST, "cpu")
    examples = load_dataset(shapes).split("train")
    captions = [captioner.caption(example.image).text for example in examples]
    told = [
        all(word in caption.split() for word in example.image.stem.split("-"))  # colour, shape, background
        for example, caption in zip(examples, captions, strict=True)
    ]
    assert np.mean(told) > 0.7, captions


def test_training_reports_what_it_found_and_where_it_wrote(train_shapes, tmp_path):
    said = train_shapes(tmp_path, "train.epochs=1")
    assert said[:5] == [
        "dataset: caption table (captions.txt), 24 photos, 48 captions",
        "columns: captions from caption",
        "splits (from the dataset): train 17, dev 4, test 3 photos",
        "vocabulary: 18 pieces (word); 0.0% of the pieces in training captions are unknown",
        "model: timm/test_efficientnet, soft-attention decoder; 0.0 M parameters are trained",
    ]
    assert said[-4].startswith("epoch 1/1: train_loss ")
    assert said[-3] == f"report: {tmp_path / 'report.html'}"
    assert said[-2].startswith("best (cider 0.")
    assert said[-2].endswith(f": {tmp_path / BEST}")
    assert said[-1] == f"last: {tmp_path / LAST}"


def test_training_writes_checkpoints_and_reports_and_nothing_else(trained):
    tables = ["train_results.csv", "validation_results.csv"]
    pictures = ["attention.png", "caption.png", "curves.png", "pictures"]
    others = ["config.toml", "model.txt", "report.html", "tensorboard"]
    assert sorted(path.name for path in trained.iterdir()) == sorted([".lock", BEST, LAST, *tables, *pictures, *others])
    rows = log(trained)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[0]["train_loss"] > rows[2]["train_loss"]
    assert rows[0].keys() >= {"train_loss", "dev_loss", "bleu_4", "cider", "lr", "seconds"}
    assert all(0 <= row["bleu_1"] <= 1 for row in rows)


def test_checkpoints_hold_samples_metrics_settings_and_provenance(trained):
    best, last = load_checkpoint(trained / BEST), load_checkpoint(trained / LAST)
    assert best.training is None
    assert last.training["state"]["epoch"] == 3
    assert best.samples.shape == (4, 48, 48, 3)
    assert best.samples.dtype == torch.uint8
    assert best.metrics["split"] == "dev"
    assert best.provenance["command"] == "the tests"
    assert best.provenance["photos"] == {"train": 17, "dev": 4}
    assert best.config.model.units == 32


def test_the_best_checkpoint_is_the_later_of_two_equally_good_epochs(train_shapes, tmp_path, monkeypatch):
    ciders = iter([0.5, 0.7, 0.7, 0.2, 0.7])  # the fifth is the best checkpoint again, for the report
    monkeypatch.setattr("captioner.training.validation.score", lambda *_: scores(next(ciders)))
    said = train_shapes(tmp_path, "train.epochs=4")
    assert load_checkpoint(tmp_path / BEST).metrics["epoch"] == 3
    assert load_checkpoint(tmp_path / LAST).metrics["epoch"] == 4
    assert said[-2].startswith("best (cider 0.700)")


def test_checkpoints_hold_the_frozen_encoder_unchanged(trained):
    torch.manual_seed(0)
    began = build_encoder("timm/test_efficientnet", (48, 48)).state_dict()
    for name in (BEST, LAST):
        model = load_checkpoint(trained / name).model
        kept = {k.removeprefix("encoder."): v for k, v in model.items() if k.startswith("encoder.")}
        assert differing(dict(began), kept) == []


def test_checkpoints_hold_the_average_of_the_weights(train_shapes, tmp_path, trained):
    def averaged(run: Path) -> list[str]:
        last = load_checkpoint(run / LAST)
        learnt = last.training["optimiser"]["parameters"]
        return differing({name: last.model[name] for name in learnt}, learnt)

    assert any("decoder" in where for where in averaged(trained))
    train_shapes(tmp_path, "train.epochs=1", "train.average=0")
    assert averaged(tmp_path) == []


@pytest.mark.parametrize(("epochs", "batch_size", "warm_up"), [(3, 6, 0.1), (1, 17, 0.1), (2, 6, 0), (1, 6, 1)])
def test_the_last_learning_rate_is_in_range_however_few_the_steps(train_shapes, tmp_path, epochs, batch_size, warm_up):
    settings = (f"train.epochs={epochs}", f"train.batch_size={batch_size}", f"train.warm_up={warm_up}")
    train_shapes(tmp_path, *settings)
    last = load_checkpoint(tmp_path / LAST).training
    assert last["optimiser"]["steps"] == epochs * math.ceil(17 / batch_size)
    assert 0 < log(tmp_path)[-1]["lr"] <= 0.01


def test_mixed_precision_learns_like_full_precision(train_shapes, tmp_path, trained):
    train_shapes(tmp_path, "train.precision=bf16")
    for mixed, full in zip(log(tmp_path), log(trained), strict=True):
        assert mixed["train_loss"] == pytest.approx(full["train_loss"], rel=0.02)
    last = load_checkpoint(tmp_path / LAST)
    assert {value.dtype for key, value in last.model.items() if key.startswith("decoder.")} == {torch.float32}


def test_features_of_more_views_are_computed_for_training(train_shapes, own_shapes, tmp_path):
    for photo in own_shapes.glob("*.png"):
        photo.write_bytes(photo.read_bytes() + b"\0")  # other tests can have cached views of the same photos
    said = train_shapes(tmp_path / "run", "train.epochs=1", "data.views=3", data=own_shapes)
    announced = [line for line in said if line.startswith("features: 17 photos")]
    assert len(announced) == 2  # a mirror image and a crop of each photo for training
    assert (tmp_path / "run" / BEST).is_file()


# --- Validation


def test_validation_scores_generated_captions_of_every_photo(train_shapes, shapes, tmp_path, monkeypatch):
    scored: list[tuple[list[str], list[tuple[str, ...]]]] = []

    def score(captions: list[str], references: list[tuple[str, ...]], _: object) -> dict[str, float]:
        scored.append((captions, references))
        return scores(0.5)

    monkeypatch.setattr("captioner.training.validation.score", score)
    train_shapes(tmp_path, "train.epochs=1")
    (captions, references), best_again = scored
    assert best_again == (captions, references)
    dev = load_dataset(shapes).split("dev")
    assert references == [example.references for example in dev]
    best = load_checkpoint(tmp_path / BEST)
    assert (best.metrics["photos"], best.metrics["references"]) == (4, 8)
    captioner = load_captioner(tmp_path / BEST, "cpu")
    # captions from cached half-precision features equal those that the checkpoint generates from the photos
    assert captions == [captioner.caption(example.image).text for example in dev]


def test_the_validation_loss_is_the_mean_over_all_words_in_the_split(trained, shapes):
    best = load_checkpoint(trained / BEST)
    model, tokenizer = build_model(best), restore_words(best.config.data, best.vocabulary)
    dev = load_dataset(shapes).split("dev")
    tokens = pad_captions([[tokenizer.encode(c) for c in example.references] for example in dev], SPECIAL.pad)
    with torch.inference_mode():
        teacher = model(model.encoder(best.samples), tokens)  # the samples are these 4 photos
    expected = torch.nn.functional.cross_entropy(teacher.logits, teacher.targets).item()
    assert best.metrics["dev_loss"] == pytest.approx(expected, abs=1e-3)


# --- Repeating and resuming


def test_the_same_seed_gives_the_same_weights(train_shapes, tmp_path, trained):
    torch.rand(7)  # earlier draws do not matter
    train_shapes(tmp_path)
    first, second = load_checkpoint(trained / LAST), load_checkpoint(tmp_path / LAST)
    assert differing(dict(first.training), dict(second.training)) == []
    assert differing(dict(first.model), dict(second.model)) == []


def test_a_different_seed_gives_different_weights(train_shapes, tmp_path, trained):
    train_shapes(tmp_path, "train.epochs=3", "train.seed=1")
    first, second = load_checkpoint(trained / LAST), load_checkpoint(tmp_path / LAST)
    assert "/decoder.embedding.weight" in differing(dict(first.model), dict(second.model))


def test_a_stop_in_the_last_validation_takes_effect_after_it(train_shapes, tmp_path, monkeypatch):
    validate = loop.Trainer._end_epoch

    def asked(trainer: loop.Trainer, *arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return validate(trainer, *arguments)

    monkeypatch.setattr(loop.Trainer, "_end_epoch", asked)
    with pytest.raises(KeyboardInterrupt):
        train_shapes(tmp_path, "train.epochs=1")
    monkeypatch.undo()
    said = train_shapes(tmp_path, resumed=load_checkpoint(tmp_path / LAST))
    assert "resumed: 1 of 1 epochs and 0 steps of the next are done" in said


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_resumed_run_ends_like_an_uninterrupted_one(train_shapes, tmp_path, trained, monkeypatch, epochs):
    interrupt_after(monkeypatch, epochs, lambda: train_shapes(tmp_path))
    assert len(log(tmp_path)) == epochs
    torch.manual_seed(12345)
    said = train_shapes(tmp_path, resumed=load_checkpoint(tmp_path / LAST))
    assert f"resumed: {epochs} of 3 epochs and 0 steps of the next are done" in said
    whole, resumed = load_checkpoint(trained / LAST), load_checkpoint(tmp_path / LAST)
    assert resumed.training["optimiser"]["steps"] == 15
    assert differing(dict(whole.training), dict(resumed.training)) == []
    assert differing(dict(whole.model), dict(resumed.model)) == []
    assert differing(dict(load_checkpoint(trained / BEST).model), dict(load_checkpoint(tmp_path / BEST).model)) == []
    assert differing(log(trained), log(tmp_path)) == []
    for table in ("train_results.csv", "validation_results.csv"):
        assert (tmp_path / table).read_text() == (trained / table).read_text()


def test_a_run_without_recorded_steps_resumes_with_a_table_of_the_steps_from_there(
    train_shapes, tmp_path, trained, monkeypatch
):
    interrupt_after(monkeypatch, 2, lambda: train_shapes(tmp_path))
    content = torch.load(tmp_path / LAST, weights_only=True)
    assert content["training"]["state"].pop("steps").shape == (10, 4)
    torch.save(content, tmp_path / LAST)
    train_shapes(tmp_path, resumed=load_checkpoint(tmp_path / LAST))
    header, *whole = (trained / "train_results.csv").read_text().splitlines()
    assert (tmp_path / "train_results.csv").read_text().splitlines() == [header, *whole[10:]]


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("Flickr_8k.trainImages.txt", lambda names: "\n".join(names.split()[:8])),
        ("captions.txt", lambda captions: captions.replace("circle ", "disc ")),
        ("Flickr_8k.devImages.txt", lambda names: "\n".join(names.split()[:2])),
    ],
)
def test_resuming_with_other_photos_or_captions_is_refused(
    train_shapes, own_shapes, tmp_path, monkeypatch, file, change
):
    interrupt_after(monkeypatch, 1, lambda: train_shapes(tmp_path / "run", data=own_shapes))
    (own_shapes / file).write_text(change((own_shapes / file).read_text()))
    with pytest.raises(CaptionerError, match=r"^The run in .*run was started with other photos or captions; resume"):
        train_shapes(tmp_path / "run", resumed=load_checkpoint(tmp_path / "run" / LAST), data=own_shapes)


# --- Errors


def test_a_loss_of_nan_stops_training(train_shapes, tmp_path, monkeypatch):
    nan = torch.tensor(math.nan, requires_grad=True)
    monkeypatch.setattr(loop, "caption_loss", lambda *_: Losses(nan, *[nan.detach()] * 2))
    with pytest.raises(CaptionerError, match=r"^The loss or its gradient is NaN or infinite at step 0; lower --lr\.$"):
        train_shapes(tmp_path)
    assert not (tmp_path / BEST).exists()


def broken(own_shapes: Path, config: Any, cache: Path, output: Path, *, allow_missing: bool) -> Job:
    (own_shapes / "images" / "red-square-white.png").write_text("not a photo")  # in the training split
    return Job(load_dataset(own_shapes), config, output, cache, "the tests", allow_missing=allow_missing)


def test_unreadable_photos_stop_training_and_are_named(own_shapes, checkpoint, cache, tmp_path):
    with pytest.raises(CaptionerError, match=r"^1 photos cannot be read: .*red-square-white\.png .*--allow-missing\.$"):
        train(broken(own_shapes, checkpoint.config, cache, tmp_path / "run", allow_missing=False), lambda _: None)


def test_allow_missing_trains_without_unreadable_photos(own_shapes, checkpoint, cache, tmp_path):
    said: list[str] = []
    train(broken(own_shapes, checkpoint.config, cache, tmp_path / "run", allow_missing=True), said.append)
    assert any(line.startswith("warning: 1 photos left out: ") for line in said)
    assert load_checkpoint(tmp_path / "run" / LAST).training["optimiser"]["steps"] == 3 * 4  # 16 photos, 4 per step
