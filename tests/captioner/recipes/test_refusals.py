"""Bad recipes, data and options are refused before training, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from caprun.bundle.reading import read_bundle
from tests.captioner.commands.test_cli import assert_one_line

WRONG = {
    "units = 7": ("[[stage]]\nname='a'\nunits = 7", "stage 1", "'units' must be a table"),
    "an unknown key": ("[[stage]]\nname='a'\n[[stage]]\nname='b'\ntrain.epoch=3", "stage 2", "'train.epoch'"),
    "an unknown table": ("[[stage]]\nname='a'\ntrian.epochs=3", "stage 1", "'trian'"),
    "a wrong value": ("[[stage]]\nname='a'\n[[stage]]\nname='b'\ntrain.lr='x'", "stage 2", "(b)", "train.lr is 'x'"),
    "out of range": ("[[stage]]\nname='a'\n[[stage]]\nname='b'\ntrain.epochs=0", "stage 2", "epochs"),
    "another model": ("[[stage]]\nname='a'\n[[stage]]\nname='b'\nmodel.units=7", "stage 2", "model.units (7, but 512"),
    "begins late": (
        "[[stage]]\nname='a'\ntrain.stage='self-critical'",
        "stage 1",
        "needs an earlier stage to start from",
    ),
    "of another stage": ("[[stage]]\nname='a'\nself_critical.samples=3", "stage 1", "self_critical"),
    "an average of what comes later": (
        "[[stage]]\nname='a'\n[[stage]]\nname='b'\naverage={a=1,c=1}\n[[stage]]\nname='c'",
        "stage 2",
        "average names 'c'; use names of earlier stages (a)",
    ),
    "a beginning that comes later": (
        "[[stage]]\nname='a'\n[[stage]]\nname='b'\ninit='c'\n[[stage]]\nname='c'",
        "stage 2",
        "init is 'c'; name an earlier stage (a)",
    ),
    "a beginning that is no checkpoint": ("[[stage]]\nname='a'\ninit='x.pt'", "a checkpoint that exists, or packaged"),
    "a new vocabulary for nothing": ("[[stage]]\nname='a'\nnew_vocabulary=true", "stage 1", "set init to one"),
    "a new vocabulary of a kind": ("[[stage]]\nname='a'\nnew_vocabulary='zh'", "new_vocabulary is 'zh'"),
    "a score of no dataset": (
        "[[stage]]\nname='a'\n[[stage]]\nname='b'\ntrain.select_by='cider@x'",
        "Stage 2",
        "needs dev photos of x",
    ),
    "neutral words that the captions do not have": (
        "[[stage]]\nname='a'\n[[stage]]\nname='b'\nsearch.neutral=true",
        "Stage 2",
        "no neutral words",
    ),
    "an average of one": ("[[stage]]\nname='a'\n[[stage]]\nname='b'\naverage={a=1}", "at least two stages"),
    "an average with settings": (
        "[[stage]]\nname='a'\n[[stage]]\nname='b'\naverage={a=1,x=2}\ntrain.epochs=3",
        "leave out 'train'",
    ),
    "an average with a search of a kind": (
        "[[stage]]\nname='a'\n[[stage]]\nname='b'\n[[stage]]\nname='c'\naverage={a=1,b=2}\nsearch.beam_size=0",
        "stage 3 (c)",
        "`beam_size` is 0",
    ),
    "a weight of nothing": (
        "[[stage]]\nname='a'\n[[stage]]\nname='b'\n[[stage]]\nname='c'\naverage={a=1,b=0}",
        "the weight of b is 0",
    ),
    "a name twice": ("[[stage]]\nname='a'\n[[stage]]\nname='a'", "used by an earlier stage"),
    "no name": ("[[stage]]\ntrain.epochs=3", "The name of stage 1"),
    "a path for a name": ("[[stage]]\nname='../x'", "The name of stage 1", "'../x'"),
    "no stages": ("[export]\nlicence='x'", "has no stages"),
    "stages of text": ("stage=['a']", "has no stages"),
    "nothing": ("", "has no stages"),
    "an unknown part": ("[[stage]]\nname='a'\n[exprot]\nlicence='x'", "'exprot'"),
    "an unknown precision": ("[[stage]]\nname='a'\n[export]\nprecisions=['int4']", "export.precisions", "int4"),
    "export of a list": ("[[stage]]\nname='a'\n[[export]]\nname='x'", "export must be a table"),
    "no TOML": ("stage = [", "is not TOML"),
    "no such child": (
        "[[stage]]\nname='a'\n[[stage]]\nname='b'\nmodel.fine_tune=99",
        "Stage 2",
        "model.fine_tune is 99",
    ),
    "not here": ("[[stage]]\nname='a'\n[[stage]]\nname='b'\ntrain.precision='fp16'", "Stage 2", "fp16 needs a GPU"),
    "no such word": (
        "[[stage]]\nname='a'\n[[stage]]\nname='b'\nsearch.suppress=['Background']",
        "Stage 2",
        "use 'background', which is",
    ),
    "words of another language": (
        "[[stage]]\nname='a'\nsearch.no_repeat_word=9\nsearch.repeatable=['ein', 'in']",
        "Stage 1",
        "forbids repeating 'a', the commonest word of the captions",
    ),
    "words in pieces": (
        "[[stage]]\nname='a'\ndata.tokenizer='bpe'\nsearch.no_repeat_word=9\nsearch.repeatable=['a']",
        "Stage 1",
        "forbids repeating parts of words with this tokenizer",
    ),
    "no card": ("[[stage]]\nname='a'\n[export]\ncard='none.md'", "none.md", "cannot be read"),
}


@pytest.mark.parametrize(("content", "words"), [pytest.param(w[0], w[1:], id=name) for name, w in WRONG.items()])
def test_an_error_anywhere_in_a_recipe_is_reported_before_training(run, small, content, words):
    Path("r.toml").write_text(content)
    result = run("r.toml", *small, "--output", "bundle")
    assert_one_line(result, 1, *words)
    assert not Path("runs").exists()


def test_an_output_that_is_not_a_bundle_is_refused_before_training(run, tiny, small):
    Path("bundle").mkdir()
    Path("bundle/photo.jpg").touch()
    assert_one_line(run(tiny, *small, "--output", "bundle"), 1, "bundle exists and is not a bundle")
    assert not Path("runs").exists()


def test_a_missing_photo_is_refused_before_training(run, tiny, small, own_shapes):
    (own_shapes / "images" / "red-circle-white.png").unlink()
    assert_one_line(run(tiny, *small, "--data", own_shapes, "--output", "bundle"), 1, "red-circle-white.png")
    assert not Path("runs").exists()


@pytest.mark.slow
def test_the_export_leaves_out_the_photos_that_training_leaves_out(run, tiny, small, own_shapes):
    (own_shapes / "images" / "red-circle-white.png").write_bytes(b"no photo")  # in the dev split
    Path("one.toml").write_text(tiny.read_text().partition('\n[[stage]]\nname = "tuned"')[0])
    result = run("one.toml", *small[2:], "--data", own_shapes, "--output", "bundle", "--allow-missing", "--seed", 1)
    assert result.exit_code == 0, result.output
    assert read_bundle(Path("bundle")).manifest.metrics["photos"] == 3


def test_usage_errors_are_reported_in_one_line(run, small, tiny, monkeypatch):
    assert_one_line(run(tiny, *small), 2, "--output")
    assert_one_line(run("none", *small, "--output", "x"), 1, "There is no recipe none", "everyday, flickr8k")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert_one_line(run(tiny, *small, "--output", "x"), 1, "without torchrun")
