"""Run a notebook as a reader would, and read what is in it."""

from __future__ import annotations

import ast
import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PATHS = sorted(EXAMPLES.glob("*.ipynb"))
PLOTLY = "application/vnd.plotly.v1+json"
MEASURED = {"x", "y", "z", "array", "arrayminus"}


def stored(name: str) -> Any:
    """The notebook as it is in the repository."""
    return nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)


# What a kernel begins with: no names, an empty folder, and kntools not yet imported. What is expensive and the same for
# all stays imported: PyTorch, transformers and TransformerLens.
ANEW = """
import os, sys
for _name in [n for n in sys.modules if n.split(".")[0] == "kntools"]:
    del sys.modules[_name]
os.chdir({folder!r})
get_ipython().reset(new_session=True)
__import__("gc").collect()
"""


@contextmanager
def kernel() -> Iterator[AsyncKernelManager]:
    """A kernel for several notebooks, one after another: starting Python and its imports take longer than some."""
    manager = AsyncKernelManager(kernel_name="python3")
    try:
        yield manager
    finally:
        if manager.has_kernel:
            run_sync(manager.shutdown_kernel)(now=True)


def execute(name: str, folder: Path, manager: AsyncKernelManager) -> Any:
    """The notebook after all its cells ran, from top to bottom, in an empty folder, with nothing of others."""
    notebook = stored(name)
    for cell in code(notebook):
        cell.outputs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLOTLY_RENDERER", "plotly_mimetype")
        patch.setenv("HF_HUB_OFFLINE", "1")
        begin = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(ANEW.format(folder=str(folder)))])
        for part in (begin, notebook):
            NotebookClient(part, timeout=600, km=manager).execute(reset_kc=True)
    return notebook


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in code(notebook) for output in cell.outputs]


def figures(notebook: Any) -> list[Any]:
    return [o.data[PLOTLY] for o in outputs(notebook) if PLOTLY in o.get("data", {})]


def shown(notebook: Any, words: str) -> Any:
    """What the only cell that holds these words shows as its result: text of several kinds, or a figure."""
    [cell] = [cell for cell in code(notebook) if words in cell.source]
    return cell.outputs[-1].data


def value_of(notebook: Any, words: str) -> Any:
    """The result of a cell as a value of Python."""
    return ast.literal_eval(shown(notebook, words)["text/plain"])


def traces_of(notebook: Any, words: str) -> list[Any]:
    """What is drawn in the figure of a cell."""
    return shown(notebook, words)[PLOTLY]["data"]


def numbers(field: Any) -> np.ndarray:
    """Numbers of a figure: a list, or bytes with their type and shape."""
    if isinstance(field, list):
        return np.array(field, dtype=float)
    flat = np.frombuffer(base64.b64decode(field["bdata"]), dtype=field["dtype"]).astype(float)
    return flat.reshape([int(n) for n in str(field.get("shape", flat.size)).split(",")])


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What a figure consists of: its words without digits, and what it measures as arrays."""
    if isinstance(value, dict) and "bdata" not in value:
        for key in sorted(value):
            yield from leaves(value[key], key)
    elif isinstance(value, list) and not all(isinstance(own, float | int | None) for own in value):
        for own in value:
            yield from leaves(own, name)
    elif isinstance(value, str):
        yield name, re.sub(r"[-+]?\d[-+.,\de]*", "#", value)
    elif name in MEASURED and not isinstance(value, float | int | None):
        yield name, numbers(value)


def check_same_figure(old: Any, new: Any) -> None:
    """Neurons of nearly equal scores may change places, and numbers by what another processor rounds."""
    before, after = list(leaves(old)), list(leaves(new))
    words, expected = ([leaf for leaf in each if isinstance(leaf[1], str)] for each in (before, after))
    assert words == expected, "the stored figure is of other code: python -m scripts.figures run"
    kept, found = ([leaf[1] for leaf in each if not isinstance(leaf[1], str)] for each in (before, after))
    for one, other in zip(kept, found, strict=True):
        np.testing.assert_allclose(one, other, rtol=0.05, atol=0.02 * np.nanmax(np.abs(other), initial=0))


def bars(trace: Any) -> dict[str, float]:
    """Name -> length of the bars of a trace, whichever way they lie."""
    names, lengths = (trace["y"], trace["x"]) if trace.get("orientation") == "h" else (trace["x"], trace["y"])
    return dict(zip(map(str, names), numbers(lengths).tolist(), strict=True))
