"""A bundle with any tokenizer gives PyTorch's words, and the runtime needs no tokenizer library."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from capexport.export import ExportRequest, export
from caprun.bundle.reading import read_bundle
from caprun.caption import Caption
from caprun.engine import Captioner
from captioner.backends.loading import load_captioner
from captioner.config import DataConfig
from captioner.models.checkpoint import load_checkpoint, save_checkpoint
from captioner.text.build import build_tokenizer, restore_tokenizer
from tests.capexport.conftest import draw_photos, make_checkpoint

CAPTIONS = (
    "A dog's ball, on (wet) grass.",
    "“The snowboarder” isn't running",
    "一只狗，在草地上跑。",
    "Два пса бегут",
)
PHOTOS = draw_photos(6, seed=1)
_PIECES = (
    "a dog ' s ball , on ( wet ) grass . “ the snow ##board ##er ” is ##n t run ##ning ! 一 只 狗 在 草 地 上 跑 ， 。"
)


_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("word", "wordpiece", "spacy")]


@pytest.fixture(scope="module", params=["bpe", *_SLOW])
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    name = str(request.param)
    pytest.importorskip("spacy" if name == "spacy" else "tokenizers")
    if name == "wordpiece":
        file = tmp_path_factory.mktemp("bert") / "vocab.txt"
        file.write_text("\n".join(_PIECES.split()), encoding="utf-8")
        name = f"wordpiece:{file}"
    return DataConfig(tokenizer=name, min_count=1, vocabulary_size=80, punctuation=True)


@pytest.fixture(scope="module")
def checkpoint_file(config: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = build_tokenizer(config, CAPTIONS)
    checkpoint = make_checkpoint(tokenizer.vocabulary)
    checkpoint = replace(
        checkpoint, config=replace(checkpoint.config, data=replace(config, image_size=64)), tokenizer=tokenizer.state
    )
    path = tmp_path_factory.mktemp("runs") / "best.pt"
    save_checkpoint(path, checkpoint)
    return path


def said(caption: Caption) -> list[object]:
    return [caption.text, [word.text for word in caption.words]]


def test_a_checkpoint_restores_its_tokenizer(config: DataConfig, checkpoint_file: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_file)
    restored = restore_tokenizer(checkpoint.config.data, checkpoint.vocabulary, checkpoint.tokenizer)
    built = build_tokenizer(config, CAPTIONS)
    assert [restored.encode(caption) for caption in CAPTIONS] == [built.encode(caption) for caption in CAPTIONS]


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_both_formats_give_pytorchs_words(form: str, checkpoint_file: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    export(ExportRequest(checkpoint_file, form, bundle), lambda _: None)
    assert read_bundle(bundle).vocabulary == load_checkpoint(checkpoint_file).vocabulary
    expected = load_captioner(checkpoint_file, "cpu").caption_arrays(PHOTOS, alpha=True)
    loaded = Captioner.load(bundle, device="cpu", threads=1) if form == "onnx" else load_captioner(bundle, "cpu")
    found = loaded.caption_arrays(PHOTOS, alpha=True)
    assert len({caption.text for caption in found}) > 1
    for caption, other in zip(found, expected, strict=True):
        assert said(caption) == said(other)
        for word, of_pytorch in zip(caption.words, other.words, strict=True):
            assert word.log_prob == pytest.approx(of_pytorch.log_prob, abs=1e-3)
            np.testing.assert_allclose(word.alpha, of_pytorch.alpha, atol=1e-4)
    if form == "onnx":
        assert _said_by_the_runtime_alone(bundle, tmp_path / "photos.npy") == [said(caption) for caption in found]


_ALONE = """
import json, sys
import numpy as np
from caprun.engine import Captioner
captions = Captioner.load(sys.argv[1], device="cpu", threads=1).caption_arrays(np.load(sys.argv[2]))
needless = {"tokenizers", "spacy", "torch", "captioner"} & set(sys.modules)
assert not needless, needless
print(json.dumps([[caption.text, [word.text for word in caption.words]] for caption in captions]))
"""


def _said_by_the_runtime_alone(bundle: Path, photos: Path) -> list[object]:
    np.save(photos, PHOTOS)
    command = [sys.executable, "-c", _ALONE, str(bundle), str(photos)]
    return list(json.loads(subprocess.run(command, capture_output=True, check=True, timeout=600).stdout))
