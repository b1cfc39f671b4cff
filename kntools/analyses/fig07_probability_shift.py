"""Figure 7: the exact probabilities of words before and after a neuron edit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.analyses.neuron_search import as_pairs, check_neurons, open_run
from kntools.analyses.prompt_group import NamedPrompts, check_prompts, in_parts
from kntools.analyses.words import FIGURE_5, Words, check_words, checked_words, word_probabilities
from kntools.arguments import decimal
from kntools.hooks.neurons import scale_neurons
from kntools.results.result import Result
from kntools.results.statistics import mean_interval
from kntools.results.table import Row
from kntools.sites import Neuron, NeuronLike

_TOGETHER = 16  # prompts of one item of a run


@dataclass(frozen=True, eq=False, repr=False)
class ProbabilityShift(Result):
    """The probability of every word in every prompt, untouched and edited.

    `groups[i]` is the name of the prompts that row i belongs to (the number of the noun).
    """

    before: Float[Tensor, "prompt word"]
    after: Float[Tensor, "prompt word"]
    groups: tuple[str, ...]
    words: tuple[tuple[str, str], ...]  # (section, word)
    neurons: tuple[Neuron, ...]
    factor: float
    provenance: dict[str, Any]

    def pair(self, group: str, word: str) -> tuple[Float[Tensor, " prompt"], Float[Tensor, " prompt"]]:
        """Before and after, of one word in the prompts of one group."""
        rows = [i for i, name in enumerate(self.groups) if name == group]
        names = [w for _, w in self.words]
        if not rows or word not in names:
            raise ValueError(f"no {group!r} / {word!r}; there are groups {sorted(set(self.groups))} and words {names}")
        column = names.index(word)
        return self.before[rows, column], self.after[rows, column]

    def each(self) -> Iterator[tuple[Row, Float[Tensor, " prompt"], Float[Tensor, " prompt"]]]:
        """`{group, section, word}`, before and after, in double precision, of every word in every group."""
        for group in dict.fromkeys(self.groups):
            for section, word in self.words:
                before, after = self.pair(group, word)
                yield {"group": group, "section": section, "word": word}, before.double(), after.double()

    def to_frame(self) -> pd.DataFrame:
        """`group, section, word, n, before, after, difference, low, high`: means, and an interval of the difference."""
        rows = []
        for about, before, after in self.each():
            change = mean_interval(after - before)
            means = {"before": float(before.mean()), "after": float(after.mean()), "difference": change.pop("mean")}
            rows.append({**about, "n": len(before), **means, **change})
        return pd.DataFrame(rows)

    def plot(self, **look: Any) -> Any:
        """Mean probability of each word before and after, on a logarithmic axis."""
        from kntools.plots.charts import scatter_chart

        frame = self.to_frame().melt(["group", "word"], ["before", "after"], var_name="edit", value_name="probability")
        frame["group"] = "prompts: " + frame["group"]
        options: dict[str, Any] = {"color": "edit", "join": "word", "facet_col": "group", "log_x": True}
        options |= {"labels": {"probability": "mean probability", "word": ""}, "title": self.describe(), **look}
        return scatter_chart(frame, "probability", "word", **options).update_xaxes(dtick=1)

    def describe(self) -> str:
        named = ", ".join(map(repr, self.neurons[:5])) + (" ..." if len(self.neurons) > 5 else "")
        counts = f"{len(self.words)} words, {len(self.groups)} prompts"
        return f"{named} x {self.factor:g}: {counts} ({self.provenance['model']})"


def probability_shift(
    model: Any,
    prompts: NamedPrompts,
    neurons: Iterable[NeuronLike],
    *,
    words: Words | Sequence[str] = FIGURE_5,
    factor: float = 0.0,
    run: str | Path | None = None,
) -> ProbabilityShift:
    """Probabilities of words before and after neurons are scaled (Niu et al. 2024, figure 7).

    ```python
    prompts = noun_prompts(model, "determiner_noun_agreement_1", limit=200)     # {"plural": ..., "singular": ...}
    shift = probability_shift(model, prompts, found.leading("plural"))
    shift.to_frame()
    ```

    Arguments:
        prompts: name -> prompts. The words stand in the place of the answer; or, where a text has a `{}`, there, and
            the value is the probability of the prompt's own answer after each word (`noun_prompts` makes both).
        neurons: any, of this model.
        words: section -> words, or a list. In the place of an answer each must be one token.
        factor: what their activations are multiplied by at the answer position: 0 suppresses, 2 enhances.
    """
    listed, factor = checked_words(words), decimal("factor", factor)
    names = [word for _, word in listed]
    wanted = check_neurons(model, neurons)
    check_prompts(prompts)
    for asked in prompts.values():
        check_words(model, asked, names)  # before any work
    folder = open_run(run, "probability shift", model, neurons=as_pairs(wanted), factor=factor, words=names)
    interventions = [[], scale_neurons(wanted, factor)]
    found = folder.each(
        in_parts(prompts, _TOGETHER),
        key=lambda part: part.item,
        make=lambda part: word_probabilities(model, part.prompts, names, interventions).tolist(),
        unit="part",
    )
    before, after = torch.cat([torch.tensor(values, dtype=torch.float32) for values in found], dim=1)
    groups = tuple(name for name, asked in prompts.items() for _ in asked)
    return ProbabilityShift(before, after, groups, tuple(listed), wanted, factor, folder.header)
