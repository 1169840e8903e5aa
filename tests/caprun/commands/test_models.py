"""Bundles are installed as packages and found by name; a broken package is named, and the others still work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from caprun.bundle.installed import installed_bundles
from caprun.cli import main
from caprun.engine import Captioner, find_bundle, packaged_bundle
from caprun.errors import BundleError

Install = Callable[..., Path]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns an empty folder for installed packages."""
    monkeypatch.delenv("CAPRUN_MODEL", raising=False)
    path = tmp_path / "site"
    path.mkdir()
    monkeypatch.syspath_prepend(path)
    return path


@pytest.fixture
def install(site: Path, tiny: Path) -> Install:
    """Returns a function that installs a package with the tiny bundle and no code."""

    def install(name: str, package: str = "", module: str = "") -> Path:
        package = package or f"caprun-{name}"
        folder = package.replace("-", "_")
        shutil.copytree(tiny, site / folder)
        metadata = site / f"{folder}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[caprun.bundles]\n{name} = {module or folder}\n")
        return site / folder

    return install


def caprun(*arguments: object):
    return CliRunner().invoke(main, [str(one) for one in arguments])


def listed(*arguments: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in caprun("models", "--json", *arguments).stdout.splitlines()]


def test_an_installed_bundle_is_found_by_its_name(install: Install, tiny: Path, tmp_path: Path) -> None:
    folder = install("small")
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 30), "red").save(photo)
    assert find_bundle("small") == folder
    by_name, by_path = caprun("--model", "small", photo), caprun("--model", tiny, photo)
    assert by_name.exit_code == 0, by_name.output
    assert by_name.stdout == by_path.stdout != ""
    assert Captioner.load("small").spec.name == "tiny"


def test_a_folder_hides_an_installed_bundle_of_the_same_name(install: Install, tmp_path: Path, monkeypatch) -> None:
    install("small")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    assert find_bundle("small") == Path("small")


def test_models_are_listed_with_language_scores_and_licence(install: Install, monkeypatch) -> None:
    folder = install("small")
    row = next(row for row in listed() if row["name"] == "small")
    assert row == {
        "name": "small",
        "default": False,
        "language": None,
        "scores": row["scores"],
        "licence": "MIT",
        "path": str(folder),
        "package": "caprun-small 1.0",
    }
    monkeypatch.setattr("caprun.engine.packaged_bundle", lambda: folder)
    assert next(row for row in listed() if row["name"] == "small")["default"] is True
    result = caprun("models")
    assert result.stdout.splitlines()[0].split() == ["name", "language", "scores", "licence"]
    assert next(line.split() for line in result.stdout.splitlines() if line.startswith("small"))[:3] == [
        "small",
        "*",
        "-",
    ]


def test_the_packaged_bundle_is_found_through_its_entry_point(site: Path) -> None:
    metadata = site / "captioner_of_test-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: captioner-of-test\nVersion: 1.0\n")
    pyproject = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    declared = pyproject.partition('[project.entry-points."caprun.bundles"]\n')[2].partition("\n\n")[0].replace('"', "")
    (metadata / "entry_points.txt").write_text(f"[caprun.bundles]\n{declared}\n")
    (bundle,) = [one for one in installed_bundles() if one.package == "captioner-of-test 1.0"]
    assert bundle.name == packaged_bundle().name
    assert bundle.path().resolve() == packaged_bundle().resolve()


def break_bytes(folder: Path) -> None:
    (folder / "vocab.json").write_bytes(b"[]")


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def break_code(folder: Path) -> None:
    (folder / "__init__.py").write_text("1 / 0")


@pytest.mark.parametrize(
    ("spoil", "module", "words"),
    [
        (break_bytes, "", "vocab.json"),
        (remove_folder, "", "it has no folder caprun_bad"),
        (break_code, "caprun_bad.inner", "ZeroDivisionError"),
        (remove_folder, "not a module:at.all", "is broken"),
    ],
)
def test_a_broken_package_is_named_and_the_others_are_listed(install: Install, spoil, module: str, words: str) -> None:
    install("small")
    spoil(install("bad", module=module))
    result = caprun("models")
    assert result.exit_code == 1
    assert any(line.startswith("small ") for line in result.stdout.splitlines())
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: bad (caprun-bad 1.0): ")
    assert words in line
    assert caprun("--model", "bad", "photo.png").exit_code == 1
    assert find_bundle("small")


def test_two_packages_that_provide_the_same_bundle_are_named(install: Install) -> None:
    install("small")
    install("small", package="other")
    with pytest.raises(
        BundleError, match=r"^The packages caprun-small 1\.0 and other 1\.0 each provide a bundle small; "
    ):
        find_bundle("small")


def test_the_error_for_an_unknown_name_points_to_caprun_models(site: Path) -> None:
    result = caprun("--model", "klingon", "photo.png")
    assert result.exit_code == 1
    assert "There is no bundle at klingon; " in result.stderr
    assert "`caprun models`" in result.stderr


def test_entry_points_that_cannot_be_read_are_reported(site: Path) -> None:
    metadata = site / "bad-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[caprun.bundles]\nno equals sign\n")
    result = caprun("models")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: The entry points of an installed package cannot be read")
