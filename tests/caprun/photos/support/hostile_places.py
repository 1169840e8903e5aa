"""Creates entries of a photo folder that are not photos, and photos with unusual names."""

import contextlib
import os
import socket
import sys
from pathlib import Path

from tests.caprun.photos.support.encoding import encode
from tests.caprun.photos.support.hostile import picture

NAMES: tuple[bytes, ...] = (
    b"two\nlines.jpg",
    b"carriage\rreturn.jpg",
    b"-rf.jpg",
    b"--help.jpg",
    b"quote\"and'quote.jpg",
    b"$(touch hacked) `touch hacked`.jpg",
    b"a;b&c|d.jpg",
    b" .jpg",
    b"~.jpg",
    b"%s%n%00.jpg",
    b"back\\slash.jpg",
    b"\x1b[31mred.jpg",
    b"\xff\xfe no text.jpg",
    b"\xed\xa0\x80 half a pair.jpg",
    "photo\u202egpj.exe.jpg".encode(),
    "\u200b\ufeffnothing.jpg".encode(),
    "写真 \U0001f4f7 e\u0301.jpg".encode(),
    b"n" * 251 + b".jpg",
    b"UPPER.JPG",
    b"=1+1.jpg",
    b"<b>&amp;.jpg",
)
"""File names as bytes, since some are not valid UTF-8."""


def odd_names(folder: Path) -> list[bytes]:
    """Writes a valid photo under every name that the file system accepts, and returns the paths."""
    data = encode(picture(), "JPEG")
    paths = []
    for name in NAMES:
        path = os.path.join(os.fsencode(folder), name)  # noqa: PTH118  (paths in bytes)
        with contextlib.suppress(OSError):
            with open(path, "wb") as file:  # noqa: PTH123
                file.write(data)
            paths.append(path)
    return paths


def no_files(folder: Path) -> list[Path]:
    """Creates links, FIFOs and sockets that are named like photos and are not readable files; returns their paths."""
    made = [folder / "missing target.jpg", folder / "itself.jpg", folder / "loop a.jpg", folder / "loop b.jpg"]
    made[0].symlink_to(folder / "absent")
    made[1].symlink_to(made[1])
    made[2].symlink_to(made[3])
    made[3].symlink_to(made[2])
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.jpg")
        (folder / "link to a pipe.png").symlink_to(folder / "pipe.jpg")
        made += [folder / "pipe.jpg", folder / "link to a pipe.png"]
    for device in ("/dev/zero", "/dev/random", "/dev/tty", "/dev/stdin"):
        if os.path.lexists(device):
            path = folder / f"link to {Path(device).name}.bmp"
            path.symlink_to(device)
            made.append(path)
    for endless in ("/proc/self/mem", "/proc/kmsg", "/proc/self/environ"):
        if sys.platform == "linux" and os.path.lexists(endless):
            path = folder / f"link to {Path(endless).name}.gif"
            path.symlink_to(endless)
            made.append(path)
    with contextlib.suppress(OSError, AttributeError):  # the path is too long for a socket, or Unix sockets are missing
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / "socket.jpg"))
        listener.close()
        made.append(folder / "socket.jpg")
    return made
