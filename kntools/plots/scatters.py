"""Dots of results: an intervention beside random ones, and neurons by their effects and scores."""

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.metrics import UNITS
from kntools.plots.charts import scatter_chart
from kntools.plots.scores import finite, read_scores, score_title
from kntools.plots.theme import NEUTRAL, POSITIVE, Look
from kntools.results.statistics import pearson, spearman
from kntools.sites import Neuron


def against_random(
    labels: Sequence[str],
    before: Float[Tensor, " item"],
    after: Float[Tensor, " item"],
    random: Float[Tensor, "item draw"],
    *,
    name: str = "leading neurons",
    unit: str = "probability of the answer",
    **look: Unpack[Look],
) -> go.Figure:
    """Values before and after an intervention, and after the same one on random neurons (one dot per draw).

    ```python
    kn.plots.against_random(facts, clean, suppressed, suppressed_at_random)      # [fact], [fact], [fact draw]
    ```

    `name` is that of the intervention, `unit` that of the values.
    """
    count = len(labels)
    draws = finite(random, "random", (count, None))
    others = f"random neurons ({draws.shape[1]} draws)"
    groups = {others: draws, "untouched": finite(before, "before", (count,)), name: finite(after, "after", (count,))}
    rows = [
        {"item": label, unit: value, "what": what, "pair": None if what == others else label}
        for what, values in groups.items()
        for label, row in zip(labels, values.reshape(count, -1).tolist(), strict=True)
        for value in row
    ]
    figure = scatter_chart(
        pd.DataFrame(rows),
        unit,
        "item",
        join="pair",
        color="what",
        symbol="what",
        symbol_sequence=["circle", "line-ns-open", "diamond"],
        color_discrete_map={others: NEUTRAL, "untouched": POSITIVE, name: POSITIVE},
        labels={"item": ""},
        **{"title": "Suppressing the leading neurons and random ones", **look},
    )
    for what, marker in {"untouched": {"size": 18, "line_width": 3}, others: {"size": 8, "opacity": 0.55}}.items():
        figure.update_traces(marker=marker, selector={"name": what})
    return figure.update_traces(marker_size=12, selector={"name": name}).update_xaxes(rangemode="tozero")


def scan_scatter(scan: Any, scores: Any = None, *, names: int = 5, **look: Unpack[Look]) -> go.Figure:
    """The effect of ablating each neuron, against its attribution score if given, otherwise in order of size.

    ```python
    kn.plots.scan_scatter(kn.neuron_scan(model, prompt, layers=20), attribution)
    ```

    Arguments:
        scan: a `NeuronScan`.
        scores: an `Attribution` of the same prompts.
        names: so many neurons of the largest |effect| are named.
    """
    frame = scan.to_frame(scores).sort_values("effect", ignore_index=True)
    frame["name"] = [f"L{row.layer}.N{row.neuron}" for row in frame.itertuples()]
    figure = _neuron_dots(
        frame.rename_axis("order").reset_index(),
        "order" if scores is None else "score",
        "effect",
        frame["effect"].abs().rank(ascending=False) <= names,
        hover_data=["prompt"],
        labels={
            "order": "neuron, in order of effect",
            "score": f"attribution {score_title(scores)}",
            "effect": f"change of {UNITS.get(scan.metric, scan.metric)}",
        },
        **{"title": scan.describe(), **look},
    )
    return figure.add_hline(y=0, line={"color": NEUTRAL, "width": 1})


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
    frame["name"] = [repr(Neuron(*pair)) for pair in neurons[kept].tolist()]
    a, b = map(torch.from_numpy, values)
    shown = f", {k:,} of them shown" if k < len(neurons) else ""
    alike = f"Pearson {pearson(a, b):.2f}, Spearman {spearman(a, b):.2f} over {len(neurons):,} neurons{shown}"
    labels = {name: f"{source} {one.unit}" for name, source, one in zip("xy", _sources(att, other), given, strict=True)}
    title = f"Scores of two attributions: {across.what} ({alike})"
    figure = _neuron_dots(frame, "x", "y", frame.index < names, labels=labels, **{"title": title, **look})
    if across.unit == down.unit:
        low, high = values[:, kept].min(), values[:, kept].max()
        figure.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line={"color": NEUTRAL, "width": 1})
    return figure


def _neuron_dots(frame: pd.DataFrame, x: str, y: str, named: Any, **options: Any) -> go.Figure:
    """A dot per row with its `name` on hover, and beside it where the row is `named`."""
    frame = frame.assign(shown=frame["name"].where(named, ""))
    figure = scatter_chart(frame, x, y, text="shown", hover_name="name", **options)
    return figure.update_traces(marker={"size": 5, "opacity": 0.6})


def _sources(att: Any, other: Any) -> tuple[str, str]:
    """The difference between two attributions: the rule, else the model, else their order."""
    if hasattr(att, "rule") and hasattr(other, "rule"):
        if att.rule != other.rule:
            return att.rule, other.rule
        if att.provenance["model"] != other.provenance["model"]:
            return att.provenance["model"], other.provenance["model"]
    return "first", "second"
