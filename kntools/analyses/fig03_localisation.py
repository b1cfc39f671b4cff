"""Figure 3: how localised are agreement and facts? Knowledge neurons, tau and R1^2, with what chance would give.

    python -m kntools.analyses.fig03_localisation determiner_noun_agreement_2 P36 P101 --limit 30 --run runs/loc --out results/loc

`--out` names the files to write (`.csv`: one row per pair or fact, `-summary.csv`, `-difference.csv`, `.json`, `.html`);
`--run` a folder from which a killed run goes on.
"""  # noqa: E501 - a command

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kntools.analyses import command
from kntools.analyses.neuron_search import NULLS, SearchSettings, answer_pool, local_seed, open_run, search
from kntools.analyses.prompt_groups import PromptGroup, is_relation, prompt_groups
from kntools.results.comparisons import holm, welch
from kntools.results.statistics import bootstrap_interval
from kntools.results.table import Row, TableResult, numbers
from kntools.sites import Neuron

MEASURES = {"count": "|KN|", "tau": "tau", "r1": "R1^2"}


@dataclass(frozen=True, repr=False)
class Localisation(TableResult):
    """One row per determiner-noun pair or fact: `source, kind, group, prompts, count, tau, r1, converged, neurons`.

    Columns that begin with `null_` are the same measures of the null. `|KN|` is a number of neurons, tau a share of
    prompts, R1^2 between 0 and 1.
    """

    kind = "localisation"

    def summary(self, *, seed: int = 0) -> pd.DataFrame:
        """One row per paradigm or relation: means over its groups, bootstrap intervals, and the null's means.

        `above_null` is the share of groups whose R1^2 is above that of their null.
        """
        frame = self.to_frame()
        rows = []
        for source, some in frame.groupby("source", sort=False):
            row: Row = {"source": source, "kind": some["kind"].iloc[0], "groups": len(some)}
            for name in MEASURES:
                values = _tensor(some[name])
                low, high = bootstrap_interval(values, seed=seed)
                row |= {name: float(values.nanmean()), f"{name}_low": float(low), f"{name}_high": float(high)}
                if f"null_{name}" in some:
                    row[f"null_{name}"] = float(_tensor(some[f"null_{name}"]).nanmean())
            row["converged"] = float(some["converged"].mean())
            if "null_r1" in some:
                row["above_null"] = float((_tensor(some["r1"]) > _tensor(some["null_r1"])).double().mean())
            rows.append(row)
        return pd.DataFrame(rows)

    def difference(self) -> pd.DataFrame:
        """Factual minus linguistic, per measure: Welch's test over the means of their sets, with Holm's correction.

        Paradigms and relations are what would be drawn anew, so they are the units, not the pairs and facts in them:
        with fewer than two of a kind there is no test (p is nan).
        """
        means = self.summary()
        sides = [means[means["kind"] == kind] for kind in ("linguistic", "factual")]
        rows: list[Row] = []
        p_values = []
        for name, written in MEASURES.items():
            linguistic, factual = (_tensor(side[name]) for side in sides)
            t, p = welch(linguistic, factual)
            p_values.append(p)
            rows.append(
                {
                    "measure": written, "linguistic": float(linguistic.mean()), "factual": float(factual.mean()),
                    "difference": float(factual.mean() - linguistic.mean()), "paradigms": len(linguistic),
                    "relations": len(factual), "t": t, "p": p,
                }
            )  # fmt: skip
        for row, p in zip(rows, holm(p_values), strict=True):
            row["p_holm"] = p
        return pd.DataFrame(rows)

    def neurons(self, kind: str | None = None) -> tuple[tuple[Neuron, ...], ...]:
        """The knowledge neurons of every group: of all, or of those of one kind."""
        chosen = [row for row in self.rows if kind in (None, row["kind"])]
        return tuple(tuple(Neuron(*pair) for pair in row["neurons"]) for row in chosen)

    def plot(self, **look: Any) -> Any:
        """The three measures per paradigm and relation: means, bootstrap intervals, and the means of the null."""
        from kntools.plots.charts import bar_chart

        summary, ends = self.summary(), {"": "mean", "_low": "low", "_high": "high"}
        parts = []
        for measure, written in {**MEASURES, "tau": "τ", "r1": "R₁²"}.items():
            columns = {f"{measure}{end}": name for end, name in ends.items()} | {f"null_{measure}": "null"}
            parts.append(summary[["source", "kind", "groups"]].assign(measure=written))
            parts[-1] = parts[-1].join(summary[[c for c in columns if c in summary]].rename(columns=columns))
        frame = pd.concat(parts)
        figure = bar_chart(
            frame,
            "mean",
            "source",
            color="kind",
            facet_col="measure",
            low="low",
            high="high",
            dots={"null": frame.assign(mean=frame["null"])} if "null" in frame else None,
            one_scale=False,
            barmode="overlay",  # a source is of one kind
            opacity=1,
            hover_data=["groups"],
            labels={"source": "", "mean": ""},
            **{"title": self.describe(), **look},
        )
        return figure.update_traces(marker_symbol="x", selector={"name": "null"})

    def describe(self) -> str:
        n = len({row["source"] for row in self.rows})
        return f"Localisation in {n} paradigms and relations, {len(self.rows)} groups ({self.header['model']})"


