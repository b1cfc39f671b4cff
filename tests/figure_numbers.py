"""Figure of the report -> the numbers of its sentence, made from its tables alone, by other means than the report's.

A figure whose sentence changes needs another entry in `NUMBERS`, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from tests.page_numbers import Made, part, wilson

ALPHA = 0.05
NUMBER = {"this": "singular", "that": "singular", "these": "plural", "those": "plural"}


def student(values: Any) -> tuple[list[float], float]:
    """Mean with its 95 % interval, and p."""
    test = stats.ttest_1samp(list(values), 0)
    ends = test.confidence_interval(0.95)
    return [float(pd.Series(list(values)).mean()), ends.low, ends.high], float(test.pvalue)


def facts(made: Made) -> list[Any]:
    table = made.table("facts-control")
    [off] = [name for name in table.columns if name.startswith("top ")]
    top = int(off.split()[1])
    interval, p = student(table[off] - table["random off, mean"])
    assert interval[0] < 0 and p < ALPHA
    return [top, top, *interval, len(table), ALPHA]


def attribution(made: Made) -> list[Any]:
    table = made.table("figure-1")
    return [table.loc[own["selection"].idxmax(), "neuron"] for _, own in table.groupby("class", sort=False)]


def pair_search(made: Made) -> list[Any]:
    """Fisher's test from the nouns of the test's half; Holm's correction as the table has it."""
    pairs, claims = made.table("figure-2-pairs"), made.table("figure-2")
    nouns = pairs.groupby("half")["nouns"].agg(set)
    assert not nouns["selection"] & nouns["test"]
    tested = pairs[pairs["half"] == "test"]
    numbers: list[Any] = []
    for row in claims.to_dict("records"):
        assert row["neuron"] == candidate(made, row["number"])
        has = found_of(tested, row["neuron"])
        hits, elsewhere = has[row["number"]], has.drop(row["number"])
        table = [[side.sum(), (~side).sum()] for side in (hits, elsewhere)]
        assert row["p"] == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue)
        assert row["p_holm"] >= row["p"]
        if row["p_holm"] < ALPHA:
            numbers += [row["neuron"], *part(hits.sum(), len(hits)), 100 * float(elsewhere.mean())]
    assert len(numbers) == 14  # one neuron of each number
    return [*numbers, *map(int, tested.groupby("number", sort=False)["nouns"].nunique()), ALPHA]


def found_of(pairs: pd.DataFrame, neuron: str) -> pd.Series:
    """Is a neuron in at least half of the pairs of a noun? By number and noun."""
    has = pairs["neurons"].fillna("").str.split(", ").map(lambda listed: neuron in listed)
    return has.groupby([pairs["number"], pairs["nouns"]]).mean() >= 0.5


def localisation(made: Made) -> list[Any]:
    groups, tests = made.table("figure-3-groups"), made.table("figure-3-difference")
    numbers: list[Any] = []
    means = groups.groupby(["kind", "source"])[["count", "tau", "r1"]].mean()
    for column, p_holm in zip(("count", "tau", "r1"), tests["p_holm"], strict=True):
        if p_holm < ALPHA:
            sides = [means.loc[kind, column] for kind in ("linguistic", "factual")]
            assert stats.ttest_ind(*sides, equal_var=False).pvalue < ALPHA
            numbers += [float(side.mean()) for side in sides]
    assert numbers
    return [*numbers, *(len(means.loc[kind]) for kind in ("linguistic", "factual")), ALPHA]


def layers(made: Made) -> list[Any]:
    """Kinds that are apart as far as can be: as far as in one of all ways to share out paradigms and relations."""
    table, groups = made.table("figure-4"), made.table("figure-3-groups")
    by_kind = table.pivot(index="layer", columns="kind", values="share")
    distance = float((by_kind["linguistic"] - by_kind["factual"]).abs().sum() / 2)
    test, sources = made.table("figure-4-test").iloc[0], groups.groupby("kind")["source"].nunique()
    assert test["distance"] == pytest.approx(distance) == 1
    ways = math.comb(int(sources.sum()), int(sources["factual"]))
    as_far = 1 + (sources["factual"] == sources["linguistic"])  # the kinds may change places
    assert ALPHA < test["p"] == pytest.approx(as_far / ways, abs=0.03)
    counts = groups["kind"].value_counts()
    assert as_far / ways > ALPHA, "no sample of this size passes"
    return [as_far / ways, int(counts["linguistic"]), int(counts["factual"]), int(sources.sum())]


