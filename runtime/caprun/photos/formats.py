"""Parses a photo's file: pixel data without metadata, size, orientation, and the memory that decoding needs.

Decoders read metadata before pixels, and hostile metadata can cost them minutes or gigabytes, so they never see any. A
file is parsed here in time linear in its bytes, and only the parts that pixels depend on are reassembled. A file that
would still take too long to decode is refused.
"""

import contextlib
import re
import struct
import zlib

from caprun.errors import FormatError, ImageError
from caprun.photos.exif import orientation_of
from caprun.photos.picture import Picture
from caprun.photos.profiles import MAX_BYTES as MAX_PROFILE

_MOST_PIECES = 10_000  # segments in a header or in a JPEG's scans; real files have dozens
_MOST_CHUNKS = 100_000  # in a PNG; 50 megapixels of 16-bit RGBA in 4 KiB chunks
_MOST_TABLES = 2**20  # bytes of a JPEG's tables before the first scan; real files have hundreds
_MOST_SCAN_PIXELS = 5_000_000_000  # scans x pixels of a JPEG: 100 scans at 50 megapixels; real files have a dozen
_MOST_JPEG_BYTES = 12  # per pixel; noise at the best quality takes four
_MOST_RLE_PIXELS = 5_000_000  # Pillow takes half a microsecond per run
_MOST_PALETTE = 2**18  # bytes between the declared and the real start of a BMP's pixels


def kind_of(data: bytes) -> str | None:
    """Detects the format of a file from its first bytes; None if it is unknown."""
    if data[4:8] == b"ftyp":
        from caprun.photos import heif  # imported here, since few photos need it

        return heif.kind_of(data)
    found = next((name for signature, name in _SIGNATURES if data.startswith(signature)), None)
    return None if found == "WebP" and data[8:12] != b"WEBP" else found


_SIGNATURES = (
    (b"\xff\xd8\xff", "Jpeg"),
    (b"\x89PNG\r\n\x1a\n", "Png"),
    (b"RIFF", "WebP"),
    (b"GIF8", "Gif"),
    (b"BM", "Bmp"),
)


def take_apart(kind: str, data: bytes) -> Picture:
    """Parses an encoded file of a format that `kind_of` returned.

    Raises:
        ImageError: The file would take too long or too much memory to decode.
        FormatError: The file uses a variant of its format that Pillow cannot decode.
        ValueError, IndexError, struct.error: The file is damaged.
    """
    if kind in ("Heif", "Avif"):
        from caprun.photos import heif  # imported here, since few photos need it

        return heif.take_apart(data)
    return _FORMATS[kind](data)


def _jpeg(data: bytes) -> Picture:
    kept, tables = [data[:2]], 0
    frame: tuple[int, bytes] | None = None
    exif = xmp = None
    profile: dict[int, bytes] = {}  # parts of the ICC profile, by number
    position = 2
    for _ in range(_MOST_PIECES):
        found = _JPEG_MARKER.search(data, position)
        if found is None:
            raise ValueError("no picture")
        start, marker = found.start(), found[1][0]
        if marker == 0xDA:
            break
        position = start + 2
        if 0xD0 <= marker <= 0xD9 or marker == 0x01:
            continue
        end = position + struct.unpack_from(">H", data, position)[0]
        if end < position + 2 or end > len(data):
            raise ValueError("a truncated segment")
        position += 2
        if name := _JPEG_UNSUPPORTED.get(marker):
            raise FormatError(f"is a {name} JPEG, which Pillow cannot decode; save it as a plain JPEG or a PNG")
        if marker in _JPEG_FRAMES:
            if frame is not None:
                raise ValueError("two frames")
            frame = marker, data[position:end]
        if marker in _JPEG_TABLES or data.startswith(_JPEG_COLOUR.get(marker, b" none "), position):
            kept.append(data[start:end])
            tables += end - start
        elif marker == 0xE1 and exif is None and data.startswith(b"Exif\0\0", position):
            exif = data[position:end]
        elif marker == 0xE1 and data.startswith(b"http://ns.adobe.com/xap/1.0/\0", position):
            xmp = data[position:end]
        elif marker == 0xE2 and data.startswith(b"ICC_PROFILE\0", position):
            profile[data[position + 12]] = data[position + 14 : end]
        position = end
        if tables > _MOST_TABLES:
            raise ImageError("has more tables than any JPEG needs; save it again")
    else:
        raise ImageError(f"has more than {_MOST_PIECES:,} segments before its picture; save it again")
    if frame is None:
        raise ValueError("no frame")
    marker, header = frame
    bits, height, width, components = struct.unpack_from(">BHHB", header)
    if 8 < bits <= 16:
        raise FormatError(f"is a JPEG of {bits} bits per channel, which Pillow cannot decode; save it with 8 bits")
    decoded = width * height * (1 if components == 1 else 4)
    waiting = 0
    # in other JPEGs, only the first scan is decoded
    if marker in _JPEG_PROGRESSIVE or data[start + 4] < components:
        scans = _scans(data, start)
        if scans * width * height > _MOST_SCAN_PIXELS:
            raise ImageError(f"has {scans:,} scans, too many for its size; save it again")
        waiting = _coefficients(header, width, height)  # kept until the last scan is read
    end = min(len(data), start + _MOST_JPEG_BYTES * width * height + _MOST_TABLES)  # later bytes are not part of it
    if start != sum(map(len, kept)) or end < len(data):
        data = b"".join([*kept, memoryview(data)[start:end]])
    size, orientation = (width, height), orientation_of(exif, xmp)
    whole = b"".join(part for _, part in sorted(profile.items())) or None
    lossless = marker in _JPEG_LOSSLESS
    return Picture(data, size, orientation, decoded + waiting, decoded, components == 3, whole, lossless)


