"""Effects by token role and layer, with bands: figure 9 of Niu et al. 2024, figure 2 of Meng et al. 2022."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kntools.plots.theme import CATEGORIES, NEUTRAL, framed, new_figure, plain

_BAND = 0.18
# Panels side by side; further ones stand in a row below.
_ACROSS = 3
# Of a row of panels, of what is between two rows, and of title, legend and axis, in pixels.
_PANEL, _BETWEEN, _AROUND = 290, 70, 200


def role_lines(profile: Any, *, title: str | None = None, before: bool = False) -> go.Figure:
    """Mean indirect effect per layer, one line per token role and one panel per kind of trace.

    ```python
    kn.plots.role_lines(tracing_profile(model, prompts))
    ```

    Arguments:
        profile: a `TracingProfile`.
        before: show the tokens before the subject too (in a causal model the noise does not reach them).

    Returns:
        A figure; bands are bootstrap intervals over prompts.
    """
    names = profile.variant_names
    mean, n = profile.mean(), profile.count()
    low, high = profile.interval()
    across, rows = min(_ACROSS, len(names)), -(-len(names) // _ACROSS)
    height = _AROUND + _PANEL * rows
    figure = make_subplots(
        rows=rows, cols=across, shared_xaxes="all", shared_yaxes="all", horizontal_spacing=0.03,
        vertical_spacing=_BETWEEN / (_PANEL * rows), subplot_titles=[plain(t) for t in names],
    )  # fmt: skip
    roles = [r for r in range(len(profile.roles)) if n[r] > 0 and (before or not profile.roles[r].startswith("before"))]
    layers = list(range(mean.shape[-1]))
    for v in range(len(names)):
        at = {"row": v // across + 1, "col": v % across + 1}
        for r in roles:
            role = profile.roles[r]
            colour = _colour(profile.roles, r)
            ends = low[v, r].tolist(), high[v, r].tolist()
            if not low[v, r].isnan().any():
                figure.add_scatter(
                    x=layers + layers[::-1], y=ends[1] + ends[0][::-1], fill="toself", mode="none",
                    fillcolor=_faded(colour), hoverinfo="skip", legendgroup=role, showlegend=False,
                    **at,
                )  # fmt: skip
            figure.add_scatter(
                x=layers, y=mean[v, r].tolist(), mode="lines", name=f"{plain(role)} (n = {int(n[r])})",
                line={"color": colour, "width": 2.5 if role.startswith("last") else 1.5}, legendgroup=role,
                showlegend=v == 0, **at,
                hovertemplate=f"{plain(role)}<br>layer %{{x}}<br>%{{y:+.4f}}<extra></extra>",
            )  # fmt: skip
    framed(figure, title or profile.describe(), height=height, panels=True)
    figure.update_xaxes(tickformat="d", showticklabels=True)
    for v in range(max(0, len(names) - across), len(names)):  # the lowest panel of each column
        figure.update_xaxes(title_text="layer", row=v // across + 1, col=v % across + 1)
    figure.update_yaxes(title_text="indirect effect (probability)", col=1)
    return figure


def scan_scatter(scan: Any, scores: Any = None, *, title: str | None = None, names: int = 5) -> go.Figure:
    """The effect of ablating each neuron, against its attribution score if that is given, else in order of size.

    ```python
    kn.plots.scan_scatter(kn.neuron_scan(model, prompt, layers=20), attribution)
    ```

    Arguments:
        scan: a `NeuronScan`.
        scores: an `Attribution` of the same prompt.
        names: so many neurons of the largest |effect| are named.
    """
    frame = scan.to_frame(scores)
    y = frame["effect"]
    if scores is None:
        frame = frame.sort_values("effect", ignore_index=True)
        x, y, what = frame.index, frame["effect"], "neuron, in order of effect"
    else:
        x, what = frame["score"], "attribution score (probability)"
    labels = [f"L{a}.N{b}" for a, b in zip(frame["layer"], frame["neuron"], strict=True)]
    named = set(y.abs().nlargest(names).index)
    figure = new_figure(title or scan.describe(), height=460, x=what, y=f"change of {scan.metric}")
    # The strongest lie close together at the ends: one name above, the next below.
    sides = ["top center" if n % 2 else "bottom center" for n in y.rank(method="first").astype(int)]
    figure.add_scattergl(
        x=x, y=y, mode="markers+text", text=[t if i in named else "" for i, t in enumerate(labels)],
        textposition=sides, customdata=labels, marker={"size": 5, "color": CATEGORIES[0], "opacity": 0.6},
        hovertemplate="<b>%{customdata}</b><br>%{x:.4g}<br>effect %{y:+.4g}<extra></extra>",
    )  # fmt: skip
    figure.add_hline(y=0, line={"color": NEUTRAL, "width": 1})
    return figure


def _colour(roles: Any, r: int) -> str:
    """Fixed per role, so that figures can be compared; grey for what is before the subject."""
    return NEUTRAL if r == 0 else CATEGORIES[(r - 1) % len(CATEGORIES)]


def _faded(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{_BAND})"
