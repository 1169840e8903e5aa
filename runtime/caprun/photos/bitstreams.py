"""Parses HEVC and AV1 data: the declared sizes, and only the units that a still picture needs.

A decoder allocates memory and computes by the sizes that the data declare, whatever size the container states.
"""

from collections.abc import Iterator
from typing import NamedTuple


class Coded(NamedTuple):
    """A coded picture."""

    config: bytes
    """Configuration record with the parameter sets of the base layer only."""
    data: bytes
    """Data of the first picture, base layer only."""
    width: int
    """Largest declared width."""
    height: int
    """Largest declared height."""
    passes: int
    """Upper bound on how often the data cover the picture: the number of HEVC slices or AV1 frames."""
    rich: bool
    """True for more than 8 bits per channel or 4:4:4 chroma, which take more memory to decode."""


_MOST_UNITS = 10_000
_HEVC_PARAMETERS = (32, 33, 34)  # video, sequence and picture parameter sets
_HEVC_SEQUENCE = 33
_AV1_SEQUENCE, _AV1_KEPT, _AV1_FRAMES = 1, (1, 3, 4, 6), (3, 6)  # headers, tiles and frames; a frame starts with 3 or 6


class _Bits:
    """Reads unsigned integers of any bit length, most significant bit first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("truncated data")
        return self._value >> self._left & (1 << count) - 1

    def golomb(self) -> int:
        """Reads an Exp-Golomb code (ITU-T H.265, 9.2)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)


def hevc(config: bytes, data: bytes) -> Coded:
    """Parses an HEVC picture: its `hvcC` box (ISO/IEC 14496-15, 8.3.2), and its units, each preceded by its length.

    Raises:
        ValueError, IndexError: The data are damaged.
    """
    parameters: dict[int, list[bytes]] = {}
    position = 23
    for _ in range(config[22]):
        count = int.from_bytes(config[position + 1 : position + 3], "big")
        position += 3
        for _ in range(count):
            start = position + 2
            position = start + int.from_bytes(config[position:start], "big")
            unit = config[start:position]
            if position > len(config):
                raise ValueError("a truncated parameter set")
            kind, layer = _hevc_unit(unit)
            if kind in _HEVC_PARAMETERS and layer == 0:
                parameters.setdefault(kind, []).append(unit)
    widths, heights, rich = zip(*map(_hevc_sequence, parameters[_HEVC_SEQUENCE]), strict=True)
    kept = config[:22] + bytes([len(parameters)])
    for kind, units in parameters.items():
        kept += bytes([0x80 | kind]) + len(units).to_bytes(2, "big")
        kept += b"".join(len(unit).to_bytes(2, "big") + unit for unit in units)
    slices: list[bytes] = []
    for unit, whole in _hevc_units(data, (config[21] & 3) + 1):
        kind, layer = _hevc_unit(unit)
        if kind < min(_HEVC_PARAMETERS) and layer == 0:
            if slices and unit[2] & 0x80:
                break  # the first slice of another picture
            slices.append(whole)
    return Coded(kept, b"".join(slices), max(widths), max(heights), len(slices), any(rich))


def _hevc_unit(unit: bytes) -> tuple[int, int]:
    """Returns the type and layer of a unit."""
    return unit[0] >> 1 & 63, (unit[0] & 1) << 5 | unit[1] >> 3


def _hevc_units(data: bytes, length: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields each unit without and with its length field of `length` bytes."""
    position = 0
    for _ in range(_MOST_UNITS):
        if position >= len(data):
            return
        start = position + length
        end = start + int.from_bytes(data[position:start], "big")
        if end > len(data):
            raise ValueError("a truncated unit")
        yield data[start:end], data[position:end]
        position = end
    raise ValueError("too many units")


def _hevc_sequence(unit: bytes) -> tuple[int, int, bool]:
    """Reads width, height and `rich` from a sequence parameter set (ITU-T H.265, 7.3.2.2)."""
    bits = _Bits(unit[2:200].replace(b"\0\0\3", b"\0\0"))
    bits.read(4)
    layers = bits.read(3)
    bits.read(1 + 88 + 8)
    present = [(bits.read(1), bits.read(1)) for _ in range(layers)]
    bits.read(2 * (8 - layers) if layers else 0)
    for profile, level in present:
        bits.read(88 * profile + 8 * level)
    bits.golomb()
    chroma = bits.golomb()
    if chroma == 3:  # 4:4:4
        bits.read(1)
    width, height = bits.golomb(), bits.golomb()
    for _ in range(4 * bits.read(1)):  # the conformance window
        bits.golomb()
    return width, height, chroma == 3 or bits.golomb() + bits.golomb() > 0


def av1(config: bytes, data: bytes) -> Coded:
    """Parses an AV1 picture: its `av1C` box, and its open bitstream units (AV1 specification, 5.3).

    Raises:
        ValueError, IndexError: The data are damaged.
    """
    sizes, kept, frames = [], [], 0
    rich = config[2] & 0x40 > 0 or config[2] & 0x18 == 0  # high bit depth, or neither monochrome nor subsampled
    position = 0
    for _ in range(_MOST_UNITS):
        if position >= len(data):
            break
        start, header = position, data[position]
        position += 2 if header & 4 else 1
        length = 0
        if header & 2:
            for shift in range(0, 56, 7):
                length |= (data[position] & 127) << shift
                position += 1
                if data[position - 1] < 128:
                    break
        else:
            length = len(data) - position
        body, position = position, position + length
        if position > len(data):
            raise ValueError("a truncated unit")
        kind = header >> 3 & 15
        if kind == _AV1_SEQUENCE:
            sizes.append(_av1_size(data[body:position]))
        frames += kind in _AV1_FRAMES
        if kind in _AV1_KEPT:
            kept.append(data[start:position])
    else:
        raise ValueError("too many units")
    return Coded(config[:4], b"".join(kept), max(w for w, _ in sizes), max(h for _, h in sizes), frames, rich)


def _av1_size(header: bytes) -> tuple[int, int]:
    """Reads the maximum width and height from a sequence header (AV1 specification, 5.5.1)."""
    bits = _Bits(header[:200])
    bits.read(4)
    if bits.read(1):  # reduced header of a still picture
        bits.read(5)
    else:
        delay = 0
        if bits.read(1):  # timing information
            bits.read(64)
            if bits.read(1):
                bits.golomb()
            if bits.read(1):
                delay = bits.read(5) + 1
                bits.read(42)
        display = bits.read(1)
        for _ in range(bits.read(5) + 1):
            bits.read(12)
            bits.read(1 if bits.read(5) > 7 else 0)
            if delay and bits.read(1):
                bits.read(2 * delay + 1)
            if display and bits.read(1):
                bits.read(4)
    across, down = bits.read(4) + 1, bits.read(4) + 1
    return bits.read(across) + 1, bits.read(down) + 1
