"""A bundle with an altered byte is refused, in any file and any precision.

The error names the file, and is raised before ONNX Runtime reads anything.
"""

import os
import random
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from caprun import BundleError, Captioner
from caprun.bundle import checking
from caprun.bundle.manifest import Precision
from caprun.bundle.reading import read_bundle
from caprun.bundle.writing import write_manifest
from tests.scarcity import obeying_permissions

FP32, INT8 = ("encoder_model.onnx", "decoder_model.onnx"), ("encoder_model.int8.onnx", "decoder_model.int8.onnx")
EVERY = ["model.json", "vocab.json", "MODEL_CARD.md", *FP32, *INT8]
every_file = pytest.mark.parametrize("file", EVERY)
Images = npt.NDArray[np.uint8]
FLIPS, CUTS = 50, 20


@pytest.fixture(scope="module")
def two_precisions(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the tiny bundle with its graphs also under int8 file names; tests do not write to it."""
    place = Path(shutil.copytree(tiny, tmp_path_factory.mktemp("two") / "bundle"))
    for source, target in zip(FP32, INT8, strict=True):
        shutil.copy(place / source, place / target)
    sound = read_bundle(place)
    precisions = {**sound.manifest.precisions, "int8": Precision(*INT8)}
    write_manifest(
        place,
        replace(sound.manifest, precisions=precisions),
        sound.vocabulary,
        "# Card\n\nof a model that nobody trained\n",
    )
    return place


@pytest.fixture
def spoilt(two_precisions: Path, tmp_path: Path) -> Path:
    """Returns a copy of the bundle that a test can damage."""
    return Path(shutil.copytree(two_precisions, tmp_path / "bundle"))


def precision_of(file: str) -> str:
    return "int8" if file in INT8 else "fp32"


def refused(bundle: Path, file: str) -> str:
    """Loads the bundle in the precision that needs the file; returns the error, one sentence that names the file."""
    with pytest.raises(BundleError) as caught:
        Captioner.load(bundle, device="cpu", threads=1, precision=precision_of(file))
    sentence = str(caught.value)
    assert str(bundle / file) in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


@every_file
def test_flipped_bits_are_refused(sessions: list[object], spoilt: Path, file: str) -> None:
    sound = (spoilt / file).read_bytes()
    chance = random.Random(file)
    for _ in range(FLIPS):
        damaged = bytearray(sound)
        damaged[chance.randrange(len(sound))] ^= 1 << chance.randrange(8)
        (spoilt / file).write_bytes(damaged)
        refused(spoilt, file)
    assert sessions == []


@every_file
def test_truncations_are_refused(sessions: list[object], spoilt: Path, file: str) -> None:
    sound = (spoilt / file).read_bytes()
    end = len(sound.rstrip())  # the line break after the brace has no meaning
    for cut in [0, 1, end - 1, *random.Random(file).sample(range(2, end - 1), CUTS - 3)]:
        (spoilt / file).write_bytes(sound[:cut])
        refused(spoilt, file)
    assert sessions == []


@every_file
def test_appended_bytes_and_zeroed_blocks_are_refused(sessions: list[object], spoilt: Path, file: str) -> None:
    sound = (spoilt / file).read_bytes()
    middle = len(sound) // 2
    for damaged in (sound + b"\0", sound + sound, sound[:middle] + bytes(8) + sound[middle + 8 :], bytes(len(sound))):
        (spoilt / file).write_bytes(damaged)
        refused(spoilt, file)
    assert sessions == []


def to_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_link_out(path: Path) -> None:
    path.rename(path.parent.parent / path.name)
    path.symlink_to(path.parent.parent / path.name)


def to_link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def to_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def to_link_to_a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


REPLACED = [
    to_directory,
    to_pipe,
    to_link_out,
    to_link_to_nothing,
    to_link_to_itself,
    to_link_to_a_device,
]


@pytest.mark.skipif(os.name != "posix", reason="pipes and links are those of POSIX")
@every_file
@pytest.mark.parametrize("replaced", REPLACED, ids=lambda replaced: replaced.__name__)
def test_anything_but_a_regular_file_in_the_bundle_is_refused(
    sessions: list[object], spoilt: Path, file: str, replaced: Callable[[Path], None]
) -> None:
    replaced(spoilt / file)
    assert "is a link out of the bundle or not a regular file; copy the file itself" in refused(spoilt, file)
    assert sessions == []


@pytest.mark.skipif(os.name != "posix", reason="links are those of POSIX")
@every_file
def test_a_link_within_the_bundle_is_followed_and_its_target_is_checked(
    sessions: list[object], spoilt: Path, file: str
) -> None:
    """Volumes that are replaced by replacing one link have this layout."""
    (spoilt / "..2026").mkdir()
    (spoilt / "..data").symlink_to("..2026")
    real = (spoilt / file).rename(spoilt / "..2026" / file)
    (spoilt / file).symlink_to(Path("..data", file))
    bundle = read_bundle(spoilt)
    assert bundle.graphs() == (bundle.read("encoder_model.onnx"), bundle.read("decoder_model.onnx"))
    real.write_bytes(real.read_bytes()[:-2])  # the last byte may be a line break without meaning
    refused(spoilt, file)
    assert sessions == []


@every_file
def test_a_missing_file_is_refused(sessions: list[object], spoilt: Path, file: str) -> None:
    (spoilt / file).unlink()
    if file == "model.json":
        with pytest.raises(BundleError, match=rf"^There is no bundle at {spoilt}; give"):
            read_bundle(spoilt)
    else:
        assert "is missing; copy the whole bundle" in refused(spoilt, file)
    assert sessions == []


@every_file
def test_an_unreadable_file_is_refused(sessions: list[object], spoilt: Path, file: str) -> None:
    (spoilt / file).chmod(0)
    with obeying_permissions():
        assert "cannot be read (Permission denied); change its permissions" in refused(spoilt, file)
    assert sessions == []


def test_a_bundle_in_an_inaccessible_folder_is_refused(spoilt: Path) -> None:
    spoilt.parent.chmod(0o600)
    try:
        with (
            obeying_permissions(),
            pytest.raises(BundleError, match=rf"^{spoilt}/model.json cannot be read \(Permission"),
        ):
            read_bundle(spoilt)
    finally:
        spoilt.parent.chmod(0o700)


@pytest.mark.parametrize(("one", "other"), [FP32, INT8, (FP32[0], INT8[1]), ("vocab.json", "MODEL_CARD.md")])
def test_two_swapped_files_are_refused(sessions: list[object], spoilt: Path, one: str, other: str) -> None:
    (spoilt / one).rename(spoilt / "x")
    (spoilt / other).rename(spoilt / one)
    (spoilt / "x").rename(spoilt / other)
    with pytest.raises(BundleError, match=rf"{spoilt}/({one}|{other}) (has|is)"):
        Captioner.load(spoilt, device="cpu", precision=precision_of(one))
    assert sessions == []


def test_two_swapped_lines_of_the_vocabulary_are_refused(sessions: list[object], spoilt: Path) -> None:
    path = spoilt / "vocab.json"
    text = path.read_text(encoding="utf-8")
    assert '"dog",\n"cat"' in text
    path.write_text(text.replace('"dog",\n"cat"', '"cat",\n"dog"'), encoding="utf-8", newline="\n")
    assert "has been altered (its checksum is wrong)" in refused(spoilt, "vocab.json")
    assert sessions == []


def test_files_of_another_bundle_are_refused(sessions: list[object], spoilt: Path, tmp_path: Path) -> None:
    """Every file is valid, but the files come from two bundles."""
    sound = read_bundle(spoilt)
    other = Path(shutil.copytree(spoilt, tmp_path / "other"))
    pieces = (*sound.vocabulary.pieces[:4], *reversed(sound.vocabulary.pieces[4:]))
    write_manifest(
        other, sound.manifest, replace(sound.vocabulary, pieces=pieces), "# Hack\n\nof a model that nobody trained\n"
    )
    for names in (["vocab.json"], ["model.json"], ["vocab.json", "MODEL_CARD.md"]):
        mixed = Path(shutil.copytree(spoilt, tmp_path / "-".join(names)))
        for name in names:
            shutil.copy(other / name, mixed / name)
        with pytest.raises(BundleError, match=r"vocab\.json|MODEL_CARD\.md"):
            Captioner.load(mixed, device="cpu")
    assert sessions == []


def test_the_graphs_that_were_checked_are_the_graphs_that_run(
    spoilt: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are read once, so replacing them after they are opened has no effect."""
    right = [one.ids for one in Captioner.load(spoilt, device="cpu", threads=1).hypotheses(images)]
    given: list[bytes] = []
    real, session = checking.open_own, onnxruntime.InferenceSession
    sound = {name: (spoilt / name).read_bytes() for name in FP32}

    def opened(path: Path) -> Any:
        file = real(path)
        if path.name in FP32 and path.parent == spoilt and os.fstat(file.fileno()).st_size != 3:
            reading.append(path.name)
            if reading.count(path.name) > 1:  # the first call only reads the size
                path.unlink()
                path.write_bytes(b"bad")
        return file

    def make(model: bytes, *arguments: Any, **settings: Any) -> Any:
        given.append(model)
        return session(model, *arguments, **settings)

    reading: list[str] = []
    monkeypatch.setattr(checking, "open_own", opened)
    monkeypatch.setattr("caprun.bundle.reading.open_own", opened)
    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    captioner = Captioner.load(spoilt, device="cpu", threads=1, precision="fp32")
    assert sorted(given) == sorted(sound.values())
    assert {(spoilt / name).read_bytes() for name in FP32} == {b"bad"}
    assert [one.ids for one in captioner.hypotheses(images)] == right


def test_the_graphs_of_an_unused_precision_are_not_read(
    spoilt: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading them would take longer than captioning a photo; `caprun doctor` reads them all."""
    path = spoilt / INT8[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    Captioner.load(spoilt, device="cpu", threads=1, precision="fp32").caption_arrays(images[:1])
    assert "has been altered" in refused(spoilt, INT8[0])


def test_the_undamaged_bundle_loads_in_both_precisions(two_precisions: Path, images: Images) -> None:
    """Checks that the tests above refuse the damage and not the bundle."""
    assert all(stat.S_ISREG((two_precisions / file).lstat().st_mode) for file in EVERY)
    said = {
        precision: [
            one.ids
            for one in Captioner.load(two_precisions, device="cpu", threads=1, precision=precision).hypotheses(images)
        ]
        for precision in ("fp32", "int8")
    }
    assert said["fp32"] == said["int8"]
