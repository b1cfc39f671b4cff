"""What an evaluation of edits holds, and the scores made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from kntools.results.display import frame_html, frame_text
from kntools.results.statistics import bootstrap_interval
from kntools.results.table import load_table, save_table

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

#: What one model state said to one case: `answers` is role -> list of `{"p", "first", "exact"}`; `entropy` may be None.
Payload = Mapping[str, Any]
#: From what was said before and after the edit to a value, or None where the case has no such question.
Score = Callable[[Payload, Payload], float | None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _of(role: str, field: str) -> Score:
    """The mean of a field over a role's questions, after the edit."""

    def score(before: Payload, after: Payload) -> float | None:
        return _mean([float(a[field]) for a in after["answers"].get(role, [])])

    return score


def _pairs(role: str, better: str, worse: str) -> tuple[Score, Score]:
    """The share of questions where one answer is more probable than the other, and by how much on average."""

    def differences(after: Payload) -> list[float]:
        answers = after["answers"]
        pairs = zip(answers.get(f"{role} {better}", []), answers.get(f"{role} {worse}", []), strict=True)
        return [a["p"] - b["p"] for a, b in pairs]

    def score(before: Payload, after: Payload) -> float | None:
        return _mean([float(d > 0) for d in differences(after)])

    def magnitude(before: Payload, after: Payload) -> float | None:
        return _mean(differences(after))

    return score, magnitude


def _no_longer(role: str) -> Score:
    def score(before: Payload, after: Payload) -> float | None:
        return _mean([float(not a["exact"]) for a in after["answers"].get(role, [])])

    return score


def _entropy(before: Payload, after: Payload) -> float | None:
    return after.get("entropy")


#: Name of a score -> how it is made. A case without the questions that a score needs is left out of it.
SCORES: dict[str, Score] = {
    "efficacy": _pairs("rewrite", "new", "true")[0],
    "efficacy magnitude": _pairs("rewrite", "new", "true")[1],
    "paraphrase": _pairs("paraphrase", "new", "true")[0],
    "paraphrase magnitude": _pairs("paraphrase", "new", "true")[1],
    "neighborhood": _pairs("neighborhood", "true", "new")[0],
    "neighborhood magnitude": _pairs("neighborhood", "true", "new")[1],
    "generation entropy": _entropy,
    **{
        f"{name}, {field}": _of(role, field)
        for name, role in (
            ("reliability", "forward new"),
            ("symmetry", "reverse new"),
            ("old direction", "reverse old"),
            ("synonym", "synonym new"),
        )
        for field in ("exact", "first", "p")
    },
    "old direction gone": _no_longer("reverse old"),
}

#: What a score is about -> questions that a model which knew that answered exactly before the edit: the fact itself,
#: and what follows from it.
KNOWN = {
    "reliability": ("forward true",),
    "symmetry": ("forward true", "reverse old"),
    "old direction": ("forward true", "reverse old"),
    "synonym": ("forward true", "synonym true"),
}


def knew(before: Payload, score: str) -> bool:
    """Did the model know, before the edit, what a score is about? Scores of CounterFact are about facts it knows."""
    roles = next((known for about, known in KNOWN.items() if score.startswith(about)), ())
    return all(a["exact"] for role in roles for a in before["answers"].get(role, []))


