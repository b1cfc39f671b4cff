"""Figure 1: mean attribution score of each neuron, for each target word."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.analyses.neuron_search import ADAPTIVE, SearchSettings, open_run
from kntools.analyses.prompt_group import NamedPrompts, PromptGroup, check_prompts, in_parts
from kntools.arguments import whole
from kntools.attribution.attribution_result import exists, leading
from kntools.models import neuron_layers
from kntools.results.result import Result
from kntools.results.statistics import t_quantile
from kntools.sites import Neuron, NeuronLike, as_neurons

# Prompts of one item of a run: their scores are added up before they are written.
_TOGETHER = 8


@dataclass(frozen=True, eq=False, repr=False)
class AttributionProfile(Result):
    """Mean scores per class of answers, in probability.

    ```python
    profile.leading(3)                  # the neurons that stand out in one class and not in the others
    profile.to_frame(neurons)           # their mean score in every class
    ```
    """

    scores: Float[Tensor, "class layer neuron"]  # nan where a layer has fewer neurons than another
    errors: Float[Tensor, "class layer neuron"]  # standard errors of these means; nan where a class has one prompt
    classes: tuple[str, ...]
    counts: tuple[int, ...]  # prompts of each class
    provenance: dict[str, Any]

    def leading(self, k: int = 3) -> tuple[Neuron, ...]:
        """For each class the `k` neurons with the highest mean score, without repetition."""
        k = whole("k", k, least=1)
        widths = (~self.scores[0].isnan()).sum(-1).tolist()
        return tuple(dict.fromkeys(n for one in self.scores for n in leading(one, k, widths)))

    def to_frame(self, neurons: Iterable[NeuronLike] | None = None) -> pd.DataFrame:
        """`class, prompts, neuron, layer, index, score, low, high` of the leading neurons, or of those given.

        `low` and `high` are the ends of a 95 % interval (Student's t over prompts).
        """
        wanted = self.leading() if neurons is None else as_neurons(neurons)
        rows = []
        for c, (name, n) in enumerate(zip(self.classes, self.counts, strict=True)):
            reach = t_quantile(n - 1) if n > 1 else float("nan")
            for neuron in wanted:
                score, error = (float(x[c, neuron.layer, neuron.index]) for x in (self.scores, self.errors))
                ends = score - error * reach, score + error * reach
                rows.append((name, n, repr(neuron), neuron.layer, neuron.index, score, *ends))
        columns = ["class", "prompts", "neuron", "layer", "index", "score", "low", "high"]
        return pd.DataFrame(rows, columns=columns)

    def summary(self) -> pd.DataFrame:
        """Mean scores of the leading neurons, a column per class."""
        return self.to_frame().pivot(index="neuron", columns="class", values="score").reset_index()

    def plot(self, k: int = 3, **look: Any) -> Any:
        """Heatmap of the `k` leading neurons of every class, and their mean score in all classes."""
        from kntools.plots.heatmaps import heatmap

        neurons = self.leading(k)
        table = self.to_frame(neurons).pivot(index="class", columns="neuron", values="score")
        table = table.loc[list(self.classes), list(map(repr, neurons))]
        unit, title = "mean score (probability)", self.describe()
        return heatmap(table, x="neuron", y="answer", unit=unit, power=0.7, **{"title": title, **look})

    def describe(self) -> str:
        counts = ", ".join(f"{c} (n = {n})" for c, n in zip(self.classes, self.counts, strict=True))
        return f"Mean attribution scores by answer: {counts} ({self.provenance['model']})"


def attribution_profile(
    model: Any, prompts: NamedPrompts, *, settings: SearchSettings = ADAPTIVE, run: str | Path | None = None
) -> AttributionProfile:
    """Mean attribution score of every neuron for every class of answers (Niu et al. 2024, figure 1).

    ```python
    profile = attribution_profile(model, by_answer(model, "determiner_noun_agreement_2", limit=200))
    profile.plot()
    ```

    Arguments:
        prompts: class -> prompts, as `by_answer` makes them; each class needs one.
    """
    check_prompts(prompts)
    parts = in_parts(prompts, _TOGETHER)
    folder = open_run(run, "attribution profile", model, search=asdict(settings))

    def add_up(part: PromptGroup) -> dict[str, Tensor]:
        scores = settings.attribute(model, part.prompts).scores.double()
        return {"sum": scores.sum(0), "squares": (scores**2).sum(0)}

    found = folder.each(parts, key=lambda part: part.item, make=add_up, unit="part")
    means, errors = [], []
    for name, listed in prompts.items():
        n, own = len(listed), [sums for part, sums in zip(parts, found, strict=True) if part.source == name]
        total, squares = (torch.stack([sums[what] for sums in own]).sum(0) for what in ("sum", "squares"))
        means.append(total / n)
        # Rounding may take a variance of 0 below it; that of one prompt is 0 / 0.
        errors.append(((squares / n - means[-1] ** 2).clamp(min=0) / (n - 1)).sqrt() if n > 1 else total * torch.nan)
    scores, deviations = (torch.stack(x).float() for x in (means, errors))
    scores[:, ~exists(neuron_layers.widths(model))] = torch.nan
    return AttributionProfile(scores, deviations, tuple(prompts), tuple(map(len, prompts.values())), folder.header)
