"""A recipe of small training runs, and the bundle and the run folder that it makes."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from captioner.cli import main

_LATER = """
[[stage]]
name = "tuned"
model.fine_tune = 2
train.epochs = 1
train.batch_size = 4
train.save_minutes = 0.0

[[stage]]
name = "own"
init = "first"
train.stage = "self-critical"
train.epochs = 1
train.batch_size = 4
train.save_minutes = 0.0

[[stage]]
name = "mean"
average = { own = 3, tuned = 1 }
search.no_repeat_word = 9
search.repeatable = ["a"]

[export]
licence = "ours"
"""

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def tiny(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a recipe of three training runs and an average that takes seconds; do not write to it."""
    first = "\n".join(_as_toml(setting) for setting in [*settings, "train.epochs=2", "train.save_minutes=0.0"])
    file = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    file.write_text(f'[[stage]]\nname = "first"\n{first}\n{_LATER}')
    return file


def _as_toml(setting: str) -> str:
    key, _, value = setting.partition("=")
    try:
        tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        value = json.dumps(value)
    return "" if setting == "train.epochs=3" else f"{key} = {value}"


@pytest.fixture(scope="session")
def small(shapes: Path, cache: Path) -> list[str]:
    return ["--data", str(shapes), "--cache", str(cache), "--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="session")
def made(tiny: Path, small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with the bundle and the uninterrupted run of that recipe; do not write to it."""
    folder = tmp_path_factory.mktemp("made")
    places = ["--output", str(folder / "bundle"), "--run", str(folder / "run")]
    result = CliRunner().invoke(main, ["recipe", str(tiny), *small, *places])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Returns a function that runs `captioner recipe` in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return lambda *arguments: CliRunner().invoke(main, ["recipe", *map(str, arguments)])


@pytest.fixture
def again(made: Path, run: Run, tiny: Path, small: list[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Returns a function that repeats the command of `made` on copies of its folders; it must not train anything."""
    for name in ("bundle", "run"):
        shutil.copytree(made / name, name)
    state = Path("run") / "recipe.json"
    state.write_text(state.read_text().replace(str(made), str(Path.cwd())))

    def trained(*_: object) -> None:
        raise AssertionError("nothing is left to train")

    def exported(_: object, folder: Path) -> tuple[str, str]:
        graphs = "encoder_model.onnx", "decoder_model.onnx"
        for name in graphs:
            shutil.copy(made / "bundle" / name, folder)
        return graphs

    monkeypatch.setattr("captioner.recipes.stages.train", trained)
    monkeypatch.setattr("capexport.onnx_export.write", exported)

    def give(*more: str | Path) -> Result:
        others = small[2:] if "--data" in more else small  # without its own --data
        return run(tiny, *others, "--output", "bundle", "--run", "run", *more)

    return give
