"""Hundreds of small malicious or damaged photos, identical on every call.

`photos()` yields all of them with their names. Small files that would take much time or memory to read are in
`hostile_bombs`, and folder entries that are not files in `hostile_places`.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image

from caprun.photos.extensions import is_installed
from tests.caprun.photos.support.encoding import chunk, encode
from tests.caprun.photos.support.heif import Item, grid_of, heic, heif_of, hvcc, ispe, item_of, sequence_set
from tests.caprun.photos.support.hostile_bombs import (
    bmp_of,
    flat_jpeg,
    gif_frame,
    gif_head,
    greedy_exif,
    interlaced_png,
    png_of,
    riff,
    riff_chunk,
    segment,
    turned_exif,
    webp_frames,
)
from tests.caprun.photos.support.profiles import P3, cmyk_profile, grey_profile, rgb_profile

WIDTH, HEIGHT = 40, 30
KINDS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
if is_installed("AVIF"):
    KINDS["AVIF"] = "avif"
Named = tuple[str, bytes]


def picture() -> Image.Image:
    """Draws a smooth picture with some noise and without symmetry."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    noise = np.random.default_rng(0).integers(0, 40, (HEIGHT, WIDTH, 3))
    return Image.fromarray((np.stack([x * 5, y * 7, (x + y) * 3], axis=-1) + noise).astype(np.uint8))


def by_mode() -> dict[str, Image.Image]:
    """Returns the picture in every mode that a file can have."""
    rgb = picture()
    grey = rgb.convert("L")
    clear = Image.fromarray(np.linspace(0, 255, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint8))
    rgba, la = rgb.copy(), grey.copy()
    rgba.putalpha(clear)
    la.putalpha(clear)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    modes = {"RGB": rgb, "L": grey, "1": rgb.convert("1"), "P": rgb.quantize(64), "CMYK": rgb.convert("CMYK")}
    return modes | {"RGBA": rgba, "LA": la, "I;16": deep}


_MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "L", "1", "P", "RGBA", "LA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("RGB", "L", "1", "P", "RGBA"),
    "BMP": ("RGB", "L", "1", "P"),
}


