"""A hostile manifest with a correct digest is refused if its bundle cannot run or its names lead out of the bundle.

Each error is one short sentence, raised before a session is made.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caprun import BundleError, Captioner
from caprun.bundle.checking import parse_json
from caprun.bundle.manifest_check import is_plain_name
from caprun.bundle.reading import read_bundle
from caprun.bundle.vocabulary import Special
from caprun.bundle.writing import describe_file, write_manifest

Data = dict[str, Any]
Edit = Callable[[Path, Callable[[Data], object]], None]


@pytest.fixture
def refuse(sessions: list[object]) -> Callable[[Path], str]:
    def load(path: Path) -> str:
        with pytest.raises(BundleError) as caught:
            Captioner.load(path, device="cpu")
        sentence = str(caught.value)
        assert sentence.endswith(".")
        assert sentence.isprintable()
        assert len(sentence) < 500 + len(str(path)) * 2
        assert sessions == []
        return sentence

    return load


Refuse = Callable[[Path], str]


# --- JSON


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"a": 1, "a": 1}', "a key is repeated"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "a key is repeated"),
        (b'{"a": NaN}', "a number is NaN, infinite or too long"),
        (b'{"a": [-Infinity]}', "a number is NaN, infinite or too long"),
        (b'{"a": 1e999}', "a number is NaN, infinite or too long"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number is NaN, infinite or too long"),
        (b"[" * 40 + b"]" * 40, "nested too deeply"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "nested too deeply"),
        (b"[" * 100_000 + b"]" * 100_000, "it is not JSON"),
        (b'{"a": "\xff"}', "it is not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "it is not UTF-8"),
        (b"\xef\xbb\xbf{}", "it is not JSON"),
        (b'{"a": 01}', "it is not JSON"),
        (b'{"a": 1} {}', "it is not JSON"),
        (b'{"a": "\n"}', "it is not JSON"),
        (b"", "it is not JSON"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_ambiguous_invalid_or_deeply_nested_json_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(content)


def test_json_that_python_writes_is_read() -> None:
    data = {"a": [1, -2.5, 1e-05, 6.67572021484375e-06, True, None, "é😀 \u2028"], "": {}, "b": 10**200}
    assert parse_json(json.dumps(data).encode()) == data


@pytest.mark.parametrize("file", ["model.json", "vocab.json"])
@pytest.mark.parametrize(
    "content",
    [b"[" * 200_000, b'{"pieces": ' + b"[" * 500 + b"]" * 500 + b"}", b'{"pieces": [], "pieces": []}', b"NaN", b"\xff"],
    ids=lambda content: repr(content[:20]),
)
def test_invalid_json_is_refused_as_manifest_and_as_vocabulary(
    refuse: Refuse, bundle: Path, edit_manifest: Edit, file: str, content: bytes
) -> None:
    (bundle / file).write_bytes(content)
    if file == "vocab.json":
        entry = vars(describe_file(bundle / file))
        edit_manifest(bundle, lambda data: data["files"].update({file: entry}))
    assert str(bundle / file) in refuse(bundle)


def test_a_manifest_of_a_gigabyte_is_refused_unread(refuse: Refuse, bundle: Path) -> None:
    os.truncate(bundle / "model.json", 2**30)  # sparse: it takes no disk space
    assert "model.json is too large for a manifest; do not use it" in refuse(bundle)


def test_a_vocabulary_of_a_gigabyte_is_refused_unread(refuse: Refuse, bundle: Path, edit_manifest: Edit) -> None:
    os.truncate(bundle / "vocab.json", 2**30)
    edit_manifest(bundle, lambda data: data["files"]["vocab.json"].update(bytes=2**30))
    assert "vocab.json is too large for a file of a bundle" in refuse(bundle)


def test_a_graph_too_large_for_protocol_buffers_is_refused_unread(
    refuse: Refuse, bundle: Path, edit_manifest: Edit
) -> None:
    os.truncate(bundle / "encoder_model.onnx", 2**40)
    edit_manifest(bundle, lambda data: data["files"]["encoder_model.onnx"].update(bytes=2**40))
    assert "encoder_model.onnx is too large for a file of a bundle" in refuse(bundle)


# --- Types and keys


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of every value in a manifest, as keys and indices."""
    yield path
    if isinstance(data, dict):
        for key, value in data.items():
            yield from places(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from places(value, (*path, index))


TINY = json.loads((Path(__file__).parents[2] / "tiny" / "bundle" / "model.json").read_text())
OTHERS = [None, True, -1, 10**30, 0.5, "", "x\n\x1b[31m", [], [[]], {}, {"a\nb": 1}, "y" * 5000]
FREE = ("parity", "metrics", "provenance")  # for readers; the runtime does not use them
PLACES = [path for path in places({k: v for k, v in TINY.items() if k != "digest"}) if path and path[0] not in FREE]
TABLES = [(), ("image",), ("special",), ("search",), ("files", "vocab.json"), ("precisions", "fp32"), ("graphs",)]


def assert_read_or_refused_in_a_line(bundle: Path, path: tuple[Any, ...]) -> None:
    """Checks that a manifest altered at `path` is read or refused in one line."""
    said = ""
    try:
        read_bundle(bundle)
    except BundleError as error:
        said = str(error)
    assert said.isprintable(), path
    assert len(said) < 1000, path


def put(path: tuple[Any, ...], value: object) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: repr(other)[:20])
def test_any_value_anywhere_is_accepted_or_refused_in_one_line(
    bundle: Path, edit_manifest: Edit, sessions: list[object], other: object
) -> None:
    """The manifest is read or a BundleError of one line is raised, never another exception."""
    before = (bundle / "model.json").read_bytes()
    for path in PLACES[OTHERS.index(other) % 3 :: 3]:  # each place is tested with a third of the values
        edit_manifest(bundle, put(path, other))
        assert_read_or_refused_in_a_line(bundle, path)
        (bundle / "model.json").write_bytes(before)
    assert sessions == []


