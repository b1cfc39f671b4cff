"""What docs/findings.md and docs/evaluation.md say in words, computed anew from the tables beside them."""

from __future__ import annotations

from typing import Any

import pandas as pd
from scipy import stats

import kntools as kn
from scripts.results import RESULTS, ROOT, items


def page_text(name: str) -> str:
    return " ".join((ROOT / name).read_text("utf-8").split())


def rows(name: str) -> list[dict[str, Any]]:
    return list(kn.load(RESULTS / f"{name}.json").rows)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def test_what_the_page_says_of_seven_editors() -> None:
    table = pd.read_csv(RESULTS / "editors-P36.csv").query("condition == 'all' and method != 'before'")
    value = table.set_index(["score", "method"])["value"]
    assert value["symmetry, exact"].max() == value["two-hop, exact"].max() == 0 and table["method"].nunique() == 7
    optimised = ["rome", "rome published key", "emmet", "memit", "alpha_edit"]
    assert (value["reliability, exact"][optimised] == 1).all() and value["perplexity"][optimised].round().eq(48).all()
    edits = [p for key, some in items("editors-P36").items() if key.startswith("edit_values/") for p in some]
    wild = sum(payload["perplexity"] > 1000 for payload in edits)
    page = page_text("docs/evaluation.md")
    assert f"the perplexity of other text exceeds 1,000 after {wild} of the {len(edits)} edits" in page


def test_what_the_page_says_of_editors_on_counterfact() -> None:
    table = pd.read_csv(RESULTS / "editors-counterfact.csv").query("condition == 'all'")
    value = table.set_index(["score", "method"])["value"]
    tuned, published = "fine_tune", "rome published key"
    page = page_text("docs/evaluation.md")
    kl, beside = value["neighborhood KL"], value["neighborhood+"]
    assert kl.drop("edit_values").idxmax() == published
    assert f"(KL {kl[published]:.2f}; {beside[published]:.0%} keep their answer".replace("%", " %") in page
    holds = value["paraphrase"]
    assert f"as many answers ({value['reliability, exact'][tuned]:.0%})".replace("%", " %") in page
    assert f"in {holds[tuned]:.0%} of the paraphrases only, against 92 % and more".replace("%", " %", 1) in page
    assert holds[["rome", published, "emmet", "memit", "alpha_edit"]].min() > 0.915
    most = beside.drop("before").max()
    assert f"{beside['before']:.0%} before, at most {most:.0%} after".replace("%", " %") in page


def test_what_the_page_says_of_number_neurons() -> None:
    page = page_text("docs/findings.md")
    claims = pd.read_csv(RESULTS / "pairs-claims.csv").set_index("neuron")
    assert (claims.query("number == 'plural'")["p_holm"] < 0.01).all() and claims["pairs"].eq(58).all()
    plural = [claims.loc[name, "found"] for name in ("L19.N1044", "L0.N586", "L0.N1293")]
    assert claims.query("number == 'plural'")["opposite"].eq(0).all() and claims.loc["L26.N1422", "opposite"] == 0
    assert f"in {plural[0]} of 58 plural pairs and in none of 58 singular ones" in page
    assert f"L0.N586 is in {plural[1]} and L0.N1293 in {plural[2]} of these pairs, and in no singular one" in page
    assert f"in {claims.loc['L0.N586', 'against']:.0f} pairs L0.N586 supports the foil" in page
    assert f"L26.N1422, is in {claims.loc['L26.N1422', 'found']} of 58" in page
    shares = pd.read_csv(RESULTS / "pairs-shares.csv").set_index(["neuron", "determiner"])

    def counted(neuron: str, determiner: str) -> str:
        row = shares.loc[(neuron, determiner)]
        return f"{row['found']} of {row['pairs']}"

    assert f"in {counted('L19.N1044', 'these')} pairs with *these* and in {counted('L19.N1044', 'those')} with" in page
    words = f"in {counted('L0.N661', 'this')} pairs with *this*, {counted('L0.N661', 'these')} with *these*"
    assert words in page and shares.loc[("L0.N661", "that"), "found"] == 0
    assert f"in {counted('L0.N1217', 'that')} with *that* and {counted('L0.N1217', 'this')} with *this*" in page
    pairs = {half: set(frame["nouns"]) for half, frame in pd.DataFrame(rows("pairs")).groupby("half")}
    assert pairs["selection"].isdisjoint(pairs["test"])


def test_what_the_page_says_of_suppression() -> None:
    page = page_text("docs/findings.md")
    one, three = (
        pd.read_csv(RESULTS / f"effect-{name}.csv").query("group == 'plural'") for name in ("plural", "plurals")
    )
    change = {name: frame.set_index("word")["change"] for name, frame in (("one", one), ("three", three))}
    assert f"fall by {-change['one']['these']:.1f} and {-change['one']['those']:.1f} nats after *these*" in page
    others = one.query("section == 'plural' and word not in ['these', 'those']")["change"]
    assert f"change by at most {others.abs().max():.2f} after the other five plural modifiers" in page
    neutral = one.query("section == 'neutral'")["change"]
    assert f"Neutral words move by at most {neutral.max():.2f} nats" in page
    before, after = three.set_index("word")["before"], three.set_index("word")["after"]
    signs = [f"*{word}* ({before[word]:.1f} to {after[word]:.1f})" for word in ("these", "those")]
    assert f"change sign after {signs[0]} and {signs[1]}" in page
    falls = -change["three"][["both", "several", "multiple", "various"]]
    assert f"fall by {falls.min():.2f} to {falls.max():.2f} after *both*, *several*, *multiple* and *various*" in page


