"""Charts, heatmaps and lines of any table."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from kntools import plots
from tests.plots.test_figure_options import FRAME


def test_heatmap_says_every_value() -> None:
    changes = torch.tensor([[-0.25, 0.001], [0.5, 0.0]])
    heat, text = plots.heatmap(changes, rows=["r0", "r1"], columns=["c0", "c1"], say=True).data
    assert (heat.z == changes.double().numpy()).all()
    assert list(text.text) == ["-0.250", "+0.001", "+0.500", "0"]
    assert list(zip(text.y, text.x, strict=True)) == [("r0", "c0"), ("r0", "c1"), ("r1", "c0"), ("r1", "c1")]


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


def test_names_that_look_like_numbers_are_names() -> None:
    """Every row has a place of its own, in the order of the table."""
    names = ["1984", "7", "1990-01-01"]
    frame = pd.DataFrame({"token": names, "v": [1.0, 2.0, 3.0]})
    dots = plots.against_random(names, torch.ones(3), torch.zeros(3), torch.ones(3, 2))
    for axis in (
        plots.bar_chart(frame, "v", "token").layout.yaxis,
        plots.line_chart(frame, "token", "v").layout.xaxis,
        dots.layout.yaxis,
    ):
        assert axis.type == "category" and set(axis.categoryarray) == set(names)


def test_panels_and_colours_of_numbers_say_of_what() -> None:
    frame = pd.DataFrame({"layer": [0, 1, 0, 1], "prompt": [3, 3, 5, 5], "effect": [0.1, 0.2, 0.3, 0.4]})
    figure = plots.line_chart(frame, "layer", "effect", color="prompt", facet_col="prompt")
    assert [note.text for note in figure.layout.annotations] == ["prompt 3", "prompt 5"]
    assert {line.name: list(line.y) for line in figure.data} == {"prompt 3": [0.1, 0.2], "prompt 5": [0.3, 0.4]}


def test_rows_of_one_line_have_places_of_their_own() -> None:
    """Two tokens of one name are two lines, and not one that goes up and down at every layer."""
    frame = pd.DataFrame(
        {"layer": [0, 1, 0, 1], "token": " the", "position": [1, 1, 4, 4], "effect": [0.1, 0.2, 0.3, 0.4]}
    )
    with pytest.raises(ValueError, match=r"several rows of one line at layer 0, token ' the'; give line_group="):
        plots.line_chart(frame, "layer", "effect", color="token")
    lines = plots.line_chart(frame, "layer", "effect", color="token", line_group="position").data
    assert [list(line.y) for line in lines] == [[0.1, 0.2], [0.3, 0.4]]


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


def test_a_cell_without_a_value_is_empty_in_every_heatmap_and_its_hover_says_so() -> None:
    values = torch.tensor([[1.0, float("nan")], [-2.0, 0.5]])
    for draw in (plots.heatmap, plots.trace_heatmap, plots.patch_heatmap):
        (trace,), scale = draw(values).data, draw(values).layout.coloraxis
        z, said = (np.array(x) for x in (trace.z, trace.customdata))
        assert (
            np.isnan(z).sum() == 1
            and said[np.isnan(z)].tolist() == ["no value"]
            and "%{customdata}" in trace.hovertemplate
        )
        assert sorted(said[~np.isnan(z)]) == ["+0.5", "+1", "-2"] and (scale.cmin, scale.cmax) == (-2, 2)
    assert plots.heatmap(values * torch.nan).layout.coloraxis.cmax == 1


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


def test_names_cover_no_other_and_all_are_shown_on_hover() -> None:
    names = ["far", *"abcdef"]
    frame = pd.DataFrame({"x": [5.0] + 6 * [0.0], "y": [1.0] + 6 * [0.0], "word": names})
    [dots] = plots.scatter_chart(frame, "x", "y", text="word").data
    assert list(dots.text) == ["far", "a", "b", "c", "d", "", ""]
    assert dots.textposition[0] == dots.textposition[1] == "top center" and len(set(dots.textposition[1:5])) == 4
    assert list(dots.hovertext) == names and "%{hovertext}" in dots.hovertemplate
    # What cannot be drawn hides none, and nothing is nothing.
    frame = pd.DataFrame({"x": [0.0, np.nan, 1.0], "y": [1.0, 2.0, 3.0], "word": ["a", "b", "c"]})
    assert list(plots.scatter_chart(frame, "x", "y", text="word").data[0].text) == ["a", "", "c"]
    plots.scatter_chart(frame[:0], "x", "y", text="word")
    # Many dots without a name hide none; names of the points themselves stay on hover.
    frame = pd.DataFrame({"x": range(300), "y": 0.0, "word": ["first"] + 299 * [""], "neuron": map(str, range(300))})
    [dots] = plots.scatter_chart(frame, "x", "y", text="word", hover_name="neuron").data
    assert dots.text[0] == "first" and list(dots.hovertext) == list(frame["neuron"])


@pytest.mark.parametrize("count", [1, 2, 4, 24])
def test_axes_of_few_numbers_have_no_ticks_between_cells(count: int) -> None:
    figure = plots.heatmap(np.zeros((count, count)))
    assert figure.layout.xaxis.dtick == figure.layout.yaxis.dtick == 1
    assert figure.layout.xaxis.mirror and figure.layout.yaxis.mirror  # cells of 0 have an outline, all together
    frame = pd.DataFrame({"layer": [27, 28], "effect": [0.1, 0.2]})
    for draw in (plots.bar_chart, plots.line_chart, plots.scatter_chart):
        assert draw(frame, "layer", "effect").layout.xaxis.dtick == 1


def test_heatmaps_side_by_side_have_room_for_their_ticks() -> None:
    figure = plots.heatmap({str(n): np.ones((4, 10)) for n in range(6)})
    assert figure.layout.xaxis.dtick is None and figure.layout.yaxis.dtick == 1


@pytest.mark.parametrize(("value", "says"), [(0.0, "effect, all 0"), (np.nan, "effect, no values"), (0.1, "effect")])
def test_a_heatmap_without_colour_says_why(value: float, says: str) -> None:
    figure = plots.heatmap({"a": [[value, value]], "b": [[value, 0.0 if value == 0 else value]]}, unit="effect")
    assert figure.layout.coloraxis.colorbar.title.text == says
