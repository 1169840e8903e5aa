"""Neutral words are read from the manifest, and words outside the vocabulary are refused in one sentence."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caprun import BundleError
from caprun.bundle.reading import read_bundle
from tests.caprun.bundle.support.calibrated import calibrate
from tests.caprun.bundle.support.neutral import WORDS, make_neutral
from tests.caprun.bundle.test_manifest import OTHERS, assert_read_or_refused_in_a_line, places, put

Edit = Callable[[Path, Callable[[dict[str, Any]], object]], None]


def test_written_neutral_words_are_read(bundle: Path) -> None:
    make_neutral(calibrate(bundle))
    manifest = read_bundle(bundle).manifest
    assert manifest.neutral == WORDS
    assert manifest.confidence is not None


def test_a_bundle_can_have_no_neutral_words(tiny: Path) -> None:
    assert read_bundle(tiny).manifest.neutral is None


def test_the_manifest_maps_gendered_words_to_neutral_words(bundle: Path) -> None:
    make_neutral(bundle)
    written = json.loads((bundle / "model.json").read_text())
    assert written["neutral"]["words"] == {"man": "child", "woman": "child"}


def test_null_means_no_neutral_words(bundle: Path, edit_manifest: Edit) -> None:
    edit_manifest(bundle, lambda data: data.update(neutral=None))
    assert read_bundle(bundle).manifest.neutral is None


def test_the_language_falls_back_to_the_language_of_the_neutral_words(bundle: Path, edit_manifest: Edit) -> None:
    assert read_bundle(bundle).manifest.language is None
    make_neutral(bundle)
    edit_manifest(bundle, lambda data: data.update(language=None))
    assert read_bundle(bundle).manifest.language == "en"
    edit_manifest(bundle, lambda data: data.update(language="en-GB"))
    assert read_bundle(bundle).manifest.language == "en-GB"
    edit_manifest(bundle, lambda data: data.update(language="English please"))
    with pytest.raises(BundleError, match="its language 'English please' is not a language code"):
        read_bundle(bundle)


def test_a_manifest_can_use_neutral_words_by_default(bundle: Path) -> None:
    make_neutral(bundle, always=True)
    assert read_bundle(bundle).manifest.search.neutral


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ((), ["man"], "neutral must be a table of keys and values"),
        (("language",), None, "neutral.language is None"),
        (("language",), "English please", "its neutral words have the language 'English please'"),
        (("language",), "", "its neutral words have the language ''"),
        (("words",), {}, "its neutral words are empty"),
        (("words",), [["man", "child"]], "neutral.words must be a table of keys and values"),
        (("words", "boy"), "child", "its neutral words name 'boy', which is not a word in its vocabulary"),
        (("words", "man"), "person", "its neutral words name 'person', which is not a word in its vocabulary"),
        (("words", "man"), "", "its neutral words name '', which is not a word in its vocabulary"),
        (("words", "man"), "<end>", "its neutral words name '<end>', which is not a word in its vocabulary"),
        (("words", "<end>"), "child", "its neutral words name '<end>', which is not a word in its vocabulary"),
        (("words", "child"), "man", "its neutral words replace 'child' and replace another word with it"),
        (("words", "dog"), "dog", "its neutral words replace 'dog' and replace another word with it"),
        (("words", "man"), 7, "neutral.words.man is 7"),
        (("phrases",), {"a boy": "a child"}, "its neutral words name 'boy', which is not a word in its vocabulary"),
        (("phrases",), {"a child": "two children"}, "its neutral words name 'children'"),
        (("phrases",), {"child": "a child"}, "replace 'child' with 'a child', which is longer or empty"),
        (("phrases",), {"a child": ""}, "its neutral words replace 'a child' with '', which is longer or empty"),
        (("phrases",), {"": ""}, "its neutral words replace '' with '', which is longer or empty"),
        (("phrases",), {"x" * 10**4: "a"}, "which is not a word in its vocabulary"),
        (("odd",), 1, "unknown key 'neutral.odd'"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_invalid_neutral_words_are_refused(
    bundle: Path, edit_manifest: Edit, path: tuple[Any, ...], value: object, problem: str
) -> None:
    make_neutral(bundle)
    edit_manifest(bundle, put(("neutral", *path), value))
    with pytest.raises(BundleError) as caught:
        read_bundle(bundle)
    assert problem in str(caught.value)
    assert str(caught.value).startswith(f"{bundle / 'model.json'} is not a manifest: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(bundle)) + 300


def test_a_neutral_search_without_neutral_words_is_refused(bundle: Path, edit_manifest: Edit) -> None:
    make_neutral(bundle, always=True)
    edit_manifest(bundle, lambda data: data.pop("neutral"))
    with pytest.raises(BundleError, match="its search uses neutral words, but it has none"):
        read_bundle(bundle)


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: repr(other)[:20])
def test_any_other_value_is_accepted_or_refused_in_one_line(bundle: Path, edit_manifest: Edit, other: object) -> None:
    make_neutral(bundle, replace(WORDS, phrases={"a a": "a"}))
    before = (bundle / "model.json").read_bytes()
    neutral = json.loads(before)["neutral"]
    for path in places(neutral, ("neutral",)):
        edit_manifest(bundle, put(path, other))
        assert_read_or_refused_in_a_line(bundle, path)
        (bundle / "model.json").write_bytes(before)
