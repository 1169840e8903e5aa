"""A worker of a bulk job turns a table of photos into a table of rows, without Ray."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason='pyarrow is not installed; pip install "captioner[ray]"')
import pyarrow as pa

from caprun import Captioner, SearchOptions
from caprun.bulk.worker import BulkOptions, BulkWork, Worker
from caprun.bundle.reading import read_bundle
from caprun.caption import as_row


@pytest.fixture
def work(tiny: Path, tmp_path: Path) -> dict[str, Any]:
    """Returns the settings of a worker except the search."""
    return {
        "options": BulkOptions(str(tiny), device="cpu", precision="fp32", threads=1, batch_size=4),
        "digest": read_bundle(tiny).digest,
        "id_column": "image",
        "image_column": "image",
        "by_path": False,
        "folder": str(tmp_path),
        "attempts": tmp_path,
    }


def present(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row without its empty columns."""
    known = {key: value for key, value in row.items() if value is not None}
    if "alternatives" in known:
        known["alternatives"] = [present(other) for other in known["alternatives"]]
    return known


@pytest.mark.parametrize("options", [SearchOptions(), SearchOptions(n_best=2), SearchOptions(max_length=2)])
def test_rows_are_the_same_as_in_other_outputs(
    work: dict[str, Any], captioner: Captioner, photo: Path, options: SearchOptions
) -> None:
    table = Worker(BulkWork(**work, search=options))(pa.table({"image": [photo.name, "nowhere.jpg"]}))
    rows = [present(row) for row in table.to_pylist()]
    assert rows[0] == {"image": photo.name} | as_row(captioner.caption(photo, options))
    assert rows[0]["finished"] is (options.max_length > 2)
    assert set(rows[1]) == {"image", "error"}
