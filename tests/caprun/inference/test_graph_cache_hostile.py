"""What a bad disk, a full one, and other users of the machine can do to the cache of optimised graphs: nothing."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from caprun import Captioner
from caprun.inference.graph_cache import Entry
from tests.scarcity import fill, obeying_permissions, small_disk

Images = npt.NDArray[np.uint8]
Said = list[tuple[tuple[int, ...], bytes]]
posix = pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
SOMEBODY = 65534


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the cache, below one of its own."""
    (tmp_path / "above").mkdir(mode=0o700)
    monkeypatch.setenv("CAPRUN_CACHE", str(tmp_path / "above" / "cache"))
    return tmp_path / "above" / "cache"


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For every session that was made: whether it was made of what was kept."""
    kinds: list[bool] = []
    real = onnxruntime.InferenceSession

    def make(model: Any, *arguments: Any, **settings: Any) -> Any:
        session = real(model, *arguments, **settings)
        kinds.append(isinstance(model, str))
        return session

    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    return kinds


def said(bundle: Path, images: Images) -> Said:
    """Captions to the last bit."""
    captioner = Captioner.load(bundle, device="cpu", threads=1)
    return [(one.ids, one.log_probs.tobytes()) for one in captioner.hypotheses(images[:4])]


def test_no_flipped_bit_and_no_truncation_is_taken(tiny: Path, images: Images, cache: Path) -> None:
    said(tiny, images)
    for path in sorted(cache.iterdir()):
        entry, sound, chance = Entry(cache, path.stem), path.read_bytes(), random.Random(1)
        assert entry.find() == path
        for _ in range(50):
            damaged = bytearray(sound)
            damaged[chance.randrange(len(sound))] ^= 1 << chance.randrange(8)
            path.write_bytes(damaged)
            assert entry.find() is None
        for cut in (0, 1, 41, 42, 43, *chance.sample(range(44, len(sound)), 15)):
            path.write_bytes(sound[:cut])
            assert entry.find() is None


def test_half_a_graph_that_onnx_runtime_left_on_a_full_disk_is_not_run(tiny: Path, images: Images, cache: Path) -> None:
    """It does not say that a graph was cut off as it was written, and so it may have been sealed as it is."""
    right = said(tiny, images)
    for path in sorted(cache.iterdir()):
        entry, sound = Entry(cache, path.stem), path.read_bytes()[:-42]
        for cut in (1, 8, *random.Random(2).sample(range(9, len(sound) - 4), 8)):
            with entry.being_made() as unfinished:
                unfinished.write_bytes(sound[:cut])
            assert said(tiny, images) == right


@pytest.mark.parametrize("room", [0, 4096, 20_000, 40_000, 66_000])
def test_a_disk_of_any_size_leaves_captions_as_they_are(
    tiny: Path, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    right = said(tiny, images)
    with small_disk(tmp_path / "disk") as disk:
        fill(disk, leave=room)
        monkeypatch.setenv("CAPRUN_CACHE", str(disk / "cache"))
        assert [said(tiny, images), said(tiny, images)] == [right, right]
        kept = list((disk / "cache").iterdir()) if (disk / "cache").exists() else []
        assert all(Entry(disk / "cache", path.stem).find() == path for path in kept)


@posix
def test_a_folder_that_may_not_be_written_leaves_captions_as_they_are(
    tiny: Path, images: Images, cache: Path, taken: list[bool]
) -> None:
    cache.mkdir(mode=0o500)
    with obeying_permissions():
        said(tiny, images)
    assert taken == [False, False]
    assert list(cache.iterdir()) == []


@posix
@pytest.mark.parametrize(("mode", "used"), [(0o777, False), (0o773, False), (0o1777, True), (0o755, True)])
def test_a_directory_above_that_others_may_write_to_is_not_trusted(
    tiny: Path, images: Images, cache: Path, taken: list[bool], mode: int, used: bool
) -> None:
    """For they could put another in the place of this one; not so where names are their owners' alone (`/tmp`)."""
    said(tiny, images)
    cache.parent.chmod(mode)
    said(tiny, images)
    assert taken[2:] == [used, used]
    for path in cache.iterdir():
        path.unlink()
    said(tiny, images)
    assert bool(list(cache.iterdir())) is used


@as_root
@pytest.mark.parametrize("what", ["entry", "directory", "directory above", "group above"])
def test_what_somebody_else_owns_is_not_trusted(
    tiny: Path, images: Images, cache: Path, taken: list[bool], what: str
) -> None:
    said(tiny, images)
    if what == "entry":
        for path in cache.iterdir():
            os.chown(path, SOMEBODY, SOMEBODY)
    elif what == "directory":
        os.chown(cache, SOMEBODY, SOMEBODY)
    elif what == "directory above":
        os.chown(cache.parent, SOMEBODY, SOMEBODY)
    else:
        os.chown(cache.parent, -1, SOMEBODY)
        cache.parent.chmod(0o775)
    said(tiny, images)
    assert taken[2:] == [False, False]


@as_root
def test_a_users_own_group_is_the_user(tiny: Path, images: Images, cache: Path, taken: list[bool]) -> None:
    """Many systems have one for each, and let it write to all that is new."""
    said(tiny, images)
    os.chown(cache.parent, 0, 0)
    cache.parent.chmod(0o775)
    said(tiny, images)
    assert taken[2:] == [True, True]


@posix
def test_a_link_on_the_way_is_followed_once(tiny: Path, images: Images, cache: Path, tmp_path: Path) -> None:
    """What it leads to is what is looked at and written to, whoever may turn it elsewhere in the meantime."""
    cache.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(cache)
    os.environ["CAPRUN_CACHE"] = str(tmp_path / "link")  # the fixture puts it back
    said(tiny, images)
    assert len(list(cache.iterdir())) == 2
    cache.chmod(0o777)
    for path in cache.iterdir():
        path.unlink()
    said(tiny, images)
    assert list(cache.iterdir()) == []
