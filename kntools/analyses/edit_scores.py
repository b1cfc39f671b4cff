"""Scores of an edit, each made from what the model answered to a case before and after it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

#: What a model says to one case: `answers` is role -> list of `{"p", "first", "exact"}`; `entropy` may be None.
Payload = Mapping[str, Any]
#: From the answers after the edit to a value, or None where the case has no such question.
Score = Callable[[Payload], float | None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _answered(role: str, field: str) -> Score:
    """The mean of a field over a role's questions."""
    return lambda after: _mean([float(answer[field]) for answer in after["answers"].get(role, [])])


def _gone(role: str) -> Score:
    """The share of a role's questions that are not answered exactly."""
    return lambda after: _mean([float(not answer["exact"]) for answer in after["answers"].get(role, [])])


def _prefers(role: str, better: str, worse: str, of: Callable[[float], float]) -> Score:
    """The mean of P(better) - P(worse), each as `of` takes it."""

    def score(after: Payload) -> float | None:
        pairs = [after["answers"].get(f"{role} {which}", []) for which in (better, worse)]
        return _mean([of(a["p"] - b["p"]) for a, b in zip(*pairs, strict=True)])

    return score


def _is_positive(difference: float) -> float:
    return float(difference > 0)


#: Name of a score -> how it is made. A case without the questions that a score needs is left out of it.
SCORES: dict[str, Score] = {
    **{
        f"{name}{magnitude}": _prefers(role, better, worse, of)
        for name, role, better, worse in (
            ("efficacy", "rewrite", "new", "true"),
            ("paraphrase", "paraphrase", "new", "true"),
            ("neighborhood", "neighborhood", "true", "new"),
        )
        for magnitude, of in (("", _is_positive), (" magnitude", float))
    },
    "generation entropy": lambda after: after.get("entropy"),
    **{
        f"{name}, {field}": _answered(role, field)
        for name, role in (
            ("reliability", "forward new"),
            ("symmetry", "reverse new"),
            ("old direction", "reverse old"),
            ("synonym", "synonym new"),
        )
        for field in ("exact", "first", "p")
    },
    "old direction gone": _gone("reverse old"),
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
    about = score.removesuffix(" gone").partition(",")[0]
    roles = KNOWN.get(about, ())
    return all(a["exact"] for role in roles for a in before["answers"].get(role, []))


def generation_entropy(ids: Sequence[int]) -> float:
    """Weighted mean of the entropies of 2-grams and 3-grams, in bits: low where a text repeats itself.

    2/3 of the bigrams' entropy plus 4/3 of the trigrams', halved, as in the released code of Meng et al. 2022 (GE).
    """
    weighted = [(2 / 3, _entropy_of_ngrams(ids, 2)), (4 / 3, _entropy_of_ngrams(ids, 3))]
    return sum(weight * entropy for weight, entropy in weighted) / 2


def _entropy_of_ngrams(ids: Sequence[int], n: int) -> float:
    counts = Counter(tuple(ids[i : i + n]) for i in range(len(ids) - n + 1))
    total = sum(counts.values())
    return -sum(c / total * math.log2(c / total) for c in counts.values()) if total else 0.0
