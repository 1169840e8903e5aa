"""Search options take effect from the command line, the manifest and Python, with real graphs."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from caprun import BundleError, Caption, Captioner, SearchOptions
from caprun.cli import main
from caprun.search.options import SEARCH_OPTIONS

Images = npt.NDArray[np.uint8]
Run = Callable[..., Result]
Edit = Callable[[Path, Callable[[dict[str, Any]], object]], None]

OPTIONS = {
    "n best": SearchOptions(5, 12, 1.0, n_best=5),
    "bans": SearchOptions(3, 12, 1.0, min_length=4, no_repeat_ngram=2, no_repeat_word=2, bad_endings=("a", "in")),
    "greedy bans": SearchOptions(1, 12, 1.0, no_repeat_ngram=1, suppress=("dog", "cat", ",")),
    "groups": SearchOptions(4, 12, 1.0, groups=2, n_best=4, diversity=1),
    "sampling": SearchOptions(max_length=12, temperature=1.0, n_best=3, seed=9),
    "cut sampling": SearchOptions(max_length=12, temperature=1.5, top_k=8, top_p=0.8, min_length=2),
}


def everything(caption: Caption) -> list[tuple[str, bool]]:
    return [(one.text, one.finished) for one in (caption, *caption.alternatives)]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_with_every_option_a_caption_depends_only_on_its_photo(
    captioner: Captioner, images: Images, options: SearchOptions
) -> None:
    together = captioner.caption_arrays(images, options, alpha=True)
    backwards = captioner.caption_arrays(images[::-1], options)[::-1]
    for image, caption, other in zip(images, together, backwards, strict=True):
        (alone,) = captioner.caption_arrays(image[None], options)
        assert everything(alone) == everything(caption) == everything(other)
        for one, two in zip(alone.alternatives, caption.alternatives, strict=True):
            assert one.log_prob == pytest.approx(two.log_prob, abs=1e-4)
            assert all(word.alpha is not None for word in two.words)


def test_a_sampled_caption_depends_on_photo_and_seed_but_not_on_position(captioner: Captioner, images: Images) -> None:
    options = SearchOptions(max_length=12, temperature=1.0, seed=3)
    first, *_, twin = captioner.caption_arrays(np.concatenate([images, images[:1]]), options)
    assert first.text == twin.text
    texts = {captioner.caption_arrays(images[:1], SearchOptions(temperature=1.0, seed=i))[0].text for i in range(8)}
    assert len(texts) > 4


def test_alternatives_are_distinct_captions_with_their_own_words(captioner: Captioner, images: Images) -> None:
    for caption in captioner.caption_arrays(images, OPTIONS["n best"]):
        assert len({caption.text, *(one.text for one in caption.alternatives)}) == 5
        for one in caption.alternatives:
            assert "".join(word.text for word in one.words) == one.text.replace(" ", "")
            assert one.log_prob <= sum(word.log_prob for word in one.words)
            assert one.alternatives == ()
    assert all(caption.alternatives == () for caption in captioner.caption_arrays(images))


def test_a_manifest_can_set_search_options(
    bundle: Path, edit_manifest: Edit, captioner: Captioner, photo: Path
) -> None:
    search = {"beam_size": 4, "max_length": 12, "length_penalty": 1, "n_best": 2, "suppress": ["a"], "min_length": 3}
    edit_manifest(bundle, lambda data: data.update(search=search))
    loaded = Captioner.load(bundle, device="cpu", threads=1)
    options = SearchOptions(4, 12, 1.0, n_best=2, suppress=("a",), min_length=3)
    assert loaded.spec.search == options
    assert everything(loaded.caption(photo)) == everything(captioner.caption(photo, options))


@pytest.mark.parametrize(
    ("search", "sentence"),
    [
        ({"beam_size": 3, "groups": 2}, r"`groups` \(2\) must divide `beam_size` \(3\)"),
        ({"temperature": "hot"}, "search.temperature is 'hot'"),
        ({"suppress": "dog"}, "search.suppress must be a list"),
        ({"temprature": 1.0}, "unknown key 'search.temprature'"),
    ],
)
def test_a_manifest_with_invalid_options_is_refused(
    bundle: Path, edit_manifest: Edit, search: dict[str, Any], sentence: str
) -> None:
    edit_manifest(bundle, lambda data: data.update(search=search))
    with pytest.raises(BundleError, match=sentence):
        Captioner.load(bundle, device="cpu", threads=1)


@pytest.fixture
def run(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("CAPRUN_MODEL", str(tiny))
    return lambda *arguments: CliRunner().invoke(main, ["--threads", "1", *map(str, arguments)])


@pytest.mark.parametrize("name", [field.name for field in fields(SearchOptions)])
def test_the_help_of_a_command_shows_type_range_default_and_meaning(run: Run, name: str) -> None:
    option = SEARCH_OPTIONS[name]
    words = " ".join(run("caption", "--help").stdout.split())
    typed = f"--{name.replace('_', '-')}"
    flag = f"{typed} / --no-{name.replace('_', '-')}"
    head = {"integer": f"{typed} INTEGER", "number": f"{typed} NUMBER", "words": f"{typed} WORDS", "flag": flag}[
        option.kind
    ]
    shown = words[words.index(f"{head} ") :]
    default = {"words": "none", "flag": "off"}.get(option.kind, option.default)
    limits = f"; {option.low}<=x<={option.high}" if option.kind in ("integer", "number") else ""
    expected = f"{head} {option.help} [default: (the model's, else {default}){limits}]"
    assert shown.replace(" ", "").startswith(expected.replace(" ", "")), "help is wrapped at hyphens, too"


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--min-length", 6, "--no-repeat-ngram", 2], {"min_length": 6, "no_repeat_ngram": 2}),
        (["--no-repeat-word", 3, "--beam-size", 5], {"no_repeat_word": 3, "beam_size": 5}),
        (["--no-repeat-word", 9, "--repeatable", "a the"], {"no_repeat_word": 9, "repeatable": ("a", "the")}),
        (["--suppress", "a the", "--suppress", ","], {"suppress": ("a", "the", ",")}),
        (["--bad-endings", " the\ta  in "], {"bad_endings": ("the", "a", "in")}),
        (["--n-best", 3, "--groups", 3, "--diversity", 2], {"n_best": 3, "groups": 3, "diversity": 2.0}),
        (["--temperature", 1.2, "--top-k", 9, "--seed", 4], {"temperature": 1.2, "top_k": 9, "seed": 4}),
        (["--temperature", 1, "--top-p", 0.8, "--n-best", 6], {"temperature": 1.0, "top_p": 0.8, "n_best": 6}),
    ],
)
def test_command_line_options_override_the_models_options(
    run: Run, captioner: Captioner, photo: Path, arguments: list[object], options: dict[str, Any]
) -> None:
    defaults = {"beam_size": 3, "max_length": 12, "length_penalty": 1.0}
    caption = captioner.caption(photo, SearchOptions(**(defaults | options)))
    assert run(photo, *arguments).stdout.splitlines() == [text for text, _ in everything(caption)]


def test_several_captions_are_printed_one_per_line_after_the_photos_name(run: Run, photo: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    Image.new("RGB", (40, 40), "red").save(other)
    lines = run(photo, other, "--n-best", 2).stdout.splitlines()
    assert [line.rpartition(": ")[0] for line in lines] == [str(photo)] * 2 + [str(other)] * 2
    assert len(set(lines)) == 4


def test_json_describes_alternatives_in_the_same_way_as_the_caption(
    run: Run, captioner: Captioner, photo: Path
) -> None:
    data = json.loads(run(photo, "--json", "--n-best", 3).stdout)
    caption = captioner.caption(photo, SearchOptions(3, 12, 1.0, n_best=3))
    assert set(data) == {"image", "caption", "log_prob", "finished", "words", "alternatives"}
    for shown, one in zip(data["alternatives"], caption.alternatives, strict=True):
        assert shown == {
            "caption": one.text,
            "log_prob": pytest.approx(one.log_prob, abs=1e-5),
            "finished": one.finished,
            "words": [{"word": w.text, "log_prob": pytest.approx(w.log_prob, abs=1e-5)} for w in one.words],
        }
    assert "alternatives" not in json.loads(run(photo, "--json").stdout)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--n-best", 4], "`--n-best` (4) must be at most `--beam-size` (3)."),
        (["--groups", 2], "`--groups` (2) must divide `--beam-size` (3)."),
        (["--top-k", 5], "`--top-k` (5) is only for sampling; give a `--temperature` above 0, such as 1."),
        (
            ["--min-length", 12],
            "`--min-length` (12) must be at most 11, since `--max-length` (12) includes",
        ),
        (["--top-p", "nan", "--temperature", 1], "Invalid value for '--top-p': 'nan' is not a number"),
        (["--seed", "-1"], "Invalid value for '--seed': -1 is not in the range"),
    ],
)
def test_invalid_options_give_one_line_and_exit_code_two(
    run: Run, photo: Path, arguments: list[object], sentence: str
) -> None:
    result = run(photo, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {sentence}")
    assert result.stderr.count("\n") == 1
