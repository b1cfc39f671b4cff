"""Intervals, correlations and tests against their definitions, against scipy, and where nothing differs."""

from __future__ import annotations

import math
import warnings
from itertools import product

import pytest
import torch
from scipy import stats

from kntools.results.statistics import (
    bootstrap_interval,
    fisher,
    holm,
    mean_interval,
    pearson,
    share_interval,
    sign_flip_test,
    sign_test,
    spearman,
    spearman_rows,
    statistic_interval,
    t_test,
    welch,
)


def test_the_interval_of_a_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(400, 3, generator=generator) * torch.tensor([1.0, 2.0, 0.0]) + 5
    low, high = bootstrap_interval(values)
    # The normal interval is what it tends to.
    half = 1.96 * values.std(0) / 20
    torch.testing.assert_close(low, values.mean(0) - half, atol=0.02, rtol=0)
    torch.testing.assert_close(high, values.mean(0) + half, atol=0.02, rtol=0)
    assert not torch.equal(low, bootstrap_interval(values, seed=1).low)
    assert torch.equal(low, bootstrap_interval(values).low)
    narrow = bootstrap_interval(values, confidence=0.5)
    assert bool((narrow.low[:2] > low[:2]).all()) and bool((narrow.high[:2] < high[:2]).all())


@pytest.mark.parametrize("n", [2, 3, 10, 19])
def test_the_interval_of_the_mean_of_few_items_is_students(n: int) -> None:
    """A percentile bootstrap of 95 % holds the mean of 2 in half of all cases, that of 10 in 89 %."""
    values = torch.randn(n, 400, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    low, high = bootstrap_interval(values)
    ends = stats.ttest_1samp(values.numpy(), 0).confidence_interval(0.95)
    assert low.numpy() == pytest.approx(ends.low) and high.numpy() == pytest.approx(ends.high)
    missed = int(((low > 0) | (high < 0)).sum())
    assert stats.binomtest(missed, 400, 0.05).pvalue > 0.01
    # An entry counts the items that have it.
    more = torch.cat([values[:, :1], torch.full((30, 1), torch.nan)])
    both = torch.cat([more, torch.randn(n + 30, 1, generator=torch.Generator().manual_seed(0)).double()], dim=1)
    found = bootstrap_interval(both)
    assert float(found.low[0]) == pytest.approx(float(low[0])) and float(found.high[0]) == pytest.approx(float(high[0]))
    assert float(found.low[1]) == float(bootstrap_interval(both[:, 1]).low)
    assert bootstrap_interval(values.float()).low.dtype == torch.float32


@pytest.mark.parametrize(("n", "share"), [(2, 0.5), (3, 0.73), (10, 0.89), (20, 0.925)])
def test_bootstraps_of_few_items_are_too_narrow(n: int, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why those of fewer than 20 are Student's."""
    monkeypatch.setattr("kntools.results.statistics._FEW", 0)
    low, high = bootstrap_interval(torch.randn(n, 2000, generator=torch.Generator().manual_seed(n)), resamples=1000)
    assert float(((low <= 0) & (high >= 0)).float().mean()) == pytest.approx(share, abs=0.03)


def test_one_item_has_no_interval() -> None:
    assert math.isnan(mean_interval([3.0])["low"]) and mean_interval([3.0])["mean"] == 3
    assert all(map(math.isnan, statistic_interval(lambda drawn: drawn.double().mean(-1), 1, resamples=9, seed=0)))
    assert all(math.isfinite(x) for x in statistic_interval(lambda d: d.double().mean(-1), 2, resamples=9, seed=0))


def test_items_without_a_value_are_left_out() -> None:
    nan = float("nan")
    values = torch.tensor([[1.0, nan, 2.0], [3.0, nan, nan], [2.0, nan, nan]])
    low, high = bootstrap_interval(values)
    alone = bootstrap_interval(values[:, :1])
    assert float(low[0]) == float(alone.low[0]) and float(high[0]) == float(alone.high[0])
    assert low[1:].isnan().all() and high[1:].isnan().all()


@pytest.mark.parametrize("values", [[0.1, 0.1], [0.3, -0.1, 0.2, 0.0, 0.1], [0.1] * 8, [0.0] * 3, [1, -1, 0.5, 0.5]])
def test_signs_at_random(values: list[float]) -> None:
    drawn = torch.tensor(list(product((-1.0, 1.0), repeat=len(values))), dtype=torch.float64)
    given = torch.tensor(values, dtype=torch.float64)
    extreme = (drawn @ given).abs() >= abs(sum(values)) - 1e-9
    assert sign_flip_test(given) == pytest.approx(float(extreme.double().mean()))


def test_signs_of_many_items_and_of_one() -> None:
    """Two equal changes tell nothing: a t-test of them would give p = 0."""
    assert sign_flip_test(torch.tensor([0.1, 0.1])) == 0.5 and t_test(torch.zeros(2), torch.full((2,), 0.1))[1] == 0
    values = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.2
    assert sign_flip_test(values) == pytest.approx(t_test(0 * values, values)[1], abs=0.02)
    assert sign_flip_test(values + 9) == pytest.approx(1 / 5000, rel=0.01), "of 10,000 choices: never 0"
    assert math.isnan(sign_flip_test(values[:1])) and math.isnan(sign_flip_test(values[:0]))


def test_correlations() -> None:
    a = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert pearson(a, 2 * a + 1) == pytest.approx(1)
    assert pearson(a, -a) == pytest.approx(-1)
    assert spearman(a, a.exp()) == pytest.approx(1)
    assert pearson(a, a.exp()) < 0.99
    b = torch.tensor([2.0, 2.0, 1.0, 5.0])
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    # By hand: ranks 1 2 3 4 and 2.5 2.5 1 4
    assert spearman(a, b) == pytest.approx(1.5 / (5 * 4.5) ** 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(pearson(a, torch.ones(4))) and math.isnan(spearman(a[:1], b[:1]))
    grid = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert pearson(grid, grid.exp()) == pytest.approx(pearson(grid.flatten(), grid.exp().flatten()))


def test_correlations_of_rows_are_those_of_each_row() -> None:
    a, b = torch.randint(4, (2, 40, 6), generator=torch.Generator().manual_seed(0)).double()  # with ties
    a[0], b[1] = 2, 3
    expected = torch.tensor([spearman(x, y) for x, y in zip(a, b, strict=True)], dtype=torch.float64)
    assert expected[:2].isnan().all() and not expected[2:].isnan().any(), "a constant has no correlation"
    torch.testing.assert_close(spearman_rows(a, b), expected, equal_nan=True)


def test_errors_say_what_to_type() -> None:
    with pytest.raises(ValueError, match="no items"):
        bootstrap_interval(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval(torch.zeros(2), confidence=95.0)
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_interval(torch.zeros(2), resamples=0)


# --- tests of differences ----------------------------------------------------------------------------


def drawn(seed: int, n: int = 20) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_t_tests_are_scipys() -> None:
    a, b = drawn(0), drawn(0) + 0.05 * drawn(1) + 0.1
    paired, unpaired = stats.ttest_rel(b, a), stats.ttest_ind(b, a)
    assert t_test(a, b) == pytest.approx((paired.statistic, paired.pvalue))
    assert t_test(a, b, paper=True) == pytest.approx((unpaired.statistic, unpaired.pvalue))
    assert t_test(a, b)[1] < 0.1 * t_test(a, b, paper=True)[1], "on pairs the published test is blind"
    found = stats.ttest_ind(b[:7], a, equal_var=False)
    assert welch(a, b[:7]) == pytest.approx((found.statistic, found.pvalue))


def test_what_never_varies() -> None:
    a = torch.ones(5)
    assert t_test(a, a) == (0, 1) and t_test(a, a, paper=True) == (0, 1)
    assert t_test(a, a + 1) == (math.inf, 0) and t_test(a, a - 1, paper=True) == (-math.inf, 0)
    assert all(map(math.isnan, welch(a, a[:1])))
    with pytest.raises(ValueError, match="at least 2"):
        t_test(a[:1], a[:1])
    with pytest.raises(ValueError, match="with themselves"):
        t_test(a, a[:3])


@pytest.mark.parametrize("paper", [False, True])
def test_p_is_uniform_where_nothing_differs(paper: bool) -> None:
    p = [t_test(*drawn(seed, 40).view(2, 20), paper=paper)[1] for seed in range(300)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_holm_by_hand() -> None:
    # 4 * 0.005, 3 * 0.01, 2 * 0.03, then not less than the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, math.nan, 0.9])[0] == 1 and math.isnan(holm([0.5, math.nan])[1])
    assert holm([]) == []


def test_shares() -> None:
    assert fisher(9, 10, 2, 10) == pytest.approx(stats.fisher_exact([[9, 1], [2, 8]]).pvalue)
    assert sign_test(0, 0) == 1 and sign_test(5, 0) == pytest.approx(2 / 32)
    low, high = share_interval(5, 10)
    assert 0.5 - low == pytest.approx(high - 0.5) and 0.23 < low < 0.24  # Wilson (1927)
    assert math.isnan(share_interval(0, 0)[0]) and share_interval(0, 500)[1] < 0.01
