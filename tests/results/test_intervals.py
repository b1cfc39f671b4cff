"""Every interval of 95 % is one of 95 %, wherever it is given: against scipy, or by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from kntools.analyses.edit_result import EditConsistency
from kntools.analyses.fig01_attribution_profile import AttributionProfile
from kntools.analyses.fig03_localisation import Localisation
from kntools.analyses.fig04_layer_distribution import layer_distribution
from kntools.analyses.fig05_suppression_effect import SuppressionEffect, effect_of
from kntools.analyses.fig06_cooccurrence_bias import cooccurrence_bias
from kntools.analyses.fig07_probability_shift import ProbabilityShift
from kntools.analyses.fig09_tracing_profile import TracingProfile
from kntools.analyses.method_comparison import RANDOM, SelectionMethods
from kntools.analyses.planted_knowledge import PlantedFacts
from kntools.patching.patch_grid import PatchGrid
from kntools.prompts import Prompt
from kntools.report.figure import paired_test, share
from kntools.results.statistics import (
    bootstrap_interval,
    pearson,
    share_interval,
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
    """Skewed values from 0 to 1: both ends of an interval have to be right."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).exp()
    return values / values.max()


def assert_95(low: Any, high: Any, values: torch.Tensor, statistic: Callable[..., Any] = np.mean) -> None:
    """Both ends are those of scipy's percentile bootstrap; those of 90 % and 97.5 % are farther away than allowed."""
    found = stats.bootstrap(
        [column.numpy() for column in torch.atleast_2d(values)], statistic, method="percentile", paired=True,
        vectorized=False if statistic is not np.mean else None, n_resamples=4000, rng=np.random.default_rng(1),
    )  # fmt: skip
    allowed = 0.2 * found.standard_error
    assert float(low) == pytest.approx(found.confidence_interval.low, abs=allowed)
    assert float(high) == pytest.approx(found.confidence_interval.high, abs=allowed)


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
    assert t_quantile(torch.tensor([*table])).tolist() == pytest.approx([*table.values()], abs=1e-3)
    assert float(t_quantile(torch.tensor(4), 0.99)) == pytest.approx(4.604, abs=1e-3)
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
    values, found = drawn(N), paired_test(drawn(N), (-1, 1))
    test = stats.ttest_1samp(values.numpy(), 0)
    ends = test.confidence_interval(0.95)
    few = paired_test(torch.tensor([0.5, 1.5, torch.nan]), (-2, 2))
    assert (few["n"], few["low"], few["high"]) == (2, -2, 2), "Student's: -5.4 to 7.4"
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
    frame = profile.summary().set_index("what")
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
    [row] = localised([{"r1": v, "tau": v / 2} for v in values.tolist()]).summary().to_dict("records")
    assert_95(row["r1_low"], row["r1_high"], values)
    assert_95(row["tau_low"], row["tau_high"], values / 2)
    layers = torch.randint(2, (N,), generator=torch.Generator().manual_seed(0))
    found = layer_distribution({"facts": [[(layer, 0)] for layer in layers.tolist()]}, n_layers=2)
    for row in found.rows:
        assert_95(row["low"], row["high"], (layers == row["layer"]).double())