def localisation(
    model: Any,
    groups: Sequence[PromptGroup],
    *,
    settings: SearchSettings | None = None,
    null: str | None = "neurons",
    seed: int = 0,
    run: str | Path | None = None,
    progress: bool = True,
) -> Localisation:
    """Knowledge neurons, tau and R1^2 of every group (Niu et al. 2024, figure 3 and section 3.3).

    ```python
    groups = [*prompt_groups(model, "determiner_noun_agreement_2", limit=30), *prompt_groups(model, "P36", limit=30)]
    found = localisation(model, groups, run="runs/localisation")
    found.summary()         # one row per paradigm or relation
    found.difference()      # linguistic against factual
    ```

    Arguments:
        groups: from `prompt_groups`, of any paradigms and relations.
        settings: of attribution and choice; `PAPER` has the published rule.
        null: what chance gives. `"neurons"`: each prompt's scores stand on random neurons of the same layer, so the
            marginal stays and agreement goes. `"answers"`: the same prompts ask for answers drawn from the whole
            paradigm or relation, which costs as much again. `None`: no null.
        seed: of the null.
        run: a folder that keeps each finished group, from which a killed run goes on.
        progress: show a bar.

    Returns:
        `Localisation`.

    Raises:
        ValueError: no groups, a group of one prompt (R1^2 compares prompts), or a run folder of another run.
    """
    chosen = settings or SearchSettings()
    if not groups:
        raise ValueError("no groups given; make some with prompt_groups(model, 'P36')")
    if null not in (None, *NULLS):
        raise ValueError(f"null={null!r} is unknown; use 'neurons', 'answers' or None")
    small = [g.key for g in groups if len(g.prompts) < 2]
    if small:
        raise ValueError(f"R1^2 compares prompts: {small[:3]} have fewer than 2; give least=3 to prompt_groups")
    pools = answer_pool(groups)
    written = {"search": chosen.written(), "null": null, "seed": seed}
    if null == "answers":
        written["answers"] = {source: local_seed(*pool) for source, pool in pools.items()}  # what is drawn from
    folder = open_run(run, "localisation", model, **written)
    found = folder.each(
        groups,
        key=lambda group: group.item,
        make=lambda group: search(model, group, chosen, null=null, pool=pools[group.source], seed=seed),
        unit="group",
        progress=progress,
    )
    return Localisation(tuple(map(_row, groups, found)), folder.header)


def _row(group: PromptGroup, found: dict[str, Any]) -> Row:
    row: Row = {"source": group.source, "kind": group.kind, "group": group.key, "prompts": found["prompts"]}
    row |= _measures(found)
    if "null" in found:
        row |= {f"null_{name}": value for name, value in _measures(found["null"]).items() if name in MEASURES}
    return {**row, "converged": found["converged"], "neurons": found["neurons"]}


def _measures(found: dict[str, Any]) -> Row:
    return {"count": len(found["neurons"]), "tau": found["share"], "r1": found["r1"]}


def _tensor(column: Any) -> torch.Tensor:
    return torch.tensor(numbers(column), dtype=torch.float64)


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the top of the module."""
    parser = command.parser("localisation", "Figure 3.", rule=True)
    parser.add_argument("sources", nargs="+", help="BLiMP paradigms and ParaRel relations")
    parser.add_argument("--limit", type=int, default=30, help="groups per paradigm or relation")
    parser.add_argument("--frames", type=int, default=10, help="sentences per pair")
    parser.add_argument("--known", action="store_true", help="only facts and pairs that the model gets right")
    parser.add_argument("--null", choices=NULLS, default="neurons")
    o = parser.parse_args(argv)
    for source in o.sources:
        is_relation(source)
    model = command.load(o)
    options = {"frames": o.frames, "limit": o.limit, "seed": o.seed, "known_only": o.known, "prepend_bos": o.bos}
    groups = [g for source in o.sources for g in prompt_groups(model, source, **options)]
    found = localisation(model, groups, settings=command.settings(o), null=o.null, seed=o.seed, run=o.run)
    write(found, o.out)
    print(found)


def write(found: Localisation, out: Path) -> list[Path]:
    """All files of the command."""
    return command.write(found, out, summary=found.summary(), difference=found.difference())


if __name__ == "__main__":
    main()
