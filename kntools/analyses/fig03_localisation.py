"""Figure 3: how localised are agreement and facts? Knowledge neurons, tau and R1^2, with what chance would give."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch

from kntools.analyses.neuron_search import ADAPTIVE, Null, SearchSettings, search_each
from kntools.analyses.prompt_group import PromptGroup
from kntools.arguments import check_list
from kntools.engine.inputs import check_choice
from kntools.models import neuron_layers
from kntools.results.statistics import COUNT, SHARE, holm, mean_interval, welch
from kntools.results.table import Row, Table
from kntools.sites import Neuron

MEASURES = {"count": "|KN|", "tau": "tau", "r1": "R1^2"}
_BOUNDS = {"count": COUNT, "tau": SHARE, "r1": SHARE}


class Localisation(Table):
    """One row per determiner-noun pair or fact: `source, kind, group, prompts, metric, count, tau, r1, converged,
    neurons, against`.

    `count` is |KN|, tau a share of prompts, R1^2 between 0 and 1; columns named `null_...` are those of the null.
    """

    def summary(self, *, seed: int = 0) -> pd.DataFrame:
        """One row per paradigm or relation: means over its groups, 95 % intervals, and the null's means;
        `above_null` is the share of groups whose R1^2 is above that of their null, of those that have both.
        """
        rows = []
        for source, own in self.to_frame().groupby("source", sort=False):
            row: Row = {"source": source, "kind": own["kind"].iloc[0], "groups": len(own)}
            for name in MEASURES:
                found = mean_interval(own[name].astype(float).tolist(), bounds=_BOUNDS[name], seed=seed)
                row |= {name: found["mean"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
                if f"null_{name}" in own:
                    row[f"null_{name}"] = float(own[f"null_{name}"].astype(float).mean())
            row["converged"] = float(own["converged"].mean())
            if "null_r1" in own:
                r1, null = own["r1"].astype(float), own["null_r1"].astype(float)
                row["above_null"] = float((r1 > null)[r1.notna() & null.notna()].mean())
            rows.append(row)
        return pd.DataFrame(rows)

    def difference(self) -> pd.DataFrame:
        """Factual minus linguistic, per measure: Welch's test over the means of their sets, with Holm's correction.

        Paradigms and relations are the units; with fewer than two of a kind there is no test (p is nan).
        """
        means = self.summary()
        sides = [means[means["kind"] == kind] for kind in ("linguistic", "factual")]
        rows = []
        for name, written in MEASURES.items():
            linguistic, factual = (torch.tensor(side[name].to_numpy(dtype="float64")) for side in sides)
            a, b = float(linguistic.mean()), float(factual.mean())
            rows.append((written, a, b, b - a, len(linguistic), len(factual), *welch(linguistic, factual)))
        columns = ["measure", "linguistic", "factual", "difference", "paradigms", "relations", "t", "p"]
        return pd.DataFrame(rows, columns=columns).assign(p_holm=lambda frame: holm(frame["p"]))

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"summary": self.summary(), "difference": self.difference()}

    def neurons(self, kind: str | None = None) -> tuple[tuple[Neuron, ...], ...]:
        """The knowledge neurons of every group: of all, or of those of one kind."""
        chosen = [row for row in self.rows if kind in (None, row["kind"])]
        return tuple(tuple(Neuron(*pair) for pair in row["neurons"]) for row in chosen)

    def plot(self, **look: Any) -> Any:
        """The three measures per paradigm and relation: means, 95 % intervals, and the means of the null."""
        from kntools.plots.charts import bar_chart

        summary, parts = self.summary(), []
        for measure, written in {**MEASURES, "tau": "τ", "r1": "R₁²"}.items():
            columns = {measure: "mean", f"{measure}_low": "low", f"{measure}_high": "high", f"null_{measure}": "null"}
            parts.append(summary.rename(columns=columns).assign(measure=written))
        frame = pd.concat(parts)
        null = {"null": frame.assign(mean=frame["null"])} if "null" in frame else None
        options = {"color": "kind", "facet_col": "measure", "one_scale": False, "hover_data": ["groups"]}
        options |= {"barmode": "overlay", "opacity": 1, "labels": {"source": "", "mean": ""}}  # a source is of one kind
        figure = bar_chart(frame, "mean", "source", dots=null, **options, **{"title": self.describe(), **look})
        return figure.update_traces(marker_symbol="x", selector={"name": "null"})

    def describe(self) -> str:
        n = len({row["source"] for row in self.rows})
        return f"Localisation in {n} paradigms and relations, {len(self.rows)} groups ({self.provenance['model']})"


def localisation(
    model: Any,
    groups: Sequence[PromptGroup],
    *,
    settings: SearchSettings = ADAPTIVE,
    null: Null | None = "neurons",
    seed: int = 0,
    run: str | Path | None = None,
) -> Localisation:
    """Knowledge neurons, tau and R1^2 of every group (Niu et al. 2024, figure 3 and section 3.3).

    ```python
    groups = [*prompt_groups(model, "determiner_noun_agreement_2", limit=30), *prompt_groups(model, "P36", limit=30)]
    found = localisation(model, groups, run="runs/localisation")
    found.summary()         # one row per paradigm or relation
    found.difference()      # linguistic against factual
    ```

    Arguments:
        groups: from `prompt_groups`, of any paradigms and relations, each of at least two prompts.
        null: what chance gives. `"neurons"`: the scores of each prompt and layer stand on random neurons. `"answers"`:
            the same prompts ask for answers drawn from the whole paradigm or relation. `"foils"`: target and foil of
            each prompt change places where a coin says so. Both cost as much again. `None`: no null.
        seed: of the null.
    """
    check_list("groups", groups, PromptGroup, "prompt_groups(model, 'P36')")
    check_choice("null", null, (*get_args(Null), None))
    small = [g.key for g in groups if len(g.prompts) < 2]
    if small:
        raise ValueError(f"R1^2 compares prompts: {small[:3]} have fewer than 2; give least=3 to prompt_groups")
    found, provenance = search_each(model, groups, settings, kind="localisation", run=run, null=null, seed=seed)
    return Localisation.of(map(row_of, groups, found), provenance, widths=list(neuron_layers.widths(model)))


def row_of(group: PromptGroup, found: Row) -> Row:
    row = {"source": group.source, "kind": group.kind, "group": group.key, "prompts": found["prompts"]}
    for prefix, side in {"": found, "null_": found.get("null")}.items():
        if side:
            measured = {"count": len(side["neurons"]), "tau": side["share"], "r1": side["r1"]}
            row |= {f"{prefix}{name}": value for name, value in measured.items()}
    return row | {name: found[name] for name in ("metric", "converged", "neurons", "against")}