def modes_and_orientations() -> Iterator[Named]:
    images = by_mode()
    for kind, modes in _MODES.items():
        for mode in modes:
            for orientation in range(1, 9) if kind in ("JPEG", "PNG", "WEBP") else (1,):
                exif = Image.Exif()
                exif[ExifTags.Base.Orientation] = orientation
                data = encode(images[mode], kind, exif=exif, quality=90)
                yield f"{mode.replace(';', '-')} turned {orientation}.{KINDS[kind]}", data
    for options in ({"progressive": True}, {"subsampling": 0}, {"optimize": True}, {"restart_marker_blocks": 1}):
        yield f"{next(iter(options))}.jpg", encode(images["RGB"], "JPEG", **options)
    for lossless in (False, True):
        frames = [picture().rotate(angle) for angle in (90, 180)]
        yield (
            f"animated {lossless}.webp",
            encode(picture(), "WEBP", save_all=True, append_images=frames, lossless=lossless),
        )
    yield "animated.gif", encode(picture(), "GIF", save_all=True, append_images=[picture().rotate(90)], loop=0)
    yield "animated.png", encode(picture(), "PNG", save_all=True, append_images=[picture().rotate(90)])
    yield "several.jpg", encode(picture(), "MPO", save_all=True, append_images=[picture().rotate(90)])
    yield "clear colour.png", encode(images["P"], "PNG", transparency=3)
    yield "clear colours.png", encode(images["P"], "PNG", transparency=bytes(range(64)))
    yield "clear.gif", encode(images["P"], "GIF", transparency=3, interlace=1)
    yield "interlaced.png", interlaced_png(WIDTH, HEIGHT)
    for depth, colour in [(1, 0), (2, 0), (4, 0), (16, 0), (1, 3), (2, 3), (4, 3), (16, 2), (16, 4), (16, 6)]:
        samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
        rows = (b"\0" + bytes((8 * samples * depth + 7) // 8)) * 8
        palette = [chunk(b"PLTE", bytes(range(48)))] if colour == 3 else []
        yield f"depth {depth} colour {colour}.png", png_of(8, 8, depth, colour, zlib.compress(rows), *palette)
    for bits in (1, 4, 8, 16, 24, 32):
        yield f"{bits} bits.bmp", bmp_of(8, 8, bits, 0, bytes(range(256)))
    yield "runs.bmp", bmp_of(8, 8, 8, 1, (b"\4\1\0\4\1\2\3\4\0\0") * 8 + b"\0\1")
    yield "runs of 4 bits.bmp", bmp_of(8, 8, 4, 2, b"\x08\x12\0\0" * 8 + b"\0\1")


def broken_exif() -> Iterator[Named]:
    good = turned_exif(6)
    cases = {
        "cut": good[:-6],
        "empty": b"",
        "noise": np.random.default_rng(1).bytes(300),
        "no index": b"II*\0\xff\xff\xff\xff",
        "index within itself": b"II*\0\0\0\0\0",
        "65535 entries": b"II*\0\x08\0\0\0\xff\xff" + bytes(60),
        "greedy": greedy_exif(20_000, 1_500),
        "orientation 0": turned_exif(0),
        "orientation 9": turned_exif(9),
        "orientation as text": good.replace(b"\x01\x12\0\x03", b"\x01\x12\0\x02"),
        "orientation as a fraction": good.replace(b"\x01\x12\0\x03", b"\x01\x12\0\x05"),
        "of no values": good.replace(b"\0\0\0\1\0\6", b"\0\0\0\0\0\6"),
        "of 4 billion values": good.replace(b"\0\0\0\1\0\6", b"\xff\xff\xff\xff\0\6"),
        "unknown type": good.replace(b"\x01\x12\0\x03", b"\x01\x12\0\x63"),
        "big": b"MM\0+" + good[4:],
    }
    for name, exif in cases.items():
        for kind in ("JPEG", "PNG", "WEBP"):
            body = b"Exif\0\0" + exif
            yield f"exif {name}.{KINDS[kind]}", encode(picture(), kind, exif=body)


def profiled() -> Iterator[Named]:
    images = by_mode()
    rng = np.random.default_rng(3)
    p3 = rgb_profile(P3, "Display P3")
    profiles = {"p3": p3, "grey": grey_profile(1.8), "ink": cmyk_profile(), "cut": p3[:200], "noise": rng.bytes(500)}
    spoilt = bytearray(p3)
    spoilt[rng.integers(128, len(p3), 20)[0]] ^= 255
    profiles |= {"spoilt": bytes(spoilt), "of many tags": p3[:128] + b"\xff" * 4 + p3[132:]}
    for name, profile in profiles.items():
        for kind, mode in (("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "L"), ("WEBP", "RGB")):
            yield f"profile {name} {mode}.{KINDS[kind]}", encode(images[mode], kind, icc_profile=profile)


def truncations(count: int = 100) -> Iterator[Named]:
    """Yields files of every format, cut at positions from the first bytes to the last."""
    data = {kind: encode(picture(), kind) for kind in KINDS}
    for index in range(count):
        kind = list(KINDS)[index % len(KINDS)]
        kept = int(len(data[kind]) * (index + 0.5) / count)
        yield f"cut {index}.{KINDS[kind]}", data[kind][:kept]


def bit_flips(count: int = 100) -> Iterator[Named]:
    """Yields files of every format with one wrong bit; in every second file, it is in the first 80 bytes."""
    random = np.random.default_rng(2)
    data = {kind: encode(picture(), kind) for kind in KINDS}
    for index in range(count):
        kind = list(KINDS)[index % len(KINDS)]
        spoilt = bytearray(data[kind])
        spoilt[random.integers(80 if index % 2 else len(spoilt))] ^= 1 << random.integers(8)
        yield f"flip {index}.{KINDS[kind]}", bytes(spoilt)


def heifs() -> Iterator[Named]:
    """Yields HEIC files that are valid, cut, or have a wrong bit or byte, mostly in their boxes."""
    random = np.random.default_rng(4)
    sound = {name: heic(name) for name in ("photo", "tile", "alpha", "deep")}
    sound["grid"] = grid_of(item_of("tile"), 2, 2, 100, 90)
    for name, data in sound.items():
        yield f"{name}.heic", data
        for index in range(8):
            yield f"{name} cut {index}.heic", data[: int(len(data) * (index + 0.5) / 8)]
        for index in range(24):
            spoilt = bytearray(data)
            at = random.integers(len(data) if index % 3 == 0 else data.index(b"mdat"))
            spoilt[at] = random.integers(256) if index % 2 else spoilt[at] ^ 1 << random.integers(8)
            yield f"{name} spoilt {index}.heic", bytes(spoilt)
    photo = item_of("photo")
    vast = Item(b"hvc1", photo.data, [ispe(64, 48), hvcc(sequence_set(65_535, 65_535))])
    yield "coded larger than it says.heic", heif_of({1: vast})
    yield "in another's tiles.heic", heif_of({1: photo}, [(b"dimg", 1, [1])])
    yield "its own alpha.heic", heif_of({1: photo}, [(b"auxl", 1, [1])])
    yield "a film.heic", b"\0\0\0\x14ftypmsf1\0\0\0\0hevc" + bytes(100)


def other_formats() -> Iterator[Named]:
    """Yields files that are not photos despite their names or first bytes, and photos with the wrong extension."""
    rgb = picture()
    others = {
        "tiff": encode(rgb, "TIFF"),
        "eps": encode(rgb, "EPS"),
        "pdf": encode(rgb, "PDF"),
        "ico": encode(rgb, "ICO"),
        "tga": encode(rgb, "TGA"),
        "ppm": encode(rgb, "PPM"),
        "icns": encode(rgb.resize((32, 32)), "ICNS"),
        "psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(300),
        "fits": b"SIMPLE  =                    T".ljust(80)
        + b"BITPIX  = 8".ljust(80)
        + b"END".ljust(2720)
        + bytes(2880),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "ps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
        "html": b"<!DOCTYPE html><script>alert(1)</script>",
        "zip": b"PK\3\4" + bytes(100),
        "xbm": b"#define x_width 8\n#define x_height 8\nstatic char x_bits[] = {0,0,0,0,0,0,0,0};",
        "mp4": b"\0\0\0\x18ftypheic" + bytes(100),
        "txt": b"Dear Sir or Madam",
    }
    for name, data in others.items():
        yield f"plain.{name}", data
        yield f"{name} called.jpg", data
        yield f"{name} begun as a photo.jpg", b"\xff\xd8\xff\xe0" + data
    for kind, extension in KINDS.items():
        for other in set(KINDS.values()) - {extension}:
            yield f"really {extension}.{other}", encode(rgb, kind)


def polyglots() -> Iterator[Named]:
    rgb = picture()
    jpeg, png, gif = (encode(rgb, kind) for kind in ("JPEG", "PNG", "GIF"))
    yield "jpeg then zip.jpg", jpeg + b"PK\3\4" + bytes(500)
    yield "jpeg with a page inside.jpg", jpeg[:20] + segment(0xFE, b"<script>alert(1)</script>") + jpeg[20:]
    yield "png then jpeg.png", png + jpeg
    yield "gif then script.gif", gif + b"/*<script>*/"
    yield (
        "gif in its comment.gif",
        gif_head((1, 1), b"!\xfe\x20=1;alert(1);/*".ljust(35), b"\0", gif_frame((1, 1), b"\x4c\x01")),
    )
    yield "jpeg within a png.png", png[:33] + chunk(b"jpEG", jpeg) + png[33:]
    yield "pdf after a jpeg's start.jpg", b"\xff\xd8\xff%PDF-1.7\n" + jpeg[2:]
    yield "webp with a tail.webp", encode(rgb, "WEBP") + bytes(1_000)
    yield "riff of two.webp", riff(encode(rgb, "WEBP")[12:], encode(rgb, "WEBP")[12:])
    yield "riff of sound.webp", b"RIFF\x24\0\0\0WAVEfmt " + bytes(24)
    yield "bmp or text.bmp", b"BMW makes cars, and this is a letter about one of them."


def small() -> Iterator[Named]:
    for kind, extension in KINDS.items():
        yield f"one pixel.{extension}", encode(Image.new("RGB", (1, 1), "red"), kind)
    for kind in ("JPEG", "PNG", "BMP", "GIF"):
        yield f"tall.{KINDS[kind]}", encode(Image.new("L", (1, 50_000)), kind)
        yield f"wide.{KINDS[kind]}", encode(Image.new("L", (50_000, 1)), kind)
    magics = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"BM", b"\0\0\0\x14ftypavif")
    for extension, magic in zip(KINDS.values(), magics, strict=False):
        yield f"nothing.{extension}", b""
        yield f"one byte.{extension}", magic[:1]
        yield f"signature.{extension}", magic
        yield f"signature and zeros.{extension}", magic + bytes(1_000)
        yield f"signature and ones.{extension}", magic + b"\xff" * 1_000
    yield "no height.jpg", flat_jpeg(8, 8).replace(struct.pack(">HH", 8, 8), struct.pack(">HH", 0, 8))
    yield "five components.jpg", flat_jpeg(8, 8, 0xC0, 5)
    yield "two components.jpg", flat_jpeg(8, 8, 0xC0, 2)
    yield "lossless.jpg", flat_jpeg(8, 8, 0xC3)
    yield "hierarchical.jpg", flat_jpeg(8, 8, 0xC5)
    yield "no colours.png", png_of(8, 8, 8, 3, zlib.compress(bytes(72)))
    yield "unknown colour.png", png_of(8, 8, 8, 5, zlib.compress(bytes(72)))
    yield "no width.png", png_of(0, 8, 8, 2, zlib.compress(b""))
    yield (
        "two headers.png",
        png_of(
            8, 8, 8, 2, zlib.compress(bytes(200)), chunk(b"IHDR", struct.pack(">IIBBBBB", 9_999, 9_999, 8, 2, 0, 0, 0))
        ),
    )
    yield "two frames.jpg", flat_jpeg(8, 8)[:-2] + flat_jpeg(16, 16)[2:]
    yield "frame outside.webp", webp_frames((2, 2), 1)
    yield "no picture.webp", riff(riff_chunk(b"VP8X", bytes(10)))
    yield "frame outside.gif", gif_head((1, 1), b",\xff\xff\xff\xff\1\0\1\0\0\2\2\x4c\1\0;")
    yield "mask of no colours.bmp", bmp_of(8, 8, 32, 3, bytes(300))
    yield "unknown compression.bmp", bmp_of(8, 8, 24, 4, bytes(300))
    yield "33 bits.bmp", bmp_of(8, 8, 33, 0, bytes(300))
    yield "rows from the top.bmp", bmp_of(8, -8, 24, 0, bytes(300))


def photos() -> Iterator[Named]:
    """Yields the name and the content of every file; the names are unique."""
    sound = (modes_and_orientations, broken_exif, profiled)
    for family in (*sound, truncations, bit_flips, heifs, other_formats, polyglots, small):
        yield from family()
