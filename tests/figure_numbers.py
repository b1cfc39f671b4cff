"""Figure of the report -> the numbers of its sentences, made from its tables.

A figure whose sentence changes needs another entry in `FINDING`, `DETAILS` or `COUNTS`, and nothing else. Assertions
see to it that the planted measurements tell the sides apart.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest

from kntools import data
from kntools.data import sample
from tests.page_numbers import ANY, Made, interval, part

OTHER = {"singular": "plural", "plural": "singular"}
NUMBER = {"this": "singular", "that": "singular", "these": "plural", "those": "plural"}
# Figure 11: data set -> the scores of its sentence.
SCORES = {
    "P36": ("reliability, exact", "symmetry, exact", "old direction gone"),
    "P101": ("reliability, exact", "synonym, exact"),
}


def facts_finding(made: Made) -> list[Any]:
    table = made.table("facts-control")
    [column] = [name for name in table.columns if name.startswith("top ")]
    top = int(column.split()[1])
    below = int((table[column] < table["lowest"]).sum())
    assert 0 < below < len(table)
    return [top, *interval(table["random off, mean"] - table[column]), top, below, len(table)]


def facts_paragraphs(made: Made) -> list[Any]:
    """The thresholds of the method; neurons of several facts, the most frequent first; means over facts."""
    sets = [names.split(", ") for names in made.table("facts-neurons")["knowledge neurons"]]
    times = pd.Series([name for names in sets for name in names]).value_counts()
    shared = [x for name, count in times.items() if count > 1 for x in (str(name), int(count))]
    means = made.table("facts-interventions").mean(numeric_only=True)
    order = [
        *("before", "suppressed", "enhanced"), *("others before", "others suppressed", "others enhanced")
    ]  # fmt: skip
    return [0.2, *shared, 0, *(means[name] for name in order)]


def leading_scores(made: Made, number: str) -> tuple[str, pd.DataFrame]:
    """The neuron of figure 1: its lowest score for the determiners of a number is the farthest above 0 and above the
    highest one for the others."""
    table = made.table("figure-1")
    own = table["class"].map(NUMBER) == number
    lowest = table[own].groupby("neuron")["score"].min()
    margin = lowest - table[~own].groupby("neuron")["score"].max().clip(lower=0)
    name = str(margin.idxmax())
    return name, table[table["neuron"] == name]


def attribution_finding(made: Made) -> list[Any]:
    return [leading_scores(made, number)[0] for number in ("singular", "plural")]


def attribution_details(made: Made) -> list[Any]:
    numbers: list[Any] = []
    for number in ("singular", "plural"):
        name, rows = leading_scores(made, number)
        numbers += [name, *rows[["score", "low", "high"]].to_numpy().flatten()]
    return numbers


def number_neuron(made: Made, number: str) -> tuple[str, list[int]]:
    """The neuron whose share of a number's pairs is farthest above that of the others; found, pairs, of each side."""
    pairs = made.table("figure-2-pairs")
    own = pairs["number"] == number
    has = {n: pairs["neurons"].str.split(", ").map(lambda names, n=n: n in names) for n in names_in(pairs)}
    name = max(has, key=lambda n: has[n][own].mean() - has[n][~own].mean())
    return name, [int(x) for side in (own, ~own) for x in (has[name][side].sum(), side.sum())]


def names_in(frame: pd.DataFrame) -> list[str]:
    names = {name for names in frame["neurons"].dropna() for name in names.split(", ")}
    return sorted(names, key=lambda name: [int(x) for x in re.findall(r"\d+", name)])


def pair_finding(made: Made) -> list[Any]:
    numbers: list[Any] = []
    for number in ("singular", "plural"):
        name, counts = number_neuron(made, number)
        assert counts[2] > 0  # of the other number as well
        numbers += [name, *part(*counts[:2]), *part(*counts[2:])]
    return numbers


def localisation_finding(made: Made) -> list[Any]:
    groups, tests = made.table("figure-3-groups"), made.table("figure-3-difference")
    values = [x for kind in ("linguistic", "factual") for x in interval(groups[groups["kind"] == kind]["r1"])]
    different = int((tests["p_holm"] < 0.05).sum())
    assert different
    return [*values, groups["null_r1"].mean(), different]


def localisation_details(made: Made) -> list[Any]:
    groups, tests = made.table("figure-3-groups"), made.table("figure-3-difference")
    numbers: list[Any] = []
    means = groups.groupby(["kind", "source"])["r1"].mean()
    for kind in ("linguistic", "factual"):
        numbers += [len(means[kind]), means[kind].min(), means[kind].max()]
    for row, column in zip(tests.itertuples(), ("count", "tau", "r1"), strict=True):
        table = groups.groupby(["kind", "source"])[column].mean()
        numbers += [table["linguistic"].mean(), table["factual"].mean(), row.p_holm]
    return numbers


