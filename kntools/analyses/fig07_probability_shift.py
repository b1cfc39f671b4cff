"""Figure 7: the exact probabilities of words before and after a neuron edit."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from kntools.analyses.neuron_search import as_pairs, check_neurons, open_run
from kntools.analyses.prompt_group import NamedPrompts, PromptGroup, check_prompts, each_part
from kntools.analyses.words import FIGURE_5, SLOT, Words, check_words, checked_words, word_probabilities
from kntools.arguments import decimal
from kntools.hooks.neurons import scale_neurons
from kntools.results.result import Result
from kntools.results.statistics import CHANGE_OF_SHARE, mean_interval
from kntools.results.table import Row
from kntools.sites import Neuron, NeuronLike

_TOGETHER = 16  # prompts of one item of a run


@dataclass(frozen=True, eq=False, repr=False)
class ProbabilityShift(Result):
    """The probability of every word in every prompt, untouched and edited.

    `groups[i]` is the name of the prompts that row i belongs to. Where a causal model is asked for the noun after each
    word, `foil_before` and `foil_after` are the probabilities of the noun's other form.
    """

    before: Float[Tensor, "prompt word"]
    after: Float[Tensor, "prompt word"]
    groups: tuple[str, ...]
    words: tuple[tuple[str, str], ...]  # (section, word)
    neurons: tuple[Neuron, ...]
    factor: float
    provenance: dict[str, Any]
    foil_before: Float[Tensor, "prompt word"] | None = None
    foil_after: Float[Tensor, "prompt word"] | None = None

    def pair(self, group: str, word: str) -> tuple[Float[Tensor, " prompt"], Float[Tensor, " prompt"]]:
        """Before and after, of one word in the prompts of one group."""
        at = self._place(group, word)
        return self.before[at], self.after[at]

    def log_odds(self, group: str, word: str) -> tuple[Float[Tensor, " prompt"], Float[Tensor, " prompt"]]:
        """Before and after: log P of the plural form minus that of the singular one (in nats).

        In groups that are not named after a number it is the answer against the foil.
        """
        if self.foil_before is None or self.foil_after is None:
            raise ValueError("log-odds need the noun's other form: ask a causal model for nouns (noun_prompts)")
        at, sign = self._place(group, word), -1 if group == "singular" else 1
        pairs = (self.before, self.foil_before), (self.after, self.foil_after)
        before, after = (sign * (own[at].double().log() - foil[at].double().log()) for own, foil in pairs)
        return before, after

    def _place(self, group: str, word: str) -> tuple[list[int], int]:
        rows = [i for i, name in enumerate(self.groups) if name == group]
        names = [w for _, w in self.words]
        if not rows or word not in names:
            raise ValueError(f"no {group!r} / {word!r}; there are groups {sorted(set(self.groups))} and words {names}")
        return rows, names.index(word)

    def each(self) -> Iterator[tuple[Row, Float[Tensor, " prompt"], Float[Tensor, " prompt"]]]:
        """`{group, section, word}`, before and after, in double precision, of every word in every group."""
        for group in dict.fromkeys(self.groups):
            for section, word in self.words:
                before, after = self.pair(group, word)
                yield {"group": group, "section": section, "word": word}, before.double(), after.double()

    def to_frame(self) -> pd.DataFrame:
        """`group, section, word, n, before, after, difference, low, high`: means, and an interval of the difference.

        Where both forms of a noun are asked for, `foil_before, foil_after` are the means of the other one.
        """
        rows = []
        for about, before, after in self.each():
            change = mean_interval(after - before, bounds=CHANGE_OF_SHARE)
            means = {"before": float(before.mean()), "after": float(after.mean()), "difference": change.pop("mean")}
            at = self._place(about["group"], about["word"])
            foils = {"foil_before": self.foil_before, "foil_after": self.foil_after}
            means |= {name: float(values[at].double().mean()) for name, values in foils.items() if values is not None}
            rows.append({**about, "n": len(before), **means, **change})
        return pd.DataFrame(rows)

    def plot(self, **look: Any) -> Any:
        """Mean probability of each word (both forms of the noun after it), before and after; logarithmic axis."""
        from kntools.plots.charts import scatter_chart

        own = self.to_frame().assign(group=lambda frame: "prompts: " + frame["group"])
        forms = [own]
        if self.foil_before is not None:
            other = {"before": own["foil_before"], "after": own["foil_after"], "group": own["group"] + ", other form"}
            forms.append(own.assign(**other))
        frame = pd.concat(forms).melt(["group", "word"], ["before", "after"], var_name="edit", value_name="probability")
        options: dict[str, Any] = {"color": "edit", "join": "word", "facet_col": "group", "log_x": True}
        options |= {"symbol": "edit", "symbol_sequence": ["circle-open", "circle"]}
        options["facet_col_wrap"] = len(set(self.groups))  # the other forms below
        options |= {"labels": {"probability": "mean probability", "word": ""}, "title": self.describe(), **look}
        figure = scatter_chart(frame, "probability", "word", **options).update_xaxes(dtick=1)
        # A ring around the dot, where nothing changed.
        return figure.update_traces(marker={"size": 10, "line_width": 1.5}, selector={"name": "before"})

    def describe(self) -> str:
        named = ", ".join(map(repr, self.neurons[:5])) + (" ..." if len(self.neurons) > 5 else "")
        counts = f"{len(self.words)} words, {len(self.groups)} prompts"
        return f"{named} x {self.factor:g}: {counts} ({self.provenance['model']})"


def probability_shift(
    model: Any,
    prompts: NamedPrompts,
    neurons: Iterable[NeuronLike],
    *,
    words: Words | Sequence[str] = FIGURE_5,
    factor: float = 0.0,
    run: str | Path | None = None,
) -> ProbabilityShift:
    """Probabilities of words before and after neurons are scaled (Niu et al. 2024, figure 7).

    ```python
    prompts = noun_prompts(model, "determiner_noun_agreement_1", limit=200)     # {"plural": ..., "singular": ...}
    shift = probability_shift(model, prompts, found.leading("plural"))
    shift.to_frame()
    ```

    Arguments:
        prompts: name -> prompts. The words stand in the place of the answer; or, where a text has a `{}`, there, and
            the value is the probability of the prompt's own answer after each word, and of its foil (`noun_prompts`
            makes both).
        neurons: any, of this model.
        words: section -> words, or a list. In the place of an answer each must be one token.
        factor: what their activations are multiplied by at the answer position: 0 suppresses, 2 enhances.
    """
    listed, factor = checked_words(words), decimal("factor", factor)
    names = [word for _, word in listed]
    wanted = check_neurons(model, neurons)
    check_prompts(prompts)
    for group in prompts.values():
        check_words(model, group, names)  # before any work
    asked = [prompt for group in prompts.values() for prompt in group]
    both = all(SLOT in p.text and p.foil is not None for p in asked)
    chosen = {"neurons": as_pairs(wanted), "factor": factor, "words": names, "forms": 1 + both}
    folder = open_run(run, "probability shift", model, **chosen)
    interventions = [[], scale_neurons(wanted, factor)]

    def measure(part: PromptGroup) -> list[Any]:
        forms = list(part.prompts)
        if both:  # of one text: they share its runs
            forms += [replace(p, target=str(p.foil), foil=p.target) for p in part.prompts]
        values = word_probabilities(model, forms, names, interventions)
        return rearrange(values, "edit (form prompt) word -> form edit prompt word", form=1 + both).tolist()

    found = [torch.tensor(each, dtype=torch.float32) for _, each in each_part(folder, prompts, _TOGETHER, measure)]
    values = torch.cat(found, dim=2)  # [form edit prompt word]
    groups = tuple(name for name, group in prompts.items() for _ in group)
    (before, after), *others = values
    foils = dict(zip(("foil_before", "foil_after"), others[0], strict=True)) if both else {}
    return ProbabilityShift(before, after, groups, tuple(listed), wanted, factor, folder.header, **foils)