def assert_corrected_together(tables: list[pd.DataFrame], column: str) -> None:
    """Holm's correction over all tables that a sentence is about: of the sorted p, each times what is left."""
    both = pd.concat(tables).sort_values("p", kind="stable")
    expected = (both["p"] * range(len(both), 0, -1)).cummax().clip(upper=1)
    assert both[column].tolist() == pytest.approx(expected.tolist())


def suppression(made: Made) -> list[Any]:
    numbers: list[Any] = []
    both = [made.table(f"figure-5-{number}") for number in ("singular", "plural")]
    assert_corrected_together(both, "p_corrected")
    for number in ("singular", "plural"):
        table = made.table(f"figure-5-{number}")
        assert (table["significant"] == (table["p_corrected"] < ALPHA)).all()
        own = table[table["group"] == number]
        falls = own["significant"] & (own["change"] < 0)
        assert falls.any()
        numbers.append(candidate(made, number))
        for section in ("plural", "singular", "neutral"):
            numbers += [int(falls[own["section"] == section].sum()), int((own["section"] == section).sum())]
    counts = made.table("figure-5-plural").groupby("group")["n"].first()
    return [*numbers, int(counts["plural"]), int(counts["singular"]), ALPHA]


def candidate(made: Made, number: str) -> str:
    """The neuron whose share of the selection's nouns of a number is farthest above that of the others."""
    pairs = made.table("figure-2-pairs").query("half == 'selection'")
    names = {name for listed in pairs["neurons"].dropna() for name in listed.split(", ")}
    has = {name: found_of(pairs, name) for name in names}
    return max(sorted(has), key=lambda name: has[name][number].mean() - has[name].drop(number).mean())


def bias(made: Made) -> list[Any]:
    table, effects = made.table("figure-6"), made.table("figure-5-plural").query("group == 'plural'")
    assert table["effect"].tolist() == pytest.approx(effects.set_index("word")["change"][table["word"]].tolist())
    neutral = table[table["section"] == "neutral"]
    test = stats.spearmanr(neutral["bias"], neutral["effect"])
    assert test.pvalue < ALPHA
    return [float(test.statistic), len(neutral), ALPHA]


def shift(made: Made) -> list[Any]:
    numbers: list[Any] = []
    for number in ("singular", "plural"):
        table = made.table(f"figure-7-order-{number}")
        words = made.table(f"figure-7-{number}").query("group == @number").set_index("word")
        assert len(table) == words["n"].iloc[0] and table["prompt"].nunique() > 1
        for side in ("right", "wrong"):
            listed = [w for w, n in NUMBER.items() if w in words.index and (n == number) == (side == "right")]
            for when in ("before", "after"):
                assert table[f"{side} {when}"].mean() == pytest.approx(words.loc[listed, when].mean(), rel=1e-5)
        known = table["right before"] > table["wrong before"]
        lost = known & (table["right after"] <= table["wrong after"])
        numbers += [candidate(made, number), *part(lost.sum(), known.sum())]
    return [*numbers, 95]


def reliability(made: Made) -> list[Any]:
    prompts, summary = made.table("figure-8-prompts"), made.table("figure-8")
    numbers: list[Any] = []
    for row in summary.to_dict("records"):
        own = prompts[(prompts["source"] == row["source"]) & (prompts["edit"] == row["edit"])]
        up = int((own["overturned"] & ~own["random"]).sum())
        down = int((own["random"] & ~own["overturned"]).sum())
        assert row["p"] == pytest.approx(stats.binomtest(up, up + down).pvalue if up + down else 1.0)
        if row["p_holm"] < ALPHA and up > down:
            numbers += [*part(own["overturned"].sum(), len(own)), *part(own["random"].sum(), len(own))]
    assert numbers
    return [*numbers, *map(int, summary.groupby("source", sort=False)["n"].first()), ALPHA]


