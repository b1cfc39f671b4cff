"""Scores of an edit, each made from what the model answered to a case before and after it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

#: What a model says to one case: `answers` is role -> list of `{"p", "first", "exact"}`; `entropy` may be None.
Payload = Mapping[str, Any]
#: From the answers after the edit to a value, or None where the case has no such question.
Score = Callable[[Payload], float | None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _answered(role: str, of: Callable[[Mapping[str, Any]], float]) -> Score:
    """The mean over a role's questions, of what `of` takes from an answer."""
    return lambda after: _mean([float(of(answer)) for answer in after["answers"].get(role, [])])


def _prefers(role: str, better: str, worse: str, of: Callable[[float], float]) -> Score:
    """The mean of P(better) - P(worse), each as `of` takes it."""

    def score(after: Payload) -> float | None:
        pairs = [after["answers"].get(f"{role} {which}", []) for which in (better, worse)]
        return _mean([of(a["p"] - b["p"]) for a, b in zip(*pairs, strict=True)])

    return score


_ASKED = {"efficacy": "rewrite", "paraphrase": "paraphrase", "neighborhood": "neighborhood"}
_FOLLOWS = {
    "reliability": "forward new",
    "symmetry": "reverse new",
    "old direction": "reverse old",
    "synonym": "synonym new",
}

#: Name of a score -> how it is made. A case without the questions that a score needs is left out of it.
SCORES: dict[str, Score] = {
    **{
        f"{name}{magnitude}": _prefers(role, *(("true", "new") if name == "neighborhood" else ("new", "true")), of)
        for name, role in _ASKED.items()
        for magnitude, of in (("", lambda difference: float(difference > 0)), (" magnitude", float))
    },
    "generation entropy": lambda after: after.get("entropy"),
    **{
        f"{name}, {field}": _answered(role, itemgetter(field))
        for name, role in _FOLLOWS.items()
        for field in ("exact", "first", "p")
    },
    "old direction gone": _answered("reverse old", lambda answer: not answer["exact"]),
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
    roles = KNOWN.get(score.removesuffix(" gone").partition(",")[0], ())
    return all(answer["exact"] for role in roles for answer in before["answers"].get(role, []))


def generation_entropy(ids: Sequence[int]) -> float:
    """Weighted mean of the entropies of 2-grams and 3-grams, in bits: low where a text repeats itself.

    2/3 of the bigrams' entropy plus 4/3 of the trigrams', halved, as in the released code of Meng et al. 2022 (GE).
    """
    total = 0.0
    for n, weight in ((2, 2 / 3), (3, 4 / 3)):
        counts = Counter(tuple(ids[i : i + n]) for i in range(len(ids) - n + 1))
        total -= weight * sum(c / counts.total() * math.log2(c / counts.total()) for c in counts.values())
    return total / 2
