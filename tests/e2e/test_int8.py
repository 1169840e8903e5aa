"""A model is trained and exported in two precisions, and the faster precision captions without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw

from capexport.quantization import acceptance
from caprun.bundle.reading import read_bundle
from captioner.cli import main

pytestmark = pytest.mark.slow

COLOURS = ("red", "green", "blue", "orange")
SETTINGS = {
    "data.image_size": 48,
    "data.min_count": 1,
    "data.views": 1,
    "model.encoder": "timm/test_efficientnet",
    "model.encoder_weights": "none",
    **{f"model.{name}": 32 for name in ("projection", "embedding", "units", "attention")},
    "search.max_length": 8,
}
_CAPTION = """
import sys
sys.modules["torch"] = None  # an import of torch fails from here on
from caprun.cli import main
main()
"""


def draw_dataset(folder: Path) -> list[str]:
    """Draws coloured squares and discs, in the format of Flickr8k; returns the photos' paths."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, names = ["image,caption"], [f"{number}.png" for number in range(32)]
    for number, name in enumerate(names):
        colour, shape = COLOURS[number % 4], ("square", "disc")[number // 4 % 2]
        image = Image.new("RGB", (48, 48), "white")
        left, top = (int(v) for v in rng.integers(2, 14, 2))
        draw = ImageDraw.Draw(image)
        (draw.rectangle if shape == "square" else draw.ellipse)((left, top, left + 30, top + 30), colour)
        image.save(folder / "images" / name)
        rows += [f"{name},A {colour} {shape} .", f"{name},A {shape} which is {colour} ."]
    (folder / "captions.txt").write_text("\n".join(rows) + "\n")
    (folder / "Flickr_8k.trainImages.txt").write_text("\n".join(names[:24]))
    (folder / "Flickr_8k.devImages.txt").write_text("\n".join(names[24:]))
    return [str(folder / "images" / name) for name in names]


def run(*arguments: str) -> str:
    """Runs `captioner` in this process; returns what it prints on standard error."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, f"{arguments}\n{result.output}"
    return result.stderr


def caprun(*arguments: str) -> list[dict[str, Any]]:
    """Runs `caprun --json` in a process without torch; returns the rows that it prints."""
    command = [sys.executable, "-c", _CAPTION, *arguments, "--device", "cpu", "--threads", "1", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_trained_model_is_exported_in_int8_and_captions_without_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # with eight photos and measured speeds, acceptance would be random; other tests check it
    monkeypatch.setattr(acceptance, "CIDER_TOLERANCE", 10.0)
    monkeypatch.setattr(acceptance, "photos_per_second", lambda *_: [10.0, 20.0])
    photos = draw_dataset(tmp_path / "dataset")
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    schedule = ("--epochs", "12", "--batch-size", "4", "--lr", "0.01", "--device", "cpu")
    run("train", "--data", "dataset", *schedule, "--cache", "cache", *settings, "--output", "run")
    exported = ("--output", "bundle", "--precision", "int8", "--calibration", "minmax", "--data", "dataset")
    said = run("export", "run/best.pt", *exported)
    assert "int8: CIDEr" in said
    assert "verified: " in said

    found = read_bundle(tmp_path / "bundle").manifest.precisions
    assert list(found) == ["fp32", "int8"]
    assert found["int8"].parity["photos"] == 8
    chosen = caprun("--model", "bundle", *photos)
    assert [row["image"] for row in chosen] == photos
    assert chosen == caprun("--model", "bundle", "--precision", "int8", *photos)
    fp32 = caprun("--model", "bundle", "--precision", "fp32", *photos)
    log_probs = [[row["log_prob"] for row in rows] for rows in (chosen, fp32)]
    assert log_probs[0] != log_probs[1], "int8 is not fp32 by another name"
    same = sum(row["caption"] == other["caption"] for row, other in zip(chosen, fp32, strict=True))
    assert same > len(photos) // 2
    (alone,) = caprun("--model", "bundle", photos[2])
    assert alone["caption"] == chosen[2]["caption"]
    assert alone["log_prob"] == pytest.approx(chosen[2]["log_prob"], abs=1e-4)
