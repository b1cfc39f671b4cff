"""Cells of the tables of `scripts.results`, and how the rows of a result are brought into the shape of a table."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from kntools.analyses.edit_result import SHARES


def column(name: str, digits: int = 3) -> Callable[[Any], object]:
    """A number or a word, as it is."""
    return lambda row: f"{row[name]:.{digits}f}" if isinstance(row[name], float) else row[name]


def interval(name: str, low: str = "", high: str = "", digits: int = 2) -> Callable[[Any], object]:
    """`0.52 (0.40 to 0.61)`."""
    ends = (low or f"{name}_low", high or f"{name}_high")
    return lambda row: f"{row[name]:.{digits}f} ({row[ends[0]]:.{digits}f} to {row[ends[1]]:.{digits}f})"


def share(name: str, low: str, high: str) -> Callable[[Any], object]:
    """`52 % (40 to 61)`."""
    return lambda row: f"{row[name]:.1%} ({100 * row[low]:.1f} to {100 * row[high]:.1f})".replace("%", " %")


def p_value(name: str) -> Callable[[Any], object]:
    return lambda row: "" if pd.isna(row[name]) else ("< 0.001" if row[name] < 0.001 else f"{row[name]:.3f}")


#: Scores of edits in the short table: data set -> scores of all facts, and of the facts that the model knew.
_SHORT = {
    "counterfact": (
        *("reliability, exact", "reliability, free", "paraphrase", "neighborhood", "neighborhood+", "neighborhood KL"),
        *("generation entropy", "perplexity"),
    ),
    "P36": ("reliability, exact", "symmetry, exact", "old direction gone, known", "two-hop, exact"),
    "P1376": ("reliability, exact", "symmetry, exact", "old direction gone, known"),
    "P101": ("reliability, exact", "synonym, exact", "synonym, exact, known"),
}
#: What the paper reports for ROME and GPT-2 XL.
_PAPER = {("P101", "reliability, exact"): "99.82 %", ("P101", "synonym, exact"): "52.35 %"}


def by_editor(frame: pd.DataFrame) -> pd.DataFrame:
    """Of evaluations of edits: a row per data set and score, a column per editor."""
    frame = frame.assign(
        shown=[_score(row) for row in frame.to_dict("records")],
        data=frame["file"].str.removeprefix("editors-"),
        score=frame["score"] + frame["condition"].map({"all": "", "known": ", known"}),
    )
    wide = frame.pivot(index=["data", "score", "n"], columns="method", values="shown")
    order = frame[["data", "score", "n"]].drop_duplicates()
    order = order.sort_values("data", key=lambda names: names.map([*_SHORT].index), kind="stable")
    wide = wide.reindex(index=pd.MultiIndex.from_frame(order)).fillna("").reset_index()
    return wide.assign(paper=[_PAPER.get((row.data, row.score), "") for row in wide.itertuples()])


def _score(row: Mapping[str, Any]) -> object:
    if row["score"] in SHARES:
        return f"{row['value']:.0%} ({100 * row['low']:.0f} to {100 * row['high']:.0f})".replace("%", " %")
    if pd.isna(row["low"]):
        return f"{row['value']:.3g}"
    return f"{row['value']:.3g} ({row['low']:.3g} to {row['high']:.3g})"


def in_short(frame: pd.DataFrame) -> pd.DataFrame:
    """The leading scores of `by_editor`."""
    wide = by_editor(frame)
    rows = wide.set_index(["data", "score"])
    return rows.loc[[(data, score) for data, scores in _SHORT.items() for score in scores]].reset_index()


def by_count(frame: pd.DataFrame) -> pd.DataFrame:
    """Of a forgetting curve: a row per editor, a column per number of edits, and the other scores after the most."""
    most = frame["edits"].max()
    shown = frame.assign(shown=[_score(row) for row in frame.to_dict("records")])
    held = shown[shown["score"] == "reliability, exact"].assign(column=lambda rows: rows["edits"].astype(str))
    kept = shown[shown["score"].isin(KEPT) & (shown["edits"] == most)].assign(column=lambda rows: rows["score"])
    wide = pd.concat([held, kept]).pivot(index="editor", columns="column", values="shown")
    return wide.loc[frame["editor"].unique()].reset_index()


#: Scores beside that of a forgetting curve.
KEPT = ("paraphrase", "neighborhood", "perplexity")


def by_state(frame: pd.DataFrame) -> pd.DataFrame:
    """Of a tracing profile: a row per kind of state, a column per site."""
    cell = interval("mean", "low", "high", digits=3)
    names = {name: frame[name].astype(object).fillna("") for name in ("kind", "severed")}
    shown = frame.assign(**names, shown=[cell(row) for row in frame.to_dict("records")])
    shown = shown[shown["what"] != "total effect"]
    wide = shown.pivot(index=["kind", "severed"], columns="what", values="shown").reset_index()
    order = list(dict.fromkeys(zip(shown["kind"], shown["severed"], strict=True)))
    wide["place"] = [order.index(key) for key in zip(wide["kind"], wide["severed"], strict=True)]
    return wide.sort_values("place")


def by_size(frame: pd.DataFrame) -> pd.DataFrame:
    """Of planted facts: a row per method and one for chance, a column per number of neurons."""
    cell = interval("recall", "low", "high")
    shown = frame.assign(shown=[cell(row) for row in frame.to_dict("records")], k=frame["k"].astype(str))
    chance = shown.drop_duplicates("k").assign(
        method="k/N", n="", shown=lambda rows: rows["chance"].map("{:.3f}".format)
    )
    both = pd.concat([shown, chance])
    order = list(dict.fromkeys(both["method"]))
    wide = both.pivot(index=["method", "n"], columns="k", values="shown").reset_index()
    return wide.sort_values("method", key=lambda names: names.map(order.index))


STATES = {"hidden": "hidden state", "mlp": "MLP output, 10 layers", "attn": "attention output, 10 layers"}
CUT = {"": "", "mlp": ", MLPs severed", "attn": ", attention severed"}


def before_plurals(frame: pd.DataFrame) -> pd.DataFrame:
    """Of a suppression effect: the modifiers before plural nouns."""
    return frame[frame["group"] == "plural"]
