"""Figure 5: what suppressing a neuron does to the probability of plural, singular and neutral modifiers."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from kntools.analyses.fig07_probability_shift import ProbabilityShift, probability_shift
from kntools.analyses.prompt_group import NamedPrompts, check_prompts
from kntools.analyses.words import FIGURE_5, Words
from kntools.arguments import decimal, flag
from kntools.engine.inputs import check_choice
from kntools.results.statistics import UNBOUNDED, bootstrap_interval, holm, statistic_interval, t_test
from kntools.results.table import Row, Table
from kntools.sites import NeuronLike

Definition = Literal["log_odds", "kn_thesis", "dai", "mean_ratio", "eleutherai"]

#: What "probability change" means: name -> function of probabilities before and after `[*sample prompt]`.
#: `dai`: mean(after - before) / mean(before). `mean_ratio`, also `eleutherai`: mean of (after - before) / before.
#: `log_odds`: the mean change of the log-odds of plural against singular nouns, which it takes in place of
#: probabilities. `kn_thesis`: (mean after - mean before) / the smaller of the two (Niu et al. 2024, figure 5).
CHANGES: dict[Definition, Callable[[Tensor, Tensor], Tensor]] = {
    "dai": lambda b, a: (a.mean(-1) - b.mean(-1)) / b.mean(-1),
    "mean_ratio": lambda b, a: (a / b - 1).mean(-1),
    "kn_thesis": lambda b, a: (a.mean(-1) - b.mean(-1)) / torch.minimum(a.mean(-1), b.mean(-1)),
}
_DEFINITIONS = tuple(CHANGES)  # a row holds each once
CHANGES["eleutherai"] = CHANGES["mean_ratio"]
CHANGES["log_odds"] = lambda b, a: a.mean(-1) - b.mean(-1)
# Means of the changes of single prompts, and between which ends these lie.
_MEANS = {"log_odds": UNBOUNDED, "mean_ratio": (-1.0, math.inf), "eleutherai": (-1.0, math.inf)}
_RESAMPLES = 1000


def unit_of(change: str) -> str:
    """What an effect by this definition is measured in, for the axis of a figure."""
    return "change of plural log-odds (nats)" if change == "log_odds" else f"relative change ({change})"


class SuppressionEffect(Table):
    """One row per group and word: `group, section, word, n, before, after, change, low, high, t, p, p_corrected,
    significant`, and the change by its three definitions (`dai`, `mean_ratio`, `kn_thesis`).

    `change` is the definition that was asked for, with a 95 % interval over prompts; for `log_odds`, `before` and
    `after` are mean log-odds of plural against singular.
    """

    def plot(self, **look: Any) -> Any:
        """Bars per word, sections apart, one panel per group; significant changes in red, others in grey."""
        from kntools.plots.charts import bar_chart
        from kntools.plots.theme import plain

        frame = self.to_frame()
        frame["prompts"] = "prompts: " + frame["group"]
        # Every word keeps its place, whichever of the two it belongs to.
        sides = {"significant": frame["significant"], "not significant": ~frame["significant"]}
        frame = pd.concat([frame.assign(test=name, change=frame["change"].where(side)) for name, side in sides.items()])
        options: dict[str, Any] = {"color": "test", "facet_col": "prompts", "facet_col_wrap": 1, "one_scale": False}
        options |= {"barmode": "overlay", "opacity": 1}
        options |= {"hover_data": {"before": ":.4g", "after": ":.4g", "p_corrected": ":.2g", "n": True}}
        options |= {"labels": {"word": "", "change": unit_of(self.details["change"])}}
        figure = bar_chart(frame, "word", "change", **options, **{"title": self.describe(), **look})
        section = {plain(word): plain(name) for word, name in zip(frame["word"], frame["section"], strict=True)}
        figure.for_each_trace(lambda bars: bars.update(x=[[section[word] for word in bars.x], bars.x]))
        figure.update_xaxes(type="multicategory")
        return figure.update_layout(margin={"r": 70, "b": 80})  # for the last word, which is aslant, and the sections

    def describe(self) -> str:
        h, n = self.details, int(self.frame["significant"].sum())
        return f"{h['what']}: {n} of {len(self.frame)} changes are significant ({h['test']}, {h['alpha']:g})"


def suppression_effect(
    model: Any,
    prompts: NamedPrompts,
    neurons: Iterable[NeuronLike],
    *,
    words: Words | Sequence[str] = FIGURE_5,
    factor: float = 0.0,
    change: Definition | None = None,
    paper: bool = False,
    alpha: float = 0.05,
    seed: int = 0,
    run: str | Path | None = None,
) -> SuppressionEffect:
    """How a neuron edit changes the probability of words, and which changes are significant (figure 5).

    ```python
    prompts = noun_prompts(model, "determiner_noun_agreement_2", limit=200)
    effect = suppression_effect(model, prompts, [(9, 1094)])
    effect.plot()
    ```

    Arguments:
        prompts, neurons, words, factor: as in `probability_shift`; at least two prompts per group.
        change: the definition: `"log_odds"`, of plural against singular (the default where both forms of a noun are
            asked for: `noun_prompts` of a causal model), `"kn_thesis"` (the default elsewhere, and with `paper`),
            `"dai"`, or `"mean_ratio"` (also called `"eleutherai"`).
        paper: the published test, an unpaired t-test without correction; otherwise a paired one with Holm's
            correction over all words and groups.
        alpha: level of significance.
        seed: of the bootstrap.
    """
    _check(change, alpha, paper)
    check_prompts(prompts, least=2)
    shift = probability_shift(model, prompts, neurons, words=words, factor=factor, run=run)
    return effect_of(shift, change=change, paper=paper, alpha=alpha, seed=seed)


def effect_of(
    shift: ProbabilityShift,
    *,
    change: Definition | None = None,
    paper: bool = False,
    alpha: float = 0.05,
    seed: int = 0,
) -> SuppressionEffect:
    """`suppression_effect` from existing probabilities (a `ProbabilityShift` of any edit)."""
    _check(change, alpha, paper)
    if change is None:
        change = "kn_thesis" if paper or shift.foil_before is None else "log_odds"
    rows: list[Row] = []
    for about, before, after in shift.each():
        changes: Row = {name: float(CHANGES[name](before, after)) for name in _DEFINITIONS}
        if change == "log_odds":
            before, after = shift.log_odds(about["group"], about["word"])

        def statistic(drawn: Tensor, b: Tensor = before, a: Tensor = after) -> Tensor:
            return CHANGES[change](b[drawn], a[drawn])

        if change in _MEANS:
            each = CHANGES[change](before[:, None], after[:, None])
            low, high = map(float, bootstrap_interval(each, bounds=_MEANS[change], resamples=_RESAMPLES, seed=seed))
        else:
            low, high = statistic_interval(statistic, len(before), resamples=_RESAMPLES, seed=seed)
        t, p = t_test(before, after, paper=paper)
        means = {"n": len(before), "before": float(before.mean()), "after": float(after.mean())}
        asked = {"change": float(CHANGES[change](before, after)), "low": low, "high": high, "t": t, "p": p}
        rows.append({**about, **means, **asked, **changes})
    p_values = [row["p"] for row in rows]
    corrected = p_values if paper else holm(p_values)
    tested = [{**row, "p_corrected": p, "significant": p < alpha} for row, p in zip(rows, corrected, strict=True)]
    test = "unpaired t-test, uncorrected, as published" if paper else "paired t-test, Holm-corrected"
    what = f"{', '.join(map(repr, shift.neurons[:5]))} x {shift.factor:g} ({shift.provenance['model']})"
    made = {"change": change, "test": test, "alpha": alpha, "what": what, "paper": paper}
    return SuppressionEffect.of(tested, shift.provenance, **made)


def _check(change: str | None, alpha: float, paper: bool) -> None:
    flag("paper", paper)
    check_choice("change", change, (*CHANGES, None))
    decimal("alpha", alpha, above=0, below=1)
