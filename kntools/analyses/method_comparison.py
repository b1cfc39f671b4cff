"""Which way of choosing neurons is worth its cost? Adaptive and published rules of integration, and what is cheaper."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from kntools.analyses.neuron_search import as_pairs, check_count, control, local_seed, open_run, shuffled_neurons
from kntools.analyses.prompt_group import NamedPrompts, check_prompts, each_prompt, prompt_item
from kntools.arguments import shown
from kntools.attribution.ablation import AblationName, replacements
from kntools.attribution.attribution_result import Attribution
from kntools.attribution.baselines import activation, activation_x_gradient
from kntools.attribution.direct_logit import direct_logit_attribution
from kntools.attribution.faithfulness import SHARES, faithfulness
from kntools.attribution.faithfulness_curve import FaithfulnessCurve
from kntools.attribution.integrated_gradients import integrated_gradients
from kntools.attribution.value_neurons import log_probability_increase, query_neurons
from kntools.engine.answers import answer_values
from kntools.hooks.neurons import ablate_neurons
from kntools.models import neuron_layers
from kntools.models.causality import is_masked
from kntools.prompts import Prompt, encode_many
from kntools.results.statistics import CHANGE_OF_SHARE, SHARE, holm, mean_interval, t_test
from kntools.results.table import Row, Table

Selection = Callable[[Any, Prompt], Attribution]

#: Name -> how neurons are scored.
METHODS: dict[str, Selection] = {
    "adaptive": partial(integrated_gradients, metric="probability"),
    "dai": partial(integrated_gradients, metric="probability", rule="dai", steps=20),
    "kn_thesis": partial(integrated_gradients, metric="probability", rule="kn_thesis", steps=20),
    "activation x gradient": partial(activation_x_gradient, metric="probability"),
    "activation": activation,
    "direct logit attribution": partial(direct_logit_attribution, metric="logit"),
    "log-probability increase": partial(log_probability_increase, metric="log_probability"),
    "query neurons": partial(query_neurons, metric="log_probability"),
}
# These read the residual stream as if no layer followed: not of masked models, whose head is more than a matrix.
_DIRECT = ("direct logit attribution", "log-probability increase", "query neurons")
RANDOM = "random"


class SelectionMethods(Table):
    """One row per prompt and method: `source, text, target, method, before, after, drop, gradients, seconds, neurons,
    ablated, kept, removed`.

    `drop` is what the answer's probability loses with the method's neurons set to 0; `gradients` counts rows that were
    run backwards. `kept` and `removed` are the probability with each share of the neurons kept alone, and without it;
    `ablated` that without any. The method `random` takes as many random neurons, of the layers of the first method's.
    """

    def curve(self, method: str) -> FaithfulnessCurve:
        """Faithfulness of a method, each prompt's neurons ranked by its own scores; `random` as many per layer."""
        found = self._by_method()
        if method not in found:
            raise KeyError(f"no method {method!r}; there are {', '.join(found)}")
        own, about = found[method], self.details["faithfulness"]

        def values(name: str, rows: pd.DataFrame = own) -> Tensor:
            return torch.tensor(rows[name].tolist(), dtype=torch.float32)

        return FaithfulnessCurve(
            shares=tuple(about["shares"]),
            counts=tuple(about["counts"]),
            clean=values("before"),
            ablated=values("ablated"),
            kept=values("kept"),
            removed=values("removed"),
            at_random=values("kept", found[RANDOM])[:, None],
            rule=method,
            ablation=about["ablation"],
            metric="probability",
            prompts=tuple(Prompt(row["text"], row["target"]) for row in own.to_dict("records")),
            provenance=self.provenance,
        )

    def _by_method(self) -> dict[str, pd.DataFrame]:
        return {name: self.frame[self.frame["method"] == name] for name in (*self.details["methods"], RANDOM)}

    def summary(self) -> pd.DataFrame:
        """Per method: mean drop, p against the first method (paired, Holm), CPR and CMD, with intervals."""
        found = self._by_method()
        drops = {name: torch.tensor(own["drop"].tolist(), dtype=torch.float64) for name, own in found.items()}
        first, *others = drops.values()
        rows = []
        for name, own in found.items():
            curve, cost = self.curve(name), (own["gradients"].mean(), own["seconds"].mean())
            areas = [x for at in ("cpr", "cmd") for x in (getattr(curve, at), *map(float, curve.interval(at)))]
            drop = mean_interval(drops[name], bounds=CHANGE_OF_SHARE).values()
            rows.append((name, len(own), *drop, *areas, *cost))
        columns = ["method", "n", "drop", "low", "high"]
        columns += [f"{at}{end}" for at in ("cpr", "cmd") for end in ("", "_low", "_high")] + ["gradients", "seconds"]
        p_values = [t_test(first, drop)[1] if len(drop) > 1 else float("nan") for drop in others]
        return pd.DataFrame(rows, columns=columns).assign(p_holm=holm([float("nan"), *p_values]))

    def overlap(self) -> pd.DataFrame:
        """Jaccard overlap of the neurons that two methods choose, mean over prompts, with 95 % interval."""
        chosen = {m: [set(map(tuple, pairs)) for pairs in own["neurons"]] for m, own in self._by_method().items()}
        rows = []
        for a, b in combinations(chosen, 2):
            shared = [len(x & y) / len(x | y) for x, y in zip(chosen[a], chosen[b], strict=True)]
            rows.append((a, b, *mean_interval(shared, bounds=SHARE).values()))
        return pd.DataFrame(rows, columns=["one", "other", "jaccard", "low", "high"])

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"summary": self.summary(), "overlap": self.overlap()}

    def plot(self, **look: Any) -> Any:
        """Left: drop of the answer's probability without a method's neurons. Right: overlap of the methods."""
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


