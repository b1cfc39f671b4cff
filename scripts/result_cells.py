"""Cells of the tables of `scripts.results`, and how the rows of a result are brought into the shape of a table."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd


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


def by_method(frame: pd.DataFrame) -> pd.DataFrame:
    """Of an evaluation of edits: a row per score, a column per method."""
    cell = interval("value", "low", "high", digits=3)
    shown = frame.assign(shown=[cell(row) for row in frame.to_dict("records")])
    wide = shown.pivot(index=["condition", "score", "n"], columns="method", values="shown").reset_index()
    order = {score: place for place, score in enumerate(dict.fromkeys(frame["score"]))}
    return wide.sort_values("score", key=lambda names: names.map(order)).sort_values("condition", kind="stable")


_EDITED = {"edited": ("all", "reliability, exact"), "goes on as edited": ("all", "reliability, free")}
_DRIFT = {"perplexity": ("all", "perplexity")}
_REVERSE = {
    "reverse follows": ("all", "symmetry, exact"),
    "old reverse gone, of those known": ("known", "old direction gone"),
}
#: Data set -> heading -> facts and score, in the table of its editors.
EDITOR_SCORES = {
    "P36": {**_EDITED, **_REVERSE, "two hops follow": ("all", "two-hop, exact"), **_DRIFT},
    "P1376": {**_EDITED, **_REVERSE, **_DRIFT},
    "P101": {
        **_EDITED,
        "synonym follows": ("all", "synonym, exact"),
        "of those known": ("known", "synonym, exact"),
        **_DRIFT,
    },
    "counterfact": {
        **_EDITED,
        "paraphrase": ("all", "paraphrase"),
        "neighborhood": ("all", "neighborhood"),
        "neighborhood+": ("all", "neighborhood+"),
        "KL": ("all", "neighborhood KL"),
        "entropy": ("all", "generation entropy"),
        **_DRIFT,
    },
}
_NO_SHARES = ("KL", "entropy", "perplexity")


def by_editor(frame: pd.DataFrame, headings: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Of an evaluation of many editors: a row per editor, a column per score."""
    cell = share("value", "low", "high")
    rows = []
    for method, own in frame.groupby("method", sort=False):
        scores = {(row["condition"], row["score"]): row for row in own.to_dict("records")}
        found = {heading: scores.get(which) for heading, which in headings.items()}
        cells = {h: "" if r is None else f"{r['value']:.3g}" if h in _NO_SHARES else cell(r) for h, r in found.items()}
        rows.append({"editor": method, "n": scores["all", "reliability, exact"]["n"], **cells})
    return pd.DataFrame(rows)


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