def transfer(made: Made) -> list[Any]:
    numbers: list[Any] = []
    assert_corrected_together([made.table(f"transfer-{number}") for number in ("singular", "plural")], "p_holm")
    for number in ("singular", "plural"):
        prompts, summary = made.table(f"transfer-prompts-{number}"), made.table(f"transfer-{number}")
        falls = []
        for row in summary.to_dict("records"):
            own = prompts[(prompts["source"] == row["source"]) & (prompts["edit"] == row["edit"])]
            right = own["before"] > 0
            ends = wilson(int((right & (own["after"] <= 0)).sum()), int(right.sum()))
            assert [row["share"], row["low"], row["high"]] == pytest.approx(ends, abs=1e-6)
            interval, p = student(own["after"] - own["random"])
            assert row["p"] == pytest.approx(p, rel=1e-4)
            falls.append(row["p_holm"] < ALPHA and interval[0] < 0 and row["change"] < 0)
        assert any(falls)
        numbers.append(candidate(made, number))
        for edit in ("at the answer", "at all positions"):
            own = [fall for fall, name in zip(falls, summary["edit"], strict=True) if name == edit]
            numbers += [sum(own), len(own)]
    return [*numbers, ALPHA]


def tracing(made: Made) -> list[Any]:
    tests, effects = made.table("figure-9-tests"), made.table("figure-9-prompts")
    numbers: list[Any] = []
    for row in tests.to_dict("records"):
        place = [effects[name].fillna("") == ("" if row[name] != row[name] else row[name]) for name in PLACE]
        interval, p = student(effects[place[0] & place[1] & place[2] & place[3]]["above rest"].dropna())
        assert [row["mean"], row["low"], row["high"], row["p"]] == pytest.approx([*interval, p], rel=1e-4)
        if row["kind"] == "hidden" and row["p_holm"] < ALPHA and interval[0] > 0:
            numbers += interval
    counts = effects.groupby("prompts", sort=False)["prompt"].nunique()
    assert len(numbers) == 3 * len(counts)  # the early site of each
    return [*numbers, *map(int, counts), ALPHA]


PLACE = ["prompts", "kind", "severed", "site"]


def examples(made: Made) -> list[Any]:
    table = made.table("figure-10")
    follows = [after.startswith(begins) for after, begins in zip(table["after"], table["begins"], strict=True)]
    assert table["follows"].tolist() == follows
    edited, unrelated = (table[table["group"] == group] for group in ("edited", "unrelated"))
    implied = table[~table["group"].isin(["edited", "unrelated"])]["follows"]
    kept = (unrelated["before"] == unrelated["after"]).sum()
    counts = [(edited["follows"].sum(), len(edited)), (implied.sum(), len(implied)), (kept, len(unrelated))]
    return [x for hits, of in counts for x in part(hits, of)]


def consistency(made: Made) -> list[Any]:
    table = made.table("figure-11").query("condition == 'all'")
    method = next(name for name in table["method"] if name != "before")
    numbers: list[Any] = []
    for _, own in table[table["method"] == method].groupby("data", sort=False):
        for row in own.head(2).to_dict("records"):
            hits = row["value"] * row["n"]
            if abs(hits - round(hits)) < 1e-9:
                assert [row["value"], row["low"], row["high"]] == pytest.approx(wilson(hits, row["n"]), abs=1e-9)
            assert row["low"] <= row["value"] <= row["high"] and row["high"] - row["low"] > 0.2
            numbers += [row["value"], row["low"], row["high"], int(row["n"])]
    return [*numbers, 95]


NUMBERS: dict[str, Callable[[Made], list[Any]]] = {
    "facts": facts,
    "1": attribution,
    "2": pair_search,
    "3": localisation,
    "4": layers,
    "5": suppression,
    "6": bias,
    "7": shift,
    "8": reliability,
    "transfer": transfer,
    "9": tracing,
    "10": examples,
    "11": consistency,
}
#: Figures that have a test; the others say that they have none.
TESTED = ("facts", "2", "3", "4", "5", "6", "8", "transfer", "9")
