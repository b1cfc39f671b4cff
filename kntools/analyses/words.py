"""Words in the place of an answer, or before it: figure 5's lists, prompts that ask for them, and probabilities."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from kntools import data
from kntools.analyses.prompt_group import is_relation, sample
from kntools.arguments import check_distinct, check_list, several
from kntools.data.blimp_pairs import MinimalPair
from kntools.data.records import PromptSet
from kntools.engine.answers import answer_values
from kntools.prompts import Encoded, Prompt, PromptError, PromptLike, encode_each
from kntools.randomness import python_random
from kntools.sites import Hook

#: Section -> words.
Words = Mapping[str, Sequence[str]]

#: The modifiers of figure 5 (Niu et al. 2024), in its three sections.
FIGURE_5: Words = {
    "plural": ("these", "those", "two", "both", "multiple", "several", "various"),
    "singular": ("this", "that", "one", "a", "an", "every", "unique", "single", "sole"),
    "neutral": ("the", "any", "all", "some", "my", "our", "unified", "scattered"),
}

#: Where a word goes in the text of a prompt that asks what comes after it: `"Carl cures {}"` -> `" horses"`.
SLOT = "{}"


def checked_words(words: Words | Sequence[str]) -> list[tuple[str, str]]:
    """`(section, word)` in order; a plain list is one section. Empty lists and repeated words are errors."""
    if isinstance(words, str):
        raise ValueError(f"words={words!r} is one text; give a list, e.g. [{words!r}]")
    sections = words if isinstance(words, Mapping) else {"words": words}
    for section, listed in sections.items():
        check_list(section, listed, str, "['the', 'these']", least=0)
    empty = [section for section, listed in sections.items() if not listed]
    if empty or not sections:
        raise ValueError(f"the word list is empty ({empty or 'no section'}); give at least one word per section")
    found = [(section, word.strip()) for section, listed in sections.items() for word in listed]
    names = [word for _, word in found]
    if "" in names:
        raise ValueError(f"a word is empty: {names}; leave it out")
    check_distinct("word", names)
    return found


def noun_prompts(
    model: Any,
    paradigm: str,
    *,
    limit: int | None = None,
    without: Iterable[str] = (),
    seed: int = 0,
    path: Any = None,
) -> dict[str, list[Prompt]]:
    """Prompts of a determiner-noun paradigm by the number of the noun, `limit` of each.

    ```python
    noun_prompts(model, "determiner_noun_agreement_2")      # the answer is the determiner: "Carl cures [MASK] horses."
    noun_prompts(model, "determiner_noun_agreement_1")      # the noun is: "Carl cures {}" -> " horses"
    ```

    A masked model is asked for words in the place of the determiner (paradigms ending in `_2`). A causal one is asked
    for the noun after each word (`_1`), in the form that the prompts are named after and, as the foil, in the other
    one.

    Arguments:
        without: nouns to leave out: those that selected the neurons under test.
    """
    asked = pairs_of_number(model, paradigm, without, path)
    found: dict[str, list[Prompt]] = {}
    for record, prompt in zip(asked.records, asked.prompts, strict=True):
        determiner = data.determiner(record)
        if determiner and (placed := _placed(prompt, determiner)):
            found.setdefault(str(data.number(record)), []).append(placed)
    if not found:
        raise ValueError(
            f"{paradigm} has no prompts for this model: no determiner, and no noun after one (skipped: "
            f"{asked.skipped}); use determiner_noun_agreement_1 or _2"
        )
    rng = python_random(seed)
    return {name: sample(listed, limit, rng) for name, listed in sorted(found.items())}


def pairs_of_number(model: Any, paradigm: str, without: Iterable[str], path: Any) -> PromptSet:
    """The minimal pairs of a paradigm that are about a number, and in which none of these nouns stands."""
    if is_relation(paradigm):
        raise ValueError(f"{paradigm} is a relation; numbers are in paradigms such as determiner_noun_agreement_2")
    nouns = set(several("without", without, "found.nouns('selection')"))

    def usable(pair: MinimalPair, _: Prompt) -> bool:
        return bool(data.number(pair)) and nouns.isdisjoint(re.findall(r"\w+", f"{pair.good} {pair.bad}"))

    return data.blimp(paradigm, path=path).prompts(model).where(usable, "of no number, or with a noun that is left out")


def _placed(prompt: Prompt, determiner: str) -> Prompt | None:
    """The prompt as it is where the determiner is asked for; else with a slot where the only determiner stands."""
    if prompt.target.strip().lower() == determiner:
        return prompt
    words = prompt.text.split(" ")
    places = [i for i, word in enumerate(words) if word.lower() == determiner]
    if len(places) != 1:
        return None
    words[places[0]] = SLOT
    return replace(prompt, text=" ".join(words))


def word_probabilities(
    model: Any, prompts: Sequence[Prompt], words: Sequence[str], interventions: Sequence[Sequence[Hook]]
) -> Float[Tensor, "intervention prompt word"]:
    """The probability of every word in the place of every prompt's answer, under every intervention.

    Answers only say where words stand, and whether after a space. In a text with a `{}` every word is put there, and
    the value is the probability of the prompt's own answer after it. Hooks without `pos` act at the answer.
    """
    slots = sum(SLOT in p.text for p in prompts)
    if slots not in (0, len(prompts)):
        raise ValueError(f"{slots} of {len(prompts)} prompts have a slot {SLOT}; all of them need one, or none")
    asked: Sequence[PromptLike]
    if slots:
        asked = [replace(p, text=p.text.replace(SLOT, word)) for p in prompts for word in words]
    else:  # a text is run once for all words in its place
        asked = _with_words(model, prompts, words)
    values = answer_values(model, asked, interventions)
    return rearrange(values, "edit (prompt word) -> edit prompt word", word=len(words))


def check_words(model: Any, prompts: Iterable[Prompt], words: Sequence[str]) -> None:
    """Words that stand in the place of an answer must be one token each; an error names those that are not."""
    _with_words(model, [p for p in prompts if SLOT not in p.text][:1], words)


def _with_words(model: Any, prompts: Sequence[Prompt], words: Sequence[str]) -> list[Encoded]:
    """Every prompt with every word as its answer, spaced as the prompt's own, which must be one token."""
    spaces = [p.target[: len(p.target) - len(p.target.lstrip())] for p in prompts]
    encoded = encode_each(
        model,
        [
            replace(p, target=space + word, foil=None, multi_token="error")
            for p, space in zip(prompts, spaces, strict=True)
            for word in words
        ],
    )
    problems = dict.fromkeys(str(error).split(";")[0] for error in encoded if isinstance(error, PromptError))
    if problems:
        raise ValueError(
            f"{'; '.join(problems)}: leave these words out of the list, this model has no one token for them"
        )
    return [e for e in encoded if isinstance(e, Encoded)]