def layer_shares(made: Made, kind: str) -> list[list[int]]:
    groups = made.table("figure-3-groups")
    own = groups[(groups["kind"] == kind) & groups["neurons"].notna()]
    return [[int(layer) for layer in re.findall(r"L(\d+)\.", names)] for names in own["neurons"]]


def layer_finding(made: Made) -> list[Any]:
    last = int(made.table("figure-4")["layer"].max())
    top = last + 1 - max(1, round((last + 1) / 3))
    numbers: list[Any] = [top, last]
    for kind in ("linguistic", "factual"):
        shares = [100 * sum(x >= top for x in layers) / len(layers) for layers in layer_shares(made, kind)]
        assert len(set(shares)) > 1
        numbers += interval(shares)
    return [*numbers, ANY]  # p of a permutation test


def layer_details(made: Made) -> list[Any]:
    table = made.table("figure-4").pivot(index="layer", columns="kind", values="share")
    distance = (table["linguistic"] - table["factual"]).abs().sum() / 2
    means = [float((table[kind] * table.index).sum()) for kind in ("linguistic", "factual")]
    return [distance, 0, 1, *means]  # 0: the same, 1: no layer in common


def suppression_finding(made: Made) -> list[Any]:
    table = made.table("figure-5-plural")
    at = table[table["group"] == "plural"]
    own, others = (at[at["section"] == section] for section in ("plural", "singular"))
    fall = own[own["change"] < 0]
    assert 0 < fall["significant"].sum() < len(fall) < len(own)
    assert own["significant"].sum() > fall["significant"].sum()
    return [
        *part(len(fall), len(own)), int(fall["significant"].sum()), int((others["change"] < 0).sum()), len(others)
    ]  # fmt: skip


def suppression_details(made: Made) -> list[Any]:
    numbers: list[Any] = []
    for number in ("singular", "plural"):
        table = made.table(f"figure-5-{number}")
        at = table[table["group"] == number]
        numbers.append(number_neuron(made, number)[0])
        for section in ("plural", "singular", "neutral"):
            own = at[at["section"] == section]
            fall = own[own["change"] < 0]
            numbers += [len(fall), len(own), int(fall["significant"].sum())]
        most = at.loc[at["change"].abs().idxmax()]
        numbers += [most["change"], most["low"], most["high"]]
    return numbers


def bias_finding(made: Made) -> list[Any]:
    table = made.table("figure-6")
    rho = table["bias"].rank().corr(table["effect"].rank())
    neutral = int((table["section"] == "neutral").sum())
    assert neutral < 5  # so it is about all words
    rng = random.Random(0)
    drawn = [table.loc[rng.choices(table.index, k=len(table))].rank(numeric_only=True) for _ in range(600)]
    values = pd.Series([frame["bias"].corr(frame["effect"]) for frame in drawn]).dropna()
    ends = [(values.quantile(q) - 0.16, values.quantile(q) + 0.16) for q in (0.025, 0.975)]
    return [number_neuron(made, "plural")[0], rho, *ends, neutral]


