"""Figure 1: mean attribution score of each neuron, for each target word."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools import data
from kntools.analyses.neuron_search import ADAPTIVE, SearchSettings, open_run
from kntools.analyses.prompt_group import NamedPrompts, PromptGroup, in_parts, is_relation
from kntools.attribution.attribution_result import exists, leading
from kntools.models import neuron_layers
from kntools.prompts import Prompt
from kntools.results.result import Result
from kntools.results.statistics import t_quantile
from kntools.sites import Neuron, NeuronLike, as_neurons

# Prompts of one item of a run: their scores are added up before they are written.
_TOGETHER = 8


@dataclass(frozen=True, eq=False, repr=False)
class AttributionProfile(Result):
    """Mean scores per class of answers.

    ```python
    profile.scores                      # [class layer neuron], probabilities
    profile.leading(3)                  # the neurons that stand out in one class and not in the others
    profile.to_frame(neurons)           # their mean score in every class
    ```
    """

    scores: Float[Tensor, "class layer neuron"]  # nan where a layer has fewer neurons than another
    errors: Float[Tensor, "class layer neuron"]  # standard errors of these means; nan where a class has one prompt
    classes: tuple[str, ...]
    counts: tuple[int, ...]  # prompts of each class
    header: dict[str, Any]

    def leading(self, k: int = 3) -> tuple[Neuron, ...]:
        """For each class the `k` neurons with the highest mean score, without repetition."""
        if k < 1:
            raise ValueError(f"k={k}; give at least 1")
        widths = (~self.scores[0].isnan()).sum(-1).tolist()
        return tuple(dict.fromkeys(n for one in self.scores for n in leading(one, k, widths)))

    def to_frame(self, neurons: Iterable[NeuronLike] | None = None) -> pd.DataFrame:
        """`class, prompts, neuron, layer, index, score, low, high` of the leading neurons, or of those given.

        `low` and `high` are the ends of a 95 % interval (Student's t over prompts).
        """
        wanted = self.leading() if neurons is None else as_neurons(neurons)
        rows = []
        for c, (name, n) in enumerate(zip(self.classes, self.counts, strict=True)):
            for neuron in wanted:
                score, error = (float(x[c, neuron.layer, neuron.index]) for x in (self.scores, self.errors))
                margin = error * t_quantile(n - 1) if n > 1 else float("nan")
                about = (name, n, repr(neuron), neuron.layer, neuron.index)
                rows.append((*about, score, score - margin, score + margin))
        columns = ["class", "prompts", "neuron", "layer", "index", "score", "low", "high"]
        return pd.DataFrame(rows, columns=columns)

    def summary(self) -> pd.DataFrame:
        """Mean scores of the leading neurons, a column per class."""
        return self.to_frame().pivot(index="neuron", columns="class", values="score").reset_index()

    def plot(self, k: int = 3, **look: Any) -> Any:
        """Heatmap of the `k` leading neurons of every class, and their mean score in all classes."""
        from kntools.plots.heatmaps import heatmap

        neurons = self.leading(k)
        values = [[float(scores[n.layer, n.index]) for n in neurons] for scores in self.scores]
        frame = pd.DataFrame(values, index=self.classes, columns=list(map(repr, neurons)))
        unit = "mean score (probability)"
        return heatmap(frame, x="neuron", y="answer", unit=unit, power=0.7, **{"title": self.describe(), **look})

    def describe(self) -> str:
        counts = ", ".join(f"{c} (n = {n})" for c, n in zip(self.classes, self.counts, strict=True))
        return f"Mean attribution scores by answer: {counts} ({self.header['model']})"


def attribution_profile(
    model: Any, prompts: NamedPrompts, *, settings: SearchSettings = ADAPTIVE, run: str | Path | None = None
) -> AttributionProfile:
    """Mean attribution score of every neuron for every class of answers (Niu et al. 2024, figure 1).

    ```python
    profile = attribution_profile(model, by_answer(model, "determiner_noun_agreement_2", limit=200))
    profile.plot()
    ```

    Arguments:
        prompts: class -> prompts, as `by_answer` makes them.
        settings: of attribution; `PAPER` has the published rule.
        run: a file that keeps what is finished; if interrupted, run it again to resume.

    Returns:
        `AttributionProfile`; scores are probabilities.

    Raises:
        ValueError: no class, or a class without prompts.
    """
    empty = [name for name, some in prompts.items() if not some]
    if not prompts or empty:
        raise ValueError(f"every class needs a prompt: {empty or 'no class'} has none; see by_answer(model, paradigm)")
    parts = in_parts(prompts, _TOGETHER)
    folder = open_run(run, "attribution profile", model, search=asdict(settings))

    def add_up(part: PromptGroup) -> dict[str, Tensor]:
        scores = settings.attribute(model, part.prompts).scores.double()
        return {"sum": scores.sum(0), "squares": (scores**2).sum(0)}

    found = folder.each(parts, key=lambda part: part.item, make=add_up, unit="part")
    means, errors = [], []
    for name, some in prompts.items():
        n, own = len(some), [sums for part, sums in zip(parts, found, strict=True) if part.source == name]
        total, squares = (torch.stack([sums[what] for sums in own]).sum(0) for what in ("sum", "squares"))
        means.append(total / n)
        # Rounding may take a variance of 0 below it.
        spread = (squares / n - means[-1] ** 2).clamp(min=0)
        errors.append((spread / (n - 1)).sqrt() if n > 1 else torch.full_like(spread, torch.nan))
    scores, deviations = (torch.stack(x).float() for x in (means, errors))
    scores[:, ~exists(neuron_layers.widths(model))] = torch.nan
    return AttributionProfile(scores, deviations, tuple(prompts), tuple(map(len, prompts.values())), folder.header)


def by_answer(
    model: Any, name: str, *, limit: int | None = None, classes: int = 8, seed: int = 0, path: Any = None
) -> dict[str, list[Prompt]]:
    """Prompts of a paradigm or relation by their answer: the `classes` most frequent ones, `limit` prompts of each."""
    records = data.pararel(name, path=path) if is_relation(name) else data.blimp(name, path=path)
    found: dict[str, list[Prompt]] = {}
    for prompt in records.prompts(model):
        found.setdefault(prompt.target.strip(), []).append(prompt)
    order = sorted(found, key=lambda answer: (-len(found[answer]), answer))[:classes]
    rng = random.Random(seed)
    return {a: found[a] if limit is None or limit >= len(found[a]) else rng.sample(found[a], limit) for a in order}
