"""A bulk job reads photos from tables, folders and lists, each photo with a unique id."""

import io
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caprun import UsageError

pytest.importorskip("ray.data", reason="Ray Data is not installed: pip install '.[ray]'")

import pyarrow as pa
from pyarrow import parquet

from caprun.bulk.output import claimed
from caprun.bulk.source import find_source
from caprun.bulk.worker import BulkOptions
from caprun.errors import OutputError
from tests.caprun.bulk.test_bulk import caption


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., str]:
    def write(**columns: Any) -> str:
        parquet.write_table(pa.table(columns), tmp_path / "photos.parquet")
        return str(tmp_path / "photos.parquet")

    return write


def source(*arguments: str, standard_input: bytes = b"", **more: Any) -> Any:
    return find_source(arguments, io.BytesIO(standard_input), BulkOptions(**more), Counter())


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"id": [1]}, r"has no column image \(it has id\); name the right one with --image-column"),
        ({"image": [b""]}, r"has no column id \(it has image\); name the right one with --id-column"),
        ({"id": [1, 2, 1], "image": [b""] * 3}, "Two rows have the same id 1"),
        ({"id": [1, None], "image": [b""] * 2}, "1 rows have no id"),
        ({"id": [0.5], "image": [b""]}, "holds double, but an id is text or an integer"),
        ({"id": [1], "image": [[1, 2]]}, ", not photos or paths"),
        ({"id": pa.array([], pa.int64()), "image": pa.array([], pa.binary())}, "has no rows"),
    ],
)
def test_a_table_that_cannot_be_captioned_is_refused(
    table: Callable[..., str], columns: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        source(table(**columns))


@pytest.mark.parametrize("name", ["caption", "finished"])
def test_an_id_column_named_like_a_result_column_is_refused(table: Callable[..., str], name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} has the same name as a column of the results"):
        source(table(**{name: ["a"], "image": [b""]}), id_column=name)


def test_missing_and_invalid_parquet_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        source(str(tmp_path / "nowhere.parquet"))
    (tmp_path / "no.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UsageError, match="cannot be read"):
        source(str(tmp_path / "no.parquet"))


def test_the_output_of_a_job_in_the_folder_of_its_input_is_not_read(table: Callable[..., str], tmp_path: Path) -> None:
    file = table(id=[1], image=[b""])
    (tmp_path / "out" / ".caprun").mkdir(parents=True)
    (tmp_path / "out" / "rows.parquet").touch()
    assert source(str(tmp_path), recursive=True).files == [file]


def test_photos_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.tif", "c.CR2"):
        (tmp_path / name).touch()
    left_out: Counter[str] = Counter()
    found = find_source([str(tmp_path)], io.BytesIO(), BulkOptions(), left_out)
    assert (len(found.ids), left_out) == (1, {".tif": 1, ".cr2": 1})


@pytest.mark.parametrize("name", ["what?", "x;", "a\tb", "a\nb", "\udcff"])
def test_paths_that_ray_would_misread_are_refused(name: str, photo: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Ray Data cannot use the path .*; rename it"):
        source(str(tmp_path / f"{name}.parquet"))
    with pytest.raises(UsageError, match=r"Ray Data cannot use the path .*; rename it"):
        caption(photo, output=tmp_path / name)
    assert list(tmp_path.iterdir()) == [photo]


@pytest.mark.parametrize("images", [[b"1", b"2"], ["1.png", "2.png"]])
def test_another_table_with_the_same_ids_is_another_source(
    table: Callable[..., str], tmp_path: Path, images: list[Any]
) -> None:
    first = table(id=[1, 2], image=images)
    second = shutil.copy(first, tmp_path / "others.parquet")
    assert source(first).digest == source(first).digest != source(second).digest


@pytest.mark.parametrize(("images", "same"), [([b"1"], True), (["1.png"], False)])
def test_the_working_folder_matters_only_if_a_table_holds_paths(
    table: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: list[Any], same: bool
) -> None:
    path = table(id=[1], image=images)
    before = source(path).digest
    monkeypatch.chdir(tmp_path)
    assert (source(path).digest == before) is same


def test_photos_named_from_another_folder_are_another_source(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photo.parent)
    below = source(photo.name)
    monkeypatch.chdir(photo.parent.parent)
    above = source(f"{photo.parent.name}/{photo.name}")
    assert below.paths == above.paths
    assert below.ids != above.ids
    assert below.digest != above.digest


def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    long = str(tmp_path / ("x" * 300))
    with pytest.raises(UsageError, match=r"cannot be read \("):
        source(f"{long}.parquet")
    with (
        pytest.raises(OutputError, match=r"cannot be written .*name too long"),
        claimed(Path(long), {}, 1, overwrite=False),
    ):
        pass


def test_a_photo_name_that_is_too_long_is_accepted_as_an_id(photo: Path) -> None:
    assert source("x" * 300, str(photo)).ids == ["x" * 300, str(photo)]


def test_mixing_photos_and_tables_is_refused(table: Callable[..., str], photo: Path) -> None:
    with pytest.raises(UsageError, match="caption them in separate jobs"):
        source(table(id=[1], image=[b""]), str(photo))


def test_a_photo_named_twice_is_captioned_once(photo: Path) -> None:
    found = source("-", str(photo), standard_input=f"{photo}\n{photo}.png\n".encode())
    assert found.ids == [str(photo), f"{photo}.png"]


def test_a_name_that_is_not_utf8_has_an_escaped_id(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.png"
    found = source("-", standard_input=path)
    assert (found.ids, found.paths) == ([f"{tmp_path}/\\xff.png"], [path])
