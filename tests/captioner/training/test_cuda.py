"""Models learn on a GPU in every precision, and their checkpoints work without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from captioner.backends.loading import load_captioner
from captioner.config import load_config, parse_settings
from captioner.datasets import load_dataset
from captioner.models.checkpoint import BEST, LAST, load_checkpoint
from captioner.training.processes import Processes
from captioner.training.train import Job, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def train_on(
    device: str, output: Path, shapes: Path, cache: Path, settings: list[str], *, resume: bool = False
) -> None:
    resumed = load_checkpoint(output / LAST) if resume else None
    config = resumed.config if resumed else load_config(parse_settings(settings))
    processes = Processes(device=torch.device(device))
    train(Job(load_dataset(shapes), config, output, cache, "the tests", processes, resumed=resumed), lambda _: None)


def losses(output: Path) -> list[float]:
    return [row["train_loss"] for row in load_checkpoint(output / LAST).training["state"]["history"]]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    "others",
    [
        ["train.accumulate=2"],
        ["model.fine_tune=0"],
        ["model.fine_tune=3", "data.views=2"],  # features of the encoder's stem
        ["model.decoder=hard-attention"],
    ],
)
def test_a_model_learns_in_every_precision(shapes, cache, settings, tmp_path, precision, others):
    train_on("cuda", tmp_path, shapes, cache, [*settings, f"train.precision={precision}", *others])
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]


def test_a_model_trained_on_a_gpu_gives_equal_probabilities_on_a_cpu(shapes, cache, settings, tmp_path):
    train_on("cuda", tmp_path, shapes, cache, settings)
    photos = [example.image for example in load_dataset(shapes).split("dev")]
    on_gpu, on_cpu = (load_captioner(tmp_path / BEST, device) for device in ("cuda", "cpu"))
    for photo in photos:
        assert on_gpu.caption(photo).log_prob == pytest.approx(on_cpu.caption(photo).log_prob, abs=1e-2)


@pytest.mark.parametrize(("begun", "ended"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_resumes_on_another_device(shapes, cache, settings, tmp_path, monkeypatch, begun, ended):
    from captioner.training import loop

    learn = loop.Trainer._learn
    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_learn", lambda *given: learn(*given) or given[0].optimiser.steps == 7)
        with pytest.raises(KeyboardInterrupt):
            train_on(begun, tmp_path, shapes, cache, settings)
    train_on(ended, tmp_path, shapes, cache, settings, resume=True)
    assert len(losses(tmp_path)) == 3