def test_what_the_page_says_of_transfer() -> None:
    page, table = page_text("docs/findings.md"), pd.read_csv(RESULTS / "transfer-plurals-summary.csv")
    table["source"] = table["source"].str.removesuffix(", plural")
    table = table.set_index(["source", "edit"])
    nouns, wide = ("determiner_noun_agreement_1", "determiner_noun_agreement_irregular_1"), "at all positions"
    share = [percent(table.loc[(name, "at the answer"), "share"]) for name in nouns]
    assert f"overturn {share[0]} of the pairs with new regular nouns, and {share[1]} with irregular ones" in page

    def counted(name: str, edit: str) -> str:
        row = table.loc[(f"determiner_noun_agreement_with_{name}_1", edit)]
        return f"{round(row['share'] * row['right'])} of {row['right']:.0f}"

    for edit, words in (("at the answer", "nothing at the answer"), (wide, "many at all positions")):
        assert f"{words} ({counted('adjective', edit)} and {counted('adj_irregular', edit)})" in page
    others = table[~table.index.get_level_values(0).str.startswith("determiner_noun")]
    hits = (others["share"] * others["right"]).round()
    assert hits.max() == 1 and hits.idxmax() == ("distractor_agreement_relative_clause", wide)
    assert f"at most 1 of {others.loc[hits.idxmax(), 'right']:.0f} overturned" in page
    assert others["change"].abs().max() < 0.1 and "no change above 0.1 logits" in page


def test_what_the_page_says_of_reliability() -> None:
    page, table = page_text("docs/findings.md"), pd.read_csv(RESULTS / "reliability-pairs-summary.csv")
    nouns = table[table["source"].str.startswith("determiner_noun")]
    others = table.drop(nouns.index)

    def shares(edit: str, column: str = "share") -> list[str]:
        return [percent(x) for x in nouns.query("edit == @edit")[column]]

    regular, irregular = shares("suppress")
    assert f"overturns {regular} of determiner-noun pairs and {irregular} of those with irregular nouns" in page
    assert f"value rows overturns {shares('erase')[0][:2]} and {shares('erase')[1]}; six random neurons" in page
    assert (nouns.query("edit in ['suppress', 'erase']")["random"] == 0).all()
    assert (others.query("edit in ['suppress', 'erase']")["share"] == 0).all()
    assert table.query("edit == 'enhance'")["share"].max() < 0.02 and "overturns at most 2 %" in page
    values, random = shares("values"), shares("values", "random")
    assert f"overturns {values[0][:2]} and {values[1]} of determiner-noun pairs" in page
    assert f"(random neurons: {random[0][:1]} and {random[1]})" in page
    far, by_chance = others.query("edit == 'values'")["share"], others.query("edit == 'values'")["random"]
    assert f"and {100 * far.min():.0f} to {percent(far.max())} in the other paradigms" in page
    assert f"random neurons overturn {100 * by_chance.min():.0f} to {percent(by_chance.max())}" in page


def test_what_the_page_says_of_co_occurrence() -> None:
    page, found = page_text("docs/findings.md"), kn.load(RESULTS / "bias.json")
    frame, c = found.to_frame(), found.details["correlation"]
    assert len(frame) == 24 and found.details["rare"] == []
    assert f"correlate at {c['spearman']:.2f} [{c['low']:.2f}, {c['high']:.2f}]" in page
    without = frame[~frame["word"].isin(["these", "those"])]
    rho, p = stats.spearmanr(without["bias"], without["effect"])
    assert f"{rho:.2f} (p = {p:.2f}) without them" in page
    neutral = frame[frame["section"] == "neutral"]

    def of(bias: Any) -> float:
        return float(stats.spearmanr(bias, neutral["effect"]).statistic)

    # All 40,320 orders of eight words.
    test = stats.permutation_test((neutral["bias"].to_numpy(),), of, permutation_type="pairings", n_resamples=50_000)
    assert f"{test.statistic:.2f} over eight words (p = {test.pvalue:.2f}, exact" in page
    word = frame.set_index("word")
    bias = [f"{word.loc[name, 'bias']:.1f}" for name in ("two", "several", "multiple", "these")]
    assert f"(bias {bias[0]}, {bias[1]} and {bias[2]}; {bias[3]})" in page
    assert word.loc[["two", "several", "multiple"], "effect"].abs().max() < 0.025


def test_what_the_page_says_of_both_metrics() -> None:
    page = page_text("docs/findings.md")
    tables = [pd.read_csv(RESULTS / f"localisation{name}-summary.csv") for name in ("-contrast", "")]
    mean = [table.query("kind == 'linguistic'").mean(numeric_only=True) for table in tables]
    count, r1, null = (
        [f"{m[name]:.{digits}f}" for m in mean] for name, digits in (("count", 1), ("r1", 2), ("null_count", 1))
    )
    assert f"({count[0]} on average, against {count[1]})" in page
    assert f"(R1^2 {r1[0]}, {r1[1]})" in page and f"by chance ({null[0]}, {null[1]})" in page
    layers = pd.read_csv(RESULTS / "localisation-contrast-layers.csv").set_index("layer")["share"]
    assert f"({layers[29]:.2f} in the last, {layers[0]:.2f} in the first)" in page
    assert set(layers.nlargest(2).index) == {0, 29}
