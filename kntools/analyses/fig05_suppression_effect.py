"""Figure 5: what suppressing a neuron does to the probability of plural, singular and neutral modifiers.

    python -m kntools.analyses.fig05_suppression_effect determiner_noun_agreement_2 --neurons 9.1094 --model bert-base-cased --out results/effect

`--out` names the files to write (`.csv`, `.json`, `.html`); `--run` a folder from which a killed run goes on.
"""  # noqa: E501 - a command

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.analyses import command
from kntools.analyses.fig07_probability_shift import (
    ProbabilityShift,
    command_parser,
    parse_neurons,
    probability_shift,
)
from kntools.analyses.noun_prompts import noun_prompts
from kntools.analyses.word_lists import FIGURE_5
from kntools.prompts import Prompt
from kntools.results.comparisons import holm, t_test
from kntools.results.table import TableResult
from kntools.sites import Neuron

Values = Float[Tensor, "*sample prompt"]


def _dai(before: Values, after: Values) -> Tensor:
    return (after.mean(-1) - before.mean(-1)) / before.mean(-1)


def _mean_ratio(before: Values, after: Values) -> Tensor:
    return (after / before - 1).mean(-1)


def _kn_thesis(before: Values, after: Values) -> Tensor:
    b, a = before.mean(-1), after.mean(-1)
    return (a - b) / torch.minimum(a, b)


#: What "probability change" means: name -> function of probabilities before and after, over prompts.
#: `dai`: mean(after - before) / mean(before). `mean_ratio`, also `eleutherai`: mean of (after - before) / before.
#: `kn_thesis`: (mean after - mean before) / the smaller of the two (Niu et al. 2024, figure 5).
CHANGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dai": _dai, "mean_ratio": _mean_ratio, "eleutherai": _mean_ratio, "kn_thesis": _kn_thesis,
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class SuppressionEffect(TableResult):
    """One row per group and word: `group, section, word, n, before, after, change, low, high, t, p, p_corrected,
    significant`, and the change by its three definitions (`dai`, `mean_ratio`, `kn_thesis`).

    `change` is the definition that was asked for, with a bootstrap interval over prompts.
    """

    kind = "suppression effect"

    def plot(self, **look: Any) -> Any:
        """Bars per word, sections apart, one panel per group; significant changes in red, others in grey."""
        from kntools.plots.charts import bar_chart
        from kntools.plots.theme import plain

        frame = self.to_frame()
        frame["prompts"] = "prompts: " + frame["group"]
        # Every word keeps its place, whichever of the two it belongs to.
        sides = {"significant": frame["significant"], "not significant": ~frame["significant"]}
        frame = pd.concat([frame.assign(test=name, change=frame["change"].where(side)) for name, side in sides.items()])
        figure = bar_chart(
            frame,
            "word",
            "change",
            color="test",
            facet_col="prompts",
            facet_col_wrap=1,
            low="low",
            high="high",
            one_scale=False,
            barmode="overlay",
            opacity=1,
            hover_data={"before": ":.4g", "after": ":.4g", "p_corrected": ":.2g", "n": True},
            labels={"word": "", "change": f"relative change ({self.header['change']})"},
            **{"title": self.describe(), **look},
        )
        section = {plain(word): plain(name) for word, name in zip(frame["word"], frame["section"], strict=True)}
        figure.for_each_trace(lambda bars: bars.update(x=[[section[word] for word in bars.x], bars.x]))
        return figure.update_layout(margin={"r": 70, "b": 80})  # for the last word, which is aslant, and the sections

    def describe(self) -> str:
        n = sum(bool(row["significant"]) for row in self.rows)
        h = self.header
        return f"{h['what']}: {n} of {len(self.rows)} changes are significant ({h['test']}, {h['alpha']:g})"


