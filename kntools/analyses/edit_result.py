"""What an evaluation of edits holds: the answers to each case before and after its edit, and scores made from them."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter, methodcaller
from typing import Any

import pandas as pd
import torch

from kntools.arguments import several
from kntools.results.display import number
from kntools.results.result import Result
from kntools.results.statistics import CHANGE_OF_SHARE, COUNT, SHARE, Bounds, mean_interval, share_interval

#: What a model says to one case: `answers` is role -> list of `{"p", "first", "exact", "tokens"}`;
#: `entropy`, `free`, `says`, `perplexity` and `kl` where they were measured.
Payload = Mapping[str, Any]
#: From the answers after the edit to a value, or None where the case has no such question.
Score = Callable[[Payload], float | None]


def _mean(values: Sequence[float | None]) -> float | None:
    """None where nothing was asked, or an answer was not measured."""
    measured = [float(value) for value in values if value is not None]
    return sum(measured) / len(values) if values and len(measured) == len(values) else None


def _answered(roles: Sequence[str], of: Callable[[Mapping[str, Any]], float | None]) -> Score:
    """The mean over the questions of the first of these roles that there is, of what `of` takes from an answer."""

    def score(after: Payload) -> float | None:
        role = next((role for role in roles if role in after["answers"]), "")
        return _mean([of(answer) for answer in after["answers"].get(role, [])])

    return score


def _prefers(role: str, better: str, worse: str, of: Callable[[float], float]) -> Score:
    """The mean of P(better) - P(worse), each as `of` takes it."""

    def score(after: Payload) -> float | None:
        pairs = [after["answers"].get(f"{role} {which}", []) for which in (better, worse)]
        return _mean([of(a["p"] - b["p"]) for a, b in zip(*pairs, strict=True)])

    return score


#: The role of the question for the new answer to the edited prompt itself: each data set has one of these.
EDITED = ("forward new", "rewrite new")


def probability_of(payload: Payload) -> float:
    """Of the new answer after the edited prompt."""
    p = SCORES["reliability, p"](payload)
    return math.nan if p is None else p


_ASKED = {"efficacy": "rewrite", **{role: role for role in ("paraphrase", "neighborhood", "neighborhood+")}}
_FOLLOWS = {
    "symmetry": "reverse new",
    "old direction": "reverse old",
    "synonym": "synonym new",
    "two-hop": "two-hop new",
}

#: Name of a score -> how it is made. A case without the questions that a score needs is left out of it.
SCORES: dict[str, Score] = {
    **{f"reliability, {x}": _answered(EDITED, methodcaller("get", x)) for x in ("exact", "first", "tokens", "p")},
    "reliability, free": lambda after: after.get("free"),
    **{
        f"{name}{magnitude}": _prefers(role, *(("true", "new") if "neighborhood" in name else ("new", "true")), of)
        for name, role in _ASKED.items()
        for magnitude, of in (("", lambda difference: float(difference > 0)), (" magnitude", float))
    },
    "neighborhood KL": lambda after: after.get("kl"),
    "generation entropy": lambda after: after.get("entropy"),
    "perplexity": lambda after: after.get("perplexity"),
    **{
        f"{name}, {field}": _answered([role], itemgetter(field))
        for name, role in _FOLLOWS.items()
        for field in ("exact", "first", "p")
    },
    "old direction gone": _answered(["reverse old"], lambda answer: not answer["exact"]),
}

#: What a score is about -> questions that a model which knew that answered exactly before the edit: the fact itself,
#: and what follows from it.
KNOWN = {
    "reliability": ("forward true",),
    "symmetry": ("forward true", "reverse old"),
    "old direction": ("forward true", "reverse old"),
    "synonym": ("forward true", "synonym true"),
    "two-hop": ("forward true", "two-hop true", "second hop"),
}

#: Scores that are shares of questions answered in one way, each yes or no.
SHARES = {s for s in SCORES if s in _ASKED or s.endswith((", exact", ", first", ", free", " gone"))}
#: Scores in units of their own, which do not go on one axis with the others -> their bounds.
_OTHER_UNITS: dict[str, Bounds] = {"neighborhood KL": COUNT, "generation entropy": COUNT, "perplexity": (1.0, math.inf)}


def knew(before: Payload, score: str) -> bool:
    """Did the model know, before the edit, what a score is about? Scores of CounterFact are about facts it knows."""
    roles = KNOWN.get(score.removesuffix(" gone").partition(",")[0], ())
    return all(answer["exact"] for role in roles for answer in before["answers"].get(role, []))


def share_of_cases(values: Sequence[float]) -> dict[str, float]:
    """`mean`, `low`, `high` of one share per case: Wilson's interval, since a bootstrap of equal values has no width.

    A case with several questions may count as a fraction: the interval holds those of both whole numbers of cases.
    """
    hits, n = math.fsum(values), len(values)
    low, high = share_interval(math.floor(hits + 1e-9), n)[0], share_interval(math.ceil(hits - 1e-9), n)[1]
    return {"mean": hits / n if n else math.nan, "low": low, "high": high}


def interval_of(score: str, values: Sequence[float]) -> dict[str, float]:
    """`mean`, `low`, `high` of a score, one value per case."""
    if score in SHARES:
        return share_of_cases(values)
    bounds = CHANGE_OF_SHARE if score.endswith(" magnitude") else SHARE
    return mean_interval(values, bounds=_OTHER_UNITS.get(score, bounds))


def generation_entropy(ids: Sequence[int]) -> float:
    """Entropy of 2-grams and 3-grams in bits, weighted 2/3 and 4/3 and halved (GE in the code of Meng et al. 2022)."""
    total = 0.0
    for n, weight in ((2, 2 / 3), (3, 4 / 3)):
        counts = Counter(tuple(ids[i : i + n]) for i in range(len(ids) - n + 1))
        total -= weight * sum(c / counts.total() * math.log2(c / counts.total()) for c in counts.values())
    return total / 2


@dataclass(frozen=True, eq=False, repr=False)
class EditConsistency(Result):
    """Answers before and after edits of many cases, by several methods: `before`, and `after` by method."""

    cases: tuple[str, ...]
    before: tuple[Payload, ...]
    after: dict[str, tuple[Payload, ...]]  # method -> one per case
    skipped: dict[str, int]  # reason -> count
    provenance: dict[str, Any]

    @property
    def methods(self) -> list[str]:
        """`"before"` (the unedited model) and the methods."""
        return ["before", *self.after]

    def part(self, keys: Collection[str]) -> "EditConsistency":
        """The result of some of its `cases`, in their order; `skipped` is of all."""
        wanted = several("keys", keys, "result.cases[:2]")
        if unknown := [key for key in wanted if key not in self.cases]:
            raise KeyError(f"no case {unknown[0]!r}; there are {', '.join(map(repr, self.cases))}")
        kept = [n for n, key in enumerate(self.cases) if key in wanted]
        parts = {method: tuple(answers[n] for n in kept) for method, answers in self.after.items()}
        cases, before = tuple(self.cases[n] for n in kept), tuple(self.before[n] for n in kept)
        return replace(self, cases=cases, before=before, after=parts)

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

        `condition` is `all`, or `known`: only cases of which the model knew what the score is about. The interval of
        a share is Wilson's, of n cases; that of any other score is that of a mean over cases.
        """
        conditions = ["all", *["known"] * any("forward true" in b["answers"] for b in self.before)]
        rows = []
        for method, condition, score in ((m, c, s) for m in self.methods for c in conditions for s in SCORES):
            if values := self.scores(method, score, known=condition == "known"):
                rows.append((method, condition, score, len(values), *interval_of(score, values).values()))
        return pd.DataFrame(rows, columns=["method", "condition", "score", "n", "value", "low", "high"])

    def summary(self) -> pd.DataFrame:
        """One row per condition and score, one column per method with `value (low to high)`."""
        frame = self.to_frame()
        cells = frame.apply(lambda r: f"{number(r['value'])} ({number(r['low'])} to {number(r['high'])})", axis=1)
        # Before the edit there is no case with fewer questions than after it: n is the same in all columns.
        at = ["condition", "score", "n"]
        wide = frame.assign(cell=cells).pivot_table("cell", at, "method", aggfunc="first", fill_value="", sort=False)
        wide = wide.reindex(columns=self.methods, fill_value="")
        return wide.reset_index().rename(columns={"condition": "facts"}).rename_axis(columns=None)

    def plot(self, *, condition: str = "all", **look: Any) -> Any:
        """A group of bars per score, a bar per method, with intervals."""
        from kntools.plots.charts import bar_chart

        frame = self.to_frame()
        chosen = frame[(frame["condition"] == condition) & ~frame["score"].isin(_OTHER_UNITS)]
        if chosen.empty:
            raise ValueError(f"no condition {condition!r}; there are {sorted(set(frame['condition']))}")
        labels = {"score": "", "value": "score"}
        options = {"color": "method", "hover_data": ["n"], "labels": labels, "title": "Scores of edits", **look}
        return bar_chart(chosen, "score", "value", **options)

    def describe(self) -> str:
        left_out = ", ".join(f"{n} {reason}" for reason, n in self.skipped.items()) or "none"
        return f"EditConsistency of {len(self.cases)} cases ({self.provenance['model']}), left out: {left_out}"