def test_intervals_of_two_items_end_where_values_can_be() -> None:
    """Student's interval of 0 and 1 is -5.9 to 6.9."""
    nothing, everything = torch.zeros(2), torch.tensor([0.0, 1.0])
    found = localised([{"count": 1, "tau": 0.0, "r1": 0.0}, {"count": 9, "tau": 1.0, "r1": 1.0}])
    [row] = found.summary().to_dict("records")
    assert (row["tau_low"], row["tau_high"], row["r1_low"], row["r1_high"]) == (0, 1, 0, 1)
    assert row["count_low"] == 0 and row["count_high"] == pytest.approx(5 + 12.706 * 4, abs=1e-2)
    layers = layer_distribution({"facts": [[(0, 0)], [(1, 0)]]}, n_layers=2)
    assert [(row["low"], row["high"]) for row in layers.rows] == [(0, 1), (0, 1)]
    [row] = shifted(nothing[:, None], everything[:, None]).to_frame().to_dict("records")
    assert (row["low"], row["high"]) == (-1, 1)
    facts = [{"method": "a", "after": 1.0, "ranks": [rank]} for rank in (1, 50)]
    recall = PlantedFacts.of(facts, HEADER, count=2, neurons=100, until=0.9).recall()
    assert (recall["low"].item(), recall["high"].item()) == (0, 1)
    about = {"text": "a", "target": " b", "before": 1.0, "ablated": 0.0, "gradients": 1, "seconds": 1.0}
    about |= {"kept": [0.5, 1.0], "removed": [0.5, 0.0]}
    drops = [{**about, "method": m, "drop": d} for m in ("a", RANDOM) for d in (0.0, 1.0)]
    curve = {"shares": (0.1, 1.0), "counts": (1, 10), "ablation": "mean"}
    table = SelectionMethods.of(drops, HEADER, methods=["a"], faithfulness=curve).summary()
    assert table["low"].tolist() == [-1, -1] and table["high"].tolist() == [1, 1]

    def scored(p: float) -> dict[str, Any]:
        answer, other = ({"p": value, "first": False, "exact": False, "tokens": value} for value in (p, 1 - p))
        answers = {"reverse new": [answer], "rewrite new": [answer], "rewrite true": [other]}
        return {"answers": answers, "kl": p, "entropy": p, "perplexity": 1 + p}

    both = (scored(0.0), scored(1.0))
    result = EditConsistency(("a", "b"), both, {"rome": both}, {}, HEADER)
    ends = result.to_frame().set_index("score")[["low", "high"]]
    expected = {
        "symmetry, p": (0, 1),
        "reliability, tokens": (0, 1),
        "efficacy magnitude": (-1, 1),
        "neighborhood KL": (0, pytest.approx(6.853, abs=1e-3)),
        "generation entropy": (0, pytest.approx(6.853, abs=1e-3)),
        "perplexity": (1, pytest.approx(7.853, abs=1e-3)),
    }
    assert {score: tuple(ends.loc[score].to_numpy()[-1]) for score in expected} == expected


def test_intervals_of_few_pairs_and_prompts_end_where_effects_can_be() -> None:
    cells = torch.tensor([0.0, 1.0]).reshape(2, 1, 1)
    settings = ((0,), (0,), "position", "resid_pre", "activation")
    pairs = (False, (("a",),) * 2, tuple((p, p) for p in PROMPTS[:2]), HEADER)
    for metric, end in (("probability", 1), ("two_way", 1), ("contrast", 6.853)):
        grid = PatchGrid(cells, torch.zeros(2), torch.zeros(2), *settings, metric, *pairs)
        low, high = grid.interval()
        assert (float(low), float(high)) == pytest.approx((max(-end, 0.5 - 6.353), end), abs=1e-3)
    effects = cells.reshape(1, 2, 1, 1).expand(1, 2, len(TracingProfile.roles), 6)
    profile = TracingProfile(effects, torch.ones(2), torch.zeros(2), (("hidden", None),), PROMPTS[:2], 1, HEADER)
    assert set(profile.to_frame()["low"]) == {-1} and set(profile.to_frame()["high"]) == {1}


def test_a_value_beyond_its_bounds_is_an_error() -> None:
    """An interval that is cut off would not hold the mean."""
    assert bootstrap_interval(torch.tensor([0.0, 1 + 1e-6]), bounds=(0, 1)).high == 1, "rounding"
    for wrong in ([0.5, 1.01], [-0.01, 0.5]):
        with pytest.raises(ValueError, match="not between 0 and 1; give the bounds"):
            bootstrap_interval(torch.tensor(wrong), bounds=(0, 1))
    assert bootstrap_interval(torch.tensor([0.5, 0.6, torch.nan]), bounds=(0, 1)).low == 0


def shifted(before: torch.Tensor, after: torch.Tensor) -> ProbabilityShift:
    words = tuple(("neutral", f"w{i}") for i in range(before.shape[1]))
    return ProbabilityShift(before, after, ("plural",) * len(before), words, (Neuron(0, 0),), 0.0, HEADER)


def test_intervals_of_word_effects_are_of_95_percent() -> None:
    before, after = drawn(N, 1).float(), drawn(N, 1, seed=1).float()
    shift, pair = shifted(before, after), torch.stack([before[:, 0], after[:, 0]]).double()
    [row] = shift.to_frame().to_dict("records")
    assert_95(row["low"], row["high"], pair[1] - pair[0])
    [row] = effect_of(shifted(before[:5], after[:5]), change="mean_ratio").rows
    few = stats.ttest_1samp((after[:5, 0] / before[:5, 0] - 1).double().numpy(), 0).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((-1, few.high), rel=1e-5) and few.low < -1
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
