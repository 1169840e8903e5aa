"""The output folder of a bulk job belongs to one job and has one row for every photo."""

import json
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="PyArrow is not installed: pip install '.[ray]'")

import pyarrow as pa
from pyarrow import parquet

from caprun import UsageError
from caprun.bulk.output import claimed
from caprun.errors import OutputError


def test_a_folder_that_no_job_wrote_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with (
        pytest.raises(UsageError, match="holds files that were not written by a bulk job"),
        claimed(tmp_path, {}, 1, overwrite=True),
    ):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_jobs_cannot_write_to_the_same_folder(tmp_path: Path) -> None:
    with (
        claimed(tmp_path / "out", {}, 1, overwrite=False),
        pytest.raises(OutputError, match="is being written by another run"),
        claimed(tmp_path / "out", {}, 1, overwrite=True),
    ):
        pass


def test_overwrite_removes_the_rows_of_another_job(tmp_path: Path) -> None:
    with claimed(tmp_path / "out", {"model": "a"}, 2, overwrite=False) as output:
        parquet.write_table(pa.table({"image": ["x"]}), output.path / "part.parquet")
        parquet.write_table(pa.table({"image": ["x"]}), output.done / "part.parquet")
        assert output.committed() == 1
    with claimed(tmp_path / "out", {"model": "b"}, 2, overwrite=True) as output:
        assert output.committed() == 0
        assert not list(output.path.glob("*.parquet"))
        assert json.loads((output.state / "job.json").read_text()) == {"model": "b"}


def test_a_job_that_failed_before_its_first_row_does_not_block_another(tmp_path: Path) -> None:
    for model in "ab":
        with claimed(tmp_path / "out", {"model": model}, 2, overwrite=False) as output:
            assert json.loads((output.state / "job.json").read_text()) == {"model": model}


@pytest.mark.parametrize("written", [[], ["a"], ["a", "b", "b"], ["a", "c"]])
def test_an_output_without_exactly_one_row_per_photo_is_an_error(tmp_path: Path, written: list[str]) -> None:
    with claimed(tmp_path / "out", {}, 2, overwrite=False) as output:
        rows = {"image": written, **dict.fromkeys(("abstained", "error"), pa.nulls(len(written), pa.string()))}
        if written:
            parquet.write_table(pa.table(rows), output.path / "part.parquet")
        with pytest.raises(OutputError, match="not one for each of 2 photos"):
            output.verify(["a", "b"], "image")
