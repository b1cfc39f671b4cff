"""Figure 8: how many predictions does a neuron edit overturn? Minimal pairs (8a) and facts (8b).

    python -m kntools.analyses.fig08_reliability determiner_noun_agreement_2 P36 --limit 100 --run runs/reliability --out results/reliability

`--out` names the files to write (`.csv`: one row per prompt and edit, `-summary.csv`, `.json`, `.html`); `--run` a folder
from which a killed run goes on.
"""  # noqa: E501 - a command

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kntools.analyses import command
from kntools.analyses.fig07_probability_shift import parse_neurons
from kntools.analyses.neuron_search import SearchSettings, local_seed, open_run
from kntools.analyses.prompt_groups import is_relation, known_prompts, prompt_item
from kntools.analyses.reliability_edits import EDITS, Outcome, outcomes
from kntools.analyses.word_probabilities import checked_neurons
from kntools.engine.answers import random_like
from kntools.models import adapter
from kntools.prompts import Prompt, encode
from kntools.results.comparisons import holm, share_interval, sign_test
from kntools.results.table import Row, TableResult
from kntools.sites import Neuron


@dataclass(frozen=True, repr=False)
class Reliability(TableResult):
    """One row per prompt and edit: `source, kind, text, target, edit, overturned, random, before, after`.

    `overturned`: a minimal pair's order of P(good) and P(bad) is turned around, or a fact's most probable token is
    another one. `random`: the same of as many random neurons of the same layers. `before`, `after`: probability of the
    answer.
    """

    kind = "reliability"

    def summary(self) -> pd.DataFrame:
        """Per source and edit: shares with Wilson's 95 % intervals, and p of a difference from random neurons.

        The test is McNemar's exact one: the same prompts, two interventions; Holm-corrected over the table.
        """
        rows: list[Row] = []
        p_values = []
        for (source, edit), some in self.to_frame().groupby(["source", "edit"], sort=False):
            ours, theirs = some["overturned"].astype(bool), some["random"].astype(bool)
            row: Row = {"source": source, "edit": edit, "n": len(some)}
            for name, side in (("", ours), ("random_", theirs)):
                low, high = share_interval(int(side.sum()), len(some))
                row |= {name.rstrip("_") or "share": float(side.mean()), f"{name}low": low, f"{name}high": high}
            p_values.append(sign_test(int((ours & ~theirs).sum()), int((theirs & ~ours).sum())))
            rows.append({**row, "p": p_values[-1], "before": some["before"].mean(), "after": some["after"].mean()})
        return pd.DataFrame([{**row, "p_holm": p} for row, p in zip(rows, holm(p_values), strict=True)])

    def plot(self, **look: Any) -> Any:
        """Bars per edit beside those of random neurons; a panel per source."""
        from kntools.plots.charts import bar_chart

        summary, ends = self.summary(), ["low", "high"]
        random = summary[["source", "edit", "n"]].assign(neurons="random neurons", share=summary["random"])
        random[ends] = summary[["random_low", "random_high"]]
        frame = pd.concat([summary.assign(neurons="knowledge neurons"), random])
        figure = bar_chart(
            frame,
            "edit",
            "share",
            color="neurons",
            facet_col="source" if summary["source"].nunique() > 1 else None,
            low="low",
            high="high",
            hover_data=["n"],
            labels={"share": "share overturned"},
            **{"title": self.describe(), **look},
        )
        return figure.update_yaxes(rangemode="tozero", tickformat=".1%")

    def describe(self) -> str:
        n = {(row["source"], row["text"], row["target"]) for row in self.rows}
        return f"Predictions overturned by neuron edits: {len(n)} prompts ({self.header['model']})"


