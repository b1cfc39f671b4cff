"""Two attributions of the same prompts, neuron by neuron."""

from typing import Any, Unpack

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from kntools.plots.charts import scatter_chart
from kntools.plots.scores import read_scores
from kntools.plots.theme import NEUTRAL, Look
from kntools.results.statistics import pearson, spearman
from kntools.sites import Neuron


def score_scatter(
    att: Any, other: Any, *, prompt: int | None = None, k: int = 1000, names: int = 5, **look: Unpack[Look]
) -> go.Figure:
    """Scores of one attribution against those of another, a dot per neuron.

    ```python
    kn.plots.score_scatter(kn.integrated_gradients(model, prompt), kn.activation_x_gradient(model, prompt))
    ```

    The title has the correlations over all neurons. Where both are in one unit, scores are equal on the thin line.

    Arguments:
        att, other: each an `Attribution`, or scores `[prompt layer neuron]`, of the same neurons.
        prompt: whose scores; `None` is the mean over prompts.
        k, names: so many neurons are drawn (those with the highest |score| in either), and named.
    """
    across, down = given = [read_scores(one, prompt) for one in (att, other)]
    if across.chosen.shape != down.chosen.shape:
        raise ValueError(
            f"scores of {across.chosen.shape} and {down.chosen.shape} [layer neuron] are not of the same neurons"
        )
    neurons, values = np.argwhere(across.exists), np.stack([one.chosen[across.exists] for one in given])
    sizes = np.abs(values) / np.maximum(np.abs(values).max(axis=1, keepdims=True), 1e-30)
    kept = np.argsort(-sizes.max(axis=0), kind="stable")[:k]
    frame = pd.DataFrame(values[:, kept].T, columns=["x", "y"])
    frame["neuron"] = [repr(Neuron(*pair)) for pair in neurons[kept].tolist()]
    frame["shown"] = frame["neuron"].where(np.arange(len(kept)) < names, "")
    a, b = map(torch.from_numpy, values)
    shown = f", {k:,} of them shown" if k < len(neurons) else ""
    alike = f"Pearson {pearson(a, b):.2f}, Spearman {spearman(a, b):.2f} over {len(neurons):,} neurons{shown}"
    labels = {name: f"{source} {one.unit}" for name, source, one in zip("xy", _sources(att, other), given, strict=True)}
    options: dict[str, Any] = {"title": f"Scores of two attributions: {across.what} ({alike})", **look}
    figure = scatter_chart(frame, "x", "y", text="shown", hover_name="neuron", labels=labels, **options)
    if across.unit == down.unit:
        low, high = frame[["x", "y"]].to_numpy().min(), frame[["x", "y"]].to_numpy().max()
        figure.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line={"color": NEUTRAL, "width": 1})
    return figure.update_traces(marker={"size": 5, "opacity": 0.6})


def _sources(att: Any, other: Any) -> tuple[str, str]:
    """The difference between two attributions: the rule, else the model, else their order."""
    for read in (lambda one: one.rule, lambda one: one.provenance["model"]):
        if hasattr(att, "rule") and hasattr(other, "rule") and read(att) != read(other):
            return read(att), read(other)
    return "first", "second"
