"""`--neutral` takes effect from the command line and from Python, with real graphs."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import Result
from PIL import Image

from caprun import Caption, Captioner, SearchOptions, UsageError
from caprun.bundle.neutral_words import NeutralWords
from tests.caprun.bundle.support.calibrated import calibrate
from tests.caprun.bundle.support.neutral import WORDS, make_neutral
from tests.caprun.conftest import TINY
from tests.caprun.support.invoking import invoke

Images = npt.NDArray[np.uint8]
GENDERED = {"man", "woman"}
OPTIONS = {
    "greedy": SearchOptions(1, 12, 1.0),
    "beam": SearchOptions(3, 12, 1.0, n_best=3),
    "groups": SearchOptions(4, 12, 1.0, groups=2, n_best=4),
    "bans": SearchOptions(3, 12, 1.0, no_repeat_word=2, min_length=4),
    "sampling": SearchOptions(max_length=12, temperature=1.0, n_best=3, seed=9),
    "cut sampling": SearchOptions(max_length=12, temperature=1.5, top_k=8, top_p=0.8),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the tiny bundle with neutral words and a confidence."""
    return make_neutral(calibrate(Path(shutil.copytree(TINY, tmp_path_factory.mktemp("neutral") / "bundle"))))


@pytest.fixture(scope="module")
def neutral(model: Path) -> Captioner:
    return Captioner.load(model, device="cpu", threads=1)


def said(captions: list[Caption]) -> set[str]:
    return {word.text for caption in captions for one in (caption, *caption.alternatives) for word in one.words}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_neutral_captions_have_no_gendered_words(neutral: Captioner, images: Images, options: SearchOptions) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (48, 32, 32, 3), np.uint8)
    photos = np.concatenate([images, noise, np.zeros_like(images[:1])])
    captions = neutral.caption_arrays(photos, replace(options, neutral=True))
    assert said(captions) & GENDERED == set()
    assert "child" in said(captions)
    assert all(GENDERED.isdisjoint(caption.text.split()) for caption in captions)
    assert said(neutral.caption_arrays(photos, options)) & GENDERED, "the photos must make the model say one without it"


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_caption_depends_only_on_its_photo(neutral: Captioner, images: Images, options: SearchOptions) -> None:
    options = replace(options, neutral=True)
    together = neutral.caption_arrays(images, options, alpha=True)
    for image, caption in zip(images, together, strict=True):
        (alone,) = neutral.caption_arrays(image[None], options)
        assert alone.text == caption.text
        assert alone.log_prob == pytest.approx(caption.log_prob, abs=1e-4)
        assert all(word.alpha is not None and word.alpha.sum() == pytest.approx(1) for word in caption.words)


def test_the_words_match_the_text_and_sum_to_its_log_probability(neutral: Captioner, images: Images) -> None:
    """The phrases of this bundle shorten some captions."""
    shortened = 0
    for caption, hypothesis in zip(
        neutral.caption_arrays(images, SearchOptions(3, 12, 0.0, min_length=8, neutral=True)),
        neutral.hypotheses(images, SearchOptions(3, 12, 0.0, min_length=8, neutral=True)),
        strict=True,
    ):
        shortened += hypothesis.sources is not None
        assert "".join(word.text for word in caption.words) == caption.text.replace(" ", "")
        end = hypothesis.log_probs[-1] if hypothesis.finished else 0
        assert sum(word.log_prob for word in caption.words) + end == pytest.approx(caption.log_prob)
    assert shortened


def test_rephrasing_does_not_change_the_confidence(model: Path, images: Images, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(model, tmp_path / "bundle"))
    make_neutral(bundle, NeutralWords("en", WORDS.words))
    plain = Captioner.load(bundle, device="cpu", threads=1)
    options = SearchOptions(3, 12, 0.0, min_length=8, neutral=True)
    rephrased = Captioner.load(model, device="cpu", threads=1).caption_arrays(images, options)
    others = plain.caption_arrays(images, options)
    assert [one.text for one in rephrased] != [one.text for one in others]
    assert [one.confidence for one in rephrased] == [one.confidence for one in others]


@pytest.fixture
def run(model: Path) -> Callable[..., Result]:
    return lambda *arguments: invoke("caption", "--model", model, "--threads", 1, *arguments)


def test_neutral_works_for_one_photo_and_for_many_on_the_command_line(
    run: Callable[..., Result], neutral: Captioner, images: Images, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{i:02}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    options = replace(neutral.spec.search, neutral=True)
    expected = [caption.text for caption in neutral.caption_arrays(images, options)]
    plain = [caption.text for caption in neutral.caption_arrays(images)]
    assert expected != plain
    differing = next(i for i, both in enumerate(zip(expected, plain, strict=True)) if both[0] != both[1])
    assert run("--neutral", paths[differing]).stdout == f"{expected[differing]}\n"
    assert run(paths[differing]).stdout == f"{plain[differing]}\n"
    result = run("--neutral", "--output", tmp_path / "rows.jsonl", *paths)
    assert result.exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["caption"] for row in rows] == expected
    again = run("--output", tmp_path / "rows.jsonl", *paths)
    assert (again.exit_code, "neutral" in again.stderr) == (2, True)


def test_no_neutral_overrides_a_model_that_is_neutral_by_default(
    model: Path, tmp_path: Path, neutral: Captioner, images: Images
) -> None:
    always = make_neutral(Path(shutil.copytree(model, tmp_path / "always")), always=True)
    photo = tmp_path / "photo.png"
    plain = neutral.caption_arrays(images)
    which = next(i for i, caption in enumerate(plain) if said([caption]) & GENDERED)
    Image.fromarray(images[which]).save(photo)
    assert said([Captioner.load(always, device="cpu", threads=1).caption(photo)]) & GENDERED == set()
    assert invoke("--model", always, "--no-neutral", photo).stdout == f"{plain[which].text}\n"


@pytest.mark.parametrize("many", [False, True])
def test_neutral_is_refused_in_one_line_by_a_model_without_neutral_words(
    tiny: Path, photo: Path, tmp_path: Path, many: bool
) -> None:
    output = ["--output", tmp_path / "rows.jsonl"] if many else []
    result = invoke("--model", tiny, "--neutral", *output, photo)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: The model tiny has no neutral words; leave out `--neutral`.\n"
    assert not (tmp_path / "rows.jsonl").exists()


def test_neutral_is_refused_in_python_too(captioner: Captioner, images: Images, photo: Path) -> None:
    with pytest.raises(UsageError, match="`neutral` is True, but the model has no neutral words"):
        captioner.caption_arrays(images[:1], SearchOptions(neutral=True))
    with pytest.raises(UsageError, match="`neutral` is True, but the model has no neutral words"):
        list(captioner.caption_many([photo], SearchOptions(neutral=True)))