@dataclass(frozen=True, repr=False)
class EditConsistency:
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

    def scores(self, method: str, score: str, *, known: bool = False) -> list[float]:
        """The values of a score, one per case that has it."""
        if score not in SCORES or method not in self.methods:
            raise ValueError(f"no score {score!r} of {method!r}; there are {list(SCORES)} of {self.methods}")
        after = self.before if method == "before" else self.after[method]
        pairs = zip(self.before, after, strict=True)
        values = [SCORES[score](b, a) for b, a in pairs if not known or knew(b, score)]
        return [v for v in values if v is not None]

    @property
    def methods(self) -> list[str]:
        """`"before"`, which is the unedited model, and the methods."""
        return ["before", *self.after]

    def value(self, method: str, score: str, *, known: bool = False) -> float:
        """The mean of a score over cases; nan if there are none."""
        return torch.tensor(self.scores(method, score, known=known), dtype=torch.float64).mean().item()

    def to_frame(self) -> pd.DataFrame:
        """One row per method, condition and score: `method, condition, score, n, value, low, high`.

        `condition` is `all`, or `known`: only cases of which the model knew what the score is about. The interval
        is a bootstrap over cases.
        """
        conditions = ["all"]
        if any("forward true" in b["answers"] for b in self.before):
            conditions.append("known")
        rows = []
        for method in self.methods:
            for condition in conditions:
                for score in SCORES:
                    values = torch.tensor(self.scores(method, score, known=condition == "known"), dtype=torch.float64)
                    if len(values):
                        low, high = bootstrap_interval(values)
                        numbers = {"value": float(values.mean()), "low": float(low), "high": float(high)}
                        rows.append(
                            {"method": method, "condition": condition, "score": score, "n": len(values)} | numbers
                        )
        return pd.DataFrame(rows)

    def table(self) -> tuple[list[str], list[list[object]]]:
        """For a page: one row per condition and score, one column per method with `value (low to high)`."""
        rows: dict[tuple[str, str, int], dict[str, str]] = {}
        for r in self.to_frame().to_dict("records"):
            # Before the edit there is no case with fewer questions than after it: n is the same in all columns.
            place = rows.setdefault((r["condition"], r["score"], r["n"]), {})
            place[r["method"]] = f"{r['value']:.3f} ({r['low']:.3f} to {r['high']:.3f})"
        lines: list[list[object]] = [
            [condition, score, n, *(found.get(method, "") for method in self.methods)]
            for (condition, score, n), found in rows.items()
        ]
        return ["facts", "score", "n", *self.methods], lines

    def plot(self, *, condition: str = "all", **look: Any) -> Figure:
        """A group of bars per score, a bar per method, with intervals.

        Raises:
            ValueError: no such condition.
        """
        from kntools.plots.charts import bar_chart

        frame = self.to_frame()
        # Bits do not go with shares: entropy has a table, not a bar.
        chosen = frame[(frame["condition"] == condition) & (frame["score"] != "generation entropy")]
        if chosen.empty:
            raise ValueError(f"no condition {condition!r}; there are {sorted(set(frame['condition']))}")
        options = {
            "color": "method",
            "hover_data": ["n"],
            "labels": {"score": "", "value": "score"},
            "title": "Scores of edits",
            **look,
        }
        return bar_chart(chosen, "score", "value", low="low", high="high", **options)

    def save(self, path: str | Path) -> Path:
        """Write `.csv` (the table) or `.json` (everything)."""
        content = {name: getattr(self, name) for name in ("cases", "before", "after", "skipped", "header")}
        return save_table(path, "edit consistency", self.to_frame(), content)

    @classmethod
    def load(cls, path: str | Path) -> EditConsistency:
        """Read the `.json` that `save` wrote.

        Raises:
            FileNotFoundError, ValueError: no such file, or another result.
        """
        found = load_table(path, "edit consistency")
        after = {name: tuple(some) for name, some in found["after"].items()}
        return cls(tuple(found["cases"]), tuple(found["before"]), after, found["skipped"], found["header"])

    def describe(self) -> str:
        """One line: what it is, of what model, how many."""
        left_out = ", ".join(f"{n} {reason}" for reason, n in self.skipped.items()) or "none"
        return f"EditConsistency of {len(self.cases)} cases ({self.header['model']}), left out: {left_out}"

    def _scores(self) -> pd.DataFrame:
        columns, rows = self.table()
        return pd.DataFrame(rows, columns=columns)

    def __repr__(self) -> str:
        return f"{self.describe()}\n{frame_text(self._scores(), limit=30)}"

    def _repr_html_(self) -> str:
        return frame_html(self.describe(), self._scores(), limit=30)
