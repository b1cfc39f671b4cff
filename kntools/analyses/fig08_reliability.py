"""Figure 8: how many predictions does a neuron edit overturn? Minimal pairs (8a) and facts (8b)."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from kntools.analyses import neuron_search
from kntools.analyses.neuron_search import ADAPTIVE, SearchSettings, as_pairs, open_run
from kntools.analyses.prompt_group import NamedPrompts, check_prompts, each_prompt, prompt_item
from kntools.arguments import check_distinct, flag, several
from kntools.editing.changes import as_hooks
from kntools.editing.value_edits import erased, rewritten
from kntools.engine.inputs import check_choice
from kntools.engine.sweep import Intervention, sweep
from kntools.hooks.neurons import ablate_neurons, enhance_neurons
from kntools.prompts import Encoded, Prompt, encode_many
from kntools.results.statistics import holm, share_interval, sign_test
from kntools.results.table import Row, Table
from kntools.sites import Hook, Neuron, NeuronLike

#: On activations at the answer: suppress (x 0), enhance (x 2). On value rows: erase (0), values (a new answer).
EditName = Literal["suppress", "enhance", "erase", "values"]
EDITS: tuple[EditName, ...] = get_args(EditName)


class Reliability(Table):
    """One row per prompt and edit: `source, kind, text, target, edit, overturned, random, before, after`.

    `overturned`: the order of P(good) and P(bad) is turned around, or a fact's most probable token is another one;
    `random`: the same of as many random neurons of the same layers. `before`, `after`: probability of the answer.
    """

    def summary(self) -> pd.DataFrame:
        """Per source and edit: shares with Wilson's 95 % intervals, and p of a difference from random neurons
        (McNemar's exact test, Holm-corrected over the table).
        """
        rows = []
        for (source, edit), cases in self.to_frame().groupby(["source", "edit"], sort=False):
            own, random = cases["overturned"].astype(bool), cases["random"].astype(bool)
            shares = [x for side in (own, random) for x in (side.mean(), *share_interval(int(side.sum()), len(side)))]
            p = sign_test(int((own & ~random).sum()), int((random & ~own).sum()))
            rows.append((source, edit, len(cases), *shares, p, cases["before"].mean(), cases["after"].mean()))
        measured = ["share", "low", "high", "random", "random_low", "random_high", "p", "before", "after"]
        columns = ["source", "edit", "n", *measured]
        return pd.DataFrame(rows, columns=columns).assign(p_holm=lambda frame: holm(frame["p"]))

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"summary": self.summary()}

    def plot(self, **look: Any) -> Any:
        """Bars per edit beside those of random neurons; a panel per source."""
        from kntools.plots.charts import bar_chart

        summary = self.summary()
        control = summary[["source", "edit", "n", "random", "random_low", "random_high"]]
        control = control.set_axis(["source", "edit", "n", "share", "low", "high"], axis=1)
        given = self.provenance.get("settings", {}).get("neurons")
        own = "knowledge neurons" if given is None else "given neurons"
        frame = pd.concat([summary.assign(neurons=own), control.assign(neurons="random neurons")])
        facet = "source" if summary["source"].nunique() > 1 else None
        options: dict[str, Any] = {"color": "neurons", "facet_col": facet, "hover_data": ["n"]}
        options |= {"labels": {"share": "share overturned"}, "title": self.describe(), **look}
        return bar_chart(frame, "edit", "share", **options).update_yaxes(rangemode="tozero", tickformat=".1%")

    def describe(self) -> str:
        n = len(self.frame[["source", "text", "target"]].drop_duplicates())
        return f"Predictions overturned by neuron edits: {n} prompts ({self.provenance['model']})"


def reliability(
    model: Any,
    prompts: NamedPrompts,
    *,
    neurons: Iterable[NeuronLike] | None = None,
    count: int = 5,
    edits: Sequence[EditName] = EDITS,
    correct_only: bool = True,
    settings: SearchSettings = ADAPTIVE,
    seed: int = 0,
    run: str | Path | None = None,
) -> Reliability:
    """The share of categorical predictions that neuron edits change (Niu et al. 2024, figure 8).

    ```python
    prompts = {"P36": kn.data.pararel("P36", limit=200, known_only=model).prompts(model)}
    reliability(model, prompts).summary()
    reliability(model, pairs, neurons=found.leading("plural"), edits=["suppress"])
    ```

    Arguments:
        prompts: name -> prompts. One with a foil is a minimal pair, one without a fact.
        neurons: which neurons to edit in all prompts; `None` takes the `count` with the highest attribution score of
            each prompt, which say something about their own prompt alone.
        edits: any of `"suppress"` (activations to 0), `"enhance"` (doubled), `"erase"` (their value rows become 0) and
            `"values"` (value rows are written from the old answer towards the foil of a pair, or the model's second
            choice for a fact; Dai et al. 2022, section 5.1). They act as hooks: no weight is touched.
        correct_only: leave out prompts that the model gets wrong to begin with; how many is in `details`.
        seed: of the random neurons.
    """
    flag("correct_only", correct_only)
    if not edits:
        raise ValueError(f"no edits given; there are {', '.join(EDITS)}")
    for edit in (edits := several("edits", edits, "['suppress']")):
        check_choice("edit", edit, EDITS)
    check_distinct("edit", edits)
    check_prompts(prompts)
    summed = [prompt.target for listed in prompts.values() for prompt in listed if prompt.multi_token == "sum"]
    if summed:
        raise ValueError(f"a prediction is one token, but {summed[0]!r} has several tokens; use multi_token='first'")
    given = None if neurons is None else neuron_search.check_neurons(model, neurons)
    if given is None:
        neuron_search.check_count(model, count)
    chosen = {"neurons": None if given is None else as_pairs(given), "count": count, "search": asdict(settings)}
    asked = {name: settings.asking(model, listed) for name, listed in prompts.items()}
    metric_of = {prompt: asked[name] for name, listed in prompts.items() for prompt in listed}
    metrics = {name: own.metric for name, own in asked.items()} if given is None else {}
    folder = open_run(run, "reliability", model, **chosen, metrics=metrics, edits=list(edits), seed=seed)

    def judge(part: Sequence[Prompt]) -> list[Row]:
        if given is None:
            asked = [metric_of[prompt] for prompt in part]
            own = [att.top(count) for att in neuron_search.attribute_each(model, asked, [[prompt] for prompt in part])]
        else:
            own = [given] * len(part)
        others = [neuron_search.control(model, n, seed, prompt_item(p)) for n, p in zip(own, part, strict=True)]
        return _judged(model, part, own, others, edits)

    found = each_prompt(folder, prompts, judge, neuron_search.TOGETHER)
    rows: list[Row] = []
    for source, prompt, payload in found:
        if payload["correct"] or not correct_only:
            kind = "fact" if prompt.foil is None else "pair"
            about = {"source": source, "kind": kind, "text": prompt.text, "target": prompt.target}
            rows += [{**about, **outcome} for outcome in payload["outcomes"]]
    if not rows:
        raise ValueError(f"the model gets none of the {len(found)} prompts right; pass correct_only=False")
    wrong = sum(not payload["correct"] for *_, payload in found) if correct_only else 0
    return Reliability.of(rows, folder.header, wrong=wrong, correct_only=correct_only)


def _judged(
    model: Any,
    prompts: Sequence[Prompt],
    neurons: Sequence[Sequence[Neuron]],
    others: Sequence[Sequence[Neuron]],
    edits: Sequence[EditName],
) -> list[Row]:
    """Prompts untouched, and each under all edits of its neurons and of random ones, in shared passes."""
    encoded = encode_many(model, prompts)
    clean = sweep(model, encoded, [Intervention((), prompt=n) for n in range(len(prompts))]).float()
    runs = [
        Intervention(_hooks(model, edit, edited, encoded[n], clean[n]), prompt=n)
        for n, both in enumerate(zip(neurons, others, strict=True))
        for edited in both
        for edit in edits
    ]
    logits = sweep(model, encoded, runs).float().view(len(prompts), 2, len(edits), -1)  # own neurons, then random ones
    rows = []
    for e, own, before, edited in zip(encoded, neurons, clean, logits, strict=True):
        target, says = e.target_ids[0], _says(before, e)
        outcomes = [
            {
                "edit": edit,
                "overturned": _says(after, e) != says,
                "random": _says(random, e) != says,
                "before": float(before.softmax(-1)[target]),
                "after": float(after.softmax(-1)[target]),
            }
            for edit, after, random in zip(edits, *edited, strict=True)
        ]
        rows.append({"correct": says == target, "neurons": as_pairs(own), "outcomes": outcomes})
    return rows


def _hooks(
    model: Any, edit: EditName, neurons: Sequence[Neuron], encoded: Encoded, clean: Float[Tensor, " d_vocab"]
) -> list[Hook]:
    """An edit as hooks, so that no weight is touched."""
    if edit == "suppress":
        return ablate_neurons(neurons)
    if edit == "enhance":
        return enhance_neurons(neurons)
    if edit == "erase":
        return as_hooks(model, erased(model, neurons))
    old = encoded.target_ids[0]
    second = next(i for i in clean.topk(2).indices.tolist() if i != old)
    new = second if encoded.foil_ids is None else encoded.foil_ids[0]
    return as_hooks(model, rewritten(model, neurons, old, new))


def _says(logits: Float[Tensor, " d_vocab"], encoded: Encoded) -> int:
    """For a pair the more probable of its two tokens, for a fact the most probable of all."""
    if encoded.foil_ids is None:
        return int(logits.argmax())
    target, foil = encoded.target_ids[0], encoded.foil_ids[0]
    return target if float(logits[target]) > float(logits[foil]) else foil
