"""Which way of choosing neurons is worth its cost? Adaptive integrated gradients, the published rules, two baselines.

    python -m kntools.analyses.method_comparison P36 determiner_noun_agreement_2 --limit 20 --run runs/methods --out results/methods

`--out` names the files to write (`.csv`: one row per prompt and method, `-summary.csv`, `-overlap.csv`, `.json`, `.html`);
`--run` a folder from which a killed run goes on. Times are those of the run that made an item.
"""  # noqa: E501 - a command

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kntools.analyses import command
from kntools.analyses.neuron_search import local_seed, open_run
from kntools.analyses.prompt_groups import is_relation, known_prompts, prompt_item
from kntools.attribution.attribution_result import Attribution
from kntools.attribution.integrated_gradients import activation, activation_x_gradient, integrated_gradients
from kntools.engine.answers import Edit, answer_probabilities, random_like, untouched
from kntools.hooks.interventions import ablate_neurons
from kntools.models import adapter
from kntools.prompts import Prompt
from kntools.results.comparisons import holm, t_test
from kntools.results.statistics import bootstrap_interval
from kntools.results.table import Row, TableResult
from kntools.sites import Neuron

Selection = Callable[..., Attribution]

#: Name -> how neurons are scored: `(model, prompt, prepend_bos=, max_rows=, progress=) -> Attribution`.
METHODS: dict[str, Selection] = {
    "adaptive": integrated_gradients,
    "dai": partial(integrated_gradients, rule="dai", steps=20),
    "kn_thesis": partial(integrated_gradients, rule="kn_thesis", steps=20),
    "activation x gradient": activation_x_gradient,
    "activation": activation,
}
RANDOM = "random"


@dataclass(frozen=True, repr=False)
class SelectionMethods(TableResult):
    """One row per prompt and method: `source, text, target, method, before, after, drop, gradients, seconds, neurons`.

    `drop` is the answer's probability minus that with the method's neurons set to 0: the more, the better they were
    chosen. `gradients` counts rows that were run backwards, which no machine changes; `seconds` is the wall clock.
    The method `random` is the control: as many random neurons, of the layers that the first method chose.
    """

    kind = "selection methods"

    def summary(self) -> pd.DataFrame:
        """Per method: mean drop with bootstrap interval, p of its difference from the first method (paired, Holm)."""
        frame, methods = self.to_frame(), self.header["methods"]
        rows: list[Row] = []
        p_values: list[float] = []
        first = _column(frame, methods[0], "drop")
        for method in (*methods, RANDOM):
            drop = _column(frame, method, "drop")
            low, high = bootstrap_interval(drop)
            alone = method == methods[0] or len(drop) < 2
            p_values.append(float("nan") if alone else t_test(first, drop)[1])
            rows.append(
                {
                    "method": method, "n": len(drop), "drop": float(drop.mean()), "low": float(low),
                    "high": float(high), "gradients": float(_column(frame, method, "gradients").mean()),
                    "seconds": float(_column(frame, method, "seconds").mean()),
                }
            )  # fmt: skip
        return pd.DataFrame([{**row, "p_holm": p} for row, p in zip(rows, holm(p_values), strict=True)])

    def overlap(self) -> pd.DataFrame:
        """Jaccard overlap of the neurons that two methods choose, mean over prompts, with bootstrap interval."""
        chosen = {m: [_set(row) for row in self.rows if row["method"] == m] for m in (*self.header["methods"], RANDOM)}
        rows = []
        for a, b in combinations(chosen, 2):
            values = torch.tensor([len(x & y) / len(x | y) for x, y in zip(chosen[a], chosen[b], strict=True)])
            low, high = bootstrap_interval(values)
            rows.append({"one": a, "other": b, "jaccard": float(values.mean()), "low": float(low), "high": float(high)})
        return pd.DataFrame(rows)

    def plot(self, **look: Any) -> Any:
        """Left: what the answer loses when a method's neurons are suppressed. Right: which neurons methods share."""
        from kntools.plots.charts import bar_chart, beside
        from kntools.plots.heatmaps import heatmap

        hover = {"gradients": ":.0f", "seconds": ":.2g", "n": True}
        bars = bar_chart(self.summary(), "drop", "method", low="low", high="high", hover_data=hover)
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
    prompts: Mapping[str, Sequence[Prompt]],
    *,
    methods: Mapping[str, Selection] = METHODS,
    count: int = 5,
    seed: int = 0,
    prepend_bos: bool | None = None,
    max_rows: int | None = None,
    run: str | Path | None = None,
    progress: bool = True,
) -> SelectionMethods:
    """Choose the `count` leading neurons by each method, suppress them, and see what the answer loses.

    ```python
    prompts = {"P36": kn.data.pararel("P36", limit=20, known_only=model).prompts(model)}
    found = selection_methods(model, prompts)
    found.summary(), found.overlap()
    ```

    Arguments:
        prompts: name -> prompts; all methods get the same ones.
        methods: name -> scoring function; the first is what the others are compared with. A run folder knows them by
            name only.
        count: neurons per prompt, the same number for all methods.
        seed: of the random control.
        run: a folder that keeps each finished prompt, from which a killed run goes on.

    Raises:
        ValueError: no prompts, no methods, or `count` out of range.
    """
    asked = [(source, prompt) for source, some in prompts.items() for prompt in some]
    if not asked or not methods or RANDOM in methods:
        raise ValueError(
            f"{len(asked)} prompts, methods {list(methods)}; at least one of each, and none called 'random'"
        )
    if not 1 <= count <= adapter.d_mlp(model) // 2:
        raise ValueError(f"count={count}; give 1 to {adapter.d_mlp(model) // 2} (half a layer, for random ones beside)")
    folder = open_run(
        run, "selection methods", model, methods=list(methods), count=count, seed=seed, prepend_bos=prepend_bos
    )
    found = folder.each(
        asked,
        key=lambda one: prompt_item(one[1]),
        make=lambda one: _compared(
            model, one[1], methods, count, local_seed(seed, prompt_item(one[1])), prepend_bos, max_rows
        ),
        unit="prompt",
        progress=progress,
    )
    rows = [
        {"source": source, "text": prompt.text, "target": prompt.target, **row}
        for (source, prompt), payload in zip(asked, found, strict=True)
        for row in payload
    ]
    return SelectionMethods(tuple(rows), {**folder.header, "methods": list(methods), "count": count})


