"""Photos are listed from files, folders and standard input, in a defined order."""

import io
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from caprun.batch import listing
from caprun.batch.listing import Listed, list_photos
from caprun.errors import UsageError
from caprun.photos.extensions import describe_left_out

List = Callable[..., list[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    left_behind = (".hidden.jpg", ".git/x.jpg", "@eaDir/b.jpg/THUMB_M.jpg", "a/__MACOSX/z.jpg")
    for name in ("b.jpg", "a.PNG", "a/z.webp", "a/deeper/y.gif", "B.jpeg", "notes.txt", *left_behind):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.fixture
def names(folder: Path) -> List:
    """Returns a function that lists photos, as paths relative to the folder."""

    def of(*arguments: object, stdin: bytes = b"", recursive: bool = False) -> list[str]:
        listed = list_photos([str(argument) for argument in arguments], io.BytesIO(stdin), recursive=recursive)
        return [os.path.relpath(photo.path, folder) for photo in listed]

    return of


def test_a_folder_is_listed_as_its_photos_sorted_by_bytes(names: List, folder: Path) -> None:
    assert names(folder) == ["B.jpeg", "a.PNG", "b.jpg"]


def test_an_invalid_path_is_listed_as_a_photo(folder: Path) -> None:
    paths = [f"{'x' * 300}.jpg", str(folder / "b.jpg"), "\0.jpg"]
    assert [photo.path for photo in list_photos(paths, io.BytesIO())] == paths


def test_recursive_lists_subfolders(names: List, folder: Path) -> None:
    assert names(folder, recursive=True) == ["B.jpeg", "a.PNG", "a/deeper/y.gif", "a/z.webp", "b.jpg"]


def test_a_photo_has_its_path_relative_to_the_named_folder(folder: Path) -> None:
    (last,) = list_photos([str(folder / "a" / "deeper")], io.BytesIO())
    assert last == Listed(str(folder / "a" / "deeper" / "y.gif"), "y.gif")
    assert Listed(str(folder / "a" / "z.webp"), "a/z.webp") in list_photos([str(folder)], io.BytesIO(), recursive=True)
    assert list_photos(["x/y.jpg"], io.BytesIO()) == [Listed("x/y.jpg", "y.jpg")]


def test_named_paths_are_listed_with_any_extension_missing_or_repeated(names: List, folder: Path) -> None:
    photo, none = folder / "b.jpg", folder / "none"
    assert names(photo, folder / "notes.txt", none, photo) == ["b.jpg", "notes.txt", "none", "b.jpg"]


def test_standard_input_has_one_path_per_line_listed_in_its_place(names: List, folder: Path) -> None:
    lines = f"{folder}/x.jpg\n\n{folder}/a\n{folder}/ y .jpg".encode()
    assert names(folder / "b.jpg", "-", folder / "B.jpeg", stdin=lines) == ["b.jpg", "x.jpg", "a", " y .jpg", "B.jpeg"]


def test_standard_input_with_a_nul_is_split_at_nuls(names: List, folder: Path) -> None:
    assert names("-", stdin=f"{folder}/two\nlines.jpg\0{folder}/x.jpg\0".encode()) == ["two\nlines.jpg", "x.jpg"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode on other systems")
def test_a_name_that_is_not_utf8_is_the_same_from_folder_and_standard_input(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\xfe.jpg"
    Path(os.fsdecode(path)).touch()
    (listed,) = list_photos([str(tmp_path)], io.BytesIO())
    assert list_photos(["-"], io.BytesIO(path + b"\n"))[0].path == listed.path
    assert os.fsencode(listed.path) == path


def test_links_are_photos_unless_they_lead_to_folders(names: List, folder: Path) -> None:
    (folder / "up.jpg").symlink_to(folder, target_is_directory=True)
    (folder / "a" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "gone.jpg").symlink_to(folder / "nowhere")
    (folder / "link.jpg").symlink_to(folder / "b.jpg")
    listed = names(folder, recursive=True)
    assert {"loop.jpg", "gone.jpg", "link.jpg"} < set(listed)
    assert len(listed) == 5 + 3


def test_folders_can_be_nested_deeper_than_the_recursion_limit(tmp_path: Path) -> None:
    here = Path.cwd()
    try:
        os.chdir(tmp_path)
        for _ in range(300):  # a deeper path would be longer than the system allows
            Path("d").mkdir()
            os.chdir("d")
        Path("x.jpg").touch()
    finally:
        os.chdir(here)
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(250)
        assert len(list_photos([str(tmp_path)], io.BytesIO(), recursive=True)) == 1
    finally:
        sys.setrecursionlimit(limit)


class TestPhotosThatCannotBeRead:
    @pytest.fixture(autouse=True)
    def _without_heif(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listing, "is_installed", lambda name: name != "HEIF")

    def test_photos_of_a_missing_extra_and_other_formats_are_counted(self, folder: Path) -> None:
        for name in ("1.heic", "2.HEIC", "3.hif", "a/4.heic", "5.dng", "6.tif", "7.avif", "8.txt", "x_9.heic"):
            (folder / name).touch()
        left_out: Counter[str] = Counter()
        listed = list_photos([str(folder)], io.BytesIO(), left_out=left_out, exclude=["x_*"])
        assert [photo.relative for photo in listed] == ["7.avif", "B.jpeg", "a.PNG", "b.jpg"]
        assert left_out == {".heic": 2, ".hif": 1, ".dng": 1, ".tif": 1}
        assert list(describe_left_out(left_out)) == [
            'Photos left out: 2 .heic, 1 .hif; to read them, run pip install "captioner[heif]".',
            "Photos left out: 1 .dng, 1 .tif; convert them to JPEG.",
        ]

    def test_a_folder_of_only_such_photos_is_refused_with_what_to_install(self, tmp_path: Path) -> None:
        (tmp_path / "1.heic").touch()
        with pytest.raises(UsageError, match=r"no photos that can be read\. .*: 1 \.heic; to read them, run pip"):
            list_photos([str(tmp_path)], io.BytesIO(), left_out=Counter())

    def test_without_a_counter_photos_of_a_missing_extra_are_listed(self, tmp_path: Path) -> None:
        for name in ("1.heic", "2.dng"):
            (tmp_path / name).touch()
        assert [photo.relative for photo in list_photos([str(tmp_path)], io.BytesIO())] == ["1.heic"]

    def test_a_named_photo_is_listed_and_not_counted(self) -> None:
        left_out: Counter[str] = Counter()
        assert list_photos(["a.heic", "b.dng"], io.BytesIO(), left_out=left_out) == [
            Listed("a.heic", "a.heic"),
            Listed("b.dng", "b.dng"),
        ]
        assert not left_out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["{}/empty"], "/empty holds no photos (.avif .bmp .dib .gif"),
        (["{}/b.jpg", "{}/empty"], "--recursive looks into its subfolders"),
        (["-"], "Standard input names no photos"),
        (["-", "-"], "give - once"),
    ],
)
def test_invalid_arguments_are_refused(folder: Path, arguments: list[str], problem: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(UsageError) as error:
        list_photos([argument.format(folder) for argument in arguments], io.BytesIO(b"\n"))
    assert problem in str(error.value)


def test_a_folder_that_cannot_be_listed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("deeper"):  # permissions do not keep root out
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UsageError, match=r"The folder .*deeper cannot be listed \(Permission denied\)"):
        list_photos([str(folder)], io.BytesIO(), recursive=True)


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfa b.jpg\nc.jpg\n",
        b"a b.jpg\r\nc.jpg\r\n",
        b"\xef\xbb\xbfa b.jpg\r\nc.jpg",
        b"a b.jpg\r\nc.jpg\n",
        "\ufeffa b.jpg\r\nc.jpg\r\n".encode("utf-16-le"),
    ],
)
def test_lists_written_on_windows_are_read(data: bytes) -> None:
    assert [photo.path for photo in list_photos(["-"], io.BytesIO(data))] == ["a b.jpg", "c.jpg"]


