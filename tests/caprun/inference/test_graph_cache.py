"""The cache of optimised graphs: never out of date, never taken on trust, never needed."""

import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from caprun import BundleError, Captioner
from caprun.inference import graph_cache
from caprun.inference.graph_cache import Entry, directory

Images = npt.NDArray[np.uint8]
Said = list[tuple[tuple[int, ...], bytes]]

posix = pytest.mark.skipif(os.name != "posix", reason="permissions and limits are those of POSIX")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the cache, which is not there yet."""
    monkeypatch.setenv("CAPRUN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def made_of(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """For every session made: bytes for a graph of the bundle, str for the path of one that was kept."""
    kinds: list[type] = []
    real = onnxruntime.InferenceSession

    def make(model: Any, *arguments: Any, **settings: Any) -> Any:
        session = real(model, *arguments, **settings)
        kinds.append(type(model))
        return session

    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    return kinds


def said(bundle: Path, images: Images) -> Said:
    """Captions to the last bit."""
    captioner = Captioner.load(bundle, device="cpu", threads=1)
    return [(one.ids, one.log_probs.tobytes()) for one in captioner.hypotheses(images)]


def files(cache: Path) -> list[Path]:
    return sorted(cache.iterdir())


def keep(entry: Entry, content: bytes) -> None:
    with entry.being_made() as path:
        path.write_bytes(content)


def test_the_second_load_optimises_nothing(tiny: Path, images: Images, cache: Path, made_of: list[type]) -> None:
    said(tiny, images)
    assert made_of == [bytes, bytes]
    assert len(files(cache)) == 2
    said(tiny, images)
    assert made_of[2:] == [str, str]


def test_a_kept_graph_says_the_same_to_the_last_bit(
    tiny: Path, images: Images, cache: Path, made_of: list[type]
) -> None:
    first, second = said(tiny, images), said(tiny, images)
    os.environ["CAPRUN_CACHE"] = ""  # the fixture puts it back
    assert first == second == said(tiny, images)
    assert made_of == [bytes, bytes, str, str, bytes, bytes]


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "longer", "seal"])
def test_a_damaged_entry_is_made_anew(
    tiny: Path, images: Images, cache: Path, made_of: list[type], damage: str
) -> None:
    right = said(tiny, images)
    for path in files(cache):
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(
            {
                "bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
                "cut": content[:middle],
                "empty": b"",
                "longer": content + b"\0",
                "seal": content[:-10] + bytes([content[-10] ^ 1]) + content[-9:],
            }[damage]
        )
    assert said(tiny, images) == right
    assert made_of[2:] == [bytes, bytes]
    said(tiny, images)
    assert made_of[4:] == [str, str]


def test_an_entry_that_has_another_ones_name_is_not_taken(
    tiny: Path, images: Images, cache: Path, made_of: list[type]
) -> None:
    right = said(tiny, images)
    first, second = files(cache)
    first.write_bytes(second.read_bytes())
    assert said(tiny, images) == right
    assert sorted(kind.__name__ for kind in made_of[2:]) == ["bytes", "str"]


def test_an_entry_that_onnx_runtime_refuses_is_forgotten(
    tiny: Path, images: Images, cache: Path, made_of: list[type]
) -> None:
    right = said(tiny, images)
    for path in files(cache):
        keep(Entry(cache, path.stem), b"no graph at all")
    assert said(tiny, images) == right
    assert made_of[2:] == [bytes, bytes]
    said(tiny, images)
    assert made_of[4:] == [str, str]


@pytest.mark.parametrize("graph", ["encoder_model.onnx", "decoder_model.onnx"])
def test_an_altered_graph_is_refused_although_it_is_kept(bundle: Path, images: Images, cache: Path, graph: str) -> None:
    said(bundle, images)
    assert len(files(cache)) == 2
    content = bytearray((bundle / graph).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / graph).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{graph} has been altered \(its checksum is wrong\)"):
        Captioner.load(bundle, device="cpu")


@pytest.mark.parametrize("other", ["runtime", "processor"])
def test_what_was_optimised_elsewhere_is_not_taken(
    tiny: Path, images: Images, cache: Path, made_of: list[type], monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    said(tiny, images)
    if other == "runtime":
        monkeypatch.setattr(onnxruntime, "__version__", "99.0")
    else:
        monkeypatch.setattr(graph_cache, "_processor", lambda: ("another", "AVX512"))
    said(tiny, images)
    assert made_of[2:] == [bytes, bytes]
    assert len(files(cache)) == 4


@posix
def test_entries_are_nobody_elses_to_read(tiny: Path, images: Images, cache: Path) -> None:
    said(tiny, images)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in files(cache)} == {0o600}


@posix
@pytest.mark.parametrize("what", ["file", "directory", "link", "pipe"])
def test_what_others_could_have_put_there_is_not_taken(
    tiny: Path, images: Images, cache: Path, made_of: list[type], what: str
) -> None:
    right = said(tiny, images)
    if what == "directory":
        cache.chmod(0o777)
    for path in files(cache):
        if what == "file":
            path.chmod(0o666)
        elif what == "link":
            path.rename(cache.parent / path.name)
            path.symlink_to(cache.parent / path.name)
        elif what == "pipe":
            path.unlink()
            os.mkfifo(path)
    assert said(tiny, images) == right
    assert made_of[2:] == [bytes, bytes]


@posix
def test_nothing_is_put_where_it_would_not_be_taken(tiny: Path, images: Images, cache: Path) -> None:
    cache.mkdir(mode=0o700)
    cache.chmod(0o775)
    said(tiny, images)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("place", ["", "file", "file/below", 300 * "x"])
def test_where_nothing_can_be_kept_captions_are_the_same(
    tiny: Path, images: Images, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    right = said(tiny, images)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("CAPRUN_CACHE", str(tmp_path / place) if place else "")
    assert said(tiny, images) == right


def test_an_entry_that_is_a_directory_is_left_alone(tiny: Path, images: Images, cache: Path) -> None:
    right = said(tiny, images)
    for path in files(cache):
        path.unlink()
        path.mkdir()
        (path / "somebody's").touch()
    assert said(tiny, images) == right
    assert all(path.is_dir() for path in files(cache))


@posix
def test_a_disk_that_fills_up_leaves_a_caption_and_nothing_else(tiny: Path, photo: Path, cache: Path) -> None:
    def caption(limit: str) -> str:
        code = (
            f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
            f"from caprun.cli import main; main(['--model', {str(tiny)!r}, '--device', 'cpu', {str(photo)!r}])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    scarce = caption("4096")
    assert files(cache) == []
    assert scarce == caption("resource.RLIM_INFINITY")
    assert len(files(cache)) == 2


def test_loads_at_the_same_time_do_not_disturb_each_other(tiny: Path, images: Images, cache: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: said(tiny, images), range(8)))
    assert all(result == results[0] for result in results)
    assert len(files(cache)) == 2


def test_a_failure_while_an_entry_is_made_leaves_nothing(cache: Path) -> None:
    being_made = Entry(cache, "ab" * 32).being_made()
    being_made.__enter__().write_bytes(b"half a graph")
    assert len(files(cache)) == 1
    assert not being_made.__exit__(RuntimeError, RuntimeError(), None)
    assert files(cache) == []


@pytest.mark.parametrize("limit", ["entries", "bytes"])
def test_the_oldest_entries_go_and_other_files_stay(cache: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    if limit == "entries":
        monkeypatch.setattr(graph_cache, "_MOST_ENTRIES", 3)
    else:
        monkeypatch.setattr(graph_cache, "_MOST_BYTES", 3500)
    cache.mkdir(mode=0o700)
    (cache / "mine.txt").write_bytes(bytes(10_000))
    entries = [Entry(cache, f"{number:064x}") for number in range(5)]
    for age, entry in enumerate(reversed(entries)):
        keep(entry, bytes(1000))
        os.utime(entry.path, (time.time() - 100 + age, time.time() - 100 + age))
    assert [entry.find() is not None for entry in entries] == [True, True, True, False, False]
    assert (cache / "mine.txt").exists()


def test_what_a_killed_process_left_unfinished_goes_after_an_hour(cache: Path) -> None:
    cache.mkdir(mode=0o700)
    old, new = (cache / f"{name}.caprun-unfinished" for name in ("old", "new"))
    for path in (old, new):
        path.touch()
    os.utime(old, (time.time() - 4000, time.time() - 4000))
    keep(Entry(cache, "ab" * 32), b"graph")
    assert (old.exists(), new.exists()) == (False, True)


def test_an_entry_in_use_stays_young(cache: Path) -> None:
    entry = Entry(cache, "ab" * 32)
    keep(entry, b"graph")
    os.utime(entry.path, (0, 0))
    assert entry.find() == entry.path
    assert time.time() - entry.path.stat().st_mtime < 60


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the conventions of other systems")
def test_the_cache_is_where_the_system_keeps_such_things(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CAPRUN_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert directory() == tmp_path / ".cache" / "caprun"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert directory() == tmp_path / ".cache" / "caprun"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert directory() == Path("/elsewhere/caprun")
    monkeypatch.setenv("CAPRUN_CACHE", "/chosen")
    assert directory() == Path("/chosen")
    monkeypatch.setenv("CAPRUN_CACHE", "")
    assert directory() is None