def _scans(data: bytes, position: int) -> int:
    """Counts the scans from a position to the end of the picture; a video or another picture can follow."""
    scans = 0
    for _ in range(_MOST_PIECES):
        found = _JPEG_LATER.search(data, position)
        if found is None or found[1] == b"\xd9":
            return scans
        scans += found[1] == b"\xda"
        position = found.end() + struct.unpack_from(">H", data, found.end())[0]
    raise ImageError(f"has more than {_MOST_PIECES:,} scans and tables; save it again")


_JPEG_MARKER = re.compile(rb"\xff([^\xff\0])")
_JPEG_LATER = re.compile(rb"\xff([^\xff\0\1\xd0-\xd8])")  # scans contain zeros and restart markers
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_JPEG_LOSSLESS = frozenset((0xC3, 0xCB))
_JPEG_UNSUPPORTED = dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical") | {0xF7: "JPEG-LS"}
_JPEG_TABLES = _JPEG_FRAMES | {0xC4, 0xCC, 0xDB, 0xDD}
_JPEG_COLOUR = {0xE0: b"JFIF", 0xEE: b"Adobe"}  # segments that tell a decoder whether the colours are YCbCr or RGB


def _coefficients(header: bytes, width: int, height: int) -> int:
    """Computes the bytes of all coefficients of a JPEG: 64 of 16 bits per block."""
    sampling = [(value >> 4, value & 15) for value in header[7::3]]
    across, down = max(h for h, _ in sampling), max(v for _, v in sampling)
    if min(map(min, sampling)) < 1:
        raise ValueError("a component without samples")
    blocks = 0
    for h, v in sampling:
        blocks += -(-width // (8 * across)) * h * -(-height // (8 * down)) * v
    return blocks * 128


def _png(data: bytes) -> Picture:
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    if data[12:16] == b"CgBI":
        raise FormatError(
            "is a PNG in Apple's format for apps (CgBI), which only Apple software reads; save it there as a plain PNG"
        )
    if data[8:16] != b"\0\0\0\x0dIHDR":
        raise ValueError("no header")
    kept = [memoryview(data)[:33]]
    exif = xmp = profile = None
    position = 33
    for _ in range(_MOST_CHUNKS):
        if position + 8 > len(data):
            break
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if name == b"IDAT" or name == b"IEND" or (name in (b"PLTE", b"tRNS") and length <= 1024):
            kept.append(memoryview(data)[position:end])
            if name == b"IEND":
                break
        elif name == b"eXIf":
            exif = data[position + 8 : position + 8 + length]
        elif name == b"iTXt" and data.startswith(b"XML:com.adobe.xmp\0", position + 8):
            xmp = data[position + 8 : position + 8 + length]
        elif name == b"iCCP" and profile is None:
            profile = _inflated(data[position + 8 : position + 8 + length])
        elif not name.isalnum() or name in (b"IHDR", b"PLTE", b"tRNS"):
            break
        position = end
    else:
        raise ImageError(f"has more than {_MOST_CHUNKS:,} chunks; save it again")
    if sum(map(len, kept)) < len(data):
        data = b"".join(kept)
    # greyscale and palette images take one byte per pixel, all others four
    decoded = width * height * (1 if colour in (0, 3) and depth <= 8 else 4)
    return Picture(data, (width, height), orientation_of(exif, xmp), decoded, decoded, False, profile)


def _inflated(chunk: bytes) -> bytes:
    """Decompresses the profile of a PNG (11.3.2.3), up to the size limit; returns no bytes if it is broken."""
    with contextlib.suppress(zlib.error, ValueError):
        return zlib.decompressobj().decompress(chunk[chunk.index(b"\0") + 2 :], MAX_PROFILE)
    return b""


def _webp(data: bytes) -> Picture:
    found: dict[bytes, bytes] = {}
    position, last = 12, 8 + struct.unpack_from("<I", data, 4)[0]
    if last > len(data):
        raise ValueError("a truncated file")
    for _ in range(_MOST_PIECES):
        if position + 8 > last:
            break
        name, length = struct.unpack_from("<4sI", data, position)
        end = position + 8 + length + (length & 1)
        if position + 8 + length > last:
            raise ValueError("a truncated chunk")
        if name in _WEBP_KEPT and name not in found:
            found[name] = data[position:end]
        position = end
        if b"VP8X" not in found:
            break  # the simple format has one chunk
    else:
        raise ImageError(f"has more than {_MOST_PIECES:,} chunks; save it again")
    moving, still = [b"ANIM", b"ANMF"], [b"ALPH", b"VP8 ", b"VP8L"]
    names = still
    if extended := found.get(b"VP8X"):
        width, height = (1 + int.from_bytes(extended[at : at + 3], "little") for at in (12, 15))
        flags = extended[8]
        names = moving if flags & _WEBP_ANIMATION else still
        found[b"VP8X"] = extended[:8] + bytes([flags & ~_WEBP_METADATA]) + extended[9:]
    elif lossy := found.get(b"VP8 "):
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", lossy, 14))
    else:
        bits = struct.unpack_from("<I", found[b"VP8L"], 9)[0]
        width, height = (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    exif, xmp = (found[name][8:] if name in found else None for name in (b"EXIF", b"XMP "))
    body = b"WEBP" + b"".join([found[name] for name in (b"VP8X", *names) if name in found])
    data = b"RIFF" + struct.pack("<I", len(body)) + body
    pixels = width * height
    # Pillow decodes every WebP as an animation: two canvases, a copy of one, and a copy of the file
    decoding = max(12 * pixels, 9 * pixels + _webp_tables(data, pixels)) + len(data)
    profile = found[b"ICCP"][8:] if b"ICCP" in found else None
    return Picture(data, (width, height), orientation_of(exif, xmp), decoding, 4 * pixels, False, profile)


def _webp_tables(data: bytes, pixels: int) -> int:
    """Bounds the bytes of Huffman tables in a lossless WebP or alpha: one per 4 x 4 pixels, each of 20 or more bits."""
    if b"VP8L" not in data[:64] and b"ALPH" not in data[:64]:
        return 0
    return _WEBP_TABLE * min(65_536, pixels // 16, len(data) * 8 // 20)


_WEBP_PICTURE = frozenset((b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"))
_WEBP_KEPT = _WEBP_PICTURE | {b"EXIF", b"XMP ", b"ICCP"}
_WEBP_TABLE = 6_000  # bytes of the smallest table as decoded by libwebp
_WEBP_ANIMATION = 0x02
_WEBP_METADATA = 0x20 | 0x08 | 0x04  # flags of colour profile, EXIF and XMP


def _gif(data: bytes) -> Picture:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    kept = [data[:position]]
    start, inside = position, False
    for _ in range(_MOST_CHUNKS):
        if inside:
            length = data[position]
            position += 1 + length
            inside = length > 0
            if not inside and data[start + 1] == 0xF9:  # holds the transparent colour
                kept.append(data[start:position])
            continue
        found = _GIF_BLOCK.search(data, position)
        if found is None or found[0] == b";":
            raise ValueError("no picture")
        start = found.start()
        if found[0] == b",":
            break
        position, inside = start + 2, True
    else:
        raise ImageError(f"has more than {_MOST_CHUNKS:,} segments before its picture; save it again")
    left, top, across, down = struct.unpack_from("<4H", data, start + 1)
    width, height = max(width, left + across), max(height, top + down)
    if start != sum(map(len, kept)):
        data = b"".join([*kept, memoryview(data)[start:]])
    # the picture, and the canvas that Pillow prepares for the next frame
    return Picture(data, (width, height), 1, 2 * width * height, width * height, False)


_GIF_BLOCK = re.compile(rb"[,;!]")


def _bmp(data: bytes) -> Picture:
    header = struct.unpack_from("<I", data, 14)[0]
    compression = 0
    if header == 12:
        width, height, _, bits = struct.unpack_from("<4H", data, 18)
    elif header in (40, 52, 56, 64, 108, 124):
        width, height, _, bits, compression = struct.unpack_from("<IIHHI", data, 18)
        if data[25] == 0xFF:  # negative: rows are stored top-down
            height = 2**32 - height
    else:
        raise ValueError("an unknown header")
    pixels = width * height
    if compression in (1, 2) and pixels > _MOST_RLE_PIXELS:
        raise ImageError(
            f"is a run-length encoded BMP of more than {_MOST_RLE_PIXELS // 10**6} megapixels; save it as PNG"
        )
    if compression in (1, 2):
        # at most two bytes per pixel and an end-of-line code per row; later bytes cannot be visible
        data = data[: struct.unpack_from("<I", data, 10)[0] + _MOST_PALETTE + 2 * (pixels + height)]
    decoded = pixels * (1 if bits <= 8 else 4)
    return Picture(data, (width, height), 1, decoded, decoded, False)


_FORMATS = {"Jpeg": _jpeg, "Png": _png, "WebP": _webp, "Gif": _gif, "Bmp": _bmp}
