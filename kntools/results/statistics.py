"""Means and shares with intervals, correlations, tests of differences, and corrections for many tests.

What scipy has is scipy's, which imports `scipy.stats` where it is first used, for that takes most of a second.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kntools import randomness
from kntools.arguments import decimal, whole

#: Between which ends every value lies, and so every mean.
Bounds = tuple[float, float]
UNBOUNDED: Bounds = (-math.inf, math.inf)
COUNT: Bounds = (0.0, math.inf)
SHARE: Bounds = (0.0, 1.0)
CHANGE_OF_SHARE: Bounds = (-1.0, 1.0)
CHANGE_OF_EFFECT: Bounds = (-2.0, 2.0)  # the difference of two such changes
_ROUNDING = 1e-4  # of shares that were computed with few bits

# Percentile bootstraps of fewer items are too narrow: one of 95 % holds the mean of 10 in 89 %, that of 3 in 73 %.
_FEW = 20


class Interval(NamedTuple):
    """Lower and upper ends, of the shape of one item."""

    low: Tensor
    high: Tensor


def bootstrap_interval(
    values: Float[Tensor, "item ..."],
    *,
    bounds: Bounds = UNBOUNDED,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of the mean over items, `(low, high)`: a percentile bootstrap, and Student's of fewer than 20 items.

    ```python
    low, high = bootstrap_interval(grid.per_pair)        # [layer position] each
    ```

    Entries that are nan are left out: an item need not have all of them. Where fewer than two items have a value, both
    ends are nan. Student's interval of shares may reach beyond 0 or 1: what is outside of `bounds`, between which every
    value and so the mean lies, is cut off.
    """
    if values.shape[0] == 0:
        raise ValueError("no items; give at least one")
    low, high = bounds
    beyond = values[(values < low - _ROUNDING) | (values > high + _ROUNDING)]
    if beyond.numel():
        raise ValueError(f"a value of {beyond[0]:g} is not between {low:g} and {high:g}; give the bounds of all values")
    confidence = decimal("confidence", confidence, above=0, below=1)
    resamples = whole("resamples", resamples, least=1)
    # Not scipy's: one matrix product gives the means of all resamples of all entries, with those that are nan left out.
    n = values.shape[0]
    flat = values.detach().double().cpu().reshape(n, -1)
    present = ~flat.isnan()
    drawn = torch.randint(n, (resamples, n), generator=randomness.generator(seed))
    times = torch.zeros(resamples, n, dtype=torch.double).scatter_add_(1, drawn, torch.ones(drawn.shape).double())
    # 0 / 0 is nan: a resample that holds no item with this entry says nothing.
    means = (times @ flat.nan_to_num()) / (times @ present.double())
    tail = (1 - confidence) / 2
    ends = [means.nanquantile(q, dim=0) for q in (tail, 1 - tail)]
    few = present.sum(0) < _FEW
    if bool(few.any()):
        ends = [torch.where(few, *both) for both in zip(student_interval(flat, confidence), ends, strict=True)]
    return Interval(*(end.clamp(low, high).reshape(values.shape[1:]).to(values.dtype) for end in ends))


def student_interval(values: Float[Tensor, "item ..."], confidence: float = 0.95) -> Interval:
    """Student's interval of the mean over items that are not nan; nan where there are fewer than two."""
    items = values.detach().double().cpu()
    n, mean = (~items.isnan()).sum(0), items.nanmean(0)
    error = ((items - mean).square().nansum(0) / (n - 1) / n).sqrt()
    reach = t_quantile(n - 1, confidence) * error
    return Interval(mean - reach, mean + reach)


def mean_interval(
    values: Sequence[float] | Float[Tensor, " item"], *, bounds: Bounds = UNBOUNDED, seed: int = 0
) -> dict[str, float]:
    """`mean`, `low`, `high` of one number per item, as entries of a row: the interval is `bootstrap_interval`."""
    items = torch.as_tensor(values, dtype=torch.float64)
    low, high = bootstrap_interval(items, bounds=bounds, seed=seed)
    return {"mean": float(items.nanmean()), "low": float(low), "high": float(high)}


def statistic_interval(
    statistic: Callable[[Tensor], Tensor], items: int, *, resamples: int, seed: int
) -> tuple[float, float]:
    """95 % percentile bootstrap of what is no mean: `statistic` takes items drawn anew, `[sample item]`.

    Fewer than two items give nan.
    """
    if items < 2:
        return math.nan, math.nan
    drawn = torch.randint(items, (resamples, items), generator=randomness.generator(seed))
    low, high = statistic(drawn).double().nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def t_quantile(freedom: Int[Tensor, "..."], confidence: float = 0.95) -> Float[Tensor, "..."]:
    """How many standard errors the interval of a mean reaches to either side (Student's t); nan without freedom."""
    return torch.as_tensor(scipy.special.stdtrit(freedom.numpy(), (1 + confidence) / 2))


