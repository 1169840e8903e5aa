"""An imported model writes the same captions as the original program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from caprun.cli import main as caprun
from caprun.engine import Captioner
from caprun.photos.preprocessing import load
from captioner.backends.pytorch import ModelBackend, model_spec
from captioner.cli import main
from captioner.models.checkpoint import build_model, load_checkpoint
from tests.captioner.importers.originals import (
    WORDS,
    Carnet,
    ImageCap,
    Ljm565,
    Original,
    Sgrvinod,
    Vvduc,
    randomised,
)

SYSTEMS: dict[str, Callable[[], Original]] = {
    "sgrvinod": Sgrvinod,
    "CaRNet, RNetvI": lambda: Carnet("rnetvi"),
    "CaRNet, RNetvH": lambda: Carnet("rnetvh"),
    "CaRNet, RNetvHC": lambda: Carnet("rnetvhc"),
    "CaRNet, RNetvHCAttention": lambda: Carnet("rnetvhcattention"),
    "image-cap": ImageCap,
    "vvduc": Vvduc,
    "ljm565": Ljm565,
}
VARIANTS: dict[str, Callable[[], Original]] = {
    "sgrvinod, as PyTorch 0.4 saved it": lambda: Sgrvinod(old=True),
    "sgrvinod, 7 x 7 regions, DataParallel": lambda: Sgrvinod(size=7, parallel=True),
    "CaRNet, 3 x 3 regions": lambda: Carnet("rnetvhcattention", splits=3),
    "vvduc, two layers": lambda: Vvduc(layers=2),
    "ljm565, three layers": lambda: Ljm565(layers=3),
}
FULL_SIZE: dict[str, Callable[[], Original]] = {
    "sgrvinod, ResNet-101": lambda: Sgrvinod("resnet101"),
    "CaRNet, ResNet-50": lambda: Carnet("rnetvhcattention", "resnet50"),
    "ljm565, ResNet-101": lambda: Ljm565("resnet101", layers=2),
}
EXPORTED: dict[str, Callable[[], Original]] = {
    "sgrvinod": Sgrvinod,
    "CaRNet, RNetvI": lambda: Carnet("rnetvi"),
    "CaRNet, RNetvH": lambda: Carnet("rnetvh"),
    "image-cap": ImageCap,
    "vvduc, two layers": lambda: Vvduc(layers=2),
    "ljm565, three layers": lambda: Ljm565(layers=3),
}
EACH = [
    *(pytest.param(make, id=name) for name, make in SYSTEMS.items()),
    *(pytest.param(make, id=name, marks=pytest.mark.slow) for name, make in {**VARIANTS, **FULL_SIZE}.items()),
]


def draw_photo(path: Path, seed: int) -> Path:
    small = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), np.uint8)
    Image.fromarray(small).resize((331, 247), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return [draw_photo(tmp_path / f"photo-{seed}.png", seed) for seed in range(2)]


def run_import(original: Original, folder: Path, *more: str) -> Result:
    arguments = original.write(folder)
    return CliRunner().invoke(
        main, ["import", original.system, *arguments, "--output", str(folder / "imported.pt"), *more]
    )


@pytest.mark.parametrize("make", EACH)
def test_captions_and_log_probabilities_match_the_original_program(make, photos, tmp_path):
    original = randomised(make())
    result = run_import(original, tmp_path)
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(tmp_path / "imported.pt")
    model, pieces = build_model(checkpoint), checkpoint.vocabulary.pieces
    spec, backend = model_spec(checkpoint, model, "imported"), ModelBackend(model)
    captions = Captioner(spec, checkpoint.vocabulary, backend).caption_arrays(
        np.stack([load(p, spec.image) for p in photos])
    )
    theirs, firsts = [original.words.index(piece) for piece in pieces], []
    for photo, caption in zip(photos, captions, strict=True):
        steps, token, zero = backend.encode(load(photo, spec.image)[None]), original.start, np.zeros((1, 1), np.int64)
        said, total = [], 0.0
        for chosen, log_prob in original.greedy(photo):
            output = steps(zero[0], zero, zero + pieces.index(token), len(pieces))
            found = torch.empty(len(pieces))
            found[torch.from_numpy(output.candidate[0, 0])] = torch.from_numpy(output.log_prob[0, 0])
            torch.testing.assert_close(found, log_prob[theirs], atol=1e-4, rtol=0)
            token = original.words[chosen]
            firsts += [log_prob] * (not said)
            said.append(token)
            total += log_prob[chosen].item()
        assert caption.finished == (said[-1] == original.end)
        assert caption.text == original.text(said[:-1] if caption.finished else said)
        assert caption.log_prob == pytest.approx(total, abs=1e-3)
    assert spec.search.max_length == original.longest
    assert (firsts[0] - firsts[1]).abs().max() > 1e-3, "the photos must matter"


def test_an_import_prints_the_model_and_records_its_source(tmp_path):
    result = run_import(randomised(Ljm565()), tmp_path)
    assert result.stderr.splitlines() == [
        "ljm565's captioner: resnet18, soft-attention decoder, 18 words",
        f"imported: {tmp_path / 'imported.pt'}",
    ]
    imported = load_checkpoint(tmp_path / "imported.pt").provenance["imported"]
    assert imported["system"] == "ljm565's captioner"
    assert [file["name"] for file in imported["files"]] == ["model.pt"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        *(pytest.param(make, "onnx", id=f"{name}, onnx") for name, make in EXPORTED.items()),
        pytest.param(Ljm565, "torchscript", id="ljm565, torchscript"),
        pytest.param(ImageCap, "torchscript", id="image-cap, torchscript"),
    ],
)
def test_an_imported_model_can_be_exported_verified_and_run(make, kind, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    original = randomised(make())
    assert run_import(original, tmp_path).exit_code == 0
    exported = CliRunner().invoke(main, ["export", "imported.pt", "--format", kind])
    assert exported.exit_code == 0, exported.output
    bundle = "weights/imported" if kind == "onnx" else "weights/imported-torchscript"
    assert exported.stdout.rstrip().endswith(f"--model {bundle} PHOTO")
    assert "captions of 4 photos agree with PyTorch" in exported.stderr
    program, name = (caprun, []) if kind == "onnx" else (main, ["caption"])
    captioned = CliRunner().invoke(program, [*name, "--model", bundle, "--device", "cpu", str(photos[0])])
    assert captioned.exit_code == 0, captioned.output
    words = [original.words[token] for token, _ in original.greedy(photos[0])]
    assert original.text(words[:-1] if words[-1] == original.end else words) in captioned.stdout


@pytest.mark.slow
@pytest.mark.parametrize("make", EXPORTED.values(), ids=list(EXPORTED))
def test_an_imported_model_can_be_fine_tuned_and_evaluated(make, shapes, tmp_path):
    original = randomised(make())
    new = iter(("circle", "square", "green", "white", "black", "background", "orange", "grey"))
    original.words = [next(new, word) if word in WORDS else word for word in original.words]
    assert run_import(original, tmp_path).exit_code == 0
    checkpoint, run = tmp_path / "imported.pt", tmp_path / "run"
    options = ["--data", str(shapes), "--device", "cpu"]
    more = ["--init", str(checkpoint), "--output", str(run), "--cache", str(tmp_path / "cache"), "--epochs", "1"]
    trained = CliRunner().invoke(main, ["train", *options, *more])
    assert trained.exit_code == 0, trained.output
    before, after = (load_checkpoint(path) for path in (checkpoint, run))
    assert after.vocabulary.pieces[: len(before.vocabulary)] == before.vocabulary.pieces
    assert replace(before.config.model, word_dropout=0.1) == after.config.model  # the default for few photos
    assert not torch.equal(before.model["decoder.output.weight"], after.model["decoder.output.weight"])
    evaluated = CliRunner().invoke(main, ["evaluate", str(checkpoint), *options])
    assert evaluated.exit_code == 0, evaluated.output