def _compared(
    model: Any,
    prompt: Prompt,
    methods: Mapping[str, Selection],
    count: int,
    seed: int,
    prepend_bos: bool | None,
    max_rows: int | None,
) -> list[Row]:
    rows: list[Row] = []
    chosen: list[tuple[Neuron, ...]] = []
    for name, method in methods.items():
        start = time.perf_counter()
        att = method(model, prompt, prepend_bos=prepend_bos, max_rows=max_rows, progress=False)
        seconds = time.perf_counter() - start
        chosen.append(att.top(count))
        rows.append({"method": name, "gradients": int(att.nodes.sum()), "seconds": seconds})
    others = random_like(chosen[0], adapter.d_mlp(model), torch.Generator().manual_seed(seed))
    chosen.append(others)
    rows.append({"method": RANDOM, "gradients": 0, "seconds": 0.0})
    edits: list[Edit] = [untouched, *(partial(ablate_neurons, neurons) for neurons in chosen)]
    before, *after = answer_probabilities(model, prompt, edits, prepend_bos=prepend_bos, max_rows=max_rows)[
        :, 0
    ].tolist()
    return [
        {**row, "before": before, "after": p, "drop": before - p, "neurons": [[n.layer, n.index] for n in neurons]}
        for row, p, neurons in zip(rows, after, chosen, strict=True)
    ]


def _set(row: Row) -> set[tuple[int, int]]:
    return {(layer, index) for layer, index in row["neurons"]}


def _column(frame: pd.DataFrame, method: str, name: str) -> torch.Tensor:
    return torch.tensor(frame[frame["method"] == method][name].tolist(), dtype=torch.float64)


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the top of the module."""
    parser = command.parser("selection_methods", "Ways to choose.")
    parser.add_argument("sources", nargs="+", help="BLiMP paradigms and ParaRel relations")
    parser.add_argument("--limit", type=int, default=20, help="prompts per source that the model gets right")
    parser.add_argument("--count", type=int, default=5, help="neurons per prompt")
    o = parser.parse_args(argv)
    for source in o.sources:
        is_relation(source)  # a wrong name is an error before the model is loaded
    model = command.load(o)
    prompts = known_prompts(model, o.sources, limit=o.limit, seed=o.seed, prepend_bos=o.bos)
    found = selection_methods(model, prompts, count=o.count, seed=o.seed, prepend_bos=o.bos, run=o.run)
    command.write(found, o.out, summary=found.summary(), overlap=found.overlap())
    print(found)


if __name__ == "__main__":
    main()
