"""A photo arrives when it is no longer being written, and again when it changes."""

import os
import shutil
from pathlib import Path

import pytest

from caprun.batch.arrivals import Arrivals
from caprun.errors import CaprunError


@pytest.fixture
def arrivals(tmp_path: Path) -> Arrivals:
    (tmp_path / "in").mkdir()
    return Arrivals(str(tmp_path / "in"), recursive=True, exclude=["*_thumb.jpg"], settle=1)


def names(arrivals: Arrivals, now: float) -> list[str]:
    """Returns the names of the photos that have arrived, and marks them as done."""
    arrived = arrivals.look(now)
    arrivals.done |= arrived
    return [Path(path).name for path in arrived]


def test_a_photo_arrives_once_after_it_has_stopped_changing(arrivals: Arrivals, tmp_path: Path) -> None:
    photo = tmp_path / "in" / "a.jpg"
    photo.write_bytes(b"1")
    assert names(arrivals, 0) == []
    photo.write_bytes(b"12")
    assert names(arrivals, 1) == []
    assert names(arrivals, 1.9) == []
    assert arrivals.waiting
    assert names(arrivals, 2) == ["a.jpg"]
    assert not arrivals.waiting
    assert names(arrivals, 9) == []


def test_a_photo_that_changes_arrives_again(arrivals: Arrivals, tmp_path: Path) -> None:
    photo = tmp_path / "in" / "a.jpg"
    photo.write_bytes(b"1")
    assert [names(arrivals, now) for now in (0, 1)] == [[], ["a.jpg"]]
    os.utime(photo, (7, 7))
    assert [names(arrivals, now) for now in (2, 3)] == [[], ["a.jpg"]]


def test_a_photo_that_was_not_captioned_arrives_again(arrivals: Arrivals, tmp_path: Path) -> None:
    (tmp_path / "in" / "a.jpg").write_bytes(b"1")
    arrivals.look(0)
    assert len(arrivals.look(1)) == 1
    arrivals.look(2)
    assert len(arrivals.look(3)) == 1


def test_excluded_hidden_and_other_files_do_not_arrive(arrivals: Arrivals, tmp_path: Path) -> None:
    for name in ("b.jpg", "sub/a.PNG", "b_thumb.jpg", ".hidden.jpg", "notes.txt"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "in" / "dangling.jpg").symlink_to("nowhere")
    assert [names(arrivals, now) for now in (0, 1)] == [[], ["b.jpg", "a.PNG"]]


def test_a_removed_folder_is_reported(arrivals: Arrivals, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "in")
    with pytest.raises(CaprunError, match=r"in no longer exists; run the same command when it is back\.$"):
        arrivals.look(0)
