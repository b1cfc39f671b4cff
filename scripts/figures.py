"""Figures and notebooks of the documentation: `python -m scripts.figures COMMAND ...`, from the repository's root.

    png FIGURE.html FIGURE.png         a picture of a page that plotly wrote
    run NOTEBOOK.ipynb ...             run notebooks, and keep every figure in them as a picture too

Both need a Chromium browser; nothing is fetched.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import plotly.offline

from tests import browser

PLOTLY = "application/vnd.plotly.v1+json"
# CSS pixels.
WIDTH = 800
# What a figure is in a page that `write_html` wrote: the arguments of this call.
CALL = re.compile(r"Plotly\.newPlot\(\s*")
PAGE = """<!doctype html><meta charset="utf-8"><script>{plotly}</script><div id="figure"></div><script>
const figure = {figure};
Plotly.newPlot("figure", figure.data, figure.layout)
  .then(made => Plotly.toImage(made, {{format: "png", width: {width}, height: {height}, scale: {scale}}}))
  .then(url => {{ document.body.innerHTML = "<img id='png' src='" + url + "'>"; }});
</script>"""


def picture(figure: dict[str, Any], *, width: int = WIDTH, scale: float = 1) -> bytes:
    """A figure as PNG, drawn by a browser; `scale` is pixels per CSS pixel."""
    page = PAGE.format(
        plotly=plotly.offline.get_plotlyjs(),
        figure=json.dumps({"data": figure["data"], "layout": figure["layout"]}).replace("</", "<\\/"),
        width=width,
        height=figure["layout"].get("height", 450),
        scale=scale,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "figure.html")
        file.write_text(page, encoding="utf-8")
        seen = browser.visit(file, Path(folder, "profile"))
    found = re.search(r"""<img id="png" src="data:image/png;base64,([A-Za-z0-9+/=]+)""", seen.dom)
    if not found:
        raise RuntimeError(f"the browser drew no picture: {seen.console}")
    return base64.b64decode(found[1])


def from_page(html: str) -> dict[str, Any]:
    """The figure in a page."""
    decode, at = json.JSONDecoder().raw_decode, CALL.search(html)
    if at is None:
        raise ValueError("no figure of plotly in this page")
    found, position = [], at.end()
    for _ in range(3):  # name of the element, data, layout
        value, position = decode(html, position)
        found.append(value)
        position = len(html) - len(html[position:].lstrip(" \t\r\n,"))
    return {"data": found[1], "layout": found[2]}


def run_notebook(path: Path) -> None:
    """Run it in an empty folder, keep what it shows but for bars and warnings, and add pictures."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    for number, cell in enumerate(notebook.cells):
        cell.metadata.pop("execution", None)  # times of day
        if cell.cell_type != "code":
            continue
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        for output in cell.outputs:
            data = output.get("data", {})
            if PLOTLY in data:
                data["image/png"] = base64.b64encode(picture(data[PLOTLY])).decode()
                print(f"{path}, cell {number}: {len(data['image/png']) // 1024} kB")
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    png = commands.add_parser("png")
    png.add_argument("page", type=Path)
    png.add_argument("image", type=Path)
    png.add_argument("--width", type=int, default=WIDTH)
    png.add_argument("--scale", type=float, default=1.5)
    run = commands.add_parser("run")
    run.add_argument("notebooks", type=Path, nargs="+")
    options = parser.parse_args()
    if browser.find() is None:
        sys.exit(browser.MISSING)
    os.environ["PLOTLY_RENDERER"] = "plotly_mimetype"
    if options.command == "png":
        options.image.parent.mkdir(parents=True, exist_ok=True)
        options.image.write_bytes(
            picture(from_page(options.page.read_text("utf-8")), width=options.width, scale=options.scale)
        )
    else:
        for path in options.notebooks:
            run_notebook(path)


if __name__ == "__main__":
    main()
