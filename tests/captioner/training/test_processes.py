"""Two processes train a model with the gradients of a single process, and write one log and one checkpoint."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from captioner.models.checkpoint import LAST, load_checkpoint

pytestmark = pytest.mark.slow  # each test waits for processes that import torch

_GRADIENTS = """
import sys
import torch
from captioner.config import load_config, parse_settings
from captioner.models.caption_model import CaptionModel
from captioner.text.tokenizer import SPECIAL
from captioner.training.inputs.batches import Batches
from captioner.training.losses import caption_loss
from captioner.training.processes import join_processes, leave_processes
from captioner.models.encoder import Encoder

class Noise:
    def varied(self, photos, seed, epoch):
        for group in photos:
            yield torch.stack([torch.randn(4, 8, generator=torch.Generator().manual_seed(int(i))) for i in group])

torch.set_num_threads(1)
torch.manual_seed(0)
decoder, parts, output = sys.argv[1], int(sys.argv[2]), sys.argv[3]
processes = join_processes("cpu")
sizes = [f"model.{name}=16" for name in ("projection", "embedding", "units", "attention")]
settings = [*sizes, f"model.decoder={decoder}", "model.dropout=0", "train.label_smoothing=0.1"]
config = load_config(parse_settings(settings))
encoder = Encoder("tiny", torch.nn.Conv2d(3, 8, 16, 16), (32, 32), (0.5,) * 3, (0.5,) * 3)
model = CaptionModel(encoder, config.model, 20, SPECIAL)
lengths = [3, 9, 1, 5, 7, 2, 8]
captions = [[[1, *range(4, 4 + n), 2], [1, 5, 2]][: 1 + i % 2] for i, n in enumerate(lengths)]
batches = Batches(Noise(), captions, 7, 0, parts=parts, rank=processes.rank, count=processes.count)
shared = processes.wrap(model).train()
(step,) = batches.epoch(0, 0)
for number, batch in enumerate(step.batches, 1):
    with processes.gathering(shared, number == len(step.batches)):
        teacher = shared(batch.seen, batch.tokens, 0.0)
        loss = caption_loss(teacher, config.train, step.words, step.captions)
        (loss.total * processes.count).backward()
if processes.first:
    torch.save({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, output)
del shared, step, batch, teacher, loss
leave_processes()
"""


def torchrun(count: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", count, "--master-port", 0, "--standalone"]
    command = [sys.executable, *(launcher if count > 1 else []), *arguments]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return result


@pytest.mark.parametrize(("decoder", "parts"), [("soft-attention", 1), ("rnetvi", 2)])
def test_two_processes_compute_the_gradients_of_one_on_the_same_batch(tmp_path, decoder, parts):
    script = tmp_path / "gradients.py"
    script.write_text(_GRADIENTS)
    one, two = tmp_path / "one.pt", tmp_path / "two.pt"
    torchrun(1, script, decoder, 1, one)
    torchrun(2, script, decoder, parts, two)
    expected, found = torch.load(one), torch.load(two)
    assert found.keys() == expected.keys()
    assert len(found) > 8
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_two_processes_train_like_one_and_write_one_log_and_checkpoint(settings, shapes, cache, tmp_path):
    alike = ("model.dropout=0", "model.word_dropout=0", "train.epochs=2")
    chosen = [part for setting in [*settings, *alike] for part in ("--set", setting)]
    train = ["-m", "captioner", "train", "--data", shapes, "--cache", cache, "--threads", 1, "--device", "cpu", *chosen]
    alone = torchrun(1, *train, "--output", tmp_path / "one")
    together = torchrun(2, *train, "--output", tmp_path / "two")
    one, two = (load_checkpoint(tmp_path / run / LAST) for run in ("one", "two"))
    for row, other in zip(*(checkpoint.training["state"]["history"] for checkpoint in (one, two)), strict=True):
        assert other["train_loss"] == pytest.approx(row["train_loss"], rel=1e-4)
        assert other["dev_loss"] == pytest.approx(row["dev_loss"], rel=1e-3)
        # all captions of the dev split in order, from both processes
        assert [other[name] for name in ("bleu_1", "rouge_l")] == pytest.approx(
            [row["bleu_1"], row["rouge_l"]], abs=0.05
        )
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(p.name for p in (tmp_path / "one").iterdir())
    rows = (tmp_path / "two" / "train_results.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 5
    for run in (alone, together):
        assert run.stderr.count("epoch 2/2: train_loss") == 1


def test_more_processes_than_photos_per_step_are_refused(settings, shapes, cache, tmp_path):
    chosen = [part for setting in [*settings, "train.batch_size=1"] for part in ("--set", setting)]
    train = ["-m", "captioner", "train", "--data", shapes, "--cache", cache, "--threads", 1, "--device", "cpu", *chosen]
    with pytest.raises(AssertionError, match=r"Error: The smallest step has 1 photos for 2 processes; raise"):
        torchrun(2, *train, "--output", tmp_path / "run")
