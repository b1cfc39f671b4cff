"""PNG files of figures, in a quarter of the bytes: the notebooks carry them.

Chromium is in a hurry: full colours with an alpha channel, and little compression. A chart has few colours, so here it
has 256: the most frequent ones, exactly, and those that are farthest from all others. The rest (edges of letters, steps
of a gradient) gets the nearest of these.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Bit depth, colour type, compression, filter, interlacing.
RGBA, INDEXED = (8, 6, 0, 0, 0), (8, 3, 0, 0, 0)
UP = 2  # the filter of a row that is stored as its difference from the one above
COLOURS = 256


def smaller(png: bytes) -> bytes:
    """The same picture in fewer bytes; as it came, where it is not what Chromium writes for an opaque page."""
    pixels = _opaque_pixels(png)
    if pixels is None:
        return png
    height, width, _ = pixels.shape
    found, where, count = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
    palette, nearest = _palette(found.astype(int), count)
    rows = np.pad(nearest[where].astype(np.uint8).reshape(height, width), ((0, 0), (1, 0)))  # in front: no filter
    made = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, *INDEXED),
        b"PLTE": palette.astype(np.uint8).tobytes(),
        b"IDAT": zlib.compress(rows.tobytes(), 9),
        b"IEND": b"",
    }
    return SIGNATURE + b"".join(_chunk(name, data) for name, data in made.items())


def _palette(colours: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The colours to keep, `[kept 3]`, and for each of all colours the number of the nearest one."""
    kept = np.argsort(-count, kind="stable")[: COLOURS // 2].tolist()
    distance = ((colours[:, None] - colours[kept]) ** 2).sum(-1)
    while len(kept) < min(COLOURS, len(colours)):
        kept.append(int(distance.min(1).argmax()))
        distance = np.column_stack([distance, ((colours - colours[kept[-1]]) ** 2).sum(-1)])
    return colours[kept], distance.argmin(1)


def _opaque_pixels(png: bytes) -> np.ndarray | None:
    """`[height width 3]`, or `None` for another kind of file."""
    parts = list(_chunks(png))
    width, height, *kind = struct.unpack(">IIBBBBB", parts[0][1])
    if tuple(kind) != RGBA:
        return None
    data = zlib.decompress(b"".join(data for name, data in parts if name == b"IDAT"))
    rows = np.frombuffer(data, np.uint8).reshape(height, 1 + 4 * width)
    pixels = rows[:, 1:].cumsum(axis=0, dtype=np.uint8).reshape(height, width, 4)
    return pixels[..., :3] if (rows[:, 0] == UP).all() and (pixels[..., 3] == 255).all() else None


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(SIGNATURE)
    while at < len(png):
        size, name = struct.unpack_from(">I4s", png, at)
        yield name, png[at + 8 : at + 8 + size]
        at += 12 + size


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
