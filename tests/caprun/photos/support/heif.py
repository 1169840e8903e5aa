"""Encodes HEIF files box by box, and the headers of HEVC and AV1 bit by bit."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from caprun.photos.heif import _Meta

DATA = Path(__file__).parents[1] / "data"
ALPHA = b"\0\0\0\0urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0"


class Item(NamedTuple):
    kind: bytes
    data: bytes
    properties: Sequence[tuple[bytes, bytes]]
    """Kind and content of each property."""


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full_box(kind: bytes, version: int, *parts: bytes, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def ispe(width: int, height: int) -> tuple[bytes, bytes]:
    return b"ispe", struct.pack(">III", 0, width, height)


def item_of(name: str) -> Item:
    """Reads picture 1 of a file in `data`."""
    found = heic(name)
    item = _Meta(found).picture(1)
    return Item(item.kind, item.data, [(one.kind, one.body) for one in item.properties])


def heic(name: str) -> bytes:
    return (DATA / f"{name}.heic").read_bytes()


def heif_of(
    items: Mapping[int, Item],
    references: Sequence[tuple[bytes, int, Sequence[int]]] = (),
    *,
    brand: bytes = b"heic",
    essential: Sequence[bytes] = (),
    extents: Mapping[int, Sequence[tuple[int, int]]] | None = None,
    more: bytes = b"",
) -> bytes:
    """Encodes a file with item 1 as main picture; `extents` replace offsets and lengths, `more` ends the meta box."""
    properties = list(dict.fromkeys(one for item in items.values() for one in item.properties))
    ipco = box(b"ipco", *(box(kind, body) for kind, body in properties))
    linked = b""
    for number, item in items.items():
        marks = [0x80 * (one[0] in essential) | 1 + properties.index(one) for one in item.properties]
        linked += struct.pack(">HB", number, len(marks)) + bytes(marks)
    iprp = box(b"iprp", ipco, full_box(b"ipma", 0, struct.pack(">I", len(items)), linked))
    infe = [full_box(b"infe", 2, struct.pack(">HH4sB", number, 0, item.kind, 0)) for number, item in items.items()]
    iinf = full_box(b"iinf", 0, struct.pack(">H", len(items)), *infe)
    links = [box(kind, struct.pack(f">HH{len(to)}H", source, len(to), *to)) for kind, source, to in references]
    ftyp = box(b"ftyp", brand, bytes(4), b"mif1", brand)
    hdlr = full_box(b"hdlr", 0, b"\0\0\0\0pict" + bytes(13))

    def head(start: int) -> bytes:
        places = b""
        for number, item in items.items():
            found = (extents or {}).get(number, [(start, len(item.data))])
            places += struct.pack(">HHH", number, 0, len(found)) + b"".join(struct.pack(">II", *one) for one in found)
            start += len(item.data)
        iloc = full_box(b"iloc", 0, b"\x44\0", struct.pack(">H", len(items)), places)
        iref = full_box(b"iref", 0, *links) if links else b""
        meta = full_box(b"meta", 0, hdlr, full_box(b"pitm", 0, b"\0\1"), iloc, iinf, iref, iprp, more)
        return ftyp + meta

    data = b"".join(item.data for item in items.values())
    return head(len(head(0)) + 8) + box(b"mdat", data)


def grid_of(tile: Item, rows: int, columns: int, width: int, height: int) -> bytes:
    """Encodes a grid in which every tile is a copy of `tile`."""
    body = bytes([0, 0, rows - 1, columns - 1]) + struct.pack(">HH", width, height)
    tiles = dict.fromkeys(range(2, 2 + rows * columns), tile)
    return heif_of({1: Item(b"grid", body, [ispe(width, height)]), **tiles}, [(b"dimg", 1, list(tiles))])


def _packed(bits: str) -> bytes:
    bits += "1" + "0" * (-(len(bits) + 1) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def _golomb(value: int) -> str:
    return f"{value + 1:b}".zfill(2 * (value + 1).bit_length() - 1)


def sequence_set(width: int, height: int, layers: int = 0, depth: int = 8, chroma: int = 1) -> bytes:
    """Encodes an HEVC sequence parameter set up to its bit depths; `layers` is the number of layers above the first."""
    bits = "0000" + f"{layers:03b}" + "1" + "0" * 96
    bits += "11" * layers + "00" * (8 - layers) * (layers > 0) + "0" * 96 * layers
    bits += _golomb(0) + _golomb(chroma) + "0" * (chroma == 3) + _golomb(width) + _golomb(height) + "0"
    body = _packed(bits + _golomb(depth - 8) * 2 + "0" * 64)
    return b"\x42\1" + body.replace(b"\0\0", b"\0\0\3")


def hvcc(*units: bytes) -> tuple[bytes, bytes]:
    arrays = b"".join(bytes([unit[0] >> 1 & 63, 0, 1]) + struct.pack(">H", len(unit)) + unit for unit in units)
    return b"hvcC", b"\1" + bytes(20) + bytes([0xF3, len(units)]) + arrays


def hevc_unit(kind: int, body: bytes, layer: int = 0) -> bytes:
    """Encodes an HEVC unit after its length in four bytes."""
    unit = bytes([kind << 1 | layer >> 5, (layer & 31) << 3 | 1]) + body
    return struct.pack(">I", len(unit)) + unit


def av1_sequence(width: int, height: int, *, reduced: bool = True) -> bytes:
    """Encodes an AV1 sequence header up to its size."""
    bits = "000" + "1" + str(int(reduced))
    if reduced:
        bits += "00000"
    else:
        timing = "0" * 64 + "1" + "010" + "1" + f"{4:05b}" + "0" * 42
        point = "0" * 12 + "01000" + "0" + "1" + "0" * 11 + "1" + "0000"
        bits += "1" + timing + "1" + "00000" + point
    bits += "1111" * 2 + f"{width - 1:016b}{height - 1:016b}"
    return _packed(bits + "0" * 40)


def av1_unit(kind: int, body: bytes) -> bytes:
    size = len(body)
    return bytes([kind << 3 | 2, size & 127 | 128, size >> 7]) + body