@pytest.mark.skipif(sys.platform == "win32", reason="no name may have it")
def test_a_name_can_end_with_a_carriage_return(tmp_path: Path) -> None:
    (tmp_path / "a.jpg\r").touch()
    (listed,) = list_photos(["-"], io.BytesIO(os.fsencode(tmp_path / "a.jpg\r\n")))
    assert listed.relative == "a.jpg\r"


def test_patterns_leave_out_files_and_folders(tmp_path: Path) -> None:
    for name in ("a.jpg", "a_thumb.jpg", "cache/b.jpg", "deep/cache/c.jpg", "deep/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def names(*exclude: str) -> list[str]:
        found = list_photos([str(tmp_path)], io.BytesIO(), recursive=True, exclude=exclude)
        return [photo.relative for photo in found]

    assert names("*_thumb.jpg", "cache") == ["a.jpg", "deep/d.jpg"]
    assert names("deep/*") == ["a.jpg", "a_thumb.jpg", "cache/b.jpg"]
    assert names("./deep/") == names("deep/*")  # as shells complete it
    with pytest.raises(UsageError, match=r"--exclude leaves out every photo"):
        names("*")


def test_patterns_leave_out_named_photos_and_absolute_paths(tmp_path: Path) -> None:
    kept, old = tmp_path / "a.jpg", tmp_path / "old" / "b.jpg"

    def names(*exclude: str) -> list[str]:
        named = [photo.relative for photo in list_photos([str(kept), str(old)], io.BytesIO(), exclude=exclude)]
        lines = io.BytesIO(os.fsencode(f"{kept}\n{old}\n"))
        assert [photo.relative for photo in list_photos(["-"], lines, exclude=exclude)] == named
        return named

    assert names() == ["a.jpg", "b.jpg"]
    assert names("b.*") == names("old") == names(f"{tmp_path}/old/*") == ["a.jpg"]
    with pytest.raises(UsageError, match=r"--exclude leaves out every photo; give another pattern"):
        names("*.jpg")
