"""Ways to edit a fact, under one signature: `(model, prompts, targets) -> edits`, each made on the unedited model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from kntools.attribution.integrated_gradients import integrated_gradients
from kntools.editing.fine_tuning import fine_tune
from kntools.editing.rome import rome
from kntools.editing.rome_settings import RomeSettings
from kntools.editing.second_moment import SecondMoment
from kntools.editing.value_edits import edit_values
from kntools.editing.weight_edits import WeightEdit
from kntools.prompts import Prompt, encode_many

Method = Callable[[Any, Sequence[Prompt], Sequence[str]], Sequence[WeightEdit]]


def rome_method(layer: int, second_moment: SecondMoment | None = None, settings: RomeSettings | None = None) -> Method:
    """Rank-one edits; what `kn.rome` warns of is left to the scores."""

    def edit(model: Any, prompts: Sequence[Prompt], targets: Sequence[str]) -> Sequence[WeightEdit]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return rome(model, prompts, targets, layer=layer, second_moment=second_moment, settings=settings)

    return edit


def fine_tune_method(layer: int, **options: Any) -> Method:
    """Constrained fine-tuning (FT-L); `options` are those of `kn.fine_tune`."""
    return lambda model, prompts, targets: fine_tune(model, prompts, targets, layer=layer, **options)


def values_method(count: int = 5, amounts: tuple[float, float] = (1.0, 8.0)) -> Method:
    """Value slots of the `count` neurons with the highest attribution for the old answer (Dai et al. 2022).

    An answer of several tokens is attributed, and written, by its first one.
    """

    def edit(model: Any, prompts: Sequence[Prompt], targets: Sequence[str]) -> Sequence[WeightEdit]:
        first = [replace(prompt, subject=None, foil=None, multi_token="first") for prompt in prompts]
        asked = [replace(prompt, target=target) for prompt, target in zip(first, targets, strict=True)]
        old, new = ([e.target_ids[0] for e in encode_many(model, listed)] for listed in (first, asked))
        att = integrated_gradients(model, first)
        return [
            edit_values(model, att.top(count, prompt=n), old[n], new[n], amounts=amounts) for n in range(len(first))
        ]

    return edit
