"""Intervals, p-values, corrections and overlaps, wherever they are given, against scipy or by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from kntools.analyses.edit_result import EditConsistency
from kntools.analyses.fig01_attribution_profile import AttributionProfile
from kntools.analyses.fig02_pair_search import PairSearch
from kntools.analyses.fig03_localisation import Localisation
from kntools.analyses.fig04_layer_distribution import layer_distribution
from kntools.analyses.fig05_suppression_effect import SuppressionEffect, effect_of
from kntools.analyses.fig06_cooccurrence_bias import cooccurrence_bias
from kntools.analyses.fig07_probability_shift import ProbabilityShift
from kntools.analyses.fig08_reliability import Reliability
from kntools.analyses.fig09_tracing_profile import TracingProfile, two_sites
from kntools.analyses.method_comparison import RANDOM, SelectionMethods
from kntools.patching.patch_grid import PatchGrid
from kntools.prompts import Prompt
from kntools.report.figure import paired_test, share
from kntools.results.statistics import (
    bootstrap_interval,
    holm,
    pearson,
    share_interval,
    sign_test,
    spearman,
    t_quantile,
)
from kntools.sites import Neuron
from scripts.pair_accuracy import Accuracy

stats = pytest.importorskip("scipy.stats")

N = 200
HEADER = {"model": "by hand"}
PROMPTS = tuple(Prompt(f"text {i}", " a") for i in range(N))


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Skewed values: both ends of an interval have to be right."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).exp()


def assert_95(low: Any, high: Any, values: torch.Tensor, statistic: Callable[..., Any] = np.mean) -> None:
    """Both ends are those of scipy's percentile bootstrap; those of 90 % and 97.5 % are farther away than allowed."""
    found = stats.bootstrap(
        [column.numpy() for column in torch.atleast_2d(values)], statistic, method="percentile", paired=True,
        vectorized=False if statistic is not np.mean else None, n_resamples=4000, rng=np.random.default_rng(1),
    )  # fmt: skip
    allowed = 0.2 * found.standard_error
    assert float(low) == pytest.approx(found.confidence_interval.low, abs=allowed)
    assert float(high) == pytest.approx(found.confidence_interval.high, abs=allowed)


# --- 95 % is 95 % -----------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_the_bootstrap_of_a_share_has_the_quantiles_of_the_binomial(confidence: float) -> None:
    """Resampled, 300 ones among 1,000 are binomial: their quantiles are known without a bootstrap."""
    values = torch.cat([torch.ones(300), torch.zeros(700)]).double()
    low, high = bootstrap_interval(values, confidence=confidence, resamples=10_000)
    expected = stats.binom.ppf([(1 - confidence) / 2, (1 + confidence) / 2], 1000, 0.3) / 1000
    assert [float(low), float(high)] == pytest.approx(expected.tolist(), abs=0.0011 if confidence < 0.99 else 0.002)
    if confidence == 0.95:
        assert torch.equal(low, bootstrap_interval(values, resamples=10_000).low), "95 % is the default"


