"""Tests of differences against scipy, and against what they must do where nothing differs."""

from __future__ import annotations

import math

import pytest
import torch

from kntools.results.comparisons import fisher, holm, share_interval, sign_test, t_test, welch

stats = pytest.importorskip("scipy.stats")


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