def methods_for(model: Any, methods: Mapping[str, Selection] | None) -> Mapping[str, Selection]:
    """Those given, or all that the model allows."""
    if methods is None:
        return {name: method for name, method in METHODS.items() if name not in _DIRECT or not is_masked(model)}
    if not isinstance(methods, Mapping) or not methods or RANDOM in methods or not all(map(callable, methods.values())):
        raise ValueError(f"methods={shown(methods)}; give name -> function, as METHODS has them, none called 'random'")
    return methods


def selection_methods(
    model: Any,
    prompts: NamedPrompts,
    *,
    methods: Mapping[str, Selection] | None = None,
    count: int = 5,
    ablation: AblationName = "zero",
    seed: int = 0,
    run: str | Path | None = None,
) -> SelectionMethods:
    """Suppress the `count` leading neurons of each method and measure the drop of the answer's probability, and the
    faithfulness of the leading share of neurons alone (`kn.faithfulness`).

    ```python
    prompts = {"P36": kn.data.pararel("P36", limit=20, known_only=model).prompts(model)}
    found = selection_methods(model, prompts)
    found.summary(), found.overlap()
    ```

    Arguments:
        prompts: name -> prompts; all methods get the same ones.
        methods: name -> scoring function; the others are compared with the first. A run knows them by
            name only. `None` is `METHODS`, of a masked model without those that read the residual stream directly.
        count: neurons per prompt, the same number for all methods.
        ablation: of faithfulness: what replaces the neurons that are not kept; `"mean"` is that over all prompts.
        seed: of the random control.
    """
    check_prompts(prompts)
    methods = methods_for(model, methods)
    check_count(model, count)
    every = list(dict.fromkeys(prompt for listed in prompts.values() for prompt in listed))
    base = dict(zip(every, replacements(model, encode_many(model, every), ablation), strict=True))
    written: Row = {"methods": list(methods), "count": count, "ablation": ablation, "seed": seed}
    if ablation != "zero":
        written["prompts"] = local_seed(*every)
    folder = open_run(run, "selection methods", model, **written)

    def compare(prompt: Prompt) -> list[Row]:
        rows: list[Row] = []
        scores: list[Attribution] = []
        for name, method in methods.items():
            start = time.perf_counter()
            att = method(model, prompt)
            rows.append({"method": name, "gradients": int(att.nodes.sum()), "seconds": time.perf_counter() - start})
            scores.append(att)
        first, own_seed = scores[0], local_seed(seed, prompt_item(prompt))
        chosen = [att.top(count) for att in scores]
        chosen.append(control(model, chosen[0], seed, prompt_item(prompt)))
        scores.append(replace(first, scores=shuffled_neurons(first.scores, own_seed, first.widths)))
        rows.append({"method": RANDOM, "gradients": 0, "seconds": 0.0})
        before, *after = answer_values(model, prompt, [[], *map(ablate_neurons, chosen)])[:, 0].tolist()
        for row, p, neurons, att in zip(rows, after, chosen, scores, strict=True):
            row |= {"before": before, "after": p, "drop": before - p, "neurons": as_pairs(neurons)}
            curve = faithfulness(model, prompt, att, ablation=base[prompt], metric="probability", draws=1)
            kept, removed = (list(map(_rounded, part[0].tolist())) for part in (curve.kept, curve.removed))
            # The last share is all neurons: the run as it is.
            row |= {"ablated": _rounded(float(curve.ablated)), "kept": [*kept[:-1], before], "removed": removed}
        return rows

    rows = [
        {"source": source, "text": prompt.text, "target": prompt.target, **row}
        for source, prompt, payload in each_prompt(folder, prompts, lambda part: list(map(compare, part)))
        for row in payload
    ]
    counts = [round(share * sum(neuron_layers.widths(model))) for share in SHARES]
    kept = {"shares": list(SHARES), "counts": counts, "ablation": ablation}
    return SelectionMethods.of(rows, folder.header, methods=list(methods), count=count, faithfulness=kept)


def _rounded(value: float) -> float:
    """As many digits as float32 has: runs are committed."""
    return float(f"{value:.7g}")