def suppression_effect(
    model: Any,
    prompts: Mapping[str, Sequence[Prompt]],
    neurons: Iterable[Neuron | tuple[int, int]],
    *,
    words: Mapping[str, Sequence[str]] | Sequence[str] = FIGURE_5,
    factor: float = 0.0,
    change: str = "kn_thesis",
    paper: bool = False,
    alpha: float = 0.05,
    seed: int = 0,
    **options: Any,
) -> SuppressionEffect:
    """How a neuron edit changes the probability of words, and which changes are significant (figure 5).

    ```python
    prompts = noun_prompts(model, "determiner_noun_agreement_2", limit=200)
    effect = suppression_effect(model, prompts, [(9, 1094)])
    effect.plot()
    ```

    Arguments:
        prompts, neurons, words, factor: as in `probability_shift`.
        change: the definition: `"kn_thesis"`, `"dai"`, or `"mean_ratio"` (also called `"eleutherai"`).
        paper: the published test, an unpaired t-test without correction; otherwise a paired one with Holm's
            correction over all words and groups.
        alpha: what is called significant.
        seed: of the bootstrap.
        options: `run`, `prepend_bos`, `max_rows`, `progress` of `probability_shift`.

    Returns:
        `SuppressionEffect`.

    Raises:
        ValueError: an unknown definition, fewer than two prompts in a group, and what `probability_shift` raises.
    """
    _check(change, alpha)
    few = {name: len(some) for name, some in prompts.items() if len(some) < 2}
    if few:
        raise ValueError(f"too few prompts for a test: {few}; give at least 2 per group")
    shift = probability_shift(model, prompts, neurons, words=words, factor=factor, **options)
    return effect_of(shift, change=change, paper=paper, alpha=alpha, seed=seed)


def effect_of(
    shift: ProbabilityShift, *, change: str = "kn_thesis", paper: bool = False, alpha: float = 0.05, seed: int = 0
) -> SuppressionEffect:
    """The same from probabilities that are there already (a `ProbabilityShift` of any edit)."""
    _check(change, alpha)
    rows, p_values = [], []
    for group in dict.fromkeys(shift.groups):
        for section, word in shift.words:
            before, after = (x.double() for x in shift.pair(group, word))
            t, p = t_test(before, after, paper=paper)
            low, high = _interval(before, after, CHANGES[change], seed)
            p_values.append(p)
            named = {name: float(CHANGES[name](before, after)) for name in ("dai", "mean_ratio", "kn_thesis")}
            rows.append(
                {
                    "group": group, "section": section, "word": word, "n": len(before),
                    "before": float(before.mean()), "after": float(after.mean()),
                    "change": float(CHANGES[change](before, after)), "low": low, "high": high, "t": t, "p": p, **named,
                }
            )  # fmt: skip
    corrected = p_values if paper else holm(p_values)
    done = [{**row, "p_corrected": p, "significant": p < alpha} for row, p in zip(rows, corrected, strict=True)]
    test = "unpaired t-test, uncorrected, as published" if paper else "paired t-test, Holm-corrected"
    what = f"{', '.join(map(repr, shift.neurons[:5]))} x {shift.factor:g} ({shift.header['model']})"
    return SuppressionEffect(
        tuple(done), {**shift.header, "change": change, "test": test, "alpha": alpha, "what": what, "paper": paper}
    )


def _check(change: str, alpha: float) -> None:
    if change not in CHANGES:
        raise ValueError(f"change={change!r} is unknown; there are {', '.join(CHANGES)}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha}; it must be between 0 and 1 (0.05)")


def _interval(
    before: Float[Tensor, " prompt"], after: Float[Tensor, " prompt"], change: Any, seed: int, resamples: int = 1000
) -> tuple[float, float]:
    """95 % percentile bootstrap of a change: a ratio of means is not a mean of anything."""
    drawn = torch.randint(len(before), (resamples, len(before)), generator=torch.Generator().manual_seed(seed))
    values = change(before[drawn], after[drawn])
    low, high = values.nanquantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return low, high


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the top of the module."""
    parser = command_parser("suppression_effect", "Figure 5.")
    parser.add_argument("--change", choices=tuple(CHANGES), default="kn_thesis")
    parser.add_argument("--paper", action="store_true", help="the published test")
    o = parser.parse_args(argv)
    neurons, model = parse_neurons(o.neurons), command.load(o)
    prompts = noun_prompts(model, o.paradigm, limit=o.limit, seed=o.seed)
    found = suppression_effect(
        model, prompts, neurons, factor=o.factor, change=o.change, paper=o.paper, seed=o.seed, prepend_bos=o.bos,
        run=o.run,
    )  # fmt: skip
    command.write(found, o.out)
    print(found)


if __name__ == "__main__":
    main()
