"""Parses HEIC and AVIF files: only the main picture, its tiles and its alpha (ISO/IEC 23008-12).

Besides the main picture, a file can contain hundreds of pictures, videos and metadata, and decoders parse all of it.
The boxes that the main picture's pixels depend on are written to a new file, and only that file is decoded.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from caprun.errors import FormatError, ImageError
from caprun.photos.bitstreams import Coded, av1, hevc
from caprun.photos.picture import Picture

_MOST_BYTES = 2**26  # per file
_MOST_CODED = 2**23  # bytes of coded data; decoding takes half a second per megabyte
_MOST_BOXES = 10_000
_MOST_TILES = 900  # libheif reads at most a thousand pictures
_MOST_EXTENTS = 100
_SHARED = 2**22  # bytes of properties that tiles share
_MOST_PASSES = 4  # per pixel
_SPARE = 8_000_000  # pixels of tiles beyond the edges of a picture
_AVIF, _HEIF = (b"avif", b"avis"), (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_CODECS = {b"hvc1": (b"hvcC", hevc), b"av01": (b"av1C", av1)}
_PROPERTIES = (b"hvcC", b"av1C", b"ispe", b"pixi", b"colr", b"irot", b"imir", b"clap", b"auxC")
_LAYERS = (b"lsel", b"a1op")  # select a layer; the best layer is decoded
_ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0", b"urn:mpeg:hevc:2015:auxid:1\0")
_ORIENTATIONS = {0: (1, 4, 2), 1: (8, 5, 7), 2: (3, 2, 4), 3: (6, 7, 5)}
"""EXIF orientations by anticlockwise quarter turns: without mirroring, and with each of the two mirror axes."""


class _Property(NamedTuple):
    kind: bytes
    body: bytes
    essential: bool


@dataclass
class _Item:
    """A picture in the file."""

    kind: bytes
    data: bytes
    properties: list[_Property]
    coded: Coded | None = None
    """The parsed coded data; None for a grid of tiles."""
    tiles: "list[_Item]" = field(default_factory=list)

    def body_of(self, kind: bytes) -> bytes:
        return next(one.body for one in self.properties if one.kind == kind)

    @property
    def size(self) -> tuple[int, int]:
        width, height = struct.unpack_from(">II", self.body_of(b"ispe"), 4)
        return width, height


def kind_of(data: bytes) -> str | None:
    """Detects the format of a file from the brands in its first box; None for a video or a raw photo."""
    end = min(len(data), struct.unpack_from(">I", data)[0], 400)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
    return "Avif" if not brands.isdisjoint(_AVIF) else "Heif" if not brands.isdisjoint(_HEIF) else None


def take_apart(data: bytes) -> Picture:
    """Parses an encoded file, as `caprun.photos.formats.take_apart` does."""
    if len(data) > _MOST_BYTES:
        raise ImageError(f"is a HEIF file of more than {_MOST_BYTES >> 20} MiB; save its picture as a plain JPEG")
    meta = _Meta(data)
    picture = meta.picture(meta.primary)
    alpha = meta.alpha_of(meta.primary)
    pictures = [picture] if alpha is None else [picture, alpha]
    width, height = picture.size
    kinds, coded = zip(*((part.kind, part.coded) for one in pictures for part in one.tiles or (one,)), strict=True)
    if len(set(kinds)) != 1 or None in coded:
        raise ValueError("two codecs, or tiles of tiles")
    if sum(one.width * one.height for one in coded) > 3 * len(pictures) * width * height // 2 + _SPARE:
        raise ValueError("more pixels than declared")
    if sum(len(one.data) for one in coded) > _MOST_CODED:
        raise ImageError(f"has more than {_MOST_CODED >> 20} MiB of pixel data; save it as a plain JPEG")
    if sum(one.width * one.height * one.passes for one in coded) > _MOST_PASSES * width * height + _SPARE:
        raise ImageError("is made of too many pieces; save it as a plain JPEG")
    colours = (one.body for part in (picture, *picture.tiles[:1]) for one in part.properties if one.kind == b"colr")
    profile = next((body[4:] for body in colours if body[:4] in (b"prof", b"rICC")), None)
    for one in pictures:
        for part in (one, *one.tiles):
            part.properties = [each for each in part.properties if each.kind != b"colr" or each.body[:4] == b"nclx"]
    is_avif = b"av01" in kinds
    whole = _file(pictures, b"avif" if is_avif else b"heic")
    # libheif turns pictures; libavif leaves that to its caller
    orientation = _orientation(picture) if is_avif else 1
    # planes, their tiles, RGB, and Pillow's copies of it; more bits per channel take twice as much
    decoding = (20 + 13 * any(one.rich for one in coded) + 8 * (alpha is not None)) * width * height // 2
    return Picture(whole, (width, height), orientation, decoding, 4 * width * height, False, profile)


def _orientation(item: _Item) -> int:
    turns = mirror = 0
    for kind, body, _ in item.properties:
        if kind == b"irot":
            turns = body[0] & 3
        elif kind == b"imir":
            mirror = 1 + (body[0] & 1)
    return _ORIENTATIONS[turns][mirror]


def _boxes(data: bytes, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields the type of each box, and where its content starts and ends."""
    for _ in range(_MOST_BOXES):
        if position + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if size == 1:
            size = struct.unpack_from(">Q", data, start)[0]
            start += 8
        position = position + size if size else end
        if not start <= position <= end:
            raise ValueError("a truncated box")
        yield kind, start, position
    raise ImageError(f"has more than {_MOST_BOXES:,} boxes; save it again")