def share_interval(hits: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share; nan if there are none."""
    if of == 0:
        return math.nan, math.nan
    interval = scipy.stats.binomtest(hits, of).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def pearson(a: Tensor, b: Tensor) -> float:
    """Correlation of two tensors of the same shape, entry by entry; nan if one of them is constant."""
    return _correlation(scipy.stats.pearsonr, a, b)


def spearman(a: Tensor, b: Tensor) -> float:
    """The same of their ranks; equal values share a rank."""
    return _correlation(scipy.stats.spearmanr, a, b)


def spearman_rows(a: Float[Tensor, "sample item"], b: Float[Tensor, "sample item"]) -> Float[Tensor, " sample"]:
    """`spearman` of each row with the same row of the other."""
    ranks = (torch.from_numpy(scipy.stats.rankdata(x.double().numpy(), axis=-1)) for x in (a, b))
    x, y = (rank - rank.mean(-1, keepdim=True) for rank in ranks)
    return (x * y).sum(-1) / (x.square().sum(-1) * y.square().sum(-1)).sqrt()


def _correlation(test: Callable[..., Any], a: Tensor, b: Tensor) -> float:
    if a.numel() < 2:
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)  # a constant: nan says it
        return float(test(*(x.detach().double().flatten().cpu().numpy() for x in (a, b))).statistic)


def t_test(
    before: Float[Tensor, " item"], after: Float[Tensor, " other"], *, paper: bool = False
) -> tuple[float, float]:
    """`(t, p)` of the difference of means, two-sided: paired, or as published, `paper=True`: unpaired.

    The published test (Niu et al. 2024, figure 5) is Student's with equal variances, on what are in fact pairs: it
    misses small changes of prompts that differ a lot. Differences that are all 0 give p = 1; differences that are all
    the same, and not 0, give p = 0.
    """
    if len(before) < 2 or len(after) < 2 or (not paper and len(before) != len(after)):
        raise ValueError(
            f"{len(before)} and {len(after)} values: a test compares at least 2 prompts (with themselves, if paired)"
        )
    x, y = before.double().numpy(), after.double().numpy()
    if all(np.ptp(values) == 0 for values in ((x, y) if paper else (y - x,))):
        difference = float(y[0] - x[0])
        return (math.copysign(math.inf, difference), 0.0) if difference else (0.0, 1.0)
    test = scipy.stats.ttest_ind(y, x) if paper else scipy.stats.ttest_rel(y, x)
    return float(test.statistic), float(test.pvalue)


def sign_flip_test(differences: Float[Tensor, " item"]) -> float:
    """p of paired differences with mean 0, of values that are not normal, such as shares of a few questions.

    Fisher's randomisation test: how often is the mean as far from 0 if each difference has its sign at random? Exact
    for up to 13 items; 10,000 random choices of signs for more; nan of fewer than two.
    """
    if len(differences) < 2:
        return math.nan
    test = scipy.stats.permutation_test(
        (differences.double().numpy(),), np.mean, permutation_type="samples", n_resamples=10_000, random_state=0
    )
    return float(test.pvalue)


def welch(a: Float[Tensor, " item"], b: Float[Tensor, " other"]) -> tuple[float, float]:
    """`(t, p)` of the difference of the means of two unpaired groups with variances of their own; nan if too few."""
    # Means of equal numbers may differ in their last bit.
    if len(a) < 2 or len(b) < 2 or max(float(x.double().std()) for x in (a, b)) < 1e-12:
        return math.nan, math.nan
    test = scipy.stats.ttest_ind(b.double().numpy(), a.double().numpy(), equal_var=False)
    return float(test.statistic), float(test.pvalue)


#: `"greater"` is for a claim whose direction was fixed before the test, on other data.
Alternative = Literal["two-sided", "greater"]


def fisher(hits: int, of: int, other_hits: int, of_others: int, alternative: Alternative = "two-sided") -> float:
    """p of the same share in two groups (Fisher's exact test)."""
    table = [[hits, of - hits], [other_hits, of_others - other_hits]]
    return float(scipy.stats.fisher_exact(table, alternative=alternative).pvalue)


def sign_test(up: int, down: int, alternative: Alternative = "two-sided") -> float:
    """p of as many pairs going up as down (McNemar's exact test)."""
    return float(scipy.stats.binomtest(up, up + down, alternative=alternative).pvalue) if up + down else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: what each p is worth among so many tests. nan stays nan and does not count."""
    counted = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, highest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(counted):
        highest = max(highest, min(1.0, p * (len(counted) - rank)))
        corrected[i] = highest
    return corrected