def test_a_95_percent_interval_misses_one_mean_in_twenty() -> None:
    values = torch.randn(60, 1000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    low, high = bootstrap_interval(values, resamples=1000)
    missed = int(((low > 0) | (high < 0)).sum())
    assert stats.binomtest(missed, 1000, 0.055).pvalue > 0.01, "a percentile bootstrap of 60 misses a little more"


def test_students_t_reaches_its_known_quantiles() -> None:
    table = {1: 12.706, 2: 4.303, 4: 2.776, 10: 2.228, 30: 2.042}  # any textbook
    assert {n: round(t_quantile(n), 3) for n in table} == table
    assert t_quantile(4, 0.99) == pytest.approx(4.604, abs=1e-3)
    profile = AttributionProfile(torch.ones(1, 1, 3), torch.full((1, 1, 3), 0.5), ("a",), (5,), HEADER)
    row = profile.to_frame().to_dict("records")[0]
    assert (row["low"], row["high"]) == pytest.approx((1 - 0.5 * 2.776, 1 + 0.5 * 2.776), abs=1e-3)


@pytest.mark.parametrize(("hits", "of"), [(0, 12), (1, 12), (7, 8), (30, 31), (250, 1000)])
def test_the_ends_of_a_share_are_those_that_a_score_test_just_accepts(hits: int, of: int) -> None:
    """Wilson's interval inverts a test: |hits / of - p| is z standard errors of p, at both ends."""
    z = stats.norm.ppf(0.975)
    for low, high in (share_interval(hits, of), Accuracy(hits, of).interval):
        for p in (low, high):
            assert (hits / of - p) ** 2 == pytest.approx(z**2 * p * (1 - p) / of, rel=1e-4, abs=1e-9)
        assert low <= hits / of <= high
    low, high = share_interval(hits, of, 0.8)
    assert (hits / of - high) ** 2 == pytest.approx(stats.norm.ppf(0.9) ** 2 * high * (1 - high) / of, abs=1e-9)


def test_the_words_of_a_report_hold_the_same_ends() -> None:
    assert share(7, 8) == "7 of 8 (88 % [53, 98])"  # Wilson's, by hand: 0.529 to 0.978
    values, found = drawn(N), paired_test(drawn(N))
    test = stats.ttest_1samp(values.numpy(), 0)
    ends = test.confidence_interval(0.95)
    expected = [float(values.mean()), ends.low, ends.high, test.statistic, test.pvalue]
    assert [found[name] for name in ("mean", "low", "high", "t", "p")] == pytest.approx(expected)


def test_intervals_of_patching_and_tracing_are_of_95_percent() -> None:
    values = drawn(N)
    cells = values.float().reshape(N, 1, 1)
    grid = PatchGrid(
        cells + 2, torch.zeros(N), torch.full((N,), 2.0), (0,), (0,), "position", "resid_pre", "activation",
        "probability", False, (("a",),) * N, tuple((p, p) for p in PROMPTS), HEADER,
    )  # fmt: skip
    assert_95(*grid.interval(), values)
    effects = torch.full((1, N, len(TracingProfile.roles), 6), torch.nan)
    for role in ("last subject token", "last token"):
        effects[0, :, TracingProfile.roles.index(role)] = values.float()[:, None]
    profile = TracingProfile(effects, values.float(), torch.zeros(N), (("hidden", None),), PROMPTS, 1, HEADER)
    for row in profile.to_frame().to_dict("records"):
        assert_95(row["low"], row["high"], values)
    frame = two_sites(profile).set_index("what")
    for what in ("total effect", "early site", "late site", "rest"):
        assert_95(frame.loc[what, "low"], frame.loc[what, "high"], values)


def test_intervals_of_edits_are_of_95_percent() -> None:
    values = drawn(N)
    answers = tuple({"answers": {"reverse new": [{"p": p, "first": False, "exact": False}]}} for p in values.tolist())
    result = EditConsistency(tuple(map(str, range(N))), answers, {"rome": answers}, {}, HEADER)
    frame = result.to_frame().set_index(["method", "score"]).loc[("rome", "symmetry, p")]
    assert_95(frame["low"], frame["high"], values)


def localised(rows: Sequence[dict[str, Any]]) -> Localisation:
    blank = {"source": "P36", "kind": "factual", "prompts": 3, "count": 1, "tau": 0.7, "r1": 0.5, "converged": True}
    return Localisation.of(({**blank, "group": str(i), "neurons": [], **row} for i, row in enumerate(rows)), HEADER)


def test_intervals_of_localisation_are_of_95_percent() -> None:
    values = drawn(N)
    [row] = localised([{"r1": v, "tau": 2 * v} for v in values.tolist()]).summary().to_dict("records")
    assert_95(row["r1_low"], row["r1_high"], values)
    assert_95(row["tau_low"], row["tau_high"], 2 * values)
    layers = torch.randint(2, (N,), generator=torch.Generator().manual_seed(0))
    found = layer_distribution({"facts": [[(layer, 0)] for layer in layers.tolist()]}, n_layers=2)
    for row in found.rows:
        assert_95(row["low"], row["high"], (layers == row["layer"]).double())


def shifted(before: torch.Tensor, after: torch.Tensor) -> ProbabilityShift:
    words = tuple(("neutral", f"w{i}") for i in range(before.shape[1]))
    return ProbabilityShift(before, after, ("plural",) * len(before), words, (Neuron(0, 0),), 0.0, HEADER)


def test_intervals_of_word_effects_are_of_95_percent() -> None:
    before, after = drawn(N, 1).float(), drawn(N, 1, seed=1).float()
    shift, pair = shifted(before, after), torch.stack([before[:, 0], after[:, 0]]).double()
    [row] = shift.to_frame().to_dict("records")
    assert_95(row["low"], row["high"], pair[1] - pair[0])
    [row] = effect_of(shift, change="dai").rows
    assert_95(row["low"], row["high"], pair, lambda b, a: (a.mean() - b.mean()) / b.mean())
    [row] = effect_of(shift, change="mean_ratio").rows
    assert_95(row["low"], row["high"], pair, lambda b, a: (a / b).mean() - 1)


def test_the_interval_of_a_correlation_is_of_95_percent() -> None:
    plural = torch.randint(20, 200, (60,), generator=torch.Generator().manual_seed(0)).tolist()
    changes = [0.002 * n + 0.2 * float(x) for n, x in zip(plural, drawn(60), strict=True)]
    rows = [{"group": "plural", "section": "neutral", "word": f"w{i}", "change": c} for i, c in enumerate(changes)]
    counts = {f"w{i}": {"plural": n, "singular": 50} for i, n in enumerate(plural)}
    found = cooccurrence_bias(SuppressionEffect.of(rows, HEADER), counts).details["correlation"]
    pair = torch.tensor([plural, changes], dtype=torch.float64)
    assert found["spearman"] == pytest.approx(stats.spearmanr(*pair.numpy()).statistic)
    assert_95(found["low"], found["high"], pair, lambda x, y: stats.spearmanr(x, y).statistic)


def test_correlations_are_scipys_with_ties_too() -> None:
    a, b = torch.round(drawn(50)), torch.round(drawn(50, seed=1) + drawn(50))
    assert len(a.unique()) < 10, "many ties"
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


# --- permutations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("permutations", [1, 9, 99])
def test_a_permutation_p_is_never_0(permutations: int) -> None:
    """Of 2.6e26 ways to share out these groups two are as far apart as the kinds: none of them is drawn."""
    apart = {"a": [[(0, 1)]] * 45, "b": [[(3, 1)]] * 45}
    test = layer_distribution(apart, n_layers=4, permutations=permutations).details["test"]
    assert test["p"] == 1 / (permutations + 1)
    same = {"a": [[(0, 1)]] * 5, "b": [[(0, 2)]] * 5}
    assert layer_distribution(same, n_layers=4, permutations=permutations).details["test"]["p"] == 1


def test_a_permutation_p_is_near_that_of_all_permutations() -> None:
    a, b = [0, 0, 1, 0, 2], [2, 1, 3, 3]
    both = a + b

    def distance(first: Sequence[int]) -> float:
        rest = [i for i in range(len(both)) if i not in first]
        shares = [np.bincount([both[i] for i in side], minlength=4) / len(side) for side in (first, rest)]
        return float(abs(shares[0] - shares[1]).sum() / 2)

    observed = distance(range(len(a)))
    every = [distance(first) >= observed - 1e-12 for first in itertools.combinations(range(len(both)), len(a))]
    groups = {"a": [[(layer, 0)] for layer in a], "b": [[(layer, 0)] for layer in b]}
    test = layer_distribution(groups, n_layers=4, permutations=4000).details["test"]
    assert test["distance"] == pytest.approx(observed)
    assert test["p"] == pytest.approx(np.mean(every), abs=0.025) and 0.02 < np.mean(every) < 0.5


# --- McNemar ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("up", "down"), [(0, 0), (1, 0), (3, 9), (9, 3), (10, 10), (40, 17)])
def test_mcnemar_is_the_exact_binomial_test(up: int, down: int) -> None:
    expected = stats.binomtest(up, up + down, 0.5).pvalue if up + down else 1
    assert sign_test(up, down) == pytest.approx(expected)


def overturned(edit: str, counts: dict[tuple[bool, bool], int]) -> list[dict[str, Any]]:
    """Rows of one edit by (overturned, overturned by random neurons)."""
    return [
        {"source": "P36", "edit": edit, "overturned": ours, "random": other, "before": 0.5, "after": 0.4}
        for (ours, other), n in counts.items()
        for _ in range(n)
    ]


def test_only_pairs_that_differ_decide_between_neurons_and_random_ones() -> None:
    counts = {
        "few agree": {(True, False): 9, (False, True): 2, (True, True): 1, (False, False): 1},
        "many agree": {(True, False): 9, (False, True): 2, (True, True): 70, (False, False): 500},
        "all agree": {(True, True): 4, (False, False): 6},
        "other way": {(True, False): 1, (False, True): 7, (True, True): 3, (False, False): 9},
    }
    rows = [row for edit, some in counts.items() for row in overturned(edit, some)]
    table = Reliability.of(rows, HEADER).summary().set_index("edit")
    expected = {"few agree": (9, 11), "many agree": (9, 11), "other way": (1, 8)}
    for edit, (k, n) in expected.items():
        assert table.loc[edit, "p"] == pytest.approx(stats.binomtest(k, n, 0.5).pvalue)
    assert table.loc["all agree", "p"] == 1
    assert table["p_holm"].tolist() == pytest.approx(by_definition(table["p"].tolist()))
    for edit, some in counts.items():
        n, hits = sum(some.values()), sum(k for (ours, _), k in some.items() if ours)
        wilson = stats.binomtest(hits, n).proportion_ci(method="wilson")
        row = table.loc[edit]
        assert (row["n"], row["share"]) == (n, hits / n)
        assert (row["low"], row["high"]) == pytest.approx((wilson.low, wilson.high))
        others = sum(k for (_, other), k in some.items() if other)
        wilson = stats.binomtest(others, n).proportion_ci(method="wilson")
        assert row["random"] == others / n
        assert (row["random_low"], row["random_high"]) == pytest.approx((wilson.low, wilson.high))


# --- Holm -------------------------------------------------------------------------------------------


def by_definition(p_values: Sequence[float]) -> list[float]:
    """The level at which Holm's procedure begins to reject each: of the hypotheses up to it, the strictest step."""
    order = sorted(p_values)
    steps = [min(1.0, (len(order) - k) * p) for k, p in enumerate(order)]
    return [max(step for step, q in zip(steps, order, strict=True) if q <= p) for p in p_values]


def rejected(p_values: Sequence[float], alpha: float) -> set[int]:
    """Holm's procedure, as he wrote it: step down, and stop at the first that is not small enough."""
    left = set(range(len(p_values)))
    while left:
        smallest = min(left, key=lambda i: p_values[i])
        if p_values[smallest] > alpha / len(left):
            break
        left.remove(smallest)
    return set(range(len(p_values))) - left


@pytest.mark.parametrize("seed", range(5))
def test_a_corrected_p_is_the_level_from_which_on_holms_procedure_rejects(seed: int) -> None:
    p = (torch.rand(9, generator=torch.Generator().manual_seed(seed)) ** 4).tolist()
    corrected = holm(p)
    assert corrected == pytest.approx(by_definition(p))
    for alpha in (0.001, 0.01, 0.05, 0.2, 0.5, 0.9):
        assert {i for i, q in enumerate(corrected) if q <= alpha} == rejected(p, alpha)
    assert any(c > 1.5 * q for c, q in zip(corrected, p, strict=True))


def test_word_effects_are_corrected_over_all_words_and_the_published_test_is_not() -> None:
    before = drawn(12, 6).float()
    push = torch.tensor([1.0, 0.9, 0.97, 0.99, 0.995, 1.002])
    shift = shifted(before, before * push + 0.05 * drawn(12, 6, seed=2).float())
    rows = effect_of(shift).rows
    plain = [float(stats.ttest_rel(shift.after[:, w], shift.before[:, w]).pvalue) for w in range(6)]
    assert [row["p"] for row in rows] == pytest.approx(plain, rel=1e-3)
    assert [row["p_corrected"] for row in rows] == pytest.approx(by_definition([row["p"] for row in rows]))
    assert [row["significant"] for row in rows] == [row["p_corrected"] < 0.05 for row in rows]
    between = [row["p"] for row in rows if row["p"] < 0.05 <= row["p_corrected"]]
    assert between, "no word tells a corrected test from an uncorrected one: the test says nothing"
    for row in effect_of(shift, paper=True, alpha=0.3).rows:
        assert row["p_corrected"] == row["p"] and row["significant"] == (row["p"] < 0.3)


def test_shares_of_pairs_are_corrected_over_the_table() -> None:
    def pairs(determiner: str, number: str, hits: int, of: int) -> list[dict[str, Any]]:
        about = {"determiner": determiner, "number": number, "pair": determiner, "half": "test"}
        return [{**about, "neurons": [[1, 7]] if i < hits else [[2, 2]]} for i in range(of)]

    rows = [*pairs("this", "singular", 1, 12), *pairs("those", "plural", 7, 10), *pairs("these", "plural", 6, 9)]
    table = PairSearch.of(rows, HEADER).shares([(1, 7), (2, 2)])
    row = table.set_index(["neuron", "determiner"]).loc[("L1.N7", "those")]
    wilson = stats.binomtest(7, 10).proportion_ci(method="wilson")
    assert (row["found"], row["pairs"], row["share"], row["opposite"]) == (7, 10, 0.7, 1 / 12)
    assert (row["low"], row["high"]) == pytest.approx((wilson.low, wilson.high))
    assert row["p"] == pytest.approx(stats.fisher_exact([[7, 3], [1, 11]]).pvalue)
    assert table["p_holm"].tolist() == pytest.approx(by_definition(table["p"].tolist()))


# --- ways to choose: paired tests, and overlaps ------------------------------------------------------


CURVE = {"before": 1.0, "ablated": 0.0, "kept": [0.5, 1.0], "removed": [0.5, 0.0]}
KEPT = {"shares": [0.1, 1.0], "counts": [3, 30], "ablation": "zero"}


def chosen(neurons: dict[str, list[list[int]]], drops: dict[str, list[float]] | None = None) -> SelectionMethods:
    """`neurons[method][prompt]` are indices in layer 0."""
    rows = [
        {
            "method": method, "text": f"text {p}", "neurons": [[0, i] for i in indices], "gradients": 4, "seconds": 0.1,
            "drop": 0.1 if drops is None else drops[method][p], "target": " a", **CURVE,
        }
        for method, some in neurons.items() for p, indices in enumerate(some)
    ]  # fmt: skip
    methods = [m for m in neurons if m != RANDOM]
    return SelectionMethods.of(rows, HEADER, methods=methods, count=3, faithfulness=KEPT)


def test_the_overlap_is_the_shared_part_of_the_union() -> None:
    found = chosen(
        {
            "a": [[1, 2, 3], [1, 2, 3]],
            "b": [[1, 2, 4], [1, 2, 3]],  # 2 of 4 different neurons, then 3 of 3
            "c": [[3, 8, 9], [7, 8, 9]],  # with a: 1 of 5, then 0 of 6; with b: 0 of 6 twice
            RANDOM: [[1], [3, 4, 5, 6]],  # another size: 1 of 3, then 1 of 6; b: 1 of 3, 1 of 6; c: 0 of 4, 0 of 7
        }
    )
    table = found.overlap().set_index(["one", "other"])
    expected = {
        ("a", "b"): (2 / 4 + 3 / 3) / 2, ("a", "c"): (1 / 5 + 0) / 2, ("a", RANDOM): (1 / 3 + 1 / 6) / 2,
        ("b", "c"): 0, ("b", RANDOM): (1 / 3 + 1 / 6) / 2, ("c", RANDOM): 0,
    }  # fmt: skip
    assert table["jaccard"].to_dict() == pytest.approx(expected)
    assert (table.loc[("a", "b"), "low"], table.loc[("a", "b"), "high"]) == pytest.approx((0.5, 1))


def test_neurons_of_equal_index_in_other_layers_do_not_overlap() -> None:
    rows = [{"method": m, "neurons": [[layer, 5], [layer, 6]]} for layer, m in enumerate(("a", RANDOM))]
    found = SelectionMethods.of(rows, HEADER, methods=["a"], count=2)
    assert found.overlap()["jaccard"].tolist() == [0]


def test_intervals_of_drops_and_overlaps_are_of_95_percent_and_tests_are_paired() -> None:
    drops = {m: drawn(N, seed=s).tolist() for s, m in enumerate(("a", "b", RANDOM))}
    hits = torch.randint(4, (N,), generator=torch.Generator().manual_seed(0)).tolist()
    found = chosen(
        {"a": [[1, 2, 3]] * N, "b": [[1, 2, 3][:h] + [7, 8, 9][h:] for h in hits], RANDOM: [[20]] * N}, drops
    )
    table = found.summary().set_index("method")
    for method, values in drops.items():
        assert_95(table.loc[method, "low"], table.loc[method, "high"], torch.tensor(values, dtype=torch.float64))
    p = [float(stats.ttest_rel(drops["a"], drops[m]).pvalue) for m in ("b", RANDOM)]
    assert np.isnan(table.loc["a", "p_holm"])
    assert table["p_holm"].tolist()[1:] == pytest.approx(by_definition(p))
    overlap = found.overlap().set_index(["one", "other"]).loc[("a", "b")]
    assert_95(overlap["low"], overlap["high"], torch.tensor([h / (6 - h) for h in hits], dtype=torch.float64))
