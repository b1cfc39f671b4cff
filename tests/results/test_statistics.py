"""Intervals and correlations against their definitions."""

from __future__ import annotations

import pytest
import torch

from kntools.results.statistics import bootstrap_interval, pearson, spearman


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


def test_items_without_a_value_are_left_out() -> None:
    nan = float("nan")
    values = torch.tensor([[1.0, nan, 2.0], [3.0, nan, nan], [2.0, nan, nan]])
    low, high = bootstrap_interval(values)
    alone = bootstrap_interval(values[:, :1])
    assert float(low[0]) == float(alone.low[0]) and float(high[0]) == float(alone.high[0])
    assert low[1:].isnan().all() and high[1:].isnan().all()


def test_correlations() -> None:
    a = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert pearson(a, 2 * a + 1) == pytest.approx(1)
    assert pearson(a, -a) == pytest.approx(-1)
    assert spearman(a, a.exp()) == pytest.approx(1)
    assert pearson(a, a.exp()) < 0.99
    stats = pytest.importorskip("scipy.stats")
    b = torch.tensor([2.0, 2.0, 1.0, 5.0])
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_errors_say_what_to_type() -> None:
    with pytest.raises(ValueError, match="no items"):
        bootstrap_interval(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval(torch.zeros(2), confidence=95.0)
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_interval(torch.zeros(2), resamples=0)
