"""What `demo_page.py` says in words and in its tables of means."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from kntools.statistics import bootstrap_interval

if TYPE_CHECKING:
    from demo import Results


def gain_over_random(results: Results) -> tuple[float, float, float]:
    """How much more suppressing the leading neurons lowers the answer than random ones: mean and 95 % interval.

    The interval is a bootstrap over facts: what would other facts of this kind have given?
    """
    gain = results.random.mean(1) - results.leading
    low, high = bootstrap_interval(gain)
    return float(gain.mean()), float(low), float(high)


def change_table(results: Results) -> pd.DataFrame:
    """Probability of a fact's own answer, and the mean over the other facts, under its own knowledge neurons."""
    frame = pd.DataFrame({"fact": [f.name for f in results.facts], "before": results.clean.tolist()})
    for values, what in ((results.suppressed, "suppressed"), (results.enhanced, "enhanced")):
        frame[what] = values.diagonal().tolist()
    if len(results.facts) > 1:
        others = ~torch.eye(len(results.facts), dtype=torch.bool)
        frame["others before"] = _others(results.clean.expand_as(results.suppressed), others)
        frame["others suppressed"] = _others(results.suppressed, others)
        frame["others enhanced"] = _others(results.enhanced, others)
    return frame


def in_words(results: Results) -> str:
    """Mean probability over facts before and after, for own and for unrelated answers."""
    frame = change_table(results).mean(numeric_only=True)
    text = (
        f"Suppressed, the fact's own answer goes from {frame['before']:.3f} to {frame['suppressed']:.3f} on average; "
        f"enhanced, to {frame['enhanced']:.3f}."
    )
    if "others before" in frame:
        text += (
            f" Unrelated answers go from {frame['others before']:.3f} to {frame['others suppressed']:.3f} "
            f"and to {frame['others enhanced']:.3f}."
        )
    return text


def shared_neurons(results: Results) -> str:
    """Which neurons are knowledge neurons of more than one fact: they carry something else than the fact."""
    count = Counter(n for kns in results.neurons for n in kns.neurons)
    shared = [f"{n} ({times} facts)" for n, times in count.most_common() if times > 1]
    return f"In more than one set: {', '.join(shared)}." if shared else "No neuron is in more than one set."


def _others(values: Tensor, others: Tensor) -> list[float]:
    return [float(row[keep].mean()) for row, keep in zip(values, others, strict=True)]
