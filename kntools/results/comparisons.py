"""Tests of differences, and what to do about many of them at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor


def t_test(
    before: Float[Tensor, " item"], after: Float[Tensor, " other"], *, paper: bool = False
) -> tuple[float, float]:
    """`(t, p)` of the difference of means, two-sided: paired, or as published, `paper=True`: unpaired.

    ```python
    t, p = t_test(before, after)
    ```

    The published test (Niu et al. 2024, figure 5) is Student's with equal variances, on what are in fact pairs: it
    misses small changes of prompts that differ a lot. Differences that are all 0 give p = 1; differences that are all
    the same, and not 0, give p = 0.

    Raises:
        ValueError: fewer than two items.
    """
    if len(before) < 2 or len(after) < 2 or (not paper and len(before) != len(after)):
        raise ValueError(
            f"{len(before)} and {len(after)} values: a test compares at least 2 prompts (with themselves, if paired)"
        )
    x, y = before.double(), after.double()
    if not paper:
        d = y - x
        if bool((d == d[0]).all()):
            return (0.0, 1.0) if float(d[0]) == 0 else (math.copysign(math.inf, float(d[0])), 0.0)
        found = _stats().ttest_rel(y.numpy(), x.numpy())
    else:
        if bool((x == x[0]).all()) and bool((y == y[0]).all()):
            same = float(x[0]) == float(y[0])
            return (0.0, 1.0) if same else (math.copysign(math.inf, float(y[0] - x[0])), 0.0)
        found = _stats().ttest_ind(y.numpy(), x.numpy())
    return float(found.statistic), float(found.pvalue)


def welch(a: Float[Tensor, " item"], b: Float[Tensor, " other"]) -> tuple[float, float]:
    """`(t, p)` of the difference of the means of two unpaired groups with variances of their own; nan if too few."""
    # Means of equal numbers may differ in their last bit.
    if len(a) < 2 or len(b) < 2 or max(float(x.double().std()) for x in (a, b)) < 1e-12:
        return math.nan, math.nan
    found = _stats().ttest_ind(b.double().numpy(), a.double().numpy(), equal_var=False)
    return float(found.statistic), float(found.pvalue)


def t_quantile(freedom: int, confidence: float = 0.95) -> float:
    """How many standard errors the interval of a mean reaches to either side (Student's t)."""
    return float(_stats().t.ppf((1 + confidence) / 2, freedom))


def fisher(hits: int, of: int, other_hits: int, of_others: int) -> float:
    """p, two-sided, of the same share in two groups (Fisher's exact test)."""
    return float(_stats().fisher_exact([[hits, of - hits], [other_hits, of_others - other_hits]]).pvalue)


def sign_test(up: int, down: int) -> float:
    """p, two-sided, of as many pairs going up as down (McNemar's exact test)."""
    return float(_stats().binomtest(up, up + down).pvalue) if up + down else 1.0


def share_interval(hits: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share; nan if there are none."""
    if of == 0:
        return math.nan, math.nan
    found = _stats().binomtest(hits, of).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: what each p is worth among so many tests. nan stays nan and does not count.

    ```python
    holm([0.01, 0.04])      # [0.02, 0.04]
    ```
    """
    counted = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, highest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(counted):
        highest = max(highest, min(1.0, p * (len(counted) - rank)))
        corrected[i] = highest
    return corrected


def _stats() -> Any:
    """scipy takes half a second to import: only when a test is made."""
    from scipy import stats

    return stats
