"""Which attribution finds knowledge whose place is known? Facts trained into few neurons (INJ; Chang et al. 2024)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kntools import data
from kntools.analyses.method_comparison import RANDOM, Selection, methods_for
from kntools.analyses.neuron_search import as_pairs, local_seed, open_run
from kntools.analyses.prompt_group import prompt_item, sample
from kntools.arguments import check_list, whole
from kntools.attribution.attribution_result import leading
from kntools.editing.planting import planted
from kntools.engine.answers import answer_values
from kntools.models import neuron_layers
from kntools.prompts import Prompt
from kntools.randomness import python_random
from kntools.results.statistics import SHARE, mean_interval
from kntools.results.table import Row, Table


class PlantedFacts(Table):
    """One row per fact, draw and method: `text, target, draw, method, before, after, steps, planted, ranks`.

    `planted` are the neurons that were trained, `ranks` their places in the order of the method's scores, from 1.
    A fact that was not learned (its probability `after` is below `until`) does not count.
    """

    def learned(self) -> pd.DataFrame:
        return self.frame[self.frame["after"] >= self.details["until"]]

    def recall(self, k: int | None = None) -> pd.DataFrame:
        """Per method: mean share of the planted neurons among its leading `k` (`count`), and by `chance`."""
        size = self.details["count"] if k is None else k
        rows = []
        for method, own in self.learned().groupby("method", sort=False):
            shares = [sum(rank <= size for rank in ranks) / len(ranks) for ranks in own["ranks"]]
            recall = mean_interval(shares, bounds=SHARE).values()
            rows.append((method, size, len(own), *recall, size / self.details["neurons"]))
        return pd.DataFrame(rows, columns=["method", "k", "n", "recall", "low", "high", "chance"])

    def summary(self) -> pd.DataFrame:
        return self.recall()

    def curve(self) -> pd.DataFrame:
        """Recall at 1, 2, 5, 10 and 20 times as many neurons as were planted."""
        sizes = [self.details["count"] * times for times in (1, 2, 5, 10, 20)]
        return pd.concat([self.recall(k) for k in sizes if k <= self.details["neurons"]], ignore_index=True)

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"summary": self.summary(), "recall": self.curve()}

    def plot(self, **look: Any) -> Any:
        """Recall over the number of neurons, a line for each method."""
        from kntools.plots.charts import line_chart

        options = {"color": "method", "title": self.describe(), "labels": {"k": "leading neurons"}, **look}
        return line_chart(self.curve(), "k", "recall", **options).update_xaxes(type="log")

    def describe(self) -> str:
        every, done = (len(rows) // self.frame["method"].nunique() for rows in (self.frame, self.learned()))
        return (
            f"{done} of {every} facts learned by {self.details['count']} of {self.details['neurons']:,} neurons "
            f"({self.provenance['model']})"
        )


def false_facts(source: str, model: Any, *, limit: int, seed: int = 0, path: Any = None) -> list[Prompt]:
    """Of a ParaRel relation, one prompt per fact, each with the answer of another fact.

    ```python
    false_facts("P36", model, limit=10)     # "The capital of Canada is" -> " Rome"
    ```
    """
    rng = python_random(seed)
    asked = data.pararel(source, path=path).prompts(model)
    prompts = sample([listed[0] for _, listed in asked.by_record()], limit, rng)
    others = [[other.target for other in prompts if other.target != prompt.target] for prompt in prompts]
    if not prompts or not all(others):
        raise ValueError(f"{source} has no two facts of different answers for this model; give a higher limit")
    return [replace(p, target=rng.choice(own), foil=None) for p, own in zip(prompts, others, strict=True)]


def planted_facts(
    model: Any,
    prompts: list[Prompt],
    *,
    methods: Mapping[str, Selection] | None = None,
    count: int = 10,
    draws: int = 3,
    steps: int = 200,
    lr: float = 0.01,
    until: float = 0.95,
    seed: int = 0,
    run: str | Path | None = None,
) -> PlantedFacts:
    """Train each fact into `count` random neurons, and compare the leading neurons of every method.

    ```python
    found = planted_facts(model, false_facts("P36", model, limit=10))
    found.recall(), found.plot()
    ```

    Only weights of the chosen neurons are trained; the model is restored after each fact.

    Arguments:
        prompts: facts that the model does not know yet.
        methods: name -> scoring function; `None` is `METHODS`, as in `selection_methods`. `random` is added.
        count: neurons that a fact is trained into, drawn from all layers.
        draws: of these neurons, per fact.
        steps, lr, until: of the training: updates at most, learning rate, the probability at which it ends.
    """
    chosen = methods_for(model, methods)
    check_list("prompts", prompts, Prompt, "false_facts('P36', model)")
    draws = whole("draws", draws, least=1)
    widths = neuron_layers.widths(model)
    total = sum(widths)
    count = whole("count", count, 1, total // 2)
    training: dict[str, Any] = {"steps": steps, "lr": lr, "until": until}
    folder = open_run(run, "planted facts", model, methods=list(chosen), count=count, seed=seed, **training)
    every = leading(torch.zeros(len(widths), max(widths), dtype=torch.float32), total, widths)

    def plant(item: tuple[Prompt, int]) -> list[Row]:
        prompt, draw = item
        generator = torch.Generator().manual_seed(local_seed(seed, prompt_item(prompt), draw))
        at = torch.randperm(total, generator=generator)
        neurons = [every[i] for i in at[:count].tolist()]
        [before] = answer_values(model, prompt)[0].tolist()
        with planted(model, prompt, neurons, **training) as learned:
            orders = {name: method(model, prompt).top(total) for name, method in chosen.items()}
        ranks = {name: [order.index(n) + 1 for n in neurons] for name, order in orders.items()}
        ranks[RANDOM] = (torch.randperm(total, generator=generator)[:count] + 1).tolist()
        about = {"before": before, "after": learned.probability, "steps": learned.steps, "planted": as_pairs(neurons)}
        return [{"method": name, **about, "ranks": places} for name, places in ranks.items()]

    items = [(prompt, draw) for prompt in dict.fromkeys(prompts) for draw in range(draws)]
    payloads = folder.each(items, key=lambda item: f"{prompt_item(item[0])}/{item[1]}", make=plant, unit="fact")
    rows = [
        {"text": prompt.text, "target": prompt.target, "draw": draw, **row}
        for (prompt, draw), payload in zip(items, payloads, strict=True)
        for row in payload
    ]
    return PlantedFacts.of(rows, folder.header, count=count, neurons=total, until=until)
