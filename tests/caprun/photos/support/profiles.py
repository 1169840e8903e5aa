"""Encodes ICC profiles without a library (ICC.1:2010)."""

import struct

import numpy as np

P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
"""XYZ of Display P3's red, green and blue, adapted to D50."""
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))


def profile(space: bytes, tags: dict[bytes, bytes], *, pcs: bytes = b"XYZ ", kind: bytes = b"mntr") -> bytes:
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for tag, data in tags.items():
        table += struct.pack(">4s2I", tag, at + len(body), len(data))
        body += data.ljust(-(-len(data) // 4) * 4, b"\0")
    size = at + len(body)
    white = fixed(0.9642, 1.0, 0.8249)
    header = struct.pack(">I4sI4s4s4s12x4s", size, b"\0\0\0\0", 0x02400000, kind, space, pcs, b"acsp")
    return header.ljust(68, b"\0") + white.ljust(60, b"\0") + table + body


def fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def text(name: str) -> bytes:
    return b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name.encode() + bytes(1 + 12 + 67)


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


def srgb_curve() -> bytes:
    return b"para\0\0\0\0\0\3\0\0" + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def rgb_profile(primaries: tuple[tuple[float, ...], ...], name: str, curve: bytes | None = None) -> bytes:
    curve = curve or srgb_curve()
    tags = {b"desc": text(name), b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249)}
    for letter, xyz in zip((b"r", b"g", b"b"), primaries, strict=True):
        tags |= {letter + b"XYZ": b"XYZ \0\0\0\0" + fixed(*xyz), letter + b"TRC": curve}
    return profile(b"RGB ", tags)


def grey_profile(value: float) -> bytes:
    white = b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249)
    return profile(b"GRAY", {b"desc": text("grey"), b"wtpt": white, b"kTRC": gamma(value)})


def cmyk_profile(side: int = 2) -> bytes:
    """Encodes a CMYK profile that uses only black: lightness is 100 without black, and 0 with full black."""
    lightness = np.linspace(255, 0, side).round().astype(np.uint8)
    lab = np.stack([np.tile(lightness, side**3), *[np.full(side**4, 128, np.uint8)] * 2], axis=-1)
    ramp = bytes(range(256))
    matrix = fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut = b"mft1\0\0\0\0" + bytes([4, 3, side, 0]) + matrix + ramp * 4 + lab.tobytes() + ramp * 3
    return profile(b"CMYK", {b"desc": text("ink"), b"A2B0": lut}, pcs=b"Lab ", kind=b"prtr")
