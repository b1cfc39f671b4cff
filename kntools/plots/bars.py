"""The leading neurons and their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kntools.plots.given import label, read_neurons, read_scores
from kntools.plots.theme import NEGATIVE, NEUTRAL, POSITIVE, new_figure
from kntools.sites import Neuron


@dataclass(frozen=True)
class _Bars:
    neurons: list[Neuron]
    values: list[float]
    notes: list[str]  # what hovering adds
    each: np.ndarray  # [prompt bar]; no rows where the prompts' own scores are not known
    title: str
    unit: str


def neuron_bars(given: Any, k: int = 20, *, prompt: int | None = None) -> go.Figure:
    """The leading neurons with their scores, the first at the top; a dot for each prompt.

    ```python
    kn.plots.neuron_bars(att, k=10)
    kn.plots.neuron_bars(kn.knowledge_neurons(att))
    ```

    Arguments:
        given: an `Attribution`, scores `[prompt layer neuron]`, or a `KnowledgeNeurons`.
        k: how many at most, by score.
        prompt: whose scores; `None` is the mean over prompts, with the single prompts as dots.

    Raises:
        ValueError: nothing that has scores, or `k` below 1.
        IndexError: a prompt that does not exist.
    """
    if k < 1:
        raise ValueError(f"k={k}; show at least 1 neuron")
    is_set = hasattr(given, "neurons") and hasattr(given, "counts")
    bars = _of_set(given, k) if is_set else _of_scores(given, k, prompt)
    names = [repr(n) for n in bars.neurons]
    figure = new_figure(bars.title, height=150 + 22 * max(len(names), 3), x=label("score", bars.unit), y="")
    figure.add_bar(
        x=bars.values,
        y=names,
        orientation="h",
        name="mean" if len(bars.each) else "score",
        marker_color=[POSITIVE if v >= 0 else NEGATIVE for v in bars.values],
        customdata=bars.notes,
        hovertemplate="<b>%{y}</b><br>score %{x:.3g}<br>%{customdata}<extra></extra>",
    )
    if len(bars.each):
        prompts = np.repeat(np.arange(bars.each.shape[0]), len(names))
        figure.add_scatter(
            x=bars.each.ravel().tolist(),
            y=names * bars.each.shape[0],
            mode="markers",
            name="single prompts",
            marker={"size": 7, "color": NEUTRAL, "line": {"width": 1, "color": "#ffffff"}},
            customdata=prompts.tolist(),
            hovertemplate="<b>%{y}</b><br>prompt %{customdata}: %{x:.3g}<extra></extra>",
        )
    figure.update_layout(
        showlegend=bool(len(bars.each)),
        yaxis={"autorange": "reversed", "type": "category", "dtick": 1, "showgrid": False},
        xaxis={"zeroline": True},
    )
    return figure


def _of_scores(given: Any, k: int, prompt: int | None) -> _Bars:
    scores = read_scores(given, prompt)
    ranks = scores.ranks.ravel()
    first = np.argsort(ranks)[: min(k, ranks.size)]
    neurons = [Neuron(int(i) // scores.width, int(i) % scores.width) for i in first]
    several = prompt is None and scores.each.shape[0] > 1
    each = scores.each.reshape(scores.each.shape[0], -1)[:, first] if several else np.empty((0, len(first)))
    return _Bars(
        neurons=neurons,
        values=[float(scores.chosen[n.layer, n.index]) for n in neurons],
        notes=[f"rank {ranks[i]:,} of {ranks.size:,}" for i in first],
        each=each,
        title=f"Leading neurons: {scores.what}",
        unit=scores.unit,
    )


def _of_set(given: Any, k: int) -> _Bars:
    neurons = read_neurons(given)[:k]
    n = int(given.prompts)
    return _Bars(
        neurons=neurons,
        values=[float(s) for s in given.scores[:k]],
        notes=[f"in the coarse sets of {c} of {n} prompts" for c in given.counts[:k]],
        each=np.empty((0, len(neurons))),
        title=f"Knowledge neurons of {n} prompts (τ = {given.share:.2f}"
        + (")" if given.converged else ", not converged)"),
        unit="mean over prompts",
    )
