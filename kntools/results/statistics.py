"""Means with intervals."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Interval(NamedTuple):
    """Lower and upper ends, of the shape of one item."""

    low: Tensor
    high: Tensor


def bootstrap_interval(
    values: Float[Tensor, "item ..."], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of the mean over items.

    ```python
    low, high = bootstrap_interval(grid.per_pair)        # [layer position] each
    ```

    Arguments:
        values: one entry per item. Entries that are nan are left out (an item need not have all of them).
        confidence: of the interval, between 0 and 1.
        resamples: how often the items are drawn anew, with replacement.
        seed: of a generator of its own.

    Returns:
        `(low, high)`; nan where fewer than two items have a value.

    Raises:
        ValueError: no items, or an argument out of range.
    """
    if values.shape[0] == 0:
        raise ValueError("no items: there is no mean to give an interval for")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}; it must be between 0 and 1 (0.95)")
    if resamples < 1:
        raise ValueError(f"resamples={resamples}; it must be at least 1 (2000)")
    n = values.shape[0]
    flat = values.detach().double().cpu().reshape(n, -1)
    present = ~flat.isnan()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (resamples, n), generator=generator)
    times = torch.zeros(resamples, n, dtype=torch.double).scatter_add_(1, drawn, torch.ones(drawn.shape).double())
    # 0 / 0 is nan: a resample that holds no item with this entry says nothing.
    means = (times @ flat.nan_to_num()) / (times @ present.double())
    tail = (1 - confidence) / 2
    ends = [means.nanquantile(q, dim=0) for q in (tail, 1 - tail)]
    enough = present.sum(0) > 1
    low, high = (torch.where(enough, e, torch.nan).reshape(values.shape[1:]).to(values.dtype) for e in ends)
    return Interval(low, high)


def mean_of_present(values: Float[Tensor, "item ..."]) -> Tensor:
    """Mean over items, without those that are nan."""
    return values.nanmean(0)


def pearson(a: Tensor, b: Tensor) -> float:
    """Correlation of two tensors of the same shape, entry by entry; nan if one of them is constant."""
    x, y = a.double().flatten(), b.double().flatten()
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x.norm() * y.norm()))


def spearman(a: Tensor, b: Tensor) -> float:
    """The same of their ranks; equal values share a rank."""
    return pearson(_ranks(a), _ranks(b))


def _ranks(values: Tensor) -> Tensor:
    flat = values.double().flatten()
    _, place, count = flat.unique(sorted=True, return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - (count.double() - 1) / 2)[place]
