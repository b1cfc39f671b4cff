"""What interventions do: beside random neurons, neuron by neuron, and by token role and layer."""

from collections.abc import Sequence
from typing import Any, Unpack

import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from kntools.metrics import UNITS
from kntools.plots.charts import line_chart, scatter_chart
from kntools.plots.scores import finite, score_title
from kntools.plots.theme import CATEGORIES, NEUTRAL, POSITIVE, Look


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


def role_lines(profile: Any, *, before: bool = False, **look: Unpack[Look]) -> go.Figure:
    """Mean indirect effect per layer, a line per token role and a panel per kind of trace (Niu et al. 2024, figure 9).

    ```python
    kn.plots.role_lines(tracing_profile(model, prompts))
    ```

    Bands are 95 % intervals over prompts. `before` also shows the tokens before the subject, which the noise of a
    causal model does not reach.
    """
    frame = profile.to_frame()
    names = dict(zip(((kind, cut or "") for kind, cut in profile.variants), profile.variant_names, strict=True))
    frame["trace"] = [names[row.kind, row.severed] for row in frame.itertuples()]
    frame["tokens"] = [f"{row.role} (n = {row.n})" for row in frame.itertuples()]
    # A role has the same colour in all figures, so that they can be compared.
    colours = dict(zip(profile.roles, (NEUTRAL, *CATEGORIES), strict=False))
    figure = line_chart(
        frame if before else frame[~frame["role"].str.startswith("before")],
        "layer",
        "effect",
        color="tokens",
        facet_col="trace",
        labels={"effect": f"indirect effect ({UNITS.get(profile.metric, profile.metric)})"},
        color_discrete_map={row.tokens: colours[row.role] for row in frame.itertuples()},
        **{"title": profile.describe(), **look},
    )
    return figure.for_each_trace(
        lambda line: line.update(line_width=3 if line.name.startswith("last") else 1.5), {"mode": "lines"}
    )


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
    frame["shown"] = frame["name"].where(frame["effect"].abs().rank(ascending=False) <= names, "")
    figure = scatter_chart(
        frame.rename_axis("order").reset_index(),
        "order" if scores is None else "score",
        "effect",
        text="shown",
        hover_name="name",
        hover_data=["prompt"],
        labels={
            "order": "neuron, in order of effect",
            "score": f"attribution {score_title(scores)}",
            "effect": f"change of {UNITS.get(scan.metric, scan.metric)}",
        },
        **{"title": scan.describe(), **look},
    )
    return figure.add_hline(y=0, line={"color": NEUTRAL, "width": 1}).update_traces(marker={"size": 5, "opacity": 0.6})
