"""An export writes the neutral words for its vocabulary, and every format uses them as PyTorch does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from capexport.export import ExportRequest, export
from caprun.bundle.reading import read_bundle
from caprun.bundle.vocabulary import Vocabulary
from caprun.engine import Captioner
from caprun.search.options import SearchOptions
from captioner.backends.loading import load_captioner
from captioner.models.checkpoint import save_checkpoint
from captioner.text.tokenizer import SPECIAL_PIECES
from tests.capexport.conftest import draw_photos, make_checkpoint

WORDS = "a the dog man woman person boy girl child runs sits in on and two people grass water red blue"
PHOTOS = draw_photos(24, seed=2)
OPTIONS = [
    SearchOptions(1, 12, neutral=True),
    SearchOptions(3, 12, n_best=3, neutral=True),
    SearchOptions(max_length=12, temperature=1.0, seed=4, neutral=True),
]
GENDERED = {"man", "woman", "boy", "girl"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("neutral") / "best.pt"
    save_checkpoint(path, make_checkpoint(Vocabulary((*SPECIAL_PIECES, *WORDS.split()))))
    return path


@pytest.fixture(scope="module")
def pytorch(checkpoint: Path) -> Captioner:
    return load_captioner(checkpoint, "cpu")


@pytest.fixture(scope="module", params=["onnx", "torchscript"])
def bundle(request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp(request.param) / "bundle"
    export(ExportRequest(checkpoint, request.param, output), lambda _: None)
    return output


def texts(captioner: Captioner, options: SearchOptions) -> list[list[str]]:
    captions = captioner.caption_arrays(PHOTOS, options)
    return [[one.text for one in (caption, *caption.alternatives)] for caption in captions]


def test_the_manifest_has_the_words_and_phrases_of_the_vocabulary(bundle: Path) -> None:
    neutral = read_bundle(bundle).manifest.neutral
    assert neutral is not None
    assert neutral.words == {"man": "person", "woman": "person", "boy": "child", "girl": "child"}
    assert neutral.phrases["a person and a person"] == "two people"


@pytest.mark.parametrize("options", OPTIONS, ids=["greedy", "beam", "drawn"])
def test_every_format_gives_pytorchs_captions_without_gendered_words(
    bundle: Path, pytorch: Captioner, options: SearchOptions
) -> None:
    found = texts(load_captioner(bundle, "cpu"), options)
    assert found == texts(pytorch, options)
    said = {word for photo in found for text in photo for word in text.split()}
    assert said & GENDERED == set()
    assert said & {"person", "child"}
    plain = {word for photo in texts(pytorch, replace(options, neutral=False)) for one in photo for word in one.split()}
    assert plain & GENDERED
