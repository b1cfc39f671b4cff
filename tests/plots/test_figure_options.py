"""What every figure has and takes: labels, a title, sizes, a colour scale; and what is wrong for it."""

import json
from collections.abc import Callable
from html import unescape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch

import kntools as kn
from kntools import plots
from tests.plots.test_neuron_figures import attribution

FRAME = pd.DataFrame({"name": ["<a>", "<b>", "<a>", "<b>", "<c>"], "group": list("xxyyy"), "kind": list("kkkll")})
FRAME["value"] = [0.2, -0.3, 0.4, 0.5, 1]
FRAME["low"], FRAME["high"] = FRAME["value"] - 0.01 * FRAME.index, FRAME["value"] + 0.1
HEATMAPS: dict[str, Callable[..., go.Figure]] = {
    "leading": lambda s, **look: plots.neuron_heatmap(s, mode="leading", mark=[(0, 1)], **look),
    "ranked": lambda s, **look: plots.neuron_heatmap(s, mode="ranked", **look),
    "bins": lambda s, **look: plots.neuron_heatmap(s, mode="bins", **look),
    "result": lambda s, **look: attribution(s).plot(**look),
    "trace": lambda s, **look: plots.trace_heatmap(s[0], **look),
    "patch": lambda s, **look: plots.patch_heatmap(s[0], **look),
    "table": lambda s, **look: plots.heatmap(s[0], x="neuron", title=look.pop("title", "t"), **look),
}
OTHERS: dict[str, Callable[..., go.Figure]] = {
    "bars": lambda s, **look: plots.neuron_bars(s, **look),
    "set": lambda s, **look: kn.knowledge_neurons(s.abs()).plot(**look),
    "histogram": lambda s, **look: plots.layer_histogram(kn.knowledge_neurons(s.abs()), **look),
    "random": lambda s, **look: plots.against_random(["a"], torch.zeros(1), torch.zeros(1), torch.zeros(1, 2), **look),
    "bar chart": lambda s, **look: plots.bar_chart(FRAME, "name", "value", **{"title": "t", **look}),
    "line chart": lambda s, **look: plots.line_chart(FRAME, "name", "value", color="group", **{"title": "t", **look}),
    "scatter chart": lambda s, **look: plots.scatter_chart(
        FRAME, "low", "value", text="name", **{"title": "t", **look}
    ),
}


@pytest.mark.parametrize("draw", [*HEATMAPS.values(), *OTHERS.values()], ids=[*HEATMAPS, *OTHERS])
def test_every_figure_is_labelled_serialisable_and_not_shown(
    scores: torch.Tensor, monkeypatch: pytest.MonkeyPatch, draw: Any
) -> None:
    monkeypatch.setattr(go.Figure, "show", lambda *a, **k: pytest.fail("a figure was shown"))
    figure = draw(scores)
    assert json.loads(figure.to_json())["data"]
    assert figure.layout.title.text
    assert figure.layout.xaxis.title.text
    assert figure.layout.width is None, "as wide as the page"
    assert "text/html" in figure._repr_mimebundle_() or figure._repr_html_()  # Jupyter


@pytest.mark.parametrize("draw", [*HEATMAPS.values(), *OTHERS.values()], ids=[*HEATMAPS, *OTHERS])
def test_every_figure_takes_a_title_and_sizes(scores: torch.Tensor, draw: Any) -> None:
    layout = draw(scores, title="mine <b>", width=444, height=555).layout
    assert (layout.title.text, layout.width, layout.height) == ("mine &lt;b&gt;", 444, 555)
    assert draw(scores, title="").layout.margin.t < draw(scores, title="one").layout.margin.t


def test_every_figure_takes_a_colour_scale(scores: torch.Tensor) -> None:
    expected = [
        colour for _, colour in go.Figure(layout={"coloraxis": {"colorscale": "Viridis"}}).layout.coloraxis.colorscale
    ]
    for draw in HEATMAPS.values():
        found = draw(scores, colorscale="Viridis")
        assert [colour for _, colour in found.layout.coloraxis.colorscale] == expected
        assert all(trace.coloraxis == "coloraxis" for trace in found.data if trace.type == "heatmap")
    for name, draw in OTHERS.items():
        drawn = [t for t in draw(scores, colorscale="Greys").data if t.hoverinfo != "skip" and t.marker.color]
        colours = {c for t in drawn for c in ([t.marker.color] if isinstance(t.marker.color, str) else t.marker.color)}
        parts = [tuple(map(int, colour[4:-1].split(","))) for colour in colours]  # rgb(r, g, b)
        assert all(len(set(part)) == 1 for part in parts), (name, colours)
    line_colours = {line.line.color for line in OTHERS["line chart"](scores, colorscale="Greys").data if line.name}
    assert line_colours == {"rgb(255, 255, 255)", "rgb(0, 0, 0)"}, "the ends of the scale"


