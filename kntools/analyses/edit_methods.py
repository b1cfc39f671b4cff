"""Ways to edit a fact, under one signature: `(model, prompts, targets) -> edits`, each made on the unedited model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kntools.attribution.integrated_gradients import integrated_gradients
from kntools.editing.fine_tuning import fine_tune
from kntools.editing.rome import rome_each
from kntools.editing.second_moment import SecondMoment
from kntools.editing.value_edits import edit_values
from kntools.editing.weight_edits import WeightEdit
from kntools.prompts import Prompt

Method = Callable[[Any, Sequence[Prompt], Sequence[str]], Sequence[WeightEdit]]


def rome_method(layer: int, second_moment: SecondMoment | None = None, **options: Any) -> Method:
    """Rank-one edits; `options` are those of `kn.rome`."""

    def edit(model: Any, prompts: Sequence[Prompt], targets: Sequence[str]) -> Sequence[WeightEdit]:
        return rome_each(model, prompts, targets, layer=layer, second_moment=second_moment, **options)

    return edit


def fine_tune_method(layer: int, **options: Any) -> Method:
    """Constrained fine-tuning (FT-L); `options` are those of `kn.fine_tune`."""

    def edit(model: Any, prompts: Sequence[Prompt], targets: Sequence[str]) -> Sequence[WeightEdit]:
        return [fine_tune(model, p, t, layer=layer, **options) for p, t in zip(prompts, targets, strict=True)]

    return edit


def values_method(count: int = 5, *, prepend_bos: bool | None = None, **options: Any) -> Method:
    """Value slots of the `count` neurons with the highest attribution for the old answer (Dai et al. 2022).

    An answer of several tokens is attributed, and written, by its first one. `options` are those of `kn.edit_values`.
    """

    def edit(model: Any, prompts: Sequence[Prompt], targets: Sequence[str]) -> Sequence[WeightEdit]:
        made = []
        for prompt, target in zip(prompts, targets, strict=True):
            asked = Prompt(prompt.text, prompt.target)
            att = integrated_gradients(model, asked, multi_token="first", prepend_bos=prepend_bos, progress=False)
            made.append(edit_values(model, att.top(count), prompt.target, target, multi_token="first", **options))
        return made

    return edit
