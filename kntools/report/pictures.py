"""Figures as PNG and SVG files, where kaleido and a Chromium browser are there to draw them."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import plotly.io

from kntools.report.page import Chart

# What a figure is drawn as, and pixels per CSS pixel.
_FORMATS = {"png": 2, "svg": 1}
_WIDTH = 1000


def write(folder: Path, pictures: Sequence[Chart]) -> tuple[list[Path], str]:
    """The files, drawn in one go (the browser's start takes its time), or why there are none."""
    if find_spec("kaleido") is None:
        return [], "no PNG and SVG files (the buttons on the page save them): pip install 'kntools[images]'"
    if not pictures:
        return [], ""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [(picture, ending) for picture in pictures for ending in _FORMATS]
    written = [folder / f"{picture.name}.{ending}" for picture, ending in drawn]
    try:
        plotly.io.write_images(
            fig=[picture.figure for picture, _ in drawn],
            file=written,
            width=[max(_WIDTH, picture.min_width) for picture, _ in drawn],
            height=[picture.height for picture, _ in drawn],
            scale=[_FORMATS[ending] for _, ending in drawn],
        )
    except Exception as error:  # kaleido, the browser and what is between them have errors of many kinds
        return [], f"no PNG and SVG files (the buttons on the page save them): {type(error).__name__}: {error}"
    return written, ""
