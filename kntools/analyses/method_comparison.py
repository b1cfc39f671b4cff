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

from kntools.analyses.neuron_search import as_pairs, check_count, local_seed, open_run
from kntools.analyses.prompt_group import NamedPrompts, prompt_item
from kntools.attribution.attribution_result import Attribution
from kntools.attribution.integrated_gradients import activation, activation_x_gradient, integrated_gradients
from kntools.attribution.random_neurons import random_like
from kntools.engine.answers import answer_values
from kntools.hooks.neurons import ablate_neurons
from kntools.models import neuron_layers
from kntools.prompts import Prompt
from kntools.results.statistics import bootstrap_interval, holm, t_test
from kntools.results.table import Row, Table
from kntools.sites import Neuron

Selection = Callable[[Any, Prompt], Attribution]

#: Name -> how neurons are scored.
METHODS: dict[str, Selection] = {
    "adaptive": integrated_gradients,
    "dai": partial(integrated_gradients, rule="dai", steps=20),
    "kn_thesis": partial(integrated_gradients, rule="kn_thesis", steps=20),
    "activation x gradient": activation_x_gradient,
    "activation": activation,
}
RANDOM = "random"


class SelectionMethods(Table):
    """One row per prompt and method: `source, text, target, method, before, after, drop, gradients, seconds, neurons`.

    `drop` is the answer's probability minus that with the method's neurons set to 0: the more, the better they were
    chosen. `gradients` counts rows that were run backwards, which no machine changes; `seconds` is the wall clock.
    The method `random` is the control: as many random neurons, of the layers that the first method chose.
    """

    def summary(self) -> pd.DataFrame:
        """Per method: mean drop with bootstrap interval, p of its difference from the first method (paired, Holm)."""
        frame, methods = self.to_frame(), self.header["methods"]
        first = _column(frame, methods[0], "drop")
        rows, p_values = [], []
        for method in (*methods, RANDOM):
            drop, gradients, seconds = (_column(frame, method, name) for name in ("drop", "gradients", "seconds"))
            low, high = bootstrap_interval(drop)
            alone = method == methods[0] or len(drop) < 2
            p_values.append(float("nan") if alone else t_test(first, drop)[1])
            rows.append((method, len(drop), *map(float, (drop.mean(), low, high, gradients.mean(), seconds.mean()))))
        columns = ["method", "n", "drop", "low", "high", "gradients", "seconds"]
        return pd.DataFrame(rows, columns=columns).assign(p_holm=holm(p_values))

    def overlap(self) -> pd.DataFrame:
        """Jaccard overlap of the neurons that two methods choose, mean over prompts, with bootstrap interval."""
        chosen = {m: [_set(row) for row in self.rows if row["method"] == m] for m in (*self.header["methods"], RANDOM)}
        rows = []
        for a, b in combinations(chosen, 2):
            values = torch.tensor([len(x & y) / len(x | y) for x, y in zip(chosen[a], chosen[b], strict=True)])
            low, high = bootstrap_interval(values)
            rows.append((a, b, float(values.mean()), float(low), float(high)))
        return pd.DataFrame(rows, columns=["one", "other", "jaccard", "low", "high"])

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"summary": self.summary(), "overlap": self.overlap()}

    def plot(self, **look: Any) -> Any:
        """Left: what the answer loses when a method's neurons are suppressed. Right: which neurons methods share."""
        from kntools.plots.charts import bar_chart, beside
        from kntools.plots.heatmaps import heatmap

        hover = {"gradients": ":.0f", "seconds": ":.2g", "n": True}
        bars = bar_chart(self.summary(), "drop", "method", hover_data=hover)
        pairs = self.overlap()
        both = pd.concat([pairs, pairs.rename(columns={"one": "other", "other": "one"})])
        methods = [*self.header["methods"], RANDOM]
        table = both.pivot(index="one", columns="other", values="jaccard").loc[methods, methods].fillna(1.0)
        shared = heatmap(table, say=True, limits=(0.0, 1.0))
        panels = {"drop of the probability": bars, "overlap (Jaccard)": shared}
        return beside(panels, **{"title": self.describe(), "height": 430, **look})

    def describe(self) -> str:
        n = sum(row["method"] == RANDOM for row in self.rows)
        return f"Ways to choose {self.header['count']} neurons, on {n} prompts ({self.header['model']})"


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
        run: a file that keeps each finished prompt; if interrupted, run it again to resume.

    Raises:
        ValueError: no prompts, no methods, or `count` out of range.
    """
    asked = [(source, prompt) for source, some in prompts.items() for prompt in some]
    if not asked or not methods or RANDOM in methods:
        raise ValueError(
            f"{len(asked)} prompts, methods {list(methods)}; at least one of each, and none called 'random'"
        )
    check_count(model, count)
    folder = open_run(run, "selection methods", model, methods=list(methods), count=count, seed=seed)
    found = folder.each(
        asked,
        key=lambda one: prompt_item(one[1]),
        make=lambda one: _compared(model, one[1], methods, count, local_seed(seed, prompt_item(one[1]))),
        unit="prompt",
    )
    rows = [
        {"source": source, "text": prompt.text, "target": prompt.target, **row}
        for (source, prompt), payload in zip(asked, found, strict=True)
        for row in payload
    ]
    return SelectionMethods.of(rows, {**folder.header, "methods": list(methods), "count": count})


def _compared(model: Any, prompt: Prompt, methods: Mapping[str, Selection], count: int, seed: int) -> list[Row]:
    rows: list[Row] = []
    chosen: list[tuple[Neuron, ...]] = []
    for name, method in methods.items():
        start = time.perf_counter()
        att = method(model, prompt)
        seconds = time.perf_counter() - start
        chosen.append(att.top(count))
        rows.append({"method": name, "gradients": int(att.nodes.sum()), "seconds": seconds})
    chosen.append(random_like(chosen[0], neuron_layers.widths(model), torch.Generator().manual_seed(seed)))
    rows.append({"method": RANDOM, "gradients": 0, "seconds": 0.0})
    before, *after = answer_values(model, prompt, [[], *map(ablate_neurons, chosen)])[:, 0].tolist()
    return [
        {**row, "before": before, "after": p, "drop": before - p, "neurons": as_pairs(neurons)}
        for row, p, neurons in zip(rows, after, chosen, strict=True)
    ]


def _set(row: Row) -> set[tuple[int, int]]:
    return {(layer, index) for layer, index in row["neurons"]}


def _column(frame: pd.DataFrame, method: str, name: str) -> torch.Tensor:
    return torch.tensor(frame[frame["method"] == method][name].tolist(), dtype=torch.float64)
