"""What docs/findings.md and docs/evaluation.md say in words, computed anew from the tables beside them."""

from __future__ import annotations

import warnings
from itertools import combinations
from typing import Any

import pandas as pd
import pytest
import torch
from scipy import stats

import kntools as kn
from kntools.analyses import layer_distribution
from kntools.analyses.edit_result import SCORES
from kntools.editing.rank_one import LOW_COSINE
from kntools.editing.rome_settings import RomeSettings
from kntools.results.statistics import holm, sign_flip_test
from scripts.result_commands import RESULTS, ROOT, items


def page_text(name: str) -> str:
    return " ".join((ROOT / name).read_text("utf-8").split())


def rows(name: str) -> list[dict[str, Any]]:
    return list(kn.load(RESULTS / f"{name}.json").rows)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


OPTIMISED = ["rome", "rome published key", "emmet", "memit", "alpha_edit"]


def scores(facts: str, condition: str = "all") -> pd.Series:
    """Value of an evaluation, by score and editor."""
    table = pd.read_csv(RESULTS / f"editors-{facts}.csv").query("condition == @condition")
    assert table["method"].nunique() == 8
    return table.set_index(["score", "method"])["value"]


def test_what_the_page_says_of_symmetry() -> None:
    page = page_text("docs/evaluation.md")
    capitals, reverse = scores("P36"), scores("P1376")
    assert (capitals["reliability, exact"][OPTIMISED] == 1).all()
    assert (
        capitals["symmetry, exact"].max() == capitals["two-hop, exact"].max() == reverse["symmetry, exact"].max() == 0
    )
    gone = scores("P36", "known")["old direction gone"] * 8
    assert gone.drop("edit_values").max() == 2 and "in P36, it remains in at least 6 of 8 facts" in page
    assert gone["edit_values"] == 7 and "Only value slots remove it (7 of 8)" in page
    written = reverse["reliability, exact"]
    mean_key = written[[name for name in OPTIMISED if name != "rome published key"]]
    assert f"write {100 * mean_key.min():.0f} to {percent(mean_key.max())}. The published key" in page
    drift = reverse["perplexity"]
    words = f"writes {percent(written['rome published key'])}, but it raises the perplexity of unrelated sentences from"
    lost = scores("P1376", "known")["old direction gone"]["rome published key"]
    words += f" {drift['before']:.0f} to {drift['rome published key']:.0f}, and {percent(lost)} of the old reverses"
    assert words in page


@pytest.mark.smollm2
def test_what_the_page_says_of_keys(smollm2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2.cfg, "default_prepend_bos", False)
    cities = ("Edmonton", "Cairo", "Copenhagen", "Edinburgh", "Bucharest")
    countries = ("Alberta", "Egypt", "Denmark", "Scotland", "Romania")
    both = list(zip(cities, countries, strict=True))
    first = [kn.Prompt(f"{city} is the capital of", f" {country}", subject=city) for city, country in both]
    later = [kn.Prompt(f"The capital of {country} is", f" {city}", subject=country) for city, country in both]

    def cosines(prompts: list[kn.Prompt]) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # keys do not depend on the steps, which are too few
            edits = kn.rome(smollm2, prompts, [" Rome"] * 5, layer=5, settings=RomeSettings(steps=2))
        found = [edit.key_cosine for edit in edits]
        return f"{min(found):.2f} to {max(found):.2f}"

    assert f"the cosine is {cosines(first)}, against {cosines(later)} for the same facts" in page_text(
        "docs/evaluation.md"
    )
    assert "below 0.5" in page_text("docs/evaluation.md") and LOW_COSINE == 0.5