def reliability(
    model: Any,
    prompts: Mapping[str, Sequence[Prompt]],
    *,
    neurons: Iterable[Neuron | tuple[int, int]] | None = None,
    count: int = 5,
    edits: Sequence[str] = EDITS,
    correct_only: bool = True,
    settings: SearchSettings | None = None,
    seed: int = 0,
    run: str | Path | None = None,
    progress: bool = True,
) -> Reliability:
    """The share of categorical predictions that neuron edits overturn (Niu et al. 2024, figure 8).

    ```python
    prompts = {"P36": kn.data.pararel("P36", limit=200, known_only=model).prompts(model)}
    reliability(model, prompts).summary()
    reliability(model, pairs, neurons=found.leading("plural"), edits=["suppress"])
    ```

    Arguments:
        prompts: name -> prompts. One with a foil is a minimal pair, one without a fact.
        neurons: which neurons to edit in all prompts; `None` takes the `count` with the highest attribution score of
            each prompt.
        edits: any of `"suppress"` (activations to 0), `"enhance"` (doubled), `"erase"` (their value rows become 0) and
            `"values"` (value rows are written from the old answer towards a new one: the foil of a pair, the model's
            second choice for a fact; Dai et al. 2022, section 5.1).
        correct_only: leave out prompts that the model gets wrong to begin with; how many is in the header.
        settings: of attribution.
        seed: of the random neurons.
        run: a folder that keeps each finished prompt, from which a killed run goes on.

    Returns:
        `Reliability`. Weights are not touched: edits of value rows act as hooks.

    Raises:
        ValueError: no prompts, an unknown edit, no prompt that the model gets right, neurons of another model.
    """
    unknown = [edit for edit in edits if edit not in EDITS]
    if unknown or not edits:
        raise ValueError(f"unknown edits {unknown}; there are {', '.join(EDITS)}")
    if not any(len(some) for some in prompts.values()):
        raise ValueError("no prompts given; e.g. {'P36': kn.data.pararel('P36', limit=50).prompts(model)}")
    chosen = settings or SearchSettings()
    given = None if neurons is None else checked_neurons(model, neurons)
    if given is None and not 1 <= count <= adapter.d_mlp(model) // 2:
        raise ValueError(f"count={count}; give 1 to {adapter.d_mlp(model) // 2} (half a layer, for random ones beside)")
    named = None if given is None else [[n.layer, n.index] for n in given]
    folder = open_run(
        run, "reliability", model, neurons=named, count=count, edits=list(edits), search=chosen.written(), seed=seed
    )
    # Pairs may differ only behind the answer; what a causal model reads of them is then one prompt.
    asked = list(dict.fromkeys((source, prompt) for source, some in prompts.items() for prompt in some))
    found = folder.each(
        asked,
        key=lambda one: prompt_item(one[1]),
        make=lambda one: _item(model, one[1], given, count, edits, chosen, seed),
        unit="prompt",
        progress=progress,
    )
    rows: list[Row] = []
    wrong = 0
    for (source, prompt), payload in zip(asked, found, strict=True):
        if correct_only and not payload["correct"]:
            wrong += 1
            continue
        kind = "fact" if prompt.foil is None else "pair"
        about = {"source": source, "kind": kind, "text": prompt.text, "target": prompt.target}
        rows += [{**about, **outcome} for outcome in payload["outcomes"]]
    if not rows:
        raise ValueError(f"the model gets none of the {len(asked)} prompts right; pass correct_only=False")
    return Reliability(tuple(rows), {**folder.header, "wrong": wrong, "correct_only": correct_only})


def _item(
    model: Any,
    prompt: Prompt,
    given: tuple[Neuron, ...] | None,
    count: int,
    edits: Sequence[str],
    settings: SearchSettings,
    seed: int,
) -> dict[str, Any]:
    """One prompt under all edits of its neurons and of random ones."""
    neurons = given
    if neurons is None:
        scores = settings.scores(model, [prompt])[0]
        top = scores.flatten().topk(count).indices.tolist()
        neurons = tuple(Neuron(i // scores.shape[1], i % scores.shape[1]) for i in top)
    generator = torch.Generator().manual_seed(local_seed(seed, prompt_item(prompt)))
    others = random_like(neurons, adapter.d_mlp(model), generator)
    encoded = encode(model, prompt, settings.prepend_bos)
    before, (ours, theirs) = outcomes(model, encoded, [neurons, others], edits)
    found = [_row(edit, before, ours[edit], theirs[edit]) for edit in edits]
    return {"correct": before.right, "neurons": [[n.layer, n.index] for n in neurons], "outcomes": found}


def _row(edit: str, before: Outcome, ours: Outcome, theirs: Outcome) -> Row:
    return {
        "edit": edit, "overturned": ours.says != before.says, "random": theirs.says != before.says,
        "before": before.probability, "after": ours.probability,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the top of the module."""
    parser = command.parser("reliability", "Figure 8.", rule=True)
    add = parser.add_argument
    add("sources", nargs="+", help="BLiMP paradigms (8a) and ParaRel relations (8b)")
    add("--limit", type=int, default=100, help="prompts per paradigm or relation that the model gets right")
    add("--count", type=int, default=5, help="neurons edited per prompt: those with its highest scores")
    add("--neurons", nargs="+", help="edit these (layer.index) in all prompts instead")
    add("--edits", nargs="+", choices=EDITS, default=list(EDITS))
    o = parser.parse_args(argv)
    for source in o.sources:
        is_relation(source)  # a wrong name is an error before the model is loaded
    neurons = parse_neurons(o.neurons) if o.neurons else None
    model = command.load(o)
    prompts = known_prompts(model, o.sources, limit=o.limit, seed=o.seed, prepend_bos=o.bos)
    found = reliability(
        model, prompts, neurons=neurons, count=o.count, edits=o.edits, settings=command.settings(o), seed=o.seed,
        run=o.run,
    )  # fmt: skip
    command.write(found, o.out, summary=found.summary())
    print(found)


if __name__ == "__main__":
    main()