@pytest.mark.parametrize("draw", [HEATMAPS["table"], OTHERS["bars"], OTHERS["set"]])
def test_an_option_that_no_figure_has_is_an_error(scores: torch.Tensor, draw: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="widht"):
        draw(scores, widht=500)
    with pytest.raises(ValueError, match="colorscale"):
        draw(scores, colorscale="no such scale")


@pytest.mark.parametrize("width", [500, 800, None])
def test_title_legend_and_names_of_panels_stand_apart(width: int | None) -> None:
    """In pixels from the top: the title's lines end before the legend's begin, and these before the names of panels."""
    frame = pd.concat([FRAME.assign(group=f"a group with a rather long name, {n}") for n in range(7)])
    title = "a title that does not fit on one line " * 3
    layout = plots.bar_chart(frame, "name", "value", color="group", facet_col="kind", title=title, width=width).layout
    plot = layout.height - layout.margin.t - layout.margin.b
    lines, names = layout.title.text.count("<br>") + 1, layout.legend.y * plot - plot
    columns = max(1, ((width or 800) - 120) // (40 + 6.3 * 35))
    legend = layout.margin.t - names - 20 * -(-7 // columns)
    assert lines > 1 and 18 + 21 * lines <= legend and names >= 20
    assert [note.text for note in layout.annotations] == ["k", "l"]


def test_long_names_of_panels_do_not_cover_each_other() -> None:
    """They take lines of their own, above the panels; a name without spaces too."""
    names = ["attention output, 10 layers, MLPs severed", "determiner_noun_agreement_with_adjective_1", "a < b"]
    short, long = (
        plots.heatmap({f"{n} {name}": [[1.0]] for n, name in enumerate(given)}).layout for given in ("abc", names)
    )
    texts = [note.text for note in long.annotations]
    assert [unescape(text.replace("<br>", "")).replace(" ", "") for text in texts] == [
        f"{n}{name}".replace(" ", "") for n, name in enumerate(names)
    ]
    assert max(len(unescape(line)) for text in texts for line in text.split("<br>")) * 7.5 <= (800 - 120) / 3
    assert texts[1] == "1 determiner_noun_agreement_<br>with_adjective_1"
    assert plots.heatmap({"_ the": [[1.0]], "b": [[1.0]]}).layout.annotations[0].text == "_ the"
    assert long.margin.t == short.margin.t + 21


def test_importing_the_figures_leaves_the_default_template_alone() -> None:
    assert pio.templates.default == "plotly"
    assert {"kntools", "kntools_dark"} <= set(pio.templates)


@pytest.mark.parametrize(
    ("draw", "error", "says"),
    [
        (lambda s: plots.neuron_heatmap(s, mode="top"), ValueError, "'leading', 'ranked' or 'bins'"),
        (lambda s: plots.neuron_heatmap(s, columns=0), ValueError, "at least 1"),
        (lambda s: plots.neuron_heatmap(s, power=0.0), ValueError, "above 0"),
        (lambda s: plots.neuron_heatmap(s, prompt=3), IndexError, "prompt 3 does not exist"),
        (lambda s: plots.neuron_heatmap(s, mark=[(9, 0)]), IndexError, "L9.N0"),
        (lambda s: plots.neuron_heatmap(s[0]), ValueError, r"scores\[None\]"),
        (lambda s: plots.neuron_heatmap(s / 0), ValueError, "nan or inf"),
        (lambda s: plots.neuron_heatmap("scores"), ValueError, "give an Attribution"),
        (lambda s: plots.neuron_bars(s, k=0), ValueError, "at least 1"),
        (lambda s: plots.layer_histogram([(5, 0)], n_layers=3), ValueError, "n_layers=3"),
        (lambda s: plots.layer_histogram({}), ValueError, "at least one entry"),
        (lambda s: plots.layer_histogram("L9.N1"), ValueError, "list of Neuron"),
        (
            lambda s: plots.against_random(["a"], torch.zeros(1), torch.zeros(1), torch.zeros(1, 1) / 0),
            ValueError,
            "nan or inf",
        ),
    ],
)
def test_errors_say_what_to_give(draw: Any, error: type[Exception], says: str, scores: torch.Tensor) -> None:
    with pytest.raises(error, match=says):
        draw(scores)


def test_a_colour_scale_tells_all_groups_apart() -> None:
    frame = pd.DataFrame({"x": [0, 1, 0, 1], "y": [1.0, 2.0, 3.0, 4.0], "ok": [True, True, False, False]})
    found = {"color": plots.bar_chart(frame, "x", "y", color="ok", colorscale="Viridis").data}
    assert len({bar.marker.color for bar in found["color"]}) == 2
    named = frame.assign(kind=["a", "a", "b", "b"])
    dashed = plots.line_chart(named, "x", "y", line_dash="kind", colorscale="Viridis").data
    assert len({line.line.color for line in dashed}) == 2
    bars, dots = plots.bar_chart(frame, "x", "y", dots={"other": frame}, colorscale="Viridis").data
    assert bars.marker.color != dots.marker.color
