"""Which way of choosing neurons is worth its cost? Adaptive and published rules of integration, and two baselines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kntools.analyses.neuron_search import as_pairs, check_count, control, open_run
from kntools.analyses.prompt_group import NamedPrompts, check_prompts, each_prompt, prompt_item
from kntools.attribution.attribution_result import Attribution
from kntools.attribution.baselines import activation, activation_x_gradient
from kntools.attribution.integrated_gradients import integrated_gradients
from kntools.engine.answers import answer_values
from kntools.hooks.neurons import ablate_neurons
from kntools.prompts import Prompt
from kntools.results.statistics import holm, mean_interval, t_test
from kntools.results.table import Row, Table
from kntools.sites import Neuron

Selection = Callable[[Any, Prompt], Attribution]

#: Name -> how neurons are scored.
METHODS: dict[str, Selection] = {
    "adaptive": partial(integrated_gradients, metric="probability"),
    "dai": partial(integrated_gradients, metric="probability", rule="dai", steps=20),
    "kn_thesis": partial(integrated_gradients, metric="probability", rule="kn_thesis", steps=20),
    "activation x gradient": partial(activation_x_gradient, metric="probability"),
    "activation": activation,
}
RANDOM = "random"


class SelectionMethods(Table):
    """One row per prompt and method: `source, text, target, method, before, after, drop, gradients, seconds, neurons`.

    `drop` is the answer's probability minus that with the method's neurons set to 0: the more, the better they were
    chosen. `gradients` counts rows that were run backwards, which no machine changes; `seconds` is the wall clock.
    The method `random` is the control: as many random neurons, of the layers that the first method chose.
    """

    def _by_method(self) -> dict[str, pd.DataFrame]:
        return {name: self.frame[self.frame["method"] == name] for name in (*self.details["methods"], RANDOM)}

    def summary(self) -> pd.DataFrame:
        """Per method: mean drop with bootstrap interval, p of its difference from the first method (paired, Holm)."""
        found = self._by_method()
        drops = {name: torch.tensor(own["drop"].tolist(), dtype=torch.float64) for name, own in found.items()}
        first, *others = drops.values()
        rows = []
        for name, own in found.items():
            interval = mean_interval(drops[name])
            rows.append((name, len(own), *interval.values(), own["gradients"].mean(), own["seconds"].mean()))
        columns = ["method", "n", "drop", "low", "high", "gradients", "seconds"]
        p_values = [t_test(first, drop)[1] if len(drop) > 1 else float("nan") for drop in others]
        return pd.DataFrame(rows, columns=columns).assign(p_holm=holm([float("nan"), *p_values]))

    def overlap(self) -> pd.DataFrame:
        """Jaccard overlap of the neurons that two methods choose, mean over prompts, with bootstrap interval."""
        chosen = {m: [set(map(tuple, pairs)) for pairs in own["neurons"]] for m, own in self._by_method().items()}
        rows = []
        for a, b in combinations(chosen, 2):
            shared = [len(x & y) / len(x | y) for x, y in zip(chosen[a], chosen[b], strict=True)]
            rows.append((a, b, *mean_interval(shared).values()))
        return pd.DataFrame(rows, columns=["one", "other", "jaccard", "low", "high"])

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"summary": self.summary(), "overlap": self.overlap()}

    def plot(self, **look: Any) -> Any:
        """Left: what the answer loses when a method's neurons are suppressed. Right: which neurons methods share."""
        from kntools.plots.charts import bar_chart, beside
        from kntools.plots.heatmaps import heatmap

        hover = {"gradients": ":.0f", "seconds": ":.2g", "n": True}
        bars = bar_chart(self.summary(), "drop", "method", hover_data=hover)
        pairs, methods = self.overlap(), list(self._by_method())
        both = pd.concat([pairs, pairs.rename(columns={"one": "other", "other": "one"})])
        table = both.pivot(index="one", columns="other", values="jaccard").loc[methods, methods].fillna(1.0)
        panels = {"drop of the probability": bars, "overlap (Jaccard)": heatmap(table, say=True, limits=(0.0, 1.0))}
        return beside(panels, **{"title": self.describe(), "height": 430, **look})

    def describe(self) -> str:
        n = int((self.frame["method"] == RANDOM).sum())
        return f"Ways to choose {self.details['count']} neurons, on {n} prompts ({self.provenance['model']})"


def selection_methods(
    model: Any,
    prompts: NamedPrompts,
    *,
    methods: Mapping[str, Selection] = METHODS,
    count: int = 5,
    seed: int = 0,
    run: str | Path | None = None,
) -> SelectionMethods:
    """Choose the `count` leading neurons by each method, suppress them, and see what the answer loses.

    ```python
    prompts = {"P36": kn.data.pararel("P36", limit=20, known_only=model).prompts(model)}
    found = selection_methods(model, prompts)
    found.summary(), found.overlap()
    ```

    Arguments:
        prompts: name -> prompts; all methods get the same ones.
        methods: name -> scoring function; the first is what the others are compared with. A run knows them by
            name only.
        count: neurons per prompt, the same number for all methods.
        seed: of the random control.
    """
    check_prompts(prompts)
    if not methods or RANDOM in methods:
        raise ValueError(f"methods {list(methods)}; give at least one, and none called 'random'")
    check_count(model, count)
    folder = open_run(run, "selection methods", model, methods=list(methods), count=count, seed=seed)

    def compare(prompt: Prompt) -> list[Row]:
        rows: list[Row] = []
        chosen: list[tuple[Neuron, ...]] = []
        for name, method in methods.items():
            start = time.perf_counter()
            att = method(model, prompt)
            rows.append({"method": name, "gradients": int(att.nodes.sum()), "seconds": time.perf_counter() - start})
            chosen.append(att.top(count))
        chosen.append(control(model, chosen[0], seed, prompt_item(prompt)))
        rows.append({"method": RANDOM, "gradients": 0, "seconds": 0.0})
        before, *after = answer_values(model, prompt, [[], *map(ablate_neurons, chosen)])[:, 0].tolist()
        return [
            {**row, "before": before, "after": p, "drop": before - p, "neurons": as_pairs(neurons)}
            for row, p, neurons in zip(rows, after, chosen, strict=True)
        ]

    rows = [
        {"source": source, "text": prompt.text, "target": prompt.target, **row}
        for source, prompt, payload in each_prompt(folder, prompts, compare)
        for row in payload
    ]
    return SelectionMethods.of(rows, folder.header, methods=list(methods), count=count)