@pytest.mark.parametrize(
    "path",
    [path for path in PLACES if len(path) <= 2 and path[0] not in ("name", "licence", "files")],
    ids=lambda path: ".".join(map(str, path)),
)
def test_text_in_place_of_another_value_is_refused(
    refuse: Refuse, bundle: Path, edit_manifest: Edit, path: tuple[Any, ...]
) -> None:
    edit_manifest(bundle, put(path, "nonsense"))
    assert f"{bundle / 'model.json'} is not a manifest: " in refuse(bundle)


@pytest.mark.parametrize("path", TABLES, ids=lambda path: ".".join(map(str, path)) or "top")
def test_an_unknown_key_is_refused_at_every_level(
    refuse: Refuse, bundle: Path, edit_manifest: Edit, path: tuple[Any, ...]
) -> None:
    edit_manifest(bundle, put((*path, "odd\x07"), {"odd": 1}))
    assert "unknown key" in refuse(bundle)


@pytest.mark.parametrize("version", [2, 3, 4, 99, 10**30])
def test_the_error_for_a_future_version_or_a_draft_tells_what_to_do(
    refuse: Refuse, bundle: Path, edit_manifest: Edit, version: int
) -> None:
    edit_manifest(bundle, lambda data: data.update(format_version=version))
    sentence = refuse(bundle)
    assert "but this caprun reads version 1: upgrade caprun, or export the model again if a draft" in sentence


@pytest.mark.parametrize("version", [0, -1, True, 2.0, "2", None, [2]])
def test_an_invalid_version_is_refused(refuse: Refuse, bundle: Path, edit_manifest: Edit, version: object) -> None:
    edit_manifest(bundle, lambda data: data.update(format_version=version))
    assert "is not a manifest" in refuse(bundle)


# --- Names and paths


NOT_PLAIN = [
    "",
    ".",
    "..",
    ".hidden",
    "../encoder_model.onnx",
    "sub/encoder_model.onnx",
    "./encoder_model.onnx",
    "/etc/hostname",
    "//host/share/x.onnx",
    "\\\\host\\share\\x.onnx",
    "sub\\x.onnx",
    "C:x.onnx",
    "C:\\x.onnx",
    "x.onnx:stream",
    "x.onnx\0",
    "x.onnx\n",
    "x\x1b[2J.onnx",
    "x.onnx.",
    "x.onnx ",
    " x.onnx",
    "x\u202eonnx",
    "\ud800.onnx",
    "NUL",
    "con.onnx",
    "COM1",
    "~root",
    "-rf",
    "a" * 300,
    "model.json",
]


@pytest.mark.parametrize("name", NOT_PLAIN, ids=ascii)
def test_a_file_name_that_is_not_plain_on_every_system_is_refused(
    refuse: Refuse, bundle: Path, edit_manifest: Edit, name: str
) -> None:
    def change(data: Data) -> None:
        data["files"][name] = data["files"]["encoder_model.onnx"]
        data["precisions"]["fp32"]["encoder"] = name

    edit_manifest(bundle, change)
    sentence = refuse(bundle)
    assert f"{bundle / 'model.json'} lists " in sentence
    assert "which cannot be a bundle file; do not use it" in sentence


@pytest.mark.parametrize("name", NOT_PLAIN[:-1], ids=ascii)
def test_a_precision_name_that_is_not_plain_is_refused(
    refuse: Refuse, bundle: Path, edit_manifest: Edit, name: str
) -> None:
    edit_manifest(bundle, lambda data: data["precisions"].update({name: data["precisions"]["fp32"]}))
    assert "the name of a precision is not a plain name" in refuse(bundle)


@pytest.mark.parametrize("name", ["x\x01y", "x\x1b[2J", "\uffff"], ids=ascii)
def test_a_model_name_with_a_control_character_is_refused(
    refuse: Refuse, bundle: Path, edit_manifest: Edit, name: str
) -> None:
    edit_manifest(bundle, lambda data: data.update(name=name))
    assert "its name contains a control character" in refuse(bundle)


