"""Fuzzes the reading of photos, guided by coverage.

    python tests/fuzz/photos.py [CORPUS] [-max_total_time=60]

It needs atheris, which the extra `fuzz` installs. The seeds are the photos of `tests/caprun/photos/support/hostile.py`.
An input that causes a crash is written to the working directory as `crash-...`; add it to the seeds after the fix.
"""

import struct
import sys
import tempfile
import zlib
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parents[2])]

with atheris.instrument_imports(include=["caprun", "PIL", "pi_heif"]):
    from caprun.errors import ImageError
    from caprun.photos import decoding
    from caprun.photos.preprocessing import ImageSpec, load
from tests.caprun.photos.support.hostile import photos  # noqa: E402

SPEC = ImageSpec(32, 48, "squash", "bicubic", mean=(0.5,) * 3, std=(0.25,) * 3)  # type: ignore[arg-type]


def main() -> None:
    decoding.MAX_PIXELS = 250_000  # large blank pictures would take most of the time
    folder = tempfile.mkdtemp(prefix="caprun-fuzz-")
    for number, (_, data) in enumerate(photos()):
        (Path(folder) / f"seed-{number}").write_bytes(data)
    # new inputs go to the first corpus
    options = ["-timeout=120", "-rss_limit_mb=700", "-max_len=60000"]
    atheris.Setup([sys.argv[0], *options, *sys.argv[1:], folder], check)
    atheris.Fuzz()


def check(data: bytes) -> None:
    """Requires an array of the right shape or an ImageError of one line."""
    try:
        array = load(with_checksums(data), SPEC)
    except ImageError as error:
        said = str(error)
    else:
        said = "; "
        assert array.shape == (32, 48, 3)
    assert "; " in said
    assert "\n" not in said


def with_checksums(data: bytes) -> bytes:
    """Corrects the checksums of a PNG, which a fuzzer cannot guess; returns other data unchanged."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    pieces, position = [data[:8]], 8
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        if len(body) < length:
            break
        pieces.append(data[position : position + 8] + body + struct.pack(">I", zlib.crc32(name + body)))
        position += 12 + length
    return b"".join([*pieces, data[position:]])


if __name__ == "__main__":
    main()
