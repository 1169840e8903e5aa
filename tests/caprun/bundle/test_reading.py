"""A bundle that does not match its manifest is refused before ONNX Runtime reads a byte; the error names it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caprun import BundleError, Captioner
from caprun.bundle.manifest import FORMAT_VERSION
from caprun.bundle.reading import Bundle, read_bundle
from caprun.bundle.vocabulary import Vocabulary
from caprun.bundle.writing import write_manifest

ENCODER, DECODER = "encoder_model.onnx", "decoder_model.onnx"
Edit = Callable[[Path, Callable[[dict[str, Any]], object]], None]


@pytest.fixture
def refuse(sessions: list[object]) -> Callable[..., str]:
    """Returns a function that loads a bundle, checks that it is refused without a session, and returns the error."""

    def load(path: Path | str) -> str:
        with pytest.raises(BundleError) as caught:
            Captioner.load(path, device="cpu")
        assert sessions == []
        sentence = str(caught.value)
        assert sentence.endswith(".")
        assert "\n" not in sentence
        return sentence

    return load


Refuse = Callable[[Path | str], str]


def test_the_tiny_bundle_is_read(tiny: Path) -> None:
    bundle = read_bundle(tiny)
    assert (bundle.manifest.name, bundle.manifest.attention_grid) == ("tiny", (4, 4))
    assert len(bundle.vocabulary) == 24
    assert bundle.graphs() == ((tiny / ENCODER).read_bytes(), (tiny / DECODER).read_bytes())


def test_a_path_can_be_a_string(tiny: Path) -> None:
    assert read_bundle(str(tiny)) == read_bundle(tiny)


def test_an_edited_manifest_is_refused(refuse: Refuse, bundle: Path) -> None:
    path = bundle / "model.json"
    path.write_text(path.read_text().replace('"length_penalty": 1.0', '"length_penalty": 0.5'))
    assert f"{path} has been altered" in refuse(bundle)


def test_a_manifest_without_a_digest_is_refused(refuse: Refuse, bundle: Path) -> None:
    path = bundle / "model.json"
    data = json.loads(path.read_text())
    del data["digest"]
    path.write_text(json.dumps(data))
    assert f"{path} has been altered" in refuse(bundle)


def test_key_order_and_indentation_of_the_manifest_do_not_matter(bundle: Path) -> None:
    path = bundle / "model.json"
    before = read_bundle(bundle)
    data = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(data.items())), indent=7))
    assert read_bundle(bundle) == before


def test_a_newer_format_version_is_refused_whatever_else_has_changed(refuse: Refuse, bundle: Path) -> None:
    newer = {"format_version": FORMAT_VERSION + 1, "digest": {"blake3": "?"}, "new": []}
    (bundle / "model.json").write_text(json.dumps(newer))
    sentence = refuse(bundle)
    assert f"{bundle} has format version {FORMAT_VERSION + 1}" in sentence
    assert "upgrade caprun" in sentence


def test_a_manifest_without_a_version_is_refused(refuse: Refuse, bundle: Path, edit_manifest: Edit) -> None:
    edit_manifest(bundle, lambda data: data.pop("format_version"))
    assert "is not a manifest: format_version is None; it must be one of 1" in refuse(bundle)


def _set(*keys: str, value: object) -> Callable[[dict[str, Any]], object]:
    def change(data: dict[str, Any]) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_set("speed", value=3), "unknown key 'speed'"),
        (lambda data: data.pop("image"), "key 'image' is missing"),
        (_set("image", "fit", value="stretch"), "image.fit is 'stretch'"),
        (_set("search", "beam_size", value=0), "`beam_size` is 0"),
        (_set("search", "beam_size", value="3"), "search.beam_size is '3'"),
        (_set("search", "length_penalty", value=10**400), "a number is NaN, infinite or too long"),
        (_set("format_version", value="1"), "format_version is '1'"),
        (_set("format", value="onnx2"), "format is 'onnx2'"),
        (_set("special", "end", value=24), "special ids"),
        (_set("special", "end", value=-1), "special ids"),
        (_set("special", "end", value=1), "special ids"),
        (_set("precisions", value={}), "no checksum for any graph"),
        (_set("precisions", "fp32", "decoder", value="other.onnx"), "no checksum for 'other.onnx'"),
        (lambda data: data["files"].pop("vocab.json"), "lists no vocab.json"),
        (lambda data: data["files"].pop(ENCODER), f"no checksum for '{ENCODER}'"),
    ],
)
def test_an_invalid_manifest_with_a_correct_digest_is_refused(
    refuse: Refuse, bundle: Path, edit_manifest: Edit, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    edit_manifest(bundle, change)
    sentence = refuse(bundle)
    assert problem in sentence
    assert str(bundle / "model.json") in sentence


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"{", b'"model"', b"\xff\xfe", b'{"a": "\xff"}', b"[" * 100_000, b'{"a": ' * 900 + b"1"],
    ids=lambda content: repr(content[:12]),
)
def test_a_manifest_that_is_not_a_json_object_is_refused(refuse: Refuse, bundle: Path, content: bytes) -> None:
    (bundle / "model.json").write_bytes(content)
    assert str(bundle / "model.json") in refuse(bundle)


def test_a_name_can_contain_a_lone_surrogate(bundle: Path, edit_manifest: Edit) -> None:
    edit_manifest(bundle, _set("name", value="\ud800"))
    assert read_bundle(bundle).manifest.name == "\ud800"


def test_a_missing_precision_is_refused(refuse: Refuse, bundle: Path, edit_manifest: Edit) -> None:
    with pytest.raises(BundleError, match=f"{bundle} has no int8 graphs; it has fp32"):
        read_bundle(bundle).graphs("int8")
    edit_manifest(bundle, lambda data: data["precisions"].update(int8=data["precisions"].pop("fp32")))
    assert "has no fp32 graphs" in refuse(bundle)


def test_a_link_to_a_bundle_is_followed(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle)
    assert read_bundle(tmp_path / "link").graphs() == read_bundle(bundle).graphs()


@pytest.mark.parametrize("place", ["nowhere", "nul\0", f"bundle/{ENCODER}", ""])
def test_the_error_for_a_path_that_is_not_a_bundle_tells_what_to_give(
    refuse: Refuse, tmp_path: Path, bundle: Path, place: str
) -> None:
    sentence = refuse(tmp_path / place)
    assert sentence.startswith(f"There is no bundle at {tmp_path / place}; give a directory with a model.json, which")


def test_a_path_that_is_too_long_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    assert "model.json cannot be read (File name too long)" in refuse(tmp_path / ("x" * 5000))


def test_a_written_manifest_and_vocabulary_are_read_back_unchanged(bundle: Path) -> None:
    before = read_bundle(bundle)
    changed = replace(
        before.manifest,
        name="été 狗",
        files={},
        metrics={"cider": 0.5, "split": "val"},
        provenance={"versions": ["a", 1, None]},
    )
    vocabulary = Vocabulary(("é", "狗", *before.vocabulary.pieces), before.vocabulary.joining)
    written = write_manifest(bundle, changed, vocabulary, "# Card é\n")
    after = read_bundle(bundle)
    assert after == Bundle(bundle, written, vocabulary, after.digest)
    assert replace(after.manifest, files={}) == changed
    assert set(after.manifest.files) == {"vocab.json", ENCODER, DECODER, "MODEL_CARD.md"}
    assert (bundle / "MODEL_CARD.md").read_text(encoding="utf-8") == "# Card é\n"


def test_writing_nan_to_a_manifest_is_refused(bundle: Path) -> None:
    before = read_bundle(bundle)
    with pytest.raises(ValueError, match="JSON"):
        write_manifest(bundle, replace(before.manifest, metrics={"cider": float("nan")}), before.vocabulary, "")
