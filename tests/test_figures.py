"""`scripts/figures.py`: pictures of figures, and small ones."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from scripts.figures import from_page, pictures
from scripts.png import SIGNATURE, smaller
from tests import browser


def chunks(png: bytes) -> dict[bytes, bytes]:
    """Name -> data; the checksums must be right."""
    found, at = {}, len(SIGNATURE)
    while at < len(png):
        size, name = struct.unpack_from(">I4s", png, at)
        data = png[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", png, at + 8 + size) == (zlib.crc32(name + data),)
        found[name], at = data, at + 12 + size
    return found


def as_chromium(pixels: np.ndarray, alpha: int = 255) -> bytes:
    """`[height width 3]` with an alpha channel, each row as its difference from the one above."""
    height, width, _ = pixels.shape
    rows = np.dstack([pixels, np.full((height, width), alpha)]).astype(np.uint8).reshape(height, -1)
    rows = np.diff(rows, axis=0, prepend=np.zeros((1, rows.shape[1]), np.uint8))
    data = zlib.compress(np.pad(rows, ((0, 0), (1, 0)), constant_values=2).tobytes(), 1)
    parts = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0), b"IDAT": data, b"IEND": b""}
    return SIGNATURE + b"".join(
        struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in parts.items()
    )


def pixels_of(png: bytes) -> np.ndarray:
    """Of a picture with a palette."""
    parts = chunks(png)
    width, height, *kind = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    assert kind == [8, 3, 0, 0, 0]
    palette = np.frombuffer(parts[b"PLTE"], np.uint8).reshape(-1, 3)
    rows = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, 1 + width)
    assert not rows[:, 0].any()
    return palette[rows[:, 1:]].astype(int)


def test_few_colours_are_kept_exactly() -> None:
    pixels = np.random.default_rng(0).choice(256, size=(20, 3))[np.arange(60 * 40).reshape(60, 40) % 20]
    small = smaller(as_chromium(pixels))
    assert np.array_equal(pixels_of(small), pixels)
    assert len(small) < len(as_chromium(pixels))


def test_of_many_colours_all_have_a_near_one() -> None:
    """A gradient of 300 reds on white: white and the frequent half stay, no red is far from its own."""
    reds = np.stack([np.full(300, 255), *[np.arange(300) * 255 // 299] * 2], axis=-1)
    reds[:, 2] = np.arange(300) // 2
    pixels = np.concatenate([np.full((50, 300, 3), 255), np.repeat(reds[None], 30, axis=0)])
    found = pixels_of(smaller(as_chromium(pixels)))
    assert np.array_equal(found[:50], pixels[:50])
    assert len(np.unique(found.reshape(-1, 3), axis=0)) == 256
    assert np.abs(found - pixels).max() <= 2


def test_other_pictures_come_back_as_they_are() -> None:
    pixels = np.zeros((4, 4, 3), dtype=int)
    clear, small = as_chromium(pixels, alpha=128), smaller(as_chromium(pixels))
    assert smaller(clear) is clear and smaller(small) is small


def test_a_figure_is_found_in_its_page_and_drawn(tmp_path: Path) -> None:
    figure = go.Figure(
        go.Scatter(x=[1, 2], y=[3.5, 4.5], name="a <b> {c}; </script>"), {"title": {"text": "T"}, "height": 300}
    )
    figure.write_html(tmp_path / "page.html", include_plotlyjs="directory")
    found = from_page((tmp_path / "page.html").read_text("utf-8"))
    assert go.Figure(found).to_plotly_json() == figure.to_plotly_json()
    with pytest.raises(ValueError, match="no figure"):
        from_page("<p>nothing</p>")
    if browser.find() is None:
        pytest.skip(browser.MISSING)
    lower = go.Figure(found).update_layout(height=200).to_plotly_json()
    drawn = [pixels_of(png) for png in pictures([found, lower], width=400, scale=2)]
    assert [pixels.shape for pixels in drawn] == [(600, 800, 3), (400, 800, 3)]
    assert all((pixels[0, 0] == 255).all() and pixels.min() < 100 for pixels in drawn), "something dark on white"
