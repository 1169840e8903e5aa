"""Small files that would take much time or memory to read: decompression bombs, and files that keep a parser busy.

Most are encoded by hand, because no encoder writes such files. `bombs()` yields all of them with their names.
"""

import struct
import zlib
from collections.abc import Callable, Iterator

from PIL import Image

from caprun.photos.extensions import is_installed
from tests.caprun.photos.support.encoding import chunk, encode
from tests.caprun.photos.support.profiles import P3, cmyk_profile, rgb_profile

WIDE, HIGH = 10_000, 5_000  # 50 megapixels, the maximum
Make = Callable[[], bytes]
Named = tuple[str, Make]


# PNG


def _packed(row: bytes, rows: int) -> bytes:
    packer = zlib.compressobj(1)
    at_once = max(1, min(rows, 2**20 // len(row)))
    block = row * at_once
    packed = [packer.compress(block) for _ in range(rows // at_once)]
    return b"".join([*packed, packer.compress(row * (rows % at_once)), packer.flush()])


def png_of(width: int, height: int, depth: int, colour: int, data: bytes, *before: bytes, interlace: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
    body = b"".join(before) + chunk(b"IDAT", data)
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def flat_png(width: int, height: int, depth: int, colour: int, *before: bytes, filter_: int = 4) -> bytes:
    """Encodes a PNG of one value, by default with Paeth's filter, the slowest to undo."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = bytes([filter_]) + bytes((width * samples * depth + 7) // 8)
    return png_of(width, height, depth, colour, _packed(row, height), *before)


def interlaced_png(width: int, height: int) -> bytes:
    """Encodes a 16-bit RGBA PNG in the seven passes of Adam7."""
    packer, data = zlib.compressobj(1), []
    for x, y, dx, dy in [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]:
        row = b"\4" + bytes(-(-(width - x) // dx) * 8)
        data += [packer.compress(row) for _ in range(-(-(height - y) // dy))]
    return png_of(width, height, 16, 6, b"".join(data) + packer.flush(), interlace=1)


def _small_png(*before: bytes) -> bytes:
    return png_of(8, 8, 8, 2, zlib.compress(bytes(8 * 25)), *before)


def _empty_chunks(count: int) -> bytes:
    """Encodes a small PNG with empty IDAT chunks after its pixels."""
    data = _small_png()
    end = data.index(b"IEND") - 4
    return data[:end] + chunk(b"IDAT", b"") * count + data[end:]


def greedy_exif(length: int, entries: int) -> bytes:
    """Encodes EXIF in which each entry claims nearly all of the data; a reader of all entries makes a copy for each."""
    ifd = struct.pack("<H", entries)
    ifd += b"".join(struct.pack("<HHII", 0x8000 + tag, 7, length - 16, 8) for tag in range(entries))
    return (b"II*\0\x08\0\0\0" + ifd).ljust(length, b"\0")


def empty_blocks(count: int) -> bytes:
    """Encodes deflate blocks without data: each has 90 bits, with its own tables and only the end symbol."""
    # a dynamic block of 257 literal codes and 1 distance code; of 18 code lengths, "1" and "many zeros" have one bit;
    # then come 256 zeros, and the length of one bit for symbol 256 and for the distance
    lengths = "".join("100" if symbol in (18, 1) else "000" for symbol in _LENGTH_ORDER)
    block = "001" + "00000" + "00000" + "0111" + lengths + "1" + "1111111" + "1" + f"{256 - 138 - 11:07b}"[::-1] + "000"
    four = int((block * 4)[::-1], 2).to_bytes(45, "little")
    return b"\x78\x9c" + four * (count // 4)


_LENGTH_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1)


def png_bombs() -> Iterator[Named]:
    bomb = zlib.compress(bytes(50_000_000), 9)
    mega = zlib.compress(bytes(1_000_000), 9)
    yield "png rgba16 50mp", lambda: flat_png(WIDE, HIGH, 16, 6)
    yield "png rgba16 interlaced 50mp", lambda: interlaced_png(WIDE, HIGH)
    yield "png just below 50mp rgba16", lambda: flat_png(7_071, 7_071, 16, 6, filter_=3)
    yield "png grey alpha 16 50mp", lambda: flat_png(WIDE, HIGH, 16, 4)
    yield "png grey16 50mp", lambda: flat_png(WIDE, HIGH, 16, 0)
    yield "png rgb16 transparent 50mp", lambda: flat_png(WIDE, HIGH, 16, 2, chunk(b"tRNS", bytes(6)))
    yield (
        "png palette alpha 50mp",
        lambda: flat_png(WIDE, HIGH, 8, 3, chunk(b"PLTE", bytes(768)), chunk(b"tRNS", bytes(range(256)))),
    )
    yield "png 1 bit 50mp", lambda: flat_png(WIDE, HIGH, 1, 0)
    yield "png turned rgba 50mp", lambda: flat_png(WIDE, HIGH, 8, 6, chunk(b"eXIf", turned_exif(6)))
    p3 = chunk(b"iCCP", b"x\0\0" + zlib.compress(rgb_profile(P3, "Display P3")))
    yield "png rgba16 of other colours 50mp", lambda: flat_png(WIDE, HIGH, 16, 6, p3)
    yield "png palette of other colours 50mp", lambda: flat_png(WIDE, HIGH, 8, 3, chunk(b"PLTE", bytes(768)), p3)
    yield "png more data than pixels", lambda: png_of(8, 8, 8, 2, bomb)
    yield (
        "png declared 2 billion",
        lambda: flat_png(1, 1, 8, 2).replace(struct.pack(">II", 1, 1), b"\x7f\xff\xff\xff" * 2),
    )
    yield "png 1 x 50 million", lambda: flat_png(1, 50_000_000, 8, 0)
    yield "png 50 million x 1", lambda: flat_png(50_000_000, 1, 8, 0)
    yield "png 100 x 500000", lambda: flat_png(100, 500_000, 8, 2)
    yield "png 500000 x 100", lambda: flat_png(500_000, 100, 8, 2)
    yield "png 20 MB of empty blocks", lambda: png_of(WIDE, HIGH, 16, 6, empty_blocks(1_800_000))
    yield "png iCCP bomb", lambda: _small_png(chunk(b"iCCP", b"x\0\0" + bomb))
    yield "png 15000 profiles", lambda: _small_png(chunk(b"iCCP", b"x\0\0" + mega) * 15_000)
    yield "png zTXt bomb", lambda: _small_png(chunk(b"zTXt", b"x\0\0" + bomb))
    yield "png iTXt bomb", lambda: _small_png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb))
    yield (
        "png 1500 iTXt bombs",
        lambda: _small_png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb[:10_000]) * 1_500),
    )
    yield "png greedy exif", lambda: _small_png(chunk(b"eXIf", greedy_exif(1_000_000, 16_000)))
    yield "png empty chunks", lambda: _empty_chunks(1_600_000)
    yield "png unknown chunks", lambda: _small_png(chunk(b"abCd", b"") * 1_600_000)
    yield "png 100 MB chunk", lambda: _small_png(chunk(b"abCd", bytes(100_000_000)))
    yield (
        "apng of 2 billion frames",
        lambda: _small_png(
            chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)),
            chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 8, 8, 0, 0, 1, 1, 2, 1)),
        ),
    )


# JPEG


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def turned_exif(orientation: int) -> bytes:
    return b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x112, 3, 1, orientation, 0, 0)


def jpeg_head(frame: int, width: int, height: int, components: int = 3, sampling: int = 0x11) -> bytes:
    parts = b"".join(bytes([n, sampling, 0]) for n in range(1, components + 1))
    return (
        b"\xff\xd8"
        + segment(0xDB, b"\0" + b"\1" * 64)
        + segment(frame, struct.pack(">BHHB", 8, height, width, components) + parts)
    )


def table(slot: int, *symbols: int) -> bytes:
    """Encodes a Huffman table; the code of the first symbol is the bit 0."""
    counts = [1 if n < len(symbols) else 0 for n in range(16)]
    return segment(0xC4, bytes([slot, *counts, *symbols]))


def scan(components: int, first: int, last: int, high_low: int, bits: bytes) -> bytes:
    chosen = b"".join(bytes([n, 0]) for n in range(1, components + 1))
    return segment(0xDA, bytes([components]) + chosen + bytes([first, last, high_low])) + bits


def flat_jpeg(width: int, height: int, frame: int = 0xC0, components: int = 3, *extra: bytes) -> bytes:
    """Encodes a grey JPEG of two bits per block."""
    blocks = -(-width // 8) * -(-height // 8) * components
    head = jpeg_head(frame, width, height, components)
    return (
        head
        + b"".join(extra)
        + table(0, 0)
        + table(0x10, 0)
        + scan(components, 0, 63, 0, bytes(blocks // 4 + 8))
        + b"\xff\xd9"
    )


def many_scans_jpeg(width: int, height: int, scans: int, frame: int = 0xC2) -> bytes:
    """Encodes a progressive JPEG; scans after the first change no block, and skip 16384 blocks at a time."""
    blocks = -(-width // 8) * -(-height // 8)
    runs = (blocks // 16_384 + 2) * 15  # bits: one for the symbol 0xE0, fourteen for the run's length
    start = table(0, 0) + table(0x10, 0xE0) + scan(3, 0, 0, 1, bytes(blocks * 3 // 8 + 8))
    one = scan(1, 1, 63, 0, bytes(runs // 8 + 2))
    return jpeg_head(frame, width, height) + start + one * scans + b"\xff\xd9"


def refining_jpeg(width: int, height: int, scans: int) -> bytes:
    """Encodes a progressive JPEG that sets every coefficient; each further scan refines all of them by a bit."""
    blocks = -(-width // 8) * -(-height // 8)
    start = table(0, 0) + scan(3, 0, 0, 0, bytes(blocks * 3 // 8 + 8))
    # 63 times per block: run 0 and size 1, positive, in the bits 0 and 1
    first = table(0x10, 0x01, 0x00) + scan(1, 1, 63, 13, b"\x55" * (blocks * 126 // 8 + 8))
    # then per block: no new coefficient until its end (the bits 1 and 0), and a bit for each of the 63
    again = scan(1, 1, 63, 0xDC, b"\x80" * (blocks * 65 // 8 + 8))
    return jpeg_head(0xC2, width, height) + start + first + again * scans + b"\xff\xd9"


def _with(*segments: bytes) -> bytes:
    data = encode(Image.new("RGB", (16, 16), "teal"), "JPEG")
    return data[:20] + b"".join(segments) + data[20:]  # after JFIF, which must come first


def jpeg_bombs() -> Iterator[Named]:
    exif = b"Exif\0\0"
    yield "jpeg 65535 x 65535", lambda: flat_jpeg(64, 64).replace(struct.pack(">HH", 64, 64), b"\xff" * 4)
    yield "jpeg flat 50mp", lambda: flat_jpeg(65_500, 763)
    yield "jpeg tall 50mp", lambda: flat_jpeg(763, 65_500)
    yield "jpeg cmyk turned 50mp", lambda: flat_jpeg(WIDE, HIGH, 0xC0, 4, segment(0xE1, exif + turned_exif(6)))
    yield (
        "jpeg cmyk progressive 50mp",
        lambda: jpeg_head(0xC2, WIDE, HIGH, 4) + table(0, 0) + scan(4, 0, 0, 0, bytes(400_000)) + b"\xff\xd9",
    )
    ink = segment(0xE2, b"ICC_PROFILE\0\1\1" + cmyk_profile(9))
    yield "jpeg cmyk of ink 50mp", lambda: flat_jpeg(WIDE, HIGH, 0xC0, 4, ink)
    yield "jpeg 30 scans 50mp", lambda: many_scans_jpeg(WIDE, HIGH, 30)
    yield "jpeg 1000 scans 50mp", lambda: many_scans_jpeg(WIDE, HIGH, 1_000)
    yield "jpeg 100000 scans 1mp", lambda: many_scans_jpeg(1_000, 1_000, 100_000)
    yield "jpeg 100000 scans 8x8", lambda: many_scans_jpeg(8, 8, 100_000)
    yield "jpeg refining 10mp", lambda: refining_jpeg(4_000, 2_500, 12)
    yield "jpeg arithmetic 50mp", lambda: jpeg_head(0xC9, WIDE, HIGH) + scan(3, 0, 63, 0, bytes(50_000)) + b"\xff\xd9"
    yield "jpeg arithmetic scans", lambda: many_scans_jpeg(WIDE, HIGH, 40, 0xCA)[:60_000] + b"\xff\xd9"
    yield "jpeg restarts 50mp", lambda: flat_jpeg(WIDE, HIGH, 0xC0, 3, segment(0xDD, b"\0\1"))
    yield "jpeg greedy exif", lambda: _with(segment(0xE1, exif + greedy_exif(65_000, 5_400)))
    yield "jpeg 300 exifs", lambda: _with(*[segment(0xE1, exif + greedy_exif(65_000, 5_400))] * 300)
    yield "jpeg 1600 APP segments", lambda: _with(*[segment(0xE3, bytes(65_000))] * 1_600)
    yield "jpeg 1600 exifs", lambda: _with(*[segment(0xE1, exif + bytes(65_000))] * 1_600)
    yield "jpeg 100 MB comment", lambda: _with(*[segment(0xFE, b" " * 65_533)] * 1_530)
    yield "jpeg 1600 quantisations", lambda: _with(*[segment(0xDB, (b"\0" + b"\1" * 64) * 1_000)] * 1_600)
    yield "jpeg empty comments", lambda: _with(segment(0xFE, b"") * 5_000_000)
    yield "jpeg 20 MB junk", lambda: _with(bytes(20_000_000))
    yield "jpeg 20 MB padding", lambda: _with(b"\xff" * 20_000_000)
    yield "jpeg 20 MB of escapes", lambda: _with(b"\xff\0" * 10_000_000)


# GIF


def gif_head(canvas: tuple[int, int], *blocks: bytes) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", *canvas, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + b"".join(blocks)


def gif_frame(size: tuple[int, int], codes: bytes, flags: int = 0, code_size: int = 2) -> bytes:
    cut = [codes[at : at + 255] for at in range(0, len(codes), 255)]
    body = b"".join(bytes([len(block)]) + block for block in cut)
    return b"," + struct.pack("<HHHHB", 0, 0, *size, flags) + bytes([code_size]) + body + b"\0"


def growing_codes(pixels: int) -> bytes:
    """Returns the LZW codes of a blank picture, as few as possible: each adds one pixel to the previous string."""
    data = encode(Image.new("L", (WIDE, max(1, pixels // WIDE))), "GIF")
    at = data.index(b",", 13 + (3 << (data[10] & 7) + 1)) + 11
    codes = bytearray()
    while length := data[at]:
        codes += data[at + 1 : at + 1 + length]
        at += 1 + length
    return bytes(codes)


def gif_bombs() -> Iterator[Named]:
    clear = b"\x24\x49\x92"  # eight times the clear code, 4 in three bits
    one = gif_frame((1, 1), b"\x4c\x01")
    trans = b"!\xf9\4\x09\0\0\1\0"
    yield "gif 50mp", lambda: gif_head((WIDE, HIGH), gif_frame((WIDE, HIGH), growing_codes(WIDE * HIGH), 0, 8), b";")
    yield (
        "gif transparent interlaced 50mp",
        lambda: gif_head((WIDE, HIGH), trans, gif_frame((WIDE, HIGH), growing_codes(WIDE * HIGH), 0x40, 8), b";"),
    )
    yield "gif 65535 x 65535", lambda: gif_head((65_535, 65_535), one, b";")
    yield "gif frame beyond the canvas", lambda: gif_head((1, 1), gif_frame((65_535, 65_535), b"\x4c\x01"), b";")
    yield "gif 50mp canvas, one pixel", lambda: gif_head((WIDE, HIGH), trans, one, b";")
    yield "gif 500000 frames", lambda: gif_head((2, 2), one * 500_000, b";")
    yield "gif clear codes", lambda: gif_head((8, 8), gif_frame((8, 8), clear * 6_000_000), b";")
    yield "gif comment 100 MB", lambda: gif_head((2, 2), b"!\xfe", (b"\xff" + b" " * 255) * 390_000, b"\0", one, b";")
    yield "gif empty extensions", lambda: gif_head((2, 2), b"!\1\0\0" * 7_000_000, one, b";")
    yield "gif 20 MB junk", lambda: gif_head((2, 2), bytes(20_000_000), one, b";")
    yield "gif no frame", lambda: gif_head((2, 2), b";")


# WebP


def riff(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def riff_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)


def _vp8x(flags: int, width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return riff_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + size)


def _still(width: int, height: int, *, lossless: bool = True) -> bytes:
    """Returns the only chunk of a WebP file of one colour."""
    data = encode(Image.new("RGB", (width, height), "teal"), "WEBP", lossless=lossless, quality=0, method=0)
    return data[12:]


def webp_frames(canvas: tuple[int, int], count: int) -> bytes:
    frame = riff_chunk(b"ANMF", bytes(6) + bytes([7, 0, 0, 7, 0, 0]) + bytes([1, 0, 0, 0]) + _still(8, 8))
    return riff(_vp8x(2, *canvas), riff_chunk(b"ANIM", bytes(6)), frame * count)


def webp_tables(width: int, height: int) -> bytes:
    """Encodes a black lossless WebP with 65536 sets of tables; each set has 20 bits, and 5 KB when unpacked."""
    simple = "1000"  # a code of one symbol, 0
    # 12 code length codes, of which only the code for length 8 is used; then 256 symbols of length 8
    literal = "0" + "0001" + "000" * 11 + "100" + "1" + "110" + "01111111"
    head = f"{width - 1:014b}"[::-1] + f"{height - 1:014b}"[::-1] + "0000" + "0" + "0" + "1" + "000"
    across, down = -(-width // 4), -(-height // 4)
    indices = "".join(f"{n & 255:08b}{n >> 8:08b}" for n in range(65_536))
    image = "0" + literal * 2 + simple * 3 + (indices * (across * down // 65_536 + 1))[: 16 * across * down]
    bits = head + image + simple * 5 * 65_536 + "0" * 64
    data = int(bits[::-1], 2).to_bytes(-(-len(bits) // 8), "little")
    return riff(riff_chunk(b"VP8L", b"\x2f" + data))


def webp_bombs() -> Iterator[Named]:
    small = _still(8, 8)
    greedy = greedy_exif(1_000_000, 16_000)
    yield "webp lossless 50mp", lambda: riff(_still(16_383, 3_051))
    yield "webp lossless 45mp", lambda: riff(_still(16_383, 2_740))
    yield "webp 65536 tables", lambda: webp_tables(1_024, 1_024)
    yield "webp lossy 50mp", lambda: riff(_still(16_383, 3_051, lossless=False))
    yield "webp animation 50mp", lambda: webp_frames((16_383, 3_051), 2)
    yield "webp 300000 frames", lambda: webp_frames((8, 8), 300_000)
    yield "webp canvas 16 million squared", lambda: riff(_vp8x(0, 2**24, 2**24), small)
    yield "webp greedy exif", lambda: riff(_vp8x(8, 8, 8), small, riff_chunk(b"EXIF", greedy))
    yield "webp 100 MB xmp", lambda: riff(_vp8x(4, 8, 8), small, riff_chunk(b"XMP ", bytes(100_000_000)))
    yield "webp 100 MB exif", lambda: riff(_vp8x(8, 8, 8), small, riff_chunk(b"EXIF", bytes(100_000_000)))
    yield "webp unknown chunks", lambda: riff(_vp8x(0, 8, 8), small, riff_chunk(b"abcd", b"") * 2_000_000)


# BMP


def bmp_of(
    width: int, height: int, bits: int, compression: int, data: bytes, colours: int = 0, header: int = 40
) -> bytes:
    palette = bytes(range(256)) * 4 if bits <= 8 else b""
    offset = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, compression, len(data), 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + info + palette + data


def bmp_bombs() -> Iterator[Named]:
    yield "bmp rle8 50mp", lambda: bmp_of(WIDE, HIGH, 8, 1, (b"\xfa\1" * 40 + b"\0\0") * HIGH)
    yield "bmp rle8 single pixels", lambda: bmp_of(WIDE, 1_000, 8, 1, b"\1\1" * WIDE * 1_000)
    yield "bmp rle8 ends of lines", lambda: bmp_of(WIDE, HIGH, 8, 1, b"\0\0" * 10_000_000)
    yield "bmp rle8 filled by ends of lines", lambda: bmp_of(WIDE, HIGH, 8, 1, b"\1\1\0\0" * HIGH)
    yield "bmp rle4 50mp", lambda: bmp_of(WIDE, HIGH, 4, 2, (b"\xfa\1" * 40 + b"\0\0") * HIGH)
    yield "bmp rle8 5mp of single pixels", lambda: bmp_of(2_500, 2_000, 8, 1, (b"\1\1" * 2_500 + b"\0\0") * 2_000)
    yield "bmp rle8 5mp filled by ends of lines", lambda: bmp_of(2_500, 2_000, 8, 1, b"\1\1\0\0" * 2_000)
    yield "bmp rle8 jumps", lambda: bmp_of(WIDE, HIGH, 8, 1, b"\0\2\xff\xff" * 1_000)
    yield "bmp of 4 billion colours", lambda: bmp_of(8, 8, 8, 0, bytes(64), 2**32 - 1)
    yield "bmp of a header of 4 GB", lambda: bmp_of(8, 8, 24, 0, bytes(100_000_000), header=2**32 - 1)
    yield "bmp 50mp without pixels", lambda: bmp_of(WIDE, HIGH, 24, 0, b"")
    yield "bmp 2 billion squared", lambda: bmp_of(2**31 - 1, 2**31 - 1, 24, 0, b"")
    yield "bmp of negative width", lambda: bmp_of(-8, 8, 24, 0, bytes(256))
    yield "bmp 1 bit 50mp", lambda: bmp_of(WIDE, HIGH, 1, 0, bytes(1_252 * HIGH))


# AVIF


def avif_bombs() -> Iterator[Named]:
    flat = {"speed": 10, "quality": 30}
    yield "avif 50mp", lambda: encode(Image.new("RGB", (WIDE, HIGH), "teal"), "AVIF", **flat)
    yield "avif with alpha 30mp", lambda: encode(Image.new("RGBA", (WIDE, 3_000), (9, 99, 9, 99)), "AVIF", **flat)
    yield "avif 64 MB of nothing", lambda: encode(Image.new("RGB", (8, 8)), "AVIF").ljust(2**26, b"\0")


def bombs() -> Iterator[Named]:
    """Yields the name of each file and the function that makes it, which takes a moment."""
    families = [png_bombs, jpeg_bombs, gif_bombs, webp_bombs, bmp_bombs]
    if is_installed("AVIF"):
        families.append(avif_bombs)
    for family in families:
        yield from family()
