"""The pictures of docs/gallery.md, from its own code: `python -m scripts.figures gallery`."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

import kntools as kn
from tests.pages import ROOT, read

PAGE, IMAGES = ROOT / "docs/gallery.md", ROOT / "docs/images"
# A block of code, and the picture below it if there is one.
SHOWN = re.compile(r"^```python\n(.*?)^```\n(?:\n!\[[^\]]*\]\(images/([\w-]+)\.png\))?", re.M | re.S)
WIDTH = 760


def figures() -> Iterator[tuple[str, Any]]:
    """Name of each picture, and the figure that the last line of its block gives. Run from the repository's root."""
    names: dict[str, Any] = {}
    for code, name in SHOWN.findall(read(PAGE)):
        *body, last = ast.parse(code).body
        if not name:
            exec(code, names)
            continue
        assert isinstance(last, ast.Expr), code
        exec(compile(ast.Module(body, []), str(PAGE), "exec"), names)
        yield name, eval(compile(ast.Expression(last.value), str(PAGE), "eval"), names)


def make() -> None:
    from scripts.figures import pictures

    with kn.set_options(progress=False):
        for name, figure in figures():
            [png] = pictures([json.loads(figure.to_json())], width=WIDTH)
            (IMAGES / f"{name}.png").write_bytes(png)
            print(f"{name}: {len(png) // 1024} kB", flush=True)
