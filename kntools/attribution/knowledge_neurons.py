"""From scores to knowledge neurons, and how localised the scores of several prompts are."""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kntools.arguments import decimal, flag, tensor, whole_numbers
from kntools.attribution.attribution_result import Attribution
from kntools.results.result import Figure, Result
from kntools.sites import Neuron

Scores = Attribution | Float[Tensor, "prompt layer neuron"]


@dataclass(frozen=True, eq=False, repr=False)
class KnowledgeNeurons(Result):
    """Neurons that carry one fact or rule over several phrasings, and the settings of their selection.

    ```python
    kns = kn.knowledge_neurons(att)
    kns.neurons          # (L9.N1094, ...)
    kns.share            # tau: the share of prompts whose coarse set each of them is in
    kns.converged        # is their number within target_count?
    ```
    """

    neurons: tuple[Neuron, ...]  # highest mean score first
    share: float
    converged: bool
    counts: tuple[int, ...]  # in how many prompts' coarse sets each neuron is
    scores: tuple[float, ...]  # mean score over prompts
    prompts: int
    settings: dict[str, Any]
    metric: str | None = None  # what scores are in, if an `Attribution` said so
    provenance: dict[str, Any] = field(default_factory=dict)  # of the scores; empty for a plain tensor

    def __len__(self) -> int:
        return len(self.neurons)

    def __iter__(self) -> Any:
        return iter(self.neurons)

    def to_frame(self) -> pd.DataFrame:
        """One row per neuron: `layer, neuron, score, prompts, share`."""
        return pd.DataFrame(
            {
                "layer": [n.layer for n in self.neurons],
                "neuron": [n.index for n in self.neurons],
                "score": self.scores,
                "prompts": self.counts,
                "share": [c / self.prompts for c in self.counts],
            }
        )

    def plot(self, **options: Any) -> Figure:
        """Bars of the neurons' mean scores: `kntools.plots.neuron_bars`."""
        from kntools.plots.neurons import neuron_bars

        return neuron_bars(self, **options)

    def describe(self) -> str:
        state = "" if self.converged else ", not converged"
        unit = f", {self.metric}" if self.metric else ""
        leading = ", ".join(map(repr, self.neurons[:10])) + (", ..." if len(self) > 10 else "")
        return f"Knowledge neurons {leading or 'none'} ({self.prompts} prompts, tau {self.share:.2f}{unit}{state})"


def knowledge_neurons(
    att: Scores,
    *,
    threshold: float = 0.2,
    share: float = 0.7,
    target_count: int | tuple[int, int] = (2, 5),
    step: float = 0.05,
    negatives: Attribution | Float[Tensor, "other layer neuron"] | None = None,
) -> KnowledgeNeurons:
    """Neurons with high scores in most prompts of one fact (Dai et al. 2022, section 3.3).

    ```python
    prompts = [kn.Prompt(t, " Ottawa") for t in ("The capital of Canada is", "Canada's capital city is")]
    kns = kn.knowledge_neurons(kn.integrated_gradients(model, prompts))
    ```

    1. The coarse set of each prompt: neurons with a score of at least `threshold` times that prompt's highest.
    2. Neurons in the coarse sets of at least a `share` of the prompts (counted in whole prompts).
    3. If there are too many, the share goes up by `step`, if too few, down, until their number is within
       `target_count`. If none of these shares in (0, 1] gives such a number, the one whose number is nearest to it is
       used, and `converged` is False; shares between two steps are not tried, as in the published rule.

    The neurons are always those of the share that is returned.

    Arguments:
        att: an `Attribution`, or scores `[prompt layer neuron]`.
        target_count: the range of the number of neurons (least, most), or one number.
        negatives: scores of prompts with another answer; neurons that would be chosen for them at the same share
            are taken out (they carry the phrasing or the kind of answer, not this one).

    Raises:
        ValueError: `threshold`, `share`, `step` or `target_count` out of range; scores that are not finite.
    """
    share, step = (decimal(name, x, above=0, most=1) for name, x in (("share", share), ("step", step)))
    bounds = whole_numbers("target_count", target_count, least=0)
    if not 1 <= len(bounds) <= 2 or bounds[0] > bounds[-1]:
        raise ValueError(f"target_count={target_count}; give one number, or (least, most), e.g. (2, 5)")
    low, high, scores = bounds[0], bounds[-1], as_scores(att)
    votes = coarse_sets(scores, threshold).sum(0)
    against = None if negatives is None else coarse_sets(as_scores(negatives), threshold)
    if against is not None and against.shape[1:] != scores.shape[1:]:
        raise ValueError(f"negatives have {tuple(against.shape[1:])} neurons, the prompts {tuple(scores.shape[1:])}")

    def chosen(p: Fraction) -> Bool[Tensor, "layer neuron"]:
        keep = votes >= _whole(p, scores.shape[0])
        if against is not None:
            keep = keep & ~(against.sum(0) >= _whole(p, against.shape[0]))
        return keep

    # 0.05 is meant as 1/20: shares must not drift in floating point.
    tau, keep = _search(chosen, Fraction(str(share)), Fraction(str(step)), low, high)
    mean = scores.mean(0)
    found = [Neuron(*pair) for pair in keep.nonzero().tolist()]
    found.sort(key=lambda n: -float(mean[n.layer, n.index]))
    settings = {"threshold": threshold, "share": share, "target_count": [low, high], "step": step}
    return KnowledgeNeurons(
        neurons=tuple(found),
        share=float(tau),
        converged=low <= len(found) <= high,
        counts=tuple(int(votes[n.layer, n.index]) for n in found),
        scores=tuple(float(mean[n.layer, n.index]) for n in found),
        prompts=scores.shape[0],
        settings=settings | {"negatives": 0 if against is None else against.shape[0]},
        metric=getattr(att, "metric", None),
        provenance=att.provenance if isinstance(att, Attribution) else {},
    )


