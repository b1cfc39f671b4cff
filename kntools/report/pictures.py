"""Figures as PNG and SVG files, where kaleido and a Chromium browser are there to draw them."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import plotly.io

from kntools.report.page import Chart

# What a figure is drawn as, and pixels per CSS pixel.
_FORMATS = {"png": 2, "svg": 1}
_WIDTH, _HEIGHT = 1000, 450


def write(folder: Path, pictures: Sequence[Chart]) -> tuple[list[Path], str]:
    """The files, drawn in one go (the browser's start takes its time), or why there are none."""
    if find_spec("kaleido") is None:
        return [], "no PNG and SVG files (the buttons on the page save them): pip install 'kntools[images]'"
    if not pictures:
        return [], ""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, list[Any]] = {"fig": [], "file": [], "width": [], "height": [], "scale": []}
    for picture in pictures:
        for ending, scale in _FORMATS.items():
            drawn["fig"].append(picture.figure)
            drawn["file"].append(folder / f"{picture.name}.{ending}")
            drawn["width"].append(max(_WIDTH, picture.min_width))
            drawn["height"].append(picture.figure.layout.height or _HEIGHT)
            drawn["scale"].append(scale)
    try:
        plotly.io.write_images(**drawn)
    except Exception as error:  # kaleido, the browser and what is between them have errors of many kinds
        return [], f"no PNG and SVG files (the buttons on the page save them): {type(error).__name__}: {error}"
    return drawn["file"], ""
