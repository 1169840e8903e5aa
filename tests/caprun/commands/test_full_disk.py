"""If results, pictures or bundles cannot be written, existing files are kept and the error names the path."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from caprun.bundle.reading import read_bundle
from caprun.bundle.writing import replaced_bundle, write_manifest
from caprun.cli import main
from caprun.errors import BundleError
from tests.scarcity import files_of_at_most, fill, obeying_permissions, small_disk

posix = pytest.mark.skipif(os.name != "posix", reason="permissions and limits are those of POSIX")
OUTPUTS = ["rows.jsonl", "rows.csv", "folder/"]
PHOTOS = 40
Failure = Callable[..., str]


@pytest.fixture
def run(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("CAPRUN_MODEL", str(tiny))
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def failure(run: Callable[..., Result]) -> Failure:
    """Runs a command that must fail with exit code 1, not with a usage error; returns the error message."""

    def invoke(*arguments: object) -> str:
        result = run(*arguments)
        assert result.exit_code == 1, result.output
        assert "Traceback" not in result.stderr
        line = result.stderr.splitlines()[-1]
        assert line.startswith("Error: ")
        return line.removeprefix("Error: ")

    return invoke


@pytest.fixture
def folder(tmp_path: Path, images: npt.NDArray[np.uint8]) -> Path:
    """Returns a folder of photos."""
    (tmp_path / "photos").mkdir()
    for number in range(PHOTOS):
        Image.fromarray(images[number % len(images)]).save(tmp_path / "photos" / f"{number:02}.png")
    return tmp_path / "photos"


def contents(directory: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(directory)): path for path in directory.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != "ballast"}


def rows(output: Path) -> Path:
    return output / "captions.jsonl" if output.is_dir() else output


# --- Results


@pytest.mark.parametrize(
    ("name", "room"),
    [*((name, room) for name in OUTPUTS for room in (0, 4096, 8192)), ("rows.jsonl", 12_288), ("folder/", 65_536)],
)
def test_results_on_a_full_disk_are_resumed_once_there_is_room(
    run: Callable[..., Result], failure: Failure, folder: Path, tmp_path: Path, name: str, room: int
) -> None:
    """Written rows are complete, and the same command then writes the rows of an uninterrupted run."""
    whole = run(folder, "--output", f"{tmp_path}/whole-{name}")
    assert whole.exit_code == 0, whole.stderr
    with small_disk(tmp_path / "disk") as disk:
        output = f"{disk}/{name}"
        fill(disk, leave=room)
        said = failure(folder, "--output", output)
        assert str(disk) in said
        assert "No space left on device" in said
        found = contents(disk)
        assert not [path for path in found if path.endswith(".new")]
        for path, content in found.items():
            if path.endswith(("captions.jsonl", ".jsonl")):
                assert [json.loads(line)["image"] for line in content.splitlines()] == [
                    f"{folder}/{number:02}.png" for number in range(content.count(b"\n"))
                ]
            assert content == b"" or content.endswith(b"\n"), path
            if path.endswith(".txt"):
                assert content == (tmp_path / f"whole-{name}" / Path(path).name).read_bytes()
        (disk / "ballast").unlink()
        assert run(folder, "--output", output).exit_code == 0
        assert rows(Path(output)).read_bytes() == rows(tmp_path / f"whole-{name}").read_bytes()


@pytest.mark.parametrize("name", OUTPUTS)
def test_results_are_kept_if_overwriting_them_fills_the_disk(
    run: Callable[..., Result], failure: Failure, folder: Path, tmp_path: Path, name: str
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        assert run(folder, "--output", f"{disk}/{name}").exit_code == 0
        before = contents(disk)
        fill(disk)
        said = failure(folder, "--output", f"{disk}/{name}", "--overwrite", "--beam-size", 1)
        assert f"{disk}/" in said
        assert contents(disk) == before
        assert "already finished" in run(folder, "--output", f"{disk}/{name}").stderr


@posix
@pytest.mark.parametrize("name", OUTPUTS)
def test_results_without_write_permission_are_kept(
    run: Callable[..., Result], failure: Failure, folder: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "results").mkdir()
    assert run(folder, "--output", f"{tmp_path}/results/{name}").exit_code == 0
    before = contents(tmp_path / "results")
    for path in [*(tmp_path / "results").rglob("*"), tmp_path / "results"]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    with obeying_permissions():
        said = failure(folder, "--output", f"{tmp_path}/results/{name}", "--overwrite")
    assert f"{tmp_path}/results/" in said
    assert "Permission denied" in said
    assert contents(tmp_path / "results") == before


# --- Pictures


@pytest.mark.parametrize("option", ["--picture", "--attention"])
@pytest.mark.parametrize("room", [0, 4096])
def test_a_full_disk_keeps_the_existing_picture(
    failure: Failure, photo: Path, tmp_path: Path, option: str, room: int
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "picture.png"
        path.write_bytes(b"before")
        fill(disk, leave=room)
        assert failure(photo, option, path) == f"The picture {path} cannot be written: No space left on device."
        assert contents(disk) == {"picture.png": b"before"}


@posix
@pytest.mark.parametrize("option", ["--picture", "--attention"])
def test_missing_permission_and_a_size_limit_keep_the_existing_picture(
    failure: Failure, photo: Path, tmp_path: Path, option: str
) -> None:
    path = tmp_path / "pictures" / "picture.png"
    path.parent.mkdir()
    path.write_bytes(b"before")
    path.parent.chmod(0o500)
    with obeying_permissions():
        assert failure(photo, option, path) == f"The picture {path} cannot be written: Permission denied."
    with files_of_at_most(100):
        path.parent.chmod(0o700)
        assert failure(photo, option, path) == f"The picture {path} cannot be written: File too large."
    assert contents(path.parent) == {"picture.png": b"before"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_picture_is_written_directly_to_a_device(failure: Failure, photo: Path) -> None:
    assert failure(photo, "--picture", "/dev/full") == (
        "The picture /dev/full cannot be written: No space left on device."
    )


# --- Bundles


def write(directory: Path, tiny: Path, card: str) -> None:
    source = read_bundle(tiny)
    for file in ("encoder_model.onnx", "decoder_model.onnx"):
        (directory / file).write_bytes(source.read(file))
    write_manifest(directory, source.manifest, source.vocabulary, card)


@pytest.mark.parametrize("room", [0, 4096, 12_288, 24_576, 28_672, 32_768])
def test_a_full_disk_keeps_the_existing_bundle(tiny: Path, tmp_path: Path, room: int) -> None:
    with small_disk(tmp_path / "disk") as disk:
        with replaced_bundle(disk / "bundle") as directory:
            write(directory, tiny, "before")
        before = contents(disk)
        fill(disk, leave=room)
        with (
            pytest.raises(
                BundleError, match=rf"^{disk}/bundle[^\n]* be written: No space left on device; the previous"
            ),
            replaced_bundle(disk / "bundle") as directory,
        ):
            write(directory, tiny, "another")
        assert contents(disk) == before
        assert sorted(path.name for path in disk.iterdir()) == ["ballast", "bundle"]
        read_bundle(disk / "bundle").graphs()


@posix
def test_a_bundle_in_a_read_only_folder_is_kept(tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "weights" / "bundle"
    with replaced_bundle(target) as directory:
        write(directory, tiny, "before")
    before = contents(tmp_path)
    target.parent.chmod(0o500)
    with (
        obeying_permissions(),
        pytest.raises(BundleError, match=rf"^{target} cannot be written: Permission denied\.$"),
        replaced_bundle(target) as directory,
    ):
        write(directory, tiny, "another")
    target.parent.chmod(0o700)
    assert contents(tmp_path) == before


def test_a_bundle_is_flushed_to_disk_before_it_is_renamed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file and the folder are flushed; otherwise a power cut could leave a name without content."""
    flushed: list[str] = []
    flush, rename = os.fsync, Path.rename

    def note(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").resolve().name)
        flush(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        assert {*contents(path), path.name} <= set(flushed)
        flushed.append("renamed")
        return rename(path, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("it cannot be seen here what is flushed")
    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "rename", renamed)
    with replaced_bundle(tmp_path / "bundle") as directory:
        write(directory, tiny, "card")
    assert flushed[-1] == "renamed"
