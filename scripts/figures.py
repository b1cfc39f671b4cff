"""Figures and notebooks of the documentation: `python -m scripts.figures COMMAND ...`, from the repository's root.

    png FIGURE.html FIGURE.png         a picture of a page that plotly wrote
    run NOTEBOOK.ipynb ...             run notebooks, and keep every figure in them as a picture too
    readme                             run the code of README.md, and draw its pictures
    gallery                            run the code of docs/gallery.md, and draw its pictures
    results                            draw the results in docs/results that a page has pictures of

All need a Chromium browser; nothing is fetched.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.offline

import kntools as kn
from scripts.png import smaller
from scripts.result_commands import RESULTS, ROOT, SAVED
from tests import browser

PLOTLY = "application/vnd.plotly.v1+json"
WIDTH, SCALE = 800, 1.5  # CSS pixels of a figure, and pixels for each of them
IMAGES = ROOT / "docs" / "images"
# What a figure is in a page that `write_html` wrote: the arguments of this call.
CALL = re.compile(r"Plotly\.newPlot\(\s*")
PAGE = """<!doctype html><meta charset="utf-8"><body><script>{plotly}</script><script>
const figures = {figures};
(async () => {{
  for (const [figure, size] of figures) {{
    const image = document.createElement("img");
    image.src = await Plotly.toImage(figure, {{format: "png", ...size}});
    document.body.append(image);
  }}
}})();
</script>"""


def pictures(figures: Sequence[dict[str, Any]], *, width: int = WIDTH, scale: float = 1) -> list[bytes]:
    """Figures as PNG, drawn by one browser; `scale` is pixels per CSS pixel."""
    asked = [
        (
            {"data": figure["data"], "layout": figure["layout"]},
            {"width": width, "height": figure["layout"].get("height", 450), "scale": scale},
        )
        for figure in figures
    ]
    page = PAGE.format(plotly=plotly.offline.get_plotlyjs(), figures=json.dumps(asked).replace("</", "<\\/"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "figures.html")
        file.write_text(page, encoding="utf-8")
        seen = browser.visit(file, Path(folder, "profile"))
    found = re.findall(r"""<img src="data:image/png;base64,([A-Za-z0-9+/=]+)""", seen.dom)
    if len(found) != len(figures):
        raise RuntimeError(f"the browser drew {len(found)} of {len(figures)} pictures: {seen.console}")
    return [smaller(base64.b64decode(png)) for png in found]


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
    drawn = []
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            drawn += [o.data for o in cell.outputs if PLOTLY in o.get("data", {})]
    for data, png in zip(drawn, pictures([data[PLOTLY] for data in drawn]) if drawn else [], strict=True):
        data["image/png"] = base64.b64encode(png).decode()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)
    print(f"{path}: {len(drawn)} figures, {path.stat().st_size // 1024} kB")


def draw_results() -> None:
    names = sorted({path.stem for path in IMAGES.glob("*.png")} & {*SAVED})
    drawn = pictures([json.loads(kn.load(RESULTS / f"{name}.json").plot().to_json()) for name in names], scale=SCALE)
    for name, png in zip(names, drawn, strict=True):
        (IMAGES / f"{name}.png").write_bytes(png)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    png = commands.add_parser("png")
    png.add_argument("page", type=Path)
    png.add_argument("image", type=Path)
    png.add_argument("--width", type=int, default=WIDTH)
    png.add_argument("--scale", type=float, default=SCALE)
    run = commands.add_parser("run")
    run.add_argument("notebooks", type=Path, nargs="+")
    commands.add_parser("readme")
    commands.add_parser("gallery")
    commands.add_parser("results")
    options = parser.parse_args()
    if browser.find() is None:
        sys.exit(browser.MISSING)
    os.environ["PLOTLY_RENDERER"] = "plotly_mimetype"
    if options.command == "png":
        options.image.parent.mkdir(parents=True, exist_ok=True)
        figure = from_page(options.page.read_text("utf-8"))
        [png] = pictures([figure], width=options.width, scale=options.scale)
        options.image.write_bytes(png)
    elif options.command == "results":
        draw_results()
    elif options.command in ("readme", "gallery"):
        importlib.import_module(f"scripts.{options.command}").make()
    else:
        for path in options.notebooks:
            run_notebook(path)


if __name__ == "__main__":
    main()
