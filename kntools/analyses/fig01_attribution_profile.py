"""Figure 1: mean attribution score of each neuron, for each target word."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.analyses.neuron_search import ADAPTIVE, HALVES, SearchSettings, halves, open_run
from kntools.analyses.prompt_group import NamedPrompts, PromptGroup, check_prompts, each_part, prompt_item
from kntools.arguments import whole
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
    """Mean scores per class of answers, in the unit of `metric`.

    Neurons are chosen by their scores on one half of the prompts; all that is shown of them is of the other half.
    """

    scores: Float[Tensor, "class layer neuron"]  # of the test's half; nan where a layer has fewer neurons than another
    errors: Float[Tensor, "class layer neuron"]  # standard errors of these means; nan where a class has one prompt
    classes: tuple[str, ...]
    counts: tuple[int, ...]  # prompts of each class, of the test's half
    provenance: dict[str, Any]
    selection: Float[Tensor, "class layer neuron"] | None = None  # mean scores on the other half; None: there is none
    metric: str = "probability"

    def leading(self, k: int = 3) -> tuple[Neuron, ...]:
        """For each class the `k` neurons with the highest mean score in the selection's half, without repetition."""
        k, chosen_by = whole("k", k, least=1), self._chosen_by
        widths = (~chosen_by[0].isnan()).sum(-1).tolist()
        return tuple(dict.fromkeys(n for one in chosen_by for n in leading(one, k, widths)))

    def leading_of_each(self) -> tuple[Neuron, ...]:
        """The leading neuron of each class."""
        return tuple(leading(one, 1, (~one.isnan()).sum(-1).tolist())[0] for one in self._chosen_by)

    @property
    def _chosen_by(self) -> Float[Tensor, "class layer neuron"]:
        return self.scores if self.selection is None else self.selection

    def to_frame(self, neurons: Iterable[NeuronLike] | None = None) -> pd.DataFrame:
        """`class, prompts, neuron, layer, index, selection, score, low, high` of the leading neurons or those given.

        `low` and `high` are Student's 95 % interval over prompts; `selection` is the mean score on the other half.
        """
        wanted = self.leading() if neurons is None else as_neurons(neurons)
        rows, reach = [], t_quantile(torch.tensor(self.counts) - 1).tolist()
        for c, (name, n) in enumerate(zip(self.classes, self.counts, strict=True)):
            for neuron in wanted:
                score, error = (float(x[c, neuron.layer, neuron.index]) for x in (self.scores, self.errors))
                ends = score - error * reach[c], score + error * reach[c]
                chosen_by = float(self._chosen_by[c, neuron.layer, neuron.index])
                rows.append((name, n, repr(neuron), neuron.layer, neuron.index, chosen_by, score, *ends))
        columns = ["class", "prompts", "neuron", "layer", "index", "selection", "score", "low", "high"]
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
        unit, title = f"mean score ({self.metric})", self.describe()
        return heatmap(table, x="neuron", y="answer", unit=unit, power=0.7, **{"title": title, **look})

    def describe(self) -> str:
        counts = ", ".join(f"{c} (n = {n})" for c, n in zip(self.classes, self.counts, strict=True))
        return f"Mean attribution scores by answer: {counts} ({self.metric}; {self.provenance['model']})"


def attribution_profile(
    model: Any,
    prompts: NamedPrompts,
    *,
    settings: SearchSettings = ADAPTIVE,
    seed: int = 0,
    run: str | Path | None = None,
) -> AttributionProfile:
    """Mean attribution score of every neuron for every class of answers (Niu et al. 2024, figure 1).

    ```python
    profile = attribution_profile(model, by_answer(model, "determiner_noun_agreement_2", limit=200))
    profile.leading(3), profile.to_frame(), profile.plot()
    ```

    Arguments:
        prompts: class -> prompts, as `by_answer` makes them; each class needs two.
        seed: of the halves.
    """
    check_prompts(prompts, least=2)
    listed = [(name, prompt) for name, own in prompts.items() for prompt in own]
    half_of = halves([name for name, _ in listed], [f"{name}/{prompt_item(p)}" for name, p in listed], seed)
    parted: dict[str, list[Prompt]] = {f"{half} {name}": [] for half in HALVES for name in prompts}
    for half, (name, prompt) in zip(half_of, listed, strict=True):
        parted[f"{half} {name}"].append(prompt)
    check_prompts(parted)
    asked = settings.asking(model, [prompt for _, prompt in listed])
    folder = open_run(run, "attribution profile", model, search=asdict(asked), seed=seed)

    def add_up(part: PromptGroup) -> dict[str, Tensor]:
        scores = asked.attribute(model, part.prompts).scores.double()
        return {"sum": scores.sum(0), "squares": (scores**2).sum(0)}

    found = each_part(folder, parted, _TOGETHER, add_up)
    means, errors = {}, []
    for name, own in parted.items():
        n, sums = len(own), [each for part, each in found if part.source == name]
        total, squares = (torch.stack([each[what] for each in sums]).sum(0) for what in ("sum", "squares"))
        means[name] = total / n
        if name.startswith("test "):
            # Rounding may take a variance of 0 below it; that of one prompt is 0 / 0.
            variance = (squares / n - means[name] ** 2).clamp(min=0) / (n - 1) if n > 1 else total * torch.nan
            errors.append(variance.sqrt())
    selection, scores = (torch.stack([means[f"{half} {name}"] for name in prompts]).float() for half in HALVES)
    selection[:, ~exists(neuron_layers.widths(model))] = torch.nan
    scores[:, ~exists(neuron_layers.widths(model))] = torch.nan
    counts = tuple(len(parted[f"test {name}"]) for name in prompts)
    header, metric = folder.header, str(asked.metric)
    return AttributionProfile(scores, torch.stack(errors).float(), tuple(prompts), counts, header, selection, metric)
