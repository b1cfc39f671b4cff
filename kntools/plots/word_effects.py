"""What an edit does to the probabilities of words: figures 5, 6 and 7 of Niu et al. 2024."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kntools.plots.localisation import error_bars
from kntools.plots.theme import CATEGORIES, NEUTRAL, POSITIVE, framed, new_figure, plain


def effect_bars(effect: Any, *, title: str | None = None) -> go.Figure:
    """Change of probability per word, sections apart, one panel per group; significant changes in red."""
    frame = effect.to_frame()
    groups = list(dict.fromkeys(frame["group"]))
    figure = make_subplots(
        rows=len(groups), cols=1, shared_xaxes=True, vertical_spacing=0.12 / len(groups) + 0.04,
        subplot_titles=[plain(f"prompts: {g}") for g in groups],
    )  # fmt: skip
    for number, group in enumerate(groups, start=1):
        some = frame[frame["group"] == group]
        for significant, colour in ((True, POSITIVE), (False, NEUTRAL)):
            # Every word keeps its place, whichever of the two it belongs to.
            value = some["change"].where(some["significant"] == significant)
            part = some.assign(change=value)
            figure.add_bar(
                x=[some["section"].map(plain), some["word"].map(plain)], y=value, marker_color=colour,
                name="significant" if significant else "not significant", legendgroup=str(significant),
                showlegend=number == 1, customdata=some[["before", "after", "p_corrected", "n"]],
                hovertemplate=(
                    "%{x}: %{y:+.3f}<br>%{customdata[0]:.4g} to %{customdata[1]:.4g}<br>p = %{customdata[2]:.2g}, "
                    "n = %{customdata[3]}<extra></extra>"
                ),
                **error_bars(part, "change", "low", "high"), row=number, col=1,
            )  # fmt: skip
    framed(figure, title or effect.describe(), height=160 + 290 * len(groups), panels=True)
    # Room for the last word, which is written aslant, and for the sections below the words.
    figure.update_layout(barmode="overlay", margin={"r": 70, "b": 80})
    figure.update_yaxes(title_text=f"change ({effect.header['change']})")
    return figure


def shift_dots(shift: Any, *, title: str | None = None) -> go.Figure:
    """Mean probability of each word before and after, joined by a line, on a logarithmic axis."""
    frame = shift.to_frame()
    groups = list(dict.fromkeys(frame["group"]))
    figure = make_subplots(
        rows=1, cols=len(groups), shared_yaxes=True, horizontal_spacing=0.04,
        subplot_titles=[plain(f"prompts: {g}") for g in groups],
    )  # fmt: skip
    for number, group in enumerate(groups, start=1):
        some = frame[frame["group"] == group]
        for row in some.itertuples():
            figure.add_scatter(
                x=[row.before, row.after], y=[plain(row.word)] * 2, mode="lines", line={"color": NEUTRAL, "width": 1},
                hoverinfo="skip", showlegend=False, row=1, col=number,
            )  # fmt: skip
        for column, colour in (("before", NEUTRAL), ("after", CATEGORIES[0])):
            figure.add_scatter(
                x=some[column], y=some["word"].map(plain), mode="markers", name=column, legendgroup=column,
                showlegend=number == 1, marker={"size": 8, "color": colour},
                hovertemplate=f"%{{y}} {column}: %{{x:.4g}}<extra></extra>", row=1, col=number,
            )  # fmt: skip
    framed(figure, title or shift.describe(), height=180 + 20 * len(shift.words), panels=True)
    figure.update_xaxes(type="log", dtick=1, title_text="probability (mean over prompts)")
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def bias_scatter(result: Any, *, title: str | None = None) -> go.Figure:
    """Effect of the edit against how often a word stands with plural rather than singular nouns."""
    frame = result.to_frame()
    figure = new_figure(
        title or result.describe(), height=460, x="log odds of a plural noun beside the word", y="change of probability"
    )
    # Neighbours have their names on different sides, for many words lie close together.
    frame["side"] = ["top center" if rank % 2 else "bottom center" for rank in frame["bias"].rank(method="first")]
    for n, (section, some) in enumerate(frame.groupby("section", sort=False)):
        figure.add_scatter(
            x=some["bias"], y=some["effect"], mode="markers+text", text=some["word"].map(plain),
            textposition=some["side"], name=plain(str(section)), customdata=some[["plural", "singular"]],
            marker={"size": 9, "color": CATEGORIES[n % len(CATEGORIES)]},
            hovertemplate="<b>%{text}</b>: %{y:+.3f}<br>"
            "%{customdata[0]} plural, %{customdata[1]} singular<extra></extra>",
        )  # fmt: skip
    figure.add_hline(y=0, line={"color": NEUTRAL, "width": 1})
    return figure
