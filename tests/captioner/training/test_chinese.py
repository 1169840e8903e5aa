"""A model is trained on Chinese captions and scored by characters, with no setting but the language."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from caprun.engine import Captioner
from captioner.backends.pytorch import ModelBackend, model_spec
from captioner.cli import main
from captioner.datasets import load_dataset
from captioner.models.checkpoint import BEST, build_model, load_checkpoint

_WORDS = {
    "red": "红色",
    "green": "绿色",
    "blue": "蓝色",
    "orange": "橙色",
    "circle": "圆形",
    "square": "方形",
    "white": "白色",
    "black": "黑色",
    "grey": "灰色",
}


@pytest.fixture
def chinese(own_shapes: Path) -> Path:
    """Returns the shapes with Chinese captions."""
    captions = own_shapes / "captions.txt"
    header, *rows = captions.read_text().splitlines()
    names = [row.split(",")[0] for row in rows]
    said = [[_WORDS[word] for word in name.removesuffix(".png").split("-")] for name in names]
    own = [
        f"{name},{ground}背景上的{colour}{shape}。" for name, (colour, shape, ground) in zip(names, said, strict=True)
    ]
    captions.write_text("\n".join([header, *own]))
    return own_shapes


def test_chinese_captions_need_no_setting_but_the_language(chinese: Path, settings: list[str], tmp_path: Path) -> None:
    where = ["--data", str(chinese), "--cache", str(tmp_path / "cache"), "--device", "cpu"]
    small = [part for setting in settings for part in ("--set", setting)]
    first = CliRunner().invoke(
        main, ["train", *where, *small, "--language", "zh", "--epochs", "12", "--output", str(tmp_path / "first")]
    )
    assert first.exit_code == 0, first.output
    assert "pieces (bpe); 0.0% of the pieces in training captions are unknown" in first.output
    assert "scores: by characters, because" in first.output
    made = load_checkpoint(tmp_path / "first" / BEST)
    assert (made.config.data.tokenizer, made.config.data.language) == ("bpe", "zh")
    assert made.metrics["segmentation"] == "characters"
    assert made.metrics["bleu_4"] > 0.1
    assert made.metrics["words"] > 5
    model = build_model(made)
    captioner = Captioner(model_spec(made, model, "zh"), made.vocabulary, ModelBackend(model))
    assert captioner.spec.language == "zh"
    caption = captioner.caption(load_dataset(chinese).split("dev")[0].image).text
    assert " " not in caption
    assert "背景" in caption
    better = ["--init", str(tmp_path / "first"), "--stage", "self-critical", "--epochs", "1"]
    endings = ["--set", 'self_critical.bad_endings=["的", "背景上"]', "--set", "train.batch_size=4"]
    second = CliRunner().invoke(main, ["train", *where, *better, *endings, "--output", str(tmp_path / "second")])
    assert second.exit_code == 0, second.output
    assert load_checkpoint(tmp_path / "second" / BEST).config.data.tokenizer == "bpe"
