"""A file is written whole or not at all, and no temporary file remains."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from caprun.atomic_write import atomic_write
from tests.scarcity import files_of_at_most, fill, obeying_permissions, small_disk

posix = pytest.mark.skipif(os.name != "posix", reason="permissions and links are those of POSIX")


def write(path: Path, content: bytes = b"new") -> None:
    with atomic_write(path) as file:
        file.write(content)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Returns an existing file."""
    (tmp_path / "file.txt").write_bytes(b"old")
    return tmp_path / "file.txt"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != "ballast")


def assert_untouched(path: Path) -> None:
    assert path.read_bytes() == b"old"
    assert names(path.parent) == ["file.txt"]


def test_new_files_are_written_and_existing_files_are_replaced(path: Path) -> None:
    write(path)
    write(path.with_name("another"))
    assert (path.read_bytes(), path.with_name("another").read_bytes()) == (b"new", b"new")
    assert names(path.parent) == ["another", "file.txt"]


@pytest.mark.parametrize("error", [OSError, RuntimeError, KeyboardInterrupt])
def test_a_failure_keeps_the_existing_file(path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            file.flush()
            raise error

    with pytest.raises(error):
        fail()
    assert_untouched(path)


@pytest.mark.parametrize("size", [1, 5000, 200_000])
def test_a_full_disk_keeps_the_existing_file(tmp_path: Path, size: int) -> None:
    with small_disk(tmp_path / "disk", 2**16) as disk:
        write(disk / "file.txt", b"old")
        fill(disk)
        with pytest.raises(OSError, match="No space left"):
            write(disk / "file.txt", bytes(size))
        assert_untouched(disk / "file.txt")


@posix
def test_a_file_size_limit_keeps_the_existing_file(path: Path) -> None:
    with files_of_at_most(100), pytest.raises(OSError, match="too large"):
        write(path, bytes(101))
    assert_untouched(path)


@posix
@pytest.mark.parametrize("which", ["folder", "file"])
def test_missing_write_permission_keeps_the_existing_file(path: Path, which: str) -> None:
    (path if which == "file" else path.parent).chmod(0o500)
    with obeying_permissions(), pytest.raises(PermissionError):
        write(path)
    path.parent.chmod(0o700)
    assert_untouched(path)


@posix
def test_a_kill_keeps_the_existing_file(path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from caprun.atomic_write import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as file: file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b"old"


def test_the_content_is_flushed_before_the_rename(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    flush, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (events.append("flush"), flush(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("rename"), rename(*paths)))
    write(path)
    assert events == ["flush", "rename"]


@posix
def test_permissions_are_kept_and_a_new_file_follows_the_umask(path: Path) -> None:
    path.chmod(0o640)
    write(path)
    old = os.umask(0o027)
    try:
        write(path.with_name("another"))
    finally:
        os.umask(old)
    modes = [stat.S_IMODE(one.stat().st_mode) for one in (path, path.with_name("another"))]
    assert modes == [0o640, 0o640]


@posix
def test_a_symlink_is_kept_and_its_target_is_written(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    link = path.parent / "elsewhere" / "link"
    link.symlink_to(path)
    write(link)
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    assert names(link.parent) == ["link"]


@posix
def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    write(Path(os.devnull))
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    if Path("/dev/full").exists():
        with pytest.raises(OSError, match="No space left"):
            write(Path("/dev/full"))
        assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


@posix
def test_a_pipe_is_written_to_through_dev_stdout() -> None:
    if not Path("/dev/stdout").exists():
        pytest.skip("there is no such name")
    code = (
        "from pathlib import Path; from caprun.atomic_write import atomic_write\n"
        "with atomic_write(Path('/dev/stdout')) as file: file.write(b'new')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"new"


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_fsync_is_written_to(path: Path, error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some mounted shares do not support flushing."""

    def refuse(file: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", refuse)
    write(path)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "x"])
def test_a_file_name_of_the_maximum_length_is_written(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("place", ["nowhere/file", "folder", "file.txt/file"])
def test_an_impossible_path_is_an_error_and_leaves_no_file(path: Path, place: str) -> None:
    (path.parent / "folder").mkdir()
    with pytest.raises(OSError, match=r"No such file|[Nn]ot a directory|[Ii]s a directory"):
        write(path.parent / place)
    assert names(path.parent) == ["file.txt", "folder"]