def coarse_sets(scores: Scores, threshold: float = 0.2) -> Bool[Tensor, "prompt layer neuron"]:
    """Neurons with at least `threshold` times their own prompt's highest score (none if that is not positive).

    ```python
    kn.coarse_sets(att.scores).sum((1, 2))      # how many of each prompt
    ```
    """
    threshold, values = decimal("threshold", threshold, above=0, most=1), as_scores(scores)
    highest = values.amax(dim=(1, 2), keepdim=True)
    return (values >= threshold * highest) & (highest > 0)


def r1_squared(att: Scores, *, drop_zero: bool = False) -> float:
    """Similarity of the score vectors of n prompts: 1 for the same direction, 0 for orthogonal ones.

    ```python
    kn.r1_squared(att)      # Niu et al. 2024, section 3.3
    ```

    With the score vectors as rows of unit length (not centred) and s1 the largest singular value of that matrix,
    `R1^2 = (s1^2 - 1) / (n - 1)`. It ignores signs: two opposite vectors give 1. `drop_zero` leaves out prompts whose
    scores are all zero, which have no direction.

    Raises:
        ValueError: fewer than two prompts, or an all-zero prompt and not `drop_zero`.
    """
    flag("drop_zero", drop_zero)
    rows = as_scores(att).flatten(1).double()
    norms = rows.norm(dim=1)
    zero = (norms == 0).nonzero().flatten().tolist()
    if zero and not drop_zero:
        raise ValueError(f"the scores of prompt(s) {zero} are all zero; pass drop_zero=True to leave them out")
    rows = rows[norms > 0] / norms[norms > 0, None]
    n = rows.shape[0]
    if n < 2:
        raise ValueError(f"R1^2 compares prompts: {n} with scores were given, at least 2 are needed")
    gram = rows @ rows.T
    return float((torch.linalg.eigvalsh(gram)[-1] - 1) / (n - 1))


def as_scores(given: Any) -> Float[Tensor, "prompt layer neuron"]:
    """Scores of an `Attribution`, a tensor, an array or lists."""
    scores = given.scores if isinstance(given, Attribution) else tensor("scores", given, "[prompt layer neuron]")
    scores = scores if scores.is_floating_point() else scores.float()
    if scores.ndim != 3 or scores.shape[0] == 0:
        raise ValueError(f"scores must be [prompt layer neuron] with at least one prompt, not {tuple(scores.shape)}")
    return scores


def _whole(p: Fraction, prompts: int) -> int:
    """The least number of prompts that is a share of at least `p`."""
    return max(1, math.ceil(p * prompts))


def _search(
    chosen: Any, start: Fraction, step: Fraction, low: int, high: int
) -> tuple[Fraction, Bool[Tensor, "layer neuron"]]:
    """Move the share from `start` until the number of neurons fits; fewer fit as the share grows."""
    p, seen = start, {}
    while p not in seen:
        seen[p] = chosen(p)
        count = int(seen[p].sum())
        if low <= count <= high:
            return p, seen[p]
        # Negative prompts can make the number jump either way; a share seen twice ends the search.
        p = min(p + step, Fraction(1)) if count > high else (p - step if p > step else p)

    def distance(q: Fraction) -> tuple[int, Fraction]:
        count = int(seen[q].sum())
        return max(low - count, count - high), -q

    best = min(seen, key=distance)
    return best, seen[best]
