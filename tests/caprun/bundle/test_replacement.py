"""A bundle is replaced as a whole or not at all, and content other than a bundle is never replaced."""

import os
from pathlib import Path

import pytest

from caprun import BundleError
from caprun.bundle.reading import read_bundle
from caprun.bundle.writing import replaced_bundle, write_manifest


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def write(directory: Path, tiny: Path) -> None:
    """Writes the tiny bundle with another card."""
    source = read_bundle(tiny)
    for file in ("encoder_model.onnx", "decoder_model.onnx"):
        (directory / file).write_bytes(source.read(file))
    write_manifest(directory, source.manifest, source.vocabulary, "another card")


def test_the_new_bundle_replaces_the_old_one(bundle: Path, tiny: Path) -> None:
    with replaced_bundle(bundle) as directory:
        write(directory, tiny)
        assert (bundle / "MODEL_CARD.md").read_text() != "another card"
    assert (bundle / "MODEL_CARD.md").read_text() == "another card"
    read_bundle(bundle).graphs()
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"], "nothing is left lying about"


def test_a_bundle_at_a_new_path_is_readable_by_other_users(tmp_path: Path, tiny: Path) -> None:
    target = tmp_path / "not" / "yet" / "there"
    with replaced_bundle(target) as directory:
        write(directory, tiny)
        assert not target.exists()
    assert target.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in target.parent.iterdir()] == ["there"]


def test_an_empty_directory_can_be_replaced(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "empty").mkdir()
    with replaced_bundle(tmp_path / "empty") as directory:
        write(directory, tiny)
    read_bundle(tmp_path / "empty")


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_bundle_unchanged(bundle: Path, failure: type[BaseException]) -> None:
    before = content(bundle)

    def fail(directory: Path) -> None:
        (directory / "half").write_text("written")
        raise failure

    with pytest.raises(failure), replaced_bundle(bundle) as directory:
        fail(directory)
    assert content(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_a_failed_rename_leaves_the_old_bundle_unchanged(
    bundle: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename, calls = content(bundle), Path.rename, []

    def rename_once(path: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_once)
    with (
        pytest.raises(
            BundleError, match=f"^{bundle} cannot be written: Permission denied; the previous content .* is unchanged"
        ),
        replaced_bundle(bundle) as directory,
    ):
        write(directory, tiny)
    assert content(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("manifest", [None, "{}", "[]", "not JSON", '{"format": "layers-model", "weights": []}'])
def test_a_directory_that_is_not_a_bundle_is_not_replaced(tmp_path: Path, manifest: str | None) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").write_text("precious")
    if manifest is not None:
        (tmp_path / "photos" / "model.json").write_text(manifest)
    before = content(tmp_path / "photos")
    with (
        pytest.raises(BundleError, match=f"{tmp_path / 'photos'} exists and is not a bundle"),
        replaced_bundle(tmp_path / "photos"),
    ):
        pass
    assert content(tmp_path / "photos") == before
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("precious")
    with pytest.raises(BundleError, match="is not a bundle"), replaced_bundle(tmp_path / "notes"):
        pass
    assert (tmp_path / "notes").read_text() == "precious"


def test_a_bundle_with_other_files_in_it_is_not_replaced(bundle: Path) -> None:
    (bundle / "thesis.tex").write_text("precious")
    with pytest.raises(BundleError, match=f"{bundle} holds thesis.tex besides a bundle"), replaced_bundle(bundle):
        pass
    assert (bundle / "thesis.tex").read_text() == "precious"


def test_a_link_is_kept_and_the_bundle_it_points_to_is_replaced(bundle: Path, tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "current"
    link.symlink_to(bundle)
    with replaced_bundle(link) as directory:
        write(directory, tiny)
    assert link.is_symlink()
    assert (bundle / "MODEL_CARD.md").read_text() == "another card"
    assert [path.name for path in link.parent.iterdir()] == ["current"]


def test_the_working_directory_can_be_the_target(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with replaced_bundle(Path()) as directory:
        write(directory, tiny)
    assert sorted(os.listdir(tmp_path)) == ["here"]  # noqa: PTH208 - the working directory has moved
    read_bundle(tmp_path / "here")


def test_the_error_names_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BundleError, match=f"{tmp_path / 'file' / 'bundle'} cannot be written"),
        replaced_bundle(tmp_path / "file" / "bundle"),
    ):
        pass
