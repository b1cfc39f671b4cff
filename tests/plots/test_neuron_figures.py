"""Figures of neurons say what the scores say."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from kntools import plots
from kntools.attribution.attribution_result import Attribution
from kntools.attribution.knowledge_neurons import KnowledgeNeurons
from kntools.prompts import Prompt
from kntools.sites import Neuron

PROMPTS, LAYERS, WIDTH = 3, 4, 50


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


def test_rows_are_layers_and_columns_are_neurons(scores: torch.Tensor) -> None:
    (trace,) = plots.neuron_heatmap(scores).data
    assert list(trace.y) == list(range(LAYERS))
    assert trace.text == tuple([f"L{layer}.N{index}" for index in trace.x] for layer in range(LAYERS))


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


@pytest.mark.parametrize(("stacked", "tick"), [(False, 1), (True, None)])
def test_numbers_of_neurons_have_no_halves(stacked: bool, tick: int | None) -> None:
    groups = {str(n): [(layer, n) for layer in range(9)] for n in range(7)}  # one neuron of each group in a layer
    assert plots.layer_histogram(groups, stacked=stacked).layout.yaxis.dtick == tick


def test_against_random_shows_every_draw() -> None:
    random = torch.rand(2, 5, generator=torch.Generator().manual_seed(0))
    figure = plots.against_random(["a", "b"], torch.tensor([0.9, 0.8]), torch.tensor([0.1, 0.2]), random)
    dots, before, after = figure.data[-3:]
    assert list(dots.x) == pytest.approx(random.flatten().tolist())
    assert list(dots.y) == ["a"] * 5 + ["b"] * 5
    assert list(before.x) == pytest.approx([0.9, 0.8])
    assert list(after.x) == pytest.approx([0.1, 0.2])
