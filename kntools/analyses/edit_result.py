"""What an evaluation of edits holds: the answers before and after each edit, and tables of its scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from kntools.analyses.edit_scores import SCORES, Payload, knew
from kntools.results.result import Result
from kntools.results.statistics import mean_interval


@dataclass(frozen=True, eq=False, repr=False)
class EditConsistency(Result):
    """Answers before and after edits of many cases, by several methods.

    ```python
    result.to_frame()        # method, condition, score, n, value, low, high
    result.value("rome", "efficacy")
    result.plot()
    ```
    """

    cases: tuple[str, ...]
    before: tuple[Payload, ...]
    after: dict[str, tuple[Payload, ...]]  # method -> one per case
    skipped: dict[str, int]  # reason -> count
    header: dict[str, Any]

    @property
    def methods(self) -> list[str]:
        """`"before"`, which is the unedited model, and the methods."""
        return ["before", *self.after]

    def scores(self, method: str, score: str, *, known: bool = False) -> list[float]:
        """The values of a score, one per case that has it."""
        if score not in SCORES or method not in self.methods:
            raise ValueError(f"no score {score!r} of {method!r}; there are {list(SCORES)} of {self.methods}")
        pairs = zip(self.before, {"before": self.before, **self.after}[method], strict=True)
        values = [SCORES[score](a) for b, a in pairs if not known or knew(b, score)]
        return [v for v in values if v is not None]

    def value(self, method: str, score: str, *, known: bool = False) -> float:
        """The mean of a score over cases; nan if there are none."""
        return torch.tensor(self.scores(method, score, known=known), dtype=torch.float64).mean().item()

    def to_frame(self) -> pd.DataFrame:
        """One row per method, condition and score: `method, condition, score, n, value, low, high`.

        `condition` is `all`, or `known`: only cases of which the model knew what the score is about. The interval
        is a bootstrap over cases.
        """
        conditions = ["all", *["known"] * any("forward true" in b["answers"] for b in self.before)]
        rows = []
        for method, condition, score in ((m, c, s) for m in self.methods for c in conditions for s in SCORES):
            if values := self.scores(method, score, known=condition == "known"):
                rows.append((method, condition, score, len(values), *mean_interval(values).values()))
        return pd.DataFrame(rows, columns=["method", "condition", "score", "n", "value", "low", "high"])

    def summary(self) -> pd.DataFrame:
        """One row per condition and score, one column per method with `value (low to high)`."""
        frame = self.to_frame()
        cells = frame.apply(lambda r: f"{r['value']:.3f} ({r['low']:.3f} to {r['high']:.3f})", axis=1)
        # Before the edit there is no case with fewer questions than after it: n is the same in all columns.
        wide = frame.assign(cell=cells).pivot(index=["condition", "score", "n"], columns="method", values="cell")
        order = frame[["condition", "score", "n"]].drop_duplicates()
        wide = wide.reindex(index=pd.MultiIndex.from_frame(order), columns=self.methods).fillna("")
        return wide.reset_index().rename(columns={"condition": "facts"}).rename_axis(columns=None)

    def plot(self, *, condition: str = "all", **look: Any) -> Any:
        """A group of bars per score, a bar per method, with intervals."""
        from kntools.plots.charts import bar_chart

        frame = self.to_frame()
        # Bits do not go with shares: entropy has a table, not a bar.
        chosen = frame[(frame["condition"] == condition) & (frame["score"] != "generation entropy")]
        if chosen.empty:
            raise ValueError(f"no condition {condition!r}; there are {sorted(set(frame['condition']))}")
        labels = {"score": "", "value": "score"}
        options = {"color": "method", "hover_data": ["n"], "labels": labels, "title": "Scores of edits", **look}
        return bar_chart(chosen, "score", "value", **options)

    def describe(self) -> str:
        left_out = ", ".join(f"{n} {reason}" for reason, n in self.skipped.items()) or "none"
        return f"EditConsistency of {len(self.cases)} cases ({self.header['model']}), left out: {left_out}"