class _Meta:
    """The boxes that describe the pictures of a file."""

    def __init__(self, data: bytes) -> None:
        self._file, self._left = data, len(data) + _SHARED
        start, end = next((start, end) for kind, start, end in _boxes(data, 0, len(data)) if kind == b"meta")
        self._places = {kind: (start, end) for kind, start, end in _boxes(data, start + 4, end)}
        place = self._places[b"pitm"][0]
        self.primary = self._numbers(place + 4, data[place] > 0)[0]
        self._kinds = dict(self._read_kinds())
        self._references = list(self._read_references())
        self._associations = dict(self._read_associations())
        self._locations = dict(self._read_locations())

    def picture(self, number: int) -> _Item:
        """Reads a picture and its tiles."""
        item = self._item(number)
        if item.kind != b"grid":
            return item
        tiles = [to for kind, source, found in self._references if (kind, source) == (b"dimg", number) for to in found]
        if len(set(tiles)) != (item.data[2] + 1) * (item.data[3] + 1):
            raise ValueError("a number of tiles other than the grid's")
        item.tiles = [self._item(to) for to in tiles]
        width, height = item.size
        if item.data[4:] != struct.pack(">II" if item.data[1] & 1 else ">HH", width, height):
            raise ValueError("two sizes")
        return item

    def alpha_of(self, number: int) -> _Item | None:
        """Reads the alpha of a picture, if it has one."""
        for kind, source, found in self._references:
            if kind == b"auxl" and number in found:
                named = (one.body[4:] for one in self._properties(source) if one.kind == b"auxC")
                if any(name.startswith(_ALPHA) for name in named):
                    return self.picture(source)
        return None

    def _item(self, number: int) -> _Item:
        kind = self._kinds[number]
        if kind not in (*_CODECS, b"grid"):
            raise FormatError(f"holds a picture of type {_name(kind)}, which is not supported; save it as a JPEG")
        item = _Item(kind, self._data(number), [])
        for one in self._properties(number):
            if one.kind in _PROPERTIES:
                item.properties.append(one)
            elif one.essential and one.kind not in _LAYERS:
                raise FormatError(f"needs {_name(one.kind)}, a feature that is not supported; save it as a JPEG")
        if kind in _CODECS:
            name, read = _CODECS[kind]
            item.coded = coded = read(item.body_of(name), item.data)
            item.data = coded.data
            item.properties = [one._replace(body=coded.config) if one.kind == name else one for one in item.properties]
        return item

    def _properties(self, number: int) -> list[_Property]:
        start, count, wide = self._associations[number]
        step, bits = (2, 15) if wide else (1, 7)
        found = []
        for at in range(start, start + count * step, step):
            value = int.from_bytes(self._file[at : at + step], "big")
            if index := value & (1 << bits) - 1:
                kind, first, last = self._containers[index - 1]
                found.append(_Property(kind, self._take(first, last), value >> bits > 0))
        return found

    def _data(self, number: int) -> bytes:
        method, base, place, sizes = self._locations[number]
        count = struct.unpack_from(">H", self._file, place)[0]
        if method > 1 or count > _MOST_EXTENTS:
            raise FormatError("stores its picture in a way that is not supported; save it as a JPEG")
        first, last = self._places[b"idat"] if method else (0, len(self._file))
        parts, place = [], place + 2
        for _ in range(count):
            _, offset, length = self._fields(place, sizes)
            place += sum(sizes)
            start = first + base + offset
            parts.append(self._take(start, start + length if length else last))
        return b"".join(parts)

    def _take(self, start: int, end: int) -> bytes:
        """Copies a part of the file; all parts together may be only slightly longer than the file."""
        self._left -= end - start
        if not start <= end <= len(self._file) or self._left < 0:
            raise ValueError("a part outside the file")
        return self._file[start:end]

    def _numbers(self, position: int, wide: bool, count: int = 1) -> tuple[int, ...]:
        return struct.unpack_from(f">{count}{'I' if wide else 'H'}", self._file, position)

    def _fields(self, position: int, sizes: Iterable[int]) -> list[int]:
        values = []
        for size in sizes:
            values.append(int.from_bytes(self._file[position : position + size], "big"))
            position += size
        return values

    def _read_kinds(self) -> Iterator[tuple[int, bytes]]:
        """Yields the number and type of each item (ISO/IEC 14496-12, 8.11.6)."""
        start, end = self._places[b"iinf"]
        for _, at, _ in _boxes(self._file, start + (8 if self._file[start] else 6), end):
            wide = self._file[at] > 2
            place = at + (10 if wide else 8)
            yield self._numbers(at + 4, wide)[0], self._file[place : place + 4]

    def _read_references(self) -> Iterator[tuple[bytes, int, tuple[int, ...]]]:
        """Yields the references that pictures depend on: type, source and targets (8.11.12)."""
        start, end = self._places.get(b"iref", (0, 0))
        wide, size = (True, 4) if self._file[start] else (False, 2)
        for kind, at, _ in _boxes(self._file, start + 4, end):
            if kind in (b"dimg", b"auxl"):
                (source,), (count,) = self._numbers(at, wide), self._numbers(at + size, False)
                if count > _MOST_TILES:
                    raise ImageError(f"has {count:,} tiles; save it as a plain JPEG")
                yield kind, source, self._numbers(at + size + 2, wide, count)

    def _read_associations(self) -> Iterator[tuple[int, tuple[int, int, bool]]]:
        """Yields, for each item, the position, number and width of its property indices (8.11.14)."""
        boxes = list(_boxes(self._file, *self._places[b"iprp"]))
        self._containers = list(_boxes(self._file, *next(place for kind, *place in boxes if kind == b"ipco")))
        for kind, at, _ in boxes:
            if kind != b"ipma":
                continue
            wide_item, wide = self._file[at] > 0, self._file[at + 3] & 1 > 0
            place = at + 8
            for _ in range(self._count(at + 4, True)):
                (number,), place = self._numbers(place, wide_item), place + (4 if wide_item else 2)
                count = self._file[place]
                yield number, (place + 1, count, wide)
                place += 1 + count * (2 if wide else 1)

    def _read_locations(self) -> Iterator[tuple[int, tuple[int, int, int, tuple[int, int, int]]]]:
        """Yields, for each item, its construction method, base offset, extents' position and field sizes (8.11.3)."""
        at = self._places[b"iloc"][0]
        version, first, second = self._file[at], self._file[at + 4], self._file[at + 5]
        sizes = (second & 15 if version else 0, first >> 4, first & 15)
        wide = version > 1
        place = at + (10 if wide else 8)
        for _ in range(self._count(at + 6, wide)):
            (number,), place = self._numbers(place, wide), place + (4 if wide else 2)
            method = self._file[place + 1] & 15 if version else 0
            place += 4 if version else 2
            base = self._fields(place, [second >> 4])[0]
            place += second >> 4
            yield number, (method, base, place, sizes)
            place += 2 + self._numbers(place, False)[0] * sum(sizes)

    def _count(self, position: int, wide: bool) -> int:
        (count,) = self._numbers(position, wide)
        if count > _MOST_BOXES:
            raise ImageError(f"has more than {_MOST_BOXES:,} pictures; save it again")
        return count