@pytest.mark.parametrize("name", ["encoder_model.onnx", "decoder_model.int8.onnx", "MODEL_CARD.md", "a", "x-1+2.bin"])
def test_usual_file_names_are_plain(name: str) -> None:
    assert is_plain_name(name)


def test_a_parent_directory_can_be_a_link(bundle: Path, tmp_path: Path) -> None:
    """A link above the bundle's own directory does not lead out of it."""
    (tmp_path / "models").symlink_to(bundle.parent)
    assert read_bundle(tmp_path / "models" / "bundle").graphs() == read_bundle(bundle).graphs()


# --- Graphs and vocabulary


def _tensor(graph: str, side: str, old: str, **change: Any) -> Callable[[Data], None]:
    def edit(data: Data) -> None:
        next(tensor for tensor in data["graphs"][graph][side] if tensor["name"] == old).update(change)

    return edit


def _without(graph: str, side: str, name: str) -> Callable[[Data], None]:
    def edit(data: Data) -> None:
        data["graphs"][graph][side] = [one for one in data["graphs"][graph][side] if one["name"] != name]

    return edit


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda data: data["image"].update(height=0), "its image size is not between 1 and"),
        (lambda data: data["image"].update(width=10**9), "its image size is not between 1 and"),
        (lambda data: data["image"].update(width=33), "its encoder's input is not the image that it describes"),
        (_tensor("encoder", "inputs", "image", dtype="float32"), "input is not the image"),
        (_tensor("encoder", "inputs", "image", role="index"), "input is not the image"),
        (_without("encoder", "inputs", "image"), "input is not the image"),
        (_without("encoder", "outputs", "keys"), "its decoder's inputs do not match the outputs of its encoder"),
        (_without("decoder", "inputs", "token"), "its decoder's inputs do not match the outputs of its encoder"),
        (_tensor("decoder", "inputs", "regions", name="regionz"), "inputs do not match the outputs of its encoder"),
        (
            _tensor("decoder", "outputs", "next_cell", name="cell"),
            "input state does not match the state that it returns",
        ),
        (_tensor("decoder", "outputs", "next_cell", shape=["rows x beams", 1, 9]), "input state does not match"),
        (_tensor("decoder", "outputs", "next_cell", name="next_hidden"), "two tensors of a graph have the same name"),
        (_without("decoder", "outputs", "log_prob"), "its decoder returns no log_prob"),
        (_tensor("decoder", "outputs", "candidate", dtype="float32"), "its decoder returns no candidate"),
        (_tensor("decoder", "outputs", "candidate", shape=["rows"]), "its decoder returns no candidate"),
        (lambda data: data.update(attention_grid=[4, 5]), "its decoder returns no alpha for the attention grid"),
        (lambda data: data.update(attention_grid=[-4, -4]), "its decoder returns no alpha for the attention grid"),
        (_without("decoder", "outputs", "alpha"), "its decoder returns no alpha for the attention grid"),
    ],
)
def test_graphs_that_the_runtime_cannot_run_are_refused(
    refuse: Refuse, bundle: Path, edit_manifest: Edit, change: Callable[[Data], object], problem: str
) -> None:
    edit_manifest(bundle, change)
    sentence = refuse(bundle)
    assert f"{bundle / 'model.json'} is not a manifest: " in sentence
    assert problem in sentence


@pytest.mark.parametrize(
    "vocabulary",
    [
        {"pieces": ["a", "a"]},
        {"pieces": "abc"},
        {"pieces": [1, 2]},
        {"pieces": [[["a"]]]},
        {"pieces": ["a"], "joining": {"separator": 3}},
        {"pieces": ["a"], "odd\n": 1},
        {"joining": {}},
        ["a"],
        None,
        "a",
        1.5,
    ],
    ids=str,
)
def test_an_invalid_vocabulary_with_a_correct_checksum_is_refused(
    refuse: Refuse, bundle: Path, edit_manifest: Edit, vocabulary: object
) -> None:
    (bundle / "vocab.json").write_text(json.dumps(vocabulary))
    entry = vars(describe_file(bundle / "vocab.json"))
    edit_manifest(bundle, lambda data: data["files"].update({"vocab.json": entry}))
    assert f"{bundle / 'vocab.json'} is not a vocabulary: " in refuse(bundle)


def test_special_ids_outside_the_vocabulary_are_refused(refuse: Refuse, bundle: Path) -> None:
    sound = read_bundle(bundle)
    write_manifest(bundle, replace(sound.manifest, special=Special(0, 1, 2, 24)), sound.vocabulary, "")
    assert "its special ids are not four different ids of the vocabulary" in refuse(bundle)


def test_a_copied_bundle_is_read(bundle: Path, tmp_path: Path) -> None:
    """Checks that the tests above do not refuse a bundle because of its path."""
    assert read_bundle(shutil.copytree(bundle, tmp_path / "copy")).manifest == read_bundle(bundle).manifest
