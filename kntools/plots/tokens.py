"""Tokens, token roles, heads or neurons x layers: where tracing or patching changes the answer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import plotly.graph_objects as go

from kntools.arguments import several, without_effect
from kntools.metrics import UNITS
from kntools.plots.charts import line_chart
from kntools.plots.heatmaps import heatmap
from kntools.plots.scores import finite
from kntools.plots.theme import CATEGORIES, MARK, NEUTRAL, Look, plain
from kntools.results.display import number

_KINDS = {"hidden": "Hidden state", "mlp": "MLP output", "attn": "Attention output"}
_MOST = 40  # heads or neurons in one figure


def trace_heatmap(
    trace: Any, *, tokens: Sequence[str] | None = None, scores: bool = False, **look: Unpack[Look]
) -> go.Figure:
    """The effect of every state of one trace: tokens down, layers across.

    ```python
    kn.plots.trace_heatmap(kn.causal_trace(model, prompt))
    kn.plots.trace_heatmap(effects, tokens=["Canada", "is"])      # a plain tensor [layer token]
    ```

    Arguments:
        trace: a `Trace`, or effects `[layer token]`.
        tokens: of plain effects.
        scores: of a `Trace`, the metric with the state restored, and not what the restoration added to it.

    Returns:
        A figure. The subject's tokens are bold, with a bar beside them; a token that occurs twice has two rows.
    """
    if hasattr(trace, "tokens"):
        without_effect("for a Trace, which has its tokens", tokens=tokens)
        return trace_panels([trace], scores=scores, **look)
    without_effect("for plain effects", scores=scores or None)
    return _layers_across({"": trace}, tokens, "Causal trace", look)


def trace_panels(traces: Sequence[Any], *, scores: bool = False, **look: Unpack[Look]) -> go.Figure:
    """Several traces of one prompt side by side, on one colour scale: hidden states, MLPs and attention.

    ```python
    kn.plots.trace_panels([kn.causal_trace(model, prompt, kind=k) for k in ("hidden", "mlp", "attn")])
    ```

    `scores` is as in `trace_heatmap`.
    """
    traces = several("traces", traces, "[kn.causal_trace(model, prompt)]")
    if not all(hasattr(trace, "per_sample") for trace in traces):
        raise TypeError(
            "traces are what kn.causal_trace returns; kn.plots.heatmap({name: effects}) draws plain tensors"
        )
    if not traces:
        raise ValueError("no traces to draw; give what kn.causal_trace returns")
    first = traces[0]
    if any((trace.tokens, trace.metric) != (first.tokens, first.metric) for trace in traces):
        raise ValueError("traces in one figure need the same prompt and metric; draw the others in separate figures")
    names = [_name(trace) for trace in traces]
    tables = {
        f"{name} ({n})" if names.count(name) > 1 else name: trace.scores if scores else trace.effect
        for n, (name, trace) in enumerate(zip(names, traces, strict=True), start=1)
    }
    what = names[0] if len(names) == 1 else "Causal trace"
    values = f"clean {number(first.clean)}, corrupted {number(first.corrupted)}"
    title = f"{what}: {first.prompt.text} → {first.prompt.target.strip()} ({values})"
    metric = first.metric.replace("_", " ")
    unit = f"{metric} with the state restored" if scores else f"indirect effect ({metric})"
    figure = _layers_across(tables, first.tokens, title, look, unit=unit)
    notes = [f"{token}<br>{role}" for token, role in zip(_exact(first.tokens), first.roles, strict=True)]
    ticks = [f"<b>{t}</b>" if i in first.subject else t for i, t in enumerate(figure.layout.yaxis.ticktext)]
    figure.update_traces(text=[[note] * len(first.effect) for note in notes]).update_yaxes(ticktext=ticks)
    if len(first.subject):
        ends = {"x0": 0, "x1": 0, "y0": first.subject[0] - 0.5, "y1": first.subject[-1] + 0.5}
        figure.add_shape(type="line", xref="x domain", **ends, line={"color": MARK, "width": 5}, row=1, col="all")
    return figure


def _name(trace: Any) -> str:
    several = f", {trace.window} layers" if trace.window > 1 else ""
    cut = f", {trace.sever} severed" if trace.sever else ""
    return _KINDS.get(trace.kind, trace.kind) + several + cut


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


def patch_heatmap(
    grid: Any, *, labels: Sequence[str] | None = None, normalized: bool = False, **look: Unpack[Look]
) -> go.Figure:
    """Effect of each patch, in units of the metric: layers across; positions, heads or neurons down.

    ```python
    kn.plots.patch_heatmap(kn.activation_patch(model, clean, corrupted))
    kn.plots.patch_heatmap(effects, labels=["head 0", "head 1"])      # a plain tensor [layer head]
    ```

    Of more than 40 heads or neurons, those with the largest |effect| in any layer are shown.

    Arguments:
        grid: a `PatchGrid`, or effects `[layer column]`.
        labels: of the columns of plain effects.
        normalized: of a `PatchGrid`, where the metric lies between the corrupted (0) and the clean prompt (1).
    """
    if not hasattr(grid, "pairs"):
        without_effect("for plain effects", normalized=normalized or None)
        return _layers_across({"": grid}, labels, "Patching", look)
    without_effect("for a PatchGrid, which has its labels", labels=labels)
    effects, axis = finite(grid.normalized if normalized else grid.effect, "effects", gaps=True), ""
    kept, (clean, corrupted), n = range(effects.shape[1]), grid.pairs[0], len(grid.pairs)
    if grid.axis == "position":
        names = [grid.tokens[0][c] if n == 1 else f"position {c}" for c in grid.columns]
    else:
        kept = np.sort(np.argsort(-np.nan_to_num(np.abs(effects)).max(0), kind="stable")[:_MOST]).tolist()
        names = [f"{grid.axis} {grid.columns[c]}" for c in kept]
        axis = f"the leading {len(kept)} of {effects.shape[1]:,}" if len(kept) < effects.shape[1] else ""
    of = f"{clean.text} | {corrupted.text}" if n == 1 else f"mean of {n} pairs"
    unit = "share of clean - corrupted" if normalized else f"change of {grid.metric}"
    title = f"{grid.title}: {of}"
    return _layers_across({"": effects[:, kept]}, names, title, look, layers=grid.layers, unit=unit, y=axis)


def _layers_across(
    tables: Mapping[str, Any],
    labels: Sequence[str] | None,
    title: str,
    look: Look,
    *,
    layers: Iterable[int] | None = None,
    y: str = "",
    unit: str = "effect",
) -> go.Figure:
    """A `heatmap` of `[layer label]` with a row per label. Rows are numbers, so that equal labels stand apart."""
    shape = (None, len(labels) if labels else None)
    found = {name: finite(table, "effects", shape, gaps=True).T for name, table in tables.items()}
    options: Look = {"title": title, **look}
    figure = heatmap(found, columns=layers, x="layer", y=y, unit=unit, **options)
    texts = _exact(labels or list(map(str, figure.data[0].y)))
    figure.update_yaxes(tickvals=list(range(len(texts))), ticktext=[text.strip() or text for text in texts])
    return figure.update_traces(
        text=[[text] * len(figure.data[0].x) for text in texts],
        hovertemplate="<b>%{text}</b><br>layer %{x}<br>%{customdata}<extra></extra>",
    )


def _exact(labels: Sequence[str]) -> list[str]:
    """With spaces and line breaks to be seen."""
    return [plain(repr(label)[1:-1]) for label in labels]
