"""The pictures of the README, from its own code: `python -m scripts.figures readme`."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

import kntools as kn
from scripts.png import smaller
from tests import browser
from tests.pages import ROOT, blocks, read

IMAGES = ROOT / "docs/images"
# Width and height in CSS pixels of the pictures in the table, and of the one at the top.
SMALL, TOP, HEATMAP = (228, 134), (1100, 430), 620
PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; display: flex; background: white }} img {{ flex: none }}
div {{ min-width: 0; padding: 2px; font-size: 12px }} table {{ font-size: 11px }} h3 {{ font-size: 14px }}
</style><body><img src="data:image/png;base64,{png}" width="{width}">{card}"""


def figures() -> tuple[dict[str, Any], Any]:
    """Name -> figure, and the card: what the code of the page leaves."""
    names: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for code in blocks(read(ROOT / "README.md"), "python"):
            exec(code.replace('"heatmap.html"', repr(f"{folder}/heatmap.html")), names)
    model, edit, prompt = names["model"], names["edit"], names["prompt"]
    prompts = [prompt, kn.Prompt(prompt.text, " Rome"), kn.Prompt("The capital of France is", " Paris")]
    rows = []
    for when, hooks in (("before", []), ("after", edit.hooks(model))):
        for p in prompts:
            e = kn.encode(model, p)
            value = float(kn.sweep(model, e, [hooks], metric=kn.probability(e.target_ids)))
            rows.append({"answer": p.text.split()[3] + ":" + p.target, "probability": value, "edit": when})
    first = kn.integrated_gradients(model, prompt)
    drawn = {
        "attribution": kn.knowledge_neurons(names["att"], threshold=0.5).plot(),
        "patching": names["grid"].plot(),
        "tracing": names["trace"].plot(),
        "editing": kn.plots.bar_chart(pd.DataFrame(rows), "probability", "answer", color="edit", barmode="group"),
    }
    return {"top": first.plot(), **drawn}, kn.neuron_card(model, first.top(1)[0], prompt=prompt)


def thumbnail(figure: dict[str, Any]) -> dict[str, Any]:
    """Readable at 200 pixels: small letters, no title, no axis titles, no colour bar."""
    layout = figure["layout"]
    layout |= {"height": SMALL[1], "title": None, "font": {"size": 8}, "margin": {"l": 74, "r": 4, "t": 16, "b": 20}}
    layout["legend"] = {"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "title": None}
    for axis in (name for name in layout if re.match("[xy]axis", name)):
        layout[axis] |= {"title": None, "automargin": False, "tickfont": {"size": 8}}
    for trace in figure["data"]:
        if trace["type"] == "heatmap":
            trace["showscale"] = False
    for axis in (name for name in layout if name.startswith("coloraxis")):
        layout[axis]["showscale"] = False
    return figure


def screenshot(page: str, size: tuple[int, int], scale: float) -> bytes:
    """A page as the browser shows it."""
    with tempfile.TemporaryDirectory() as folder:
        file, image = Path(folder, "page.html"), Path(folder, "page.png")
        file.write_text(page, encoding="utf-8")
        command = [
            str(browser.find()), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={folder}/profile", f"--window-size={size[0]},{size[1]}",
            f"--force-device-scale-factor={scale}", f"--screenshot={image}", file.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        return image.read_bytes()


def make() -> None:
    from scripts.figures import pictures

    made, card = figures()
    specs = {name: json.loads(figure.to_json()) for name, figure in made.items()}
    top = specs.pop("top")
    top["layout"]["height"] = TOP[1]
    [heatmap] = pictures([top], width=HEATMAP, scale=1.5)
    page = PAGE.format(png=base64.b64encode(heatmap).decode(), width=HEATMAP, card=card._repr_html_())
    (IMAGES / "heatmap-and-card.png").write_bytes(smaller(screenshot(page, TOP, 1.5)))
    small = [thumbnail(spec) for spec in specs.values()]
    for name, png in zip(specs, pictures(small, width=SMALL[0], scale=2), strict=True):
        (IMAGES / f"readme-{name}.png").write_bytes(png)