def test_what_the_page_says_of_editors_on_counterfact() -> None:
    page, value = page_text("docs/evaluation.md"), scores("counterfact")
    holds, beside, written = value["paraphrase"], value["neighborhood+"], value["reliability, exact"]
    assert (
        f"as many answers ({percent(written['fine_tune'])}), but they hold in {percent(holds['fine_tune'])} of" in page
    )
    assert percent(holds[OPTIMISED].min()) == "90 %" and "of the paraphrases, against 90 % and more" in page
    most = beside.drop("before").max()
    assert f"(neighborhood+): {percent(beside['before'])} before, at most {percent(most)} after" in page
    assert f"Value slots write {percent(written['edit_values'])}" in page and "(3.5 bits)" in page
    assert f"{value['generation entropy']['edit_values']:.1f}" == "3.5"
    edits = [
        payload["perplexity"]
        for facts in ("counterfact", "P36", "P1376", "P101")
        for key, payloads in items(f"editors-{facts}").items()
        if key.startswith("edit_values/")
        for payload in payloads
    ]
    wild = sum(perplexity > 1000 for perplexity in edits)
    assert f"after {wild} of the {len(edits)} edits, the perplexity of unrelated sentences exceeds 1,000" in page
    tuned = pd.read_csv(RESULTS / "fine-tune-published.csv").query(
        "method == 'fine_tune' and score == 'reliability, exact'"
    )
    assert f"it writes {100 * tuned['value'].item():.0f} of 100" in page and tuned["n"].item() == 100


def test_what_the_page_says_of_many_edits() -> None:
    page, alone = page_text("docs/evaluation.md"), scores("counterfact")["reliability, exact"]
    table = pd.read_csv(RESULTS / "forgetting.csv").set_index(["score", "edits", "editor"])["value"]
    held, read = table["reliability, exact"], table["perplexity"]
    joint = held[100][["emmet", "memit", "alpha_edit"]]
    assert f"The joint editors hold {100 * joint.min():.0f} to {percent(joint.max())} of 100 facts" in page
    assert f"the sum of separate ROME edits {percent(held[100]['rome'])}" in page
    assert f"holds in {percent(alone['rome published key'])} (table above)" in page
    published = [percent(held[count]["rome published key"]) for count in (10, 100)]
    assert f"{published[0]} of ten and {published[1]} of 100 hold" in page
    assert f"from {read[100]['before']:.0f} to {read[100]['rome published key']:.0f} after 100" in page
    assert f"Fine-tuned alone, {percent(alone['fine_tune'])} hold; of 100 such" in page
    assert f"changes added up, {percent(held[100]['fine_tune'])}." in page
    sequence = pd.read_csv(RESULTS / "forgetting-sequence.csv").query("edits == 100").set_index(["score", "editor"])
    left, beside = (sequence["value"][score] for score in ("reliability, exact", "neighborhood"))
    assert f"ROME holds {percent(left['rome'])} of 100 facts and MEMIT {percent(left['memit'])}, as at once" in page
    assert abs(left - held[100])[["rome", "memit"]].max() < 0.02 and left["fine_tune"] > held[100]["fine_tune"]
    words = f"Fine-tuning holds {percent(left['fine_tune'])}, more than at once, and at the cost of the neighbours"
    assert f"{words} ({percent(beside['fine_tune'])}, before {percent(beside['before'])})" in page
    failed = sequence["failed"]["reliability, exact"]["edit_values"]
    assert left["edit_values"] == 0 and f"and {failed} edits could not be made at all" in page


def test_what_the_page_says_of_synonyms() -> None:
    page, value = page_text("docs/evaluation.md"), scores("P101")
    written, follows = value["reliability, exact"][OPTIMISED], value["synonym, exact"][OPTIMISED]
    assert f"write {100 * written.min():.0f} to {percent(written.max())} of the fields of work (P101)" in page
    assert f"in {100 * follows.min():.0f} to {percent(follows.max())} of all facts" in page


def test_what_the_page_says_of_traces_and_edits() -> None:
    page = page_text("docs/evaluation.md")
    found = pd.read_csv(RESULTS / "traced-regression.csv").set_index("success on")
    gain, low, high = 100 * found.loc["gain", ["r2", "low", "high"]].astype(float)
    assert f"The layer alone explains {percent(found.loc['layer', 'r2'])} of the variance" in page
    assert f"adds {gain:.2f} percentage points ({low:.2f} to {high:.1f})" in page
    assert f"the first {found.loc['gain', 'facts']} CounterFact records" in page