def shift_prompts(made: Made, number: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of the run's items, for no table has single prompts: `[prompt, word]` before and after, of one number's nouns."""
    words = made.table(f"figure-7-{number}")["word"].drop_duplicates()
    items = made.items(f"probability_shift_{number}").items()
    payloads = [payload for key, payload in sorted(items) if key.startswith(f"{number}/")]
    before, after = (pd.DataFrame([row for p in payloads for row in p[side]], columns=words) for side in (0, 1))
    return before, after


def demonstratives(number: str) -> list[str]:
    return [word for word, of in NUMBER.items() if of == number]


def shift_finding(made: Made) -> list[Any]:
    numbers: list[Any] = []
    for number in ("singular", "plural"):
        before, after = (
            side[demonstratives(number)].mean(axis=1) - side[demonstratives(OTHER[number])].mean(axis=1)
            for side in shift_prompts(made, number)
        )
        known, lost = before > 0, (before > 0) & (after <= 0)
        assert 0 < lost.sum() < known.sum() < len(before)
        numbers += part(lost.sum(), known.sum())
    return numbers


def shift_details(made: Made) -> list[Any]:
    """The means are in the table; the interval needs single prompts."""
    numbers: list[Any] = []
    for number in ("singular", "plural"):
        table = made.table(f"figure-7-{number}")
        own = table[(table["group"] == number) & table["word"].isin(demonstratives(number))]
        before, after = (side[demonstratives(number)].mean(axis=1) for side in shift_prompts(made, number))
        change = interval(after - before)
        assert change[0] == pytest.approx(own["difference"].mean(), abs=1e-6)
        numbers += [number_neuron(made, number)[0], own["before"].mean(), own["after"].mean(), *change]
    return numbers


def worst_edits(made: Made) -> Iterator[pd.Series]:
    """Of each kind of prompt the edit that overturns the most: n, overturned, and random."""
    prompts = made.table("figure-8-prompts")
    for kind in ("pair", "fact"):
        own = prompts[prompts["kind"] == kind].groupby("edit")
        sums = own[["overturned", "random"]].sum().assign(n=own.size())
        worst = sums.loc[sums["overturned"].idxmax()]
        assert (sums["overturned"] == worst["overturned"]).sum() == 1 and worst["overturned"] != worst["random"] > 0
        yield worst


def reliability_finding(made: Made) -> list[Any]:
    return [x for worst in worst_edits(made) for x in part(worst["overturned"], worst["n"])]


def reliability_details(made: Made) -> list[Any]:
    sides = ("overturned", "random")
    return [x for worst in worst_edits(made) for side in sides for x in part(worst[side], worst["n"])]


def tracing_details(made: Made) -> list[Any]:
    numbers: list[Any] = []
    for what in ("facts", "determiner_noun", "subject_verb"):
        table = made.table(f"figure-9-{what}-sites")
        rows = table[(table["kind"] == "hidden") & table["severed"].isna()].set_index("what")
        for site in ("early site", "late site"):
            row = rows.loc[f"{site} - rest"]
            assert row["mean"] == pytest.approx(rows.loc[site, "mean"] - rows.loc["rest", "mean"], abs=1e-6)
            numbers += [row["mean"], row["low"], row["high"]]
    return numbers


def examples_finding(made: Made) -> list[Any]:
    table = made.table("figure-10")
    edited, unrelated = table["group"] == "edited", table["group"] == "unrelated"
    same = table[unrelated]["before"] == table[unrelated]["after"]
    follows = [table[edited]["follows"], table[~edited & ~unrelated]["follows"], same]
    assert all(0 < side.sum() < len(side) for side in follows)
    return [x for side in follows for x in part(side.sum(), len(side))]


def consistency_finding(made: Made) -> list[Any]:
    table = made.table("figure-11")
    numbers: list[Any] = []
    for name, scores in SCORES.items():
        own = table[(table["data"] == name) & (table["condition"] == "all")]
        for score in scores:
            [before] = own[(own["score"] == score) & (own["method"] == "before")]["value"]
            [after] = own[(own["score"] == score) & (own["method"] != "before")].to_dict("records")
            numbers += [after["value"], after["low"], after["high"], before]
    return numbers


FINDING: dict[str, Callable[[Made], list[Any]]] = {
    "facts": facts_finding,
    "1": attribution_finding,
    "2": pair_finding,
    "3": localisation_finding,
    "4": layer_finding,
    "5": suppression_finding,
    "6": bias_finding,
    "7": shift_finding,
    "8": reliability_finding,
    "9": lambda made: [],  # yes or no
    "10": examples_finding,
    "11": consistency_finding,
}
DETAILS: dict[str, Callable[[Made], list[Any]]] = {
    "1": attribution_details,
    "3": localisation_details,
    "4": layer_details,
    "5": suppression_details,
    "7": shift_details,
    "8": reliability_details,
    "9": tracing_details,
}


def sizes(frame: pd.DataFrame, *columns: str) -> list[Any]:
    """Rows of each value of some columns, in the table's order."""
    return [int(n) for n in frame.groupby(list(columns), sort=False).size()]


def noun_counts(made: Made) -> list[Any]:
    """The table's groups are in the sentence's order."""
    return [int(n) for n in made.table("figure-5-plural").groupby("group", sort=False)["n"].first()]


#: Figure -> how many of what were looked at.
COUNTS: dict[str, Callable[[Made], list[Any]]] = {
    "facts": lambda made: [
        len(made.table("facts-control")), sizes(made.table("facts-prompts"), "fact")[0], 2
    ],
    "1": lambda made: [int(n) for n in made.table("figure-1").groupby("class", sort=False)["prompts"].first()],
    "2": lambda made: [len(made.table("figure-2-pairs")), 3],
    "3": lambda made: [len(made.table("figure-3-groups"))],
    "4": lambda made: [len(layer_shares(made, kind)) for kind in ("linguistic", "factual")],
    "5": noun_counts,
    "6": lambda made: [len(made.table("figure-6")), sum(len(data.blimp(name)) for name in sample.PARADIGMS)],
    "7": noun_counts,
    "8": lambda made: [n // 4 for n in sizes(made.table("figure-8-prompts"), "source")],
    "9": lambda made: [
        int(made.table(f"figure-9-{what}-sites")["n"].max()) for what in ("facts", "determiner_noun", "subject_verb")
    ],
    "10": lambda made: [made.table("figure-10")["edit"].nunique(), len(made.table("figure-10"))],
    "11": lambda made: [
        int(made.table("figure-11").query("data == @name and score == 'reliability, p'")["n"].iloc[0])
        for name in SCORES
    ],
}  # fmt: skip