def _name(kind: bytes) -> str:
    name = kind.decode("ascii", "replace")
    return name if name.isalnum() else "unknown"


def _file(pictures: list[_Item], brand: bytes) -> bytes:
    """Builds a file with a picture, or with a picture and its alpha."""
    items = [item for one in pictures for item in (one, *one.tiles)]
    numbers = {id(item): number for number, item in enumerate(items, 1)}
    properties = list(dict.fromkeys(one[:2] for item in items for one in item.properties))
    indices = {one: index for index, one in enumerate(properties, 1)}
    entries, associations, references = [], [], []
    for item in items:
        number = struct.pack(">H", numbers[id(item)])
        entries.append(_full_box(b"infe", 2, number + b"\0\0" + item.kind + b"\0"))
        marks = [indices[one[:2]] | one.essential << 15 for one in item.properties]
        associations.append(number + struct.pack(f">B{len(marks)}H", len(marks), *marks))
        if item.tiles:
            tiles = [numbers[id(tile)] for tile in item.tiles]
            references.append(_box(b"dimg", number, struct.pack(f">H{len(tiles)}H", len(tiles), *tiles)))
    if len(pictures) > 1:
        references.append(_box(b"auxl", struct.pack(">3H", numbers[id(pictures[1])], 1, 1)))
    count = struct.pack(">H", len(items))
    ipco = _box(b"ipco", *(_box(*one) for one in properties))
    ipma = _full_box(b"ipma", 0, struct.pack(">I", len(items)), *associations, flags=1)

    def head(start: int) -> bytes:
        """Returns everything before the pictures' data, which start at `start`."""
        places = []
        for item in items:
            places.append(struct.pack(">4H2I", numbers[id(item)], 0, 0, 1, start, len(item.data)))
            start += len(item.data)
        boxes = (
            _full_box(b"hdlr", 0, b"\0\0\0\0pict" + bytes(13)),
            _full_box(b"pitm", 0, b"\0\1"),
            _full_box(b"iloc", 1, b"\x44\0", count, *places),
            _full_box(b"iinf", 0, count, *entries),
            *([_full_box(b"iref", 0, *references)] if references else []),
            _box(b"iprp", ipco, ipma),
        )
        return _box(b"ftyp", brand, b"\0\0\0\0", b"mif1", brand) + _full_box(b"meta", 0, *boxes) + b"\0\0\0\0mdat"

    return b"".join([head(len(head(0))), *(item.data for item in items)])


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _full_box(kind: bytes, version: int, *parts: bytes, flags: int = 0) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), *parts)
