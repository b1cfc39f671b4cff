"""Figures say what the scores say."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch

import kntools as kn
from kntools import plots
from kntools.attribution.attribution_result import Attribution
from kntools.attribution.knowledge_neurons import KnowledgeNeurons
from kntools.prompts import Prompt
from kntools.sites import Neuron

PROMPTS, LAYERS, WIDTH = 3, 4, 50


@pytest.fixture
def scores() -> torch.Tensor:
    return 0.1 * torch.randn(PROMPTS, LAYERS, WIDTH, generator=torch.Generator().manual_seed(0))


def attribution(scores: torch.Tensor, rule: str = "adaptive", target: str = " Ottawa") -> Attribution:
    nothing = torch.zeros(scores.shape[:2])
    return Attribution(
        scores=scores,
        residual=nothing,
        gap=nothing,
        probability=torch.zeros(len(scores)),
        nodes=nothing.long(),
        prompts=tuple(Prompt(f"text {i} <b>", target) for i in range(len(scores))),
        site="mlp.hook_post",
        rule=rule,
        metric="activation" if rule == "activation" else "probability",
        provenance={"model": "m", "fingerprint": "f", "settings": {}, "versions": {}},
    )


def cells(figure: go.Figure) -> Iterator[tuple[Neuron, float, int]]:
    """Every cell of a heatmap: the neuron that hovering names, the value, the rank that hovering names."""
    (trace,) = [t for t in figure.data if t.type == "heatmap"]
    for names, values, ranks in zip(trace.text, trace.z, trace.customdata, strict=True):
        for name, value, rank in zip(names, values, ranks, strict=True):
            layer, index = name[1:].split(".N")
            yield Neuron(int(layer), int(index)), float(value), int(rank)


@pytest.mark.parametrize("mode", ["leading", "ranked", "bins"])
@pytest.mark.parametrize("prompt", [None, 1])
def test_a_cell_holds_the_score_of_the_neuron_it_names(scores: torch.Tensor, mode: Any, prompt: int | None) -> None:
    chosen = scores.mean(0) if prompt is None else scores[prompt]
    found = list(cells(plots.neuron_heatmap(scores, mode=mode, prompt=prompt, columns=10)))
    assert len(found) == 10 * LAYERS
    for neuron, value, rank in found:
        assert value == pytest.approx(float(chosen[neuron.layer, neuron.index]))
        assert rank == 1 + int((chosen > value).sum())


def test_rows_are_layers(scores: torch.Tensor) -> None:
    figure = plots.neuron_heatmap(scores)
    (trace,) = figure.data
    assert list(trace.y) == list(range(LAYERS))
    for layer, names in enumerate(trace.text):
        assert all(name.startswith(f"L{layer}.N") for name in names)


def test_leading_columns_hold_the_strongest_neuron_of_each_sign(scores: torch.Tensor) -> None:
    named = {n for n, _, _ in cells(plots.neuron_heatmap(scores, columns=5))}
    mean = scores.mean(0)
    for flat in (int(mean.argmax()), int(mean.argmin())):
        assert Neuron(flat // WIDTH, flat % WIDTH) in named
    order = [int(c) for c in plots.neuron_heatmap(scores, columns=5).data[0].x]
    assert order == sorted(order)


def test_ranked_columns_fall_from_left_to_right(scores: torch.Tensor) -> None:
    z = np.abs(plots.neuron_heatmap(scores, mode="ranked").data[0].z)
    assert (np.diff(z, axis=1) <= 0).all()
    assert z[:, 0] == pytest.approx(scores.mean(0).abs().amax(1).numpy())


def test_bins_leave_no_neuron_out(scores: torch.Tensor) -> None:
    figure = plots.neuron_heatmap(scores, mode="bins", columns=7)
    starts = [int(x) for x in figure.data[0].x]
    assert starts[0] == 0 and len(starts) == 7
    mean, edges = scores.mean(0), [*starts, WIDTH]
    for neuron, value, _ in cells(figure):
        column = sum(start <= neuron.index for start in starts) - 1
        inside = mean[neuron.layer, edges[column] : edges[column + 1]]
        assert abs(value) == pytest.approx(float(inside.abs().max()))


def test_colours_are_symmetric_around_zero(scores: torch.Tensor) -> None:
    axis = plots.neuron_heatmap(scores).layout.coloraxis
    assert axis.cmin == -axis.cmax
    assert axis.cmax == pytest.approx(float(scores.mean(0).abs().max()))
    positions = [p for p, _ in axis.colorscale]
    assert positions == sorted(positions) and positions[0] == 0 and positions[-1] == 1


def test_an_attribution_and_its_tensor_give_the_same_cells(scores: torch.Tensor) -> None:
    from_result, from_tensor = attribution(scores).plot(), plots.neuron_heatmap(scores)
    assert (from_result.data[0].z == from_tensor.data[0].z).all()
    assert [n for n, _, _ in cells(from_result)] == [n for n, _, _ in cells(from_tensor)]


def test_marked_neurons_are_framed_and_always_in_view(scores: torch.Tensor) -> None:
    weakest = int(scores.mean(0).abs().amax(0).argmin())
    mark = [Neuron(2, weakest), Neuron(0, 7)]
    figure = plots.neuron_heatmap(scores, columns=3, mark=mark)
    columns = [int(x) for x in figure.data[0].x]
    framed = {(s.y0 + 0.5, columns[int(s.x0 + 0.5)]) for s in figure.layout.shapes}
    assert framed == {(n.layer, n.index) for n in mark}


def test_titles_name_prompt_answer_and_unit(scores: torch.Tensor) -> None:
    one = plots.neuron_heatmap(attribution(scores), prompt=0)
    assert one.layout.title.text == "Neuron scores: text 0 &lt;b&gt; → Ottawa"  # plotly must not read it as HTML
    assert one.layout.coloraxis.colorbar.title.text == "score (probability)"
    many = plots.neuron_heatmap(attribution(scores, rule="activation"))
    assert many.layout.title.text == "Neuron scores: mean of 3 prompts → Ottawa"
    assert many.layout.coloraxis.colorbar.title.text == "score (activation)"


def test_46080_neurons_fit_in_one_readable_figure() -> None:
    scores = torch.randn(1, 30, 1536, generator=torch.Generator().manual_seed(0))
    for mode in ("leading", "ranked", "bins"):
        figure = plots.neuron_heatmap(scores, mode=mode)
        assert np.shape(figure.data[0].z) == (30, 40)
        assert len(figure.to_json()) < 300_000


def test_bars_show_the_top_neurons_and_every_prompt(scores: torch.Tensor) -> None:
    att = attribution(scores)
    figure = plots.neuron_bars(att, k=6)
    bar, dots = figure.data
    assert list(bar.y) == [repr(n) for n in att.top(6)]
    assert list(bar.x) == pytest.approx([att.score_of(n) for n in att.top(6)])
    means = np.array(dots.x).reshape(PROMPTS, 6).mean(0)
    assert means == pytest.approx(np.array(bar.x), abs=1e-6)


def test_bars_of_knowledge_neurons(scores: torch.Tensor) -> None:
    kns = kn.knowledge_neurons(scores.abs())
    (bar,) = kns.plot().data
    assert list(bar.y) == [repr(n) for n in kns.neurons]
    assert list(bar.x) == pytest.approx(list(kns.scores))
    assert f"{kns.counts[0]} of {PROMPTS} prompts" in bar.customdata[0][0]


def test_layer_counts_add_up(scores: torch.Tensor) -> None:
    neurons = attribution(scores).top(20)
    (bar,) = plots.layer_histogram(neurons, n_layers=LAYERS).data
    assert list(bar.x) == list(range(LAYERS))
    assert sum(bar.y) == 20
    assert list(bar.y) == [sum(n.layer == layer for n in neurons) for layer in range(LAYERS)]


def test_groups_side_by_side_and_as_shares() -> None:
    kns = KnowledgeNeurons(
        neurons=(Neuron(0, 1), Neuron(2, 3)), share=0.7, converged=True, counts=(1, 1), scores=(1.0, 1.0), prompts=1,
        settings={},
    )  # fmt: skip
    groups = {"a": kns, "b": [(2, 5), (2, 6), (2, 6)]}
    figure = plots.layer_histogram(groups, n_layers=4)
    assert [list(b.y) for b in figure.data] == [[1, 0, 1, 0], [0, 0, 3, 0]]  # a repeated neuron counts again
    shares = plots.layer_histogram(groups, n_layers=4, normalize=True)
    assert [sum(b.y) for b in shares.data] == pytest.approx([1, 1])
    assert figure.data[1].name == "b (n = 3)"


def test_heatmap_says_every_value() -> None:
    changes = torch.tensor([[-0.25, 0.001], [0.5, 0.0]])
    heat, text = plots.heatmap(changes, rows=["r0", "r1"], columns=["c0", "c1"], say=True).data
    assert (heat.z == changes.double().numpy()).all()
    assert list(text.text) == ["-0.250", "+0.001", "+0.500", "0"]
    assert list(zip(text.y, text.x, strict=True)) == [("r0", "c0"), ("r0", "c1"), ("r1", "c0"), ("r1", "c1")]


def test_against_random_shows_every_draw() -> None:
    random = torch.rand(2, 5, generator=torch.Generator().manual_seed(0))
    figure = plots.against_random(["a", "b"], torch.tensor([0.9, 0.8]), torch.tensor([0.1, 0.2]), random)
    dots, before, after = figure.data[-3:]
    assert list(dots.x) == pytest.approx(random.flatten().tolist())
    assert list(dots.y) == ["a"] * 5 + ["b"] * 5
    assert list(before.x) == pytest.approx([0.9, 0.8])
    assert list(after.x) == pytest.approx([0.1, 0.2])


FRAME = pd.DataFrame(
    [
        {
            "name": f"<{name}>",
            "group": group,
            "kind": kind,
            "value": value,
            "low": value - 0.01 * n,
            "high": value + 0.1,
        }
        for n, (name, group, kind, value) in enumerate(
            [
                ("a", "x", "k", 0.2),
                ("b", "x", "k", -0.3),
                ("a", "y", "k", 0.4),
                ("b", "y", "l", 0.5),
                ("c", "y", "l", 1),
            ]
        )
    ]
)
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


def test_charts_draw_the_rows_of_their_table() -> None:
    figure = plots.bar_chart(FRAME, "name", "value", color="group", facet_col="kind")
    found = {}
    for bar in figure.data:
        kind = "k" if bar.xaxis == "x" else "l"
        ends = (np.subtract(bar.y, bar.error_y.arrayminus), np.add(bar.y, bar.error_y.array))
        found |= {(name, bar.name, kind): row for name, *row in zip(bar.x, bar.y, *ends, strict=True)}
    columns = ["value", "low", "high"]
    expected = {
        (f"&lt;{r['name'][1:-1]}&gt;", r["group"], r["kind"]): [r[c] for c in columns] for r in FRAME.to_dict("records")
    }
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(row) for key, row in expected.items())
    lying = plots.bar_chart(FRAME[:2], "value", "name").data[0]
    assert lying.orientation == "h" and list(lying.x) == [0.2, -0.3] and list(lying.y) == ["&lt;a&gt;", "&lt;b&gt;"]


def test_panels_and_colours_of_numbers_say_of_what() -> None:
    frame = pd.DataFrame({"layer": [0, 1, 0, 1], "prompt": [3, 3, 5, 5], "effect": [0.1, 0.2, 0.3, 0.4]})
    figure = plots.line_chart(frame, "layer", "effect", color="prompt", facet_col="prompt")
    assert [note.text for note in figure.layout.annotations] == ["prompt 3", "prompt 5"]
    assert {line.name: list(line.y) for line in figure.data} == {"prompt 3": [0.1, 0.2], "prompt 5": [0.3, 0.4]}


def test_dots_that_belong_together_are_joined() -> None:
    figure = plots.scatter_chart(FRAME[:4], "value", "name", color="group", join="name")
    lines = {line.y[0]: list(line.x) for line in figure.data if line.mode == "lines"}
    assert lines == {"&lt;a&gt;": [0.2, 0.4], "&lt;b&gt;": [-0.3, 0.5]}


def test_a_heatmap_of_any_table() -> None:
    values = torch.tensor([[0.1, -0.4], [0.2, 0.3]])
    figure = plots.heatmap({"first": values, "second": -2 * values}, rows=["a<b", "a<b"], x="head", unit="logit")
    assert [trace.z.tolist() for trace in figure.data] == [values.numpy().tolist(), (-2 * values).numpy().tolist()]
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == pytest.approx((-0.8, 0.8)), "one scale"
    assert list(figure.layout.yaxis.ticktext) == ["a&lt;b", "a&lt;b"], "equal labels have a row each"
    assert figure.layout.yaxis.range == (1.5, -0.5), "the first row is on top"
    frame = pd.DataFrame(values.numpy(), index=["this", "that"], columns=[10, 20])
    (trace,) = plots.heatmap(frame).data
    assert list(trace.y) == ["this", "that"] and list(trace.x) == [10, 20]
    with pytest.raises(ValueError, match="nan or inf"):
        plots.heatmap(values / 0)
    with pytest.raises(ValueError, match="any x any"):
        plots.heatmap(values[0])
    with pytest.raises(ValueError, match="rows= has 1 labels, the values have 2 rows"):
        plots.heatmap(values, rows=["this"])
    with pytest.raises(ValueError, match="equally many numbers"):
        plots.heatmap([[1.0, 2.0], [3.0]])


@pytest.mark.parametrize("read", [torch.Tensor.tolist, list, torch.Tensor.numpy, lambda x: [list(row) for row in x]])
def test_heatmaps_take_lists_and_arrays(read: Any) -> None:
    values = torch.tensor([[0.5, -0.25, 1], [2, 3, 4]])
    assert plots.heatmap(read(values)).data[0].z.tolist() == values.tolist()
    assert plots.trace_heatmap(read(values)).data[0].z.tolist() == values.T.tolist()
    assert plots.patch_heatmap(read(values), labels=["a", "b", "c"]).data[0].z.tolist() == values.T.tolist()


def test_traces_and_patches_take_plain_tensors() -> None:
    effects = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    tokens = [" the", " <cat>", " the", "\n"]
    for figure in (plots.trace_heatmap(effects, tokens=tokens), plots.patch_heatmap(effects, labels=tokens)):
        (trace,) = figure.data
        assert (trace.z == effects.T.numpy()).all()
        assert list(figure.layout.yaxis.ticktext) == ["the", "&lt;cat&gt;", "the", "\\n"]
    assert list(plots.trace_heatmap(effects).layout.yaxis.ticktext) == ["0", "1", "2", "3"]
    with pytest.raises(ValueError, match="any x 3"):
        plots.trace_heatmap(effects, tokens=tokens[:3])


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