def test_what_the_page_says_of_number_neurons() -> None:
    page = page_text("docs/findings.md")
    claims = pd.read_csv(RESULTS / "pairs-claims.csv").set_index("neuron")
    assert (claims.query("number == 'plural'")["p_holm"] < 0.01).all()
    n = {number: own["nouns"].iloc[0] for number, own in claims.groupby("number")}
    plural = [claims.loc[name, "found"] for name in ("L19.N1044", "L0.N586", "L0.N1293")]
    assert claims.query("number == 'plural'")["opposite"].eq(0).all() and claims.loc["L26.N1422", "opposite"] == 0
    assert f"of {plural[0]} of {n['plural']} plural nouns and of none of {n['singular']} singular ones" in page
    assert f"is one of {plural[1]} and L0.N1293 of {plural[2]} of these nouns, and of no singular one" in page
    assert f"with {claims.loc['L0.N586', 'against']:.0f} nouns L0.N586 supports the foil" in page
    best, share = claims.loc["L26.N1422"], percent(claims.loc["L26.N1422", "share"])
    assert f"L26.N1422, is one of {best['found']} of {n['singular']}" in page and f"singular neuron of {share}" in page
    asked_for_p = pd.read_csv(RESULTS / "pairs-probability-claims.csv").set_index("neuron")["share"]["L19.N1044"]
    words = f"for {percent(asked_for_p)} of the plural nouns instead of {percent(claims.loc['L19.N1044', 'share'])}"
    assert words in page
    shares = pd.read_csv(RESULTS / "pairs-shares.csv").set_index(["neuron", "determiner"])

    def counted(neuron: str, determiner: str) -> str:
        row = shares.loc[(neuron, determiner)]
        return f"{row['found']} of {row['nouns']}"

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

    def of(bias: Any, axis: int) -> Any:
        """Spearman's correlation: Pearson's of the ranks."""
        return stats.pearsonr(stats.rankdata(bias, axis=axis), stats.rankdata(neutral["effect"]), axis=axis).statistic

    # All 40,320 orders of eight words.
    how: Any = {"permutation_type": "pairings", "n_resamples": 50_000, "vectorized": True}
    test = stats.permutation_test((neutral["bias"].to_numpy(),), of, **how)
    assert test.statistic == pytest.approx(stats.spearmanr(neutral["bias"], neutral["effect"]).statistic)
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
    found = layer_distribution(kn.load(RESULTS / "localisation-contrast.json"))
    layers = found.to_frame().set_index("layer")["share"]
    assert f"({layers[29]:.2f} in the last, {layers[0]:.2f} in the first)" in page
    assert set(layers.nlargest(2).index) == {0, 29}


def test_eight_facts_do_not_tell_layers_apart() -> None:
    after = {key.split("/")[0]: payloads for key, payloads in items("edit-layers.jsonl").items()}
    names = ("efficacy", "paraphrase", "neighborhood")
    p_values = []
    for name in names:
        scored = [[SCORES[name](p) for p in after[layer]] for layer in ("1", "3", "5", "8", "11")]
        kept = torch.tensor(scored, dtype=torch.float64)
        assert {len(values) for values in kept} == {8}
        p_values += [sign_flip_test(b - a) for a, b in combinations(kept, 2)]
    found = kn.load(RESULTS / "edit-layers.json")
    assert found.differences()["p"].tolist() == pytest.approx(p_values)
    assert found.differences()["p_holm"].tolist() == pytest.approx(holm(p_values))
    for name, table in found.tables().items():
        pd.testing.assert_frame_equal(pd.read_csv(RESULTS / f"edit-layers-{name}.csv"), table, check_exact=True)
    for name in (*names, "efficacy magnitude", "neighborhood magnitude"):
        scores = [SCORES[name](p) for payloads in (after[str(n)] for n in (1, 3, 5, 8, 11)) for p in payloads]
        assert found.to_frame()[name].tolist() == scores
    words = f"the lowest p is {min(p_values):.3f}, and {min(holm(p_values)):.3f} after Holm's correction"
    assert len(p_values) == 30 and min(holm(p_values)) > 0.05
    assert words in page_text("docs/editing.md")
