"""Prompts by the number of a noun, in which words take the place of its determiner: what figures 5 to 7 ask."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from kntools import data
from kntools.analyses.prompt_groups import is_relation
from kntools.analyses.word_probabilities import SLOT
from kntools.prompts import Prompt


def noun_prompts(
    model: Any, paradigm: str, *, limit: int | None = None, seed: int = 0, path: Any = None
) -> dict[str, list[Prompt]]:
    """Prompts of a determiner-noun paradigm by the number of the noun, `limit` of each.

    ```python
    noun_prompts(model, "determiner_noun_agreement_2")      # the determiner is asked for: "Carl cures [MASK] horses."
    noun_prompts(model, "determiner_noun_agreement_1")      # the noun is: "Carl cures {}" -> " horses"
    ```

    A masked model is asked for words in the place of the determiner (paradigms ending in `_2`). A causal one has not
    read the noun by then, and can only have a preference of its own; it is asked for the noun after each word
    (paradigms ending in `_1`), which by Bayes' rule is how words in that place are told apart.
    """
    if is_relation(paradigm):
        raise ValueError(
            f"{paradigm} is a relation; numbers of nouns are in paradigms like determiner_noun_agreement_2"
        )
    asked = data.blimp(paradigm, path=path).prompts(model)
    found: dict[str, list[Prompt]] = {}
    for record, prompt in zip(asked.records, asked.prompts, strict=True):
        number, determiner = data.number(record), data.determiner(record)
        placed = _placed(prompt, determiner) if number and determiner else None
        if number and placed:
            found.setdefault(number, []).append(placed)
    if not found:
        raise ValueError(
            f"{paradigm} asks this model for no determiner and no noun after one (skipped: {asked.skipped}); use "
            "determiner_noun_agreement_1 or _2"
        )
    rng = random.Random(seed)
    return {
        name: some if limit is None or limit >= len(some) else rng.sample(some, limit)
        for name, some in sorted(found.items())
    }


def _placed(prompt: Prompt, determiner: str) -> Prompt | None:
    """The prompt as it is where the determiner is asked for; else with a slot where the only determiner stands."""
    if prompt.target.strip().lower() == determiner:
        return prompt
    words = prompt.text.split(" ")
    places = [i for i, word in enumerate(words) if word.lower() == determiner]
    if len(places) != 1:
        return None
    return replace(prompt, text=" ".join([*words[: places[0]], SLOT, *words[places[0] + 1 :]]), foil=None)
