"""A package outside the repository adds an encoder or a decoder with one class, a registration and inherited tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from caprun.errors import UsageError
from captioner.config import ModelConfig, load_config, parse_settings
from captioner.errors import CaptionerError
from captioner.models.caption_model import build_caption_model
from captioner.models.encoder import build_encoder
from captioner.text.tokenizer import SPECIAL

GUIDE = Path(__file__).parents[2] / "docs/guides/extend.md"


def python_blocks(page: str) -> list[str]:
    return [part.split("\n```")[0] for part in page.split("```python\n")[1:]]


@pytest.fixture
def tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Installs the guide's package as an installer does, and yields its inherited tests by class name."""
    encoder, encoder_test, decoder, decoder_test = python_blocks(GUIDE.read_text(encoding="utf-8"))[:4]
    (tmp_path / "my_package.py").write_text(f"{encoder}\n{decoder}", encoding="utf-8")
    installed = tmp_path / "my_package-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    registered = (
        "[captioner.encoders]\ntiny = my_package:Tiny\ngone = my_package:Gone\n"
        "[captioner.decoders]\nmultiplying = my_package:Multiplying\nother = my_package:Tiny\n"
    )
    (installed / "entry_points.txt").write_text(registered, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    inherited: dict[str, Any] = {}
    exec(f"{encoder_test}\n{decoder_test}", inherited)
    yield inherited
    sys.modules.pop("my_package", None)


def test_the_guides_encoder_is_found_and_passes_its_inherited_test(tests: dict[str, Any], tmp_path: Path) -> None:
    encoder = build_encoder("tiny", (64, 64), regions=2)
    assert (encoder.grid, encoder.channels, encoder.mean) == ((2, 2), 32, (0.5, 0.5, 0.5))
    tests["TestTiny"]().test_exports_compute_what_pytorch_computes(tmp_path)


@pytest.mark.slow
def test_the_guides_decoder_is_found_and_passes_its_inherited_tests(tests: dict[str, Any], tmp_path: Path) -> None:
    config = load_config(parse_settings(["model.decoder=multiplying"]))
    assert type(build_caption_model(config, 9, SPECIAL).decoder.attention).__name__ == "MultiplyingAttention"
    inherited = tests["TestMultiplying"]()
    inherited.test_exports_compute_what_pytorch_computes(tmp_path)
    inherited.test_training_predicts_what_the_steps_of_a_search_predict()


@pytest.mark.usefixtures("tests")
def test_the_error_names_a_registered_encoder_that_cannot_be_built() -> None:
    with pytest.raises(
        CaptionerError, match=r"^The encoder 'gone' that my_package:Gone registers cannot be built .*Gone"
    ):
        build_encoder("gone", (64, 64))
    with pytest.raises(CaptionerError, match=r"'tiny' .* \(.*tiny\.pt.*\); repair or remove its package\.$"):
        build_encoder("tiny", (64, 64), "default")


@pytest.mark.usefixtures("tests")
def test_the_error_names_a_registered_class_that_is_not_a_decoder() -> None:
    config = load_config(parse_settings(["model.decoder=other"]))
    with pytest.raises(CaptionerError, match=r"^The decoder 'other' that my_package:Tiny registers cannot be built"):
        build_caption_model(config, 9, SPECIAL)


def test_an_unknown_decoder_is_refused_and_the_available_ones_listed() -> None:
    with pytest.raises(UsageError, match=r"^There is no decoder 'multiplying': choose one of soft-attention, "):
        ModelConfig(decoder="multiplying")
