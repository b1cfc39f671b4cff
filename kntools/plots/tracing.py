"""Layers x tokens: where patching or tracing changes the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kntools.plots.theme import MARK, diverging, framed, plain

_KINDS = {"hidden": "hidden state", "mlp": "MLP output", "attn": "attention output"}


def trace_heatmap(trace: Any, *, scores: bool = False, title: str | None = None) -> go.Figure:
    """The effect of every state of one trace: tokens down, layers across.

    ```python
    kn.plots.trace_heatmap(kn.causal_trace(model, prompt))
    ```

    Arguments:
        trace: a `Trace`.
        scores: show the probability with the state restored, not what the restoration added to it.

    Returns:
        A figure. The subject's tokens are bold, with a bar beside them; a token that occurs twice has two rows.
    """
    return trace_panels([trace], scores=scores, title=title)


def trace_panels(traces: Sequence[Any], *, scores: bool = False, title: str | None = None) -> go.Figure:
    """Several traces of one prompt side by side, on one colour scale: hidden states, MLPs and attention.

    ```python
    kn.plots.trace_panels([kn.causal_trace(model, prompt, kind=k) for k in ("hidden", "mlp", "attn")])
    ```

    Raises:
        ValueError: no traces, or traces of different prompts.
    """
    if not traces:
        raise ValueError("no traces to draw")
    first = traces[0]
    if any(t.tokens != first.tokens for t in traces):
        raise ValueError("traces side by side must be of one prompt; draw others in figures of their own")
    values = [(t.scores if scores else t.effect).numpy() for t in traces]
    figure = _panels([_panel_title(t) for t in traces] if len(traces) > 1 else None, len(traces))
    for column, (trace, z) in enumerate(zip(traces, values, strict=True), 1):
        _add_cells(figure, z.T, trace.tokens, column, range(z.shape[0]), trace.roles)
    _mark_rows(figure, first.tokens, first.subject, len(traces))
    what = "probability with the state restored" if scores else "indirect effect"
    text = title or (
        f"{_panel_title(first) if len(traces) == 1 else 'Causal trace'}: {first.prompt.text} →"
        f" {first.prompt.target.strip()} (clean {first.clean:.2f}, corrupted {first.corrupted:.2f})"
    )
    return _finish(figure, values, text, f"{what} (probability)", len(first.tokens), "layer")


def patch_heatmap(grid: Any, *, normalized: bool = False, title: str | None = None) -> go.Figure:
    """What each patch of a `PatchGrid` changed, in units of its metric; layers x positions, heads or neurons.

    ```python
    kn.plots.patch_heatmap(kn.activation_patch(model, clean, corrupted))
    ```

    Arguments:
        normalized: show where the metric lies between the corrupted (0) and the clean prompt (1).
    """
    z = (grid.normalized if normalized else grid.effect).numpy()
    n = len(grid.pairs)
    figure = _panels(None, 1)
    if grid.axis == "position":
        tokens = grid.tokens[0] if n == 1 else tuple(f"position {p}" for p in range(len(grid.tokens[0])))
        labels = [tokens[c] for c in grid.columns]
    else:
        labels = [f"{grid.axis} {c}" for c in grid.columns]
    _add_cells(figure, z.T, labels, 1, grid.layers, None)
    _mark_rows(figure, labels, range(0), 1)
    of = f"{grid.pairs[0][0].text} | {grid.pairs[0][1].text}" if n == 1 else f"mean of {n} pairs"
    direction = "noising" if grid.noising else "denoising"
    how = "Attribution patching" if grid.method == "attribution" else "Activation patching"
    unit = "share of the clean - corrupted gap" if normalized else f"change of {grid.metric}"
    return _finish(figure, [z], title or f"{how} of {grid.site}, {direction}: {of}", unit, len(labels), "layer")


def _panel_title(trace: Any) -> str:
    name = _KINDS[trace.kind]
    several = f", {trace.window} layers" if trace.window > 1 else ""
    cut = f", {trace.sever} severed" if trace.sever else ""
    return name[0].upper() + name[1:] + several + cut


def _panels(titles: Sequence[str] | None, count: int) -> go.Figure:
    return make_subplots(
        rows=1, cols=count, shared_yaxes=True, horizontal_spacing=0.03,
        subplot_titles=[plain(t) for t in titles] if titles else None,
    )  # fmt: skip


def _add_cells(
    figure: go.Figure, z: np.ndarray, labels: Sequence[str], column: int, layers: Sequence[int], roles: Any
) -> None:
    """One panel: `z [label layer]`. Rows are numbers, so that equal tokens stay apart."""
    if not np.isfinite(z).all():
        raise ValueError("the effects hold nan or inf, which cannot be drawn")
    names = [plain(repr(label)[1:-1]) for label in labels]
    notes = [[f"{n}<br>{role}" if role else n] for n, role in zip(names, roles or [""] * len(names), strict=True)]
    figure.add_heatmap(
        z=z,
        x=list(layers),
        y=list(range(len(labels))),
        text=[note * len(layers) for note in notes],
        hovertemplate="<b>%{text}</b><br>layer %{x}<br>%{z:+.4f}<extra></extra>",
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
        row=1,
        col=column,
    )


def _mark_rows(figure: go.Figure, labels: Sequence[str], subject: range, panels: int) -> None:
    """Token names at the rows; the subject's in bold, with a bar along them in every panel."""
    shown = [plain(label.strip() or repr(label)[1:-1]) for label in labels]
    figure.update_yaxes(range=[len(labels) - 0.5, -0.5], showgrid=False, zeroline=False)
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=[f"<b>{s}</b>" if i in subject else s for i, s in enumerate(shown)],
        row=1,
        col=1,
    )
    if len(subject):
        for column in range(1, panels + 1):
            figure.add_shape(
                type="line", xref="x domain", x0=0, x1=0, y0=subject[0] - 0.5, y1=subject[-1] + 0.5,
                line={"color": MARK, "width": 5}, row=1, col=column,
            )  # fmt: skip


def _finish(figure: go.Figure, values: Sequence[np.ndarray], title: str, unit: str, rows: int, x: str) -> go.Figure:
    largest = max(float(np.abs(v).max()) for v in values) or 1.0
    framed(figure, title, height=190 + 24 * max(rows, 6), panels=len(values) > 1)
    figure.update_layout(
        coloraxis={
            "colorscale": diverging(),
            "cmin": -largest,
            "cmax": largest,
            "colorbar": {
                "title": {"text": plain(unit), "side": "right"},
                "ticksuffix": " ",
                "thickness": 14,
                "outlinewidth": 0,
            },
        },
    )
    figure.update_xaxes(title_text=plain(x), showgrid=False, zeroline=False, tickformat="d")
    return figure
