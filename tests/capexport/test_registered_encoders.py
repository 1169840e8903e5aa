"""A package outside the repository adds an encoder with one class, one registration and one inherited test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from captioner.errors import CaptionerError
from captioner.models.encoder import build_encoder

GUIDE = Path(__file__).parents[2] / "docs/guides/extend.md"


def python_blocks(page: str) -> list[str]:
    return [part.split("\n```")[0] for part in page.split("```python\n")[1:]]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The package of the guide, as an installer leaves it; returns its inherited test."""
    encoder, test = python_blocks(GUIDE.read_text(encoding="utf-8"))[:2]
    (tmp_path / "my_package.py").write_text(encoder, encoding="utf-8")
    installed = tmp_path / "my_package-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(
        "[captioner.encoders]\ntiny = my_package:Tiny\ngone = my_package:Gone\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield test
    sys.modules.pop("my_package", None)


def test_the_encoder_of_the_guide_is_found_and_passes_the_test_it_inherits(package: str, tmp_path: Path) -> None:
    encoder = build_encoder("tiny", (64, 64), regions=2)
    assert (encoder.grid, encoder.channels, encoder.mean) == ((2, 2), 32, (0.5, 0.5, 0.5))
    inherited: dict[str, type] = {}
    exec(package, inherited)
    inherited["TestTiny"]().test_exports_compute_what_pytorch_computes(tmp_path)


def test_a_registered_encoder_that_cannot_be_built_is_named(package: str) -> None:
    with pytest.raises(
        CaptionerError, match=r"^The encoder 'gone' that my_package:Gone registers cannot be built .*Gone"
    ):
        build_encoder("gone", (64, 64))
    with pytest.raises(CaptionerError, match=r"'tiny' .* \(.*tiny\.pt.*\); repair or remove its package\.$"):
        build_encoder("tiny", (64, 64), "default")
