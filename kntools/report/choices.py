"""What each figure is asked about: which paradigms and relations, and which of their prompts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, TypeVar

from kntools import data
from kntools.analyses import FIGURE_5, PromptGroup, prompt_groups
from kntools.analyses.fig02_pair_search import NUMBERS
from kntools.analyses.words import check_words
from kntools.arguments import NoEffect
from kntools.data.grouping import DETERMINER_NUMBER
from kntools.engine.answers import ask
from kntools.models.causality import is_masked
from kntools.prompts import Prompt

# A causal model is asked for the noun, which comes last; a masked one for the determiner.
CAUSAL = (
    "determiner_noun_agreement_1",
    "regular_plural_subject_verb_agreement_1",
    "determiner_noun_agreement_with_adjective_1",
    "determiner_noun_agreement_irregular_1",
    "irregular_plural_subject_verb_agreement_1",
    "distractor_agreement_relational_noun",
    "anaphor_gender_agreement",
    "anaphor_number_agreement",
)
MASKED = (
    "determiner_noun_agreement_2",
    "regular_plural_subject_verb_agreement_1",
    "determiner_noun_agreement_with_adj_2",
    "determiner_noun_agreement_irregular_2",
    *CAUSAL[4:],
)
# Pairs of our own, for where BLiMP is not at hand or not in the model's words.
SAMPLE = {
    False: ("sample_determiner_noun_agreement_1", "sample_subject_verb_agreement"),
    True: ("sample_determiner_noun_agreement_2", "sample_subject_verb_agreement"),
}
RELATIONS = ("P36", "P1376", "P101", "P103", "P30", "P176")

_READ = 100  # sentences that show whether a tokenizer knows the words
_AMONG = 4  # so many times as many pairs are looked at as are chosen

T = TypeVar("T")


class NotPossible(Exception):
    """This figure is not defined for this model, or there is no data for it. The text says why, for the page."""


@contextmanager
def possible() -> Iterator[None]:
    """Where the data has nothing that this model can be asked, the page says so, and the report goes on."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotPossible("its data set was not found (set KNTOOLS_DATA to the folder that has it)") from error
    except NoEffect:
        raise  # the report's own mistake, and nothing that the data lack
    except ValueError as error:
        raise NotPossible(str(error).rsplit(";", 1)[0]) from error


def each_possible(names: Iterable[str], make: Callable[[str], T]) -> tuple[dict[str, T], dict[str, str]]:
    """What can be made of each name, and why not of the others. Nothing at all is not possible."""
    made, missing = {}, {}
    for name in names:
        try:
            made[name] = make(name)
        except NotPossible as why:
            missing[name] = str(why)
    if not made:
        raise NotPossible("; ".join(dict.fromkeys(missing.values())))
    return made, missing


def paradigms(model: Any) -> tuple[str, ...]:
    """Those that this model can be asked; the first one is that of determiners and the number of their nouns."""
    masked = is_masked(model)
    names = MASKED if masked else CAUSAL
    pairs = data.blimp(names[0])
    return SAMPLE[masked] if pairs.is_sample or not _knows_words(model, [p.good for p in pairs[:_READ]]) else names


def _knows_words(model: Any, sentences: Sequence[str]) -> bool:
    """Or does it spell most sentences, or have no token for them? A small model may have few words."""
    known = 0
    for text in sentences:
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        known += model.tokenizer.unk_token_id not in ids and len(ids) <= 2 * len(text.split())
    return 2 * known > len(sentences)


def probable_pairs(model: Any, paradigm: str, limit: int, frames: int, seed: int) -> list[PromptGroup]:
    """Of determiner-noun pairs that the model gets right, those of either number that it finds the most probable: where
    it hardly expects the word, there is nothing to attribute.
    """
    groups = list(prompt_groups(model, paradigm, frames=frames, limit=_AMONG * limit, seed=seed, known_only=True))
    answers = iter(ask(model, [prompt for group in groups for prompt in group.prompts]))
    means = [sum(next(answers).probability for _ in group.prompts) / len(group.prompts) for group in groups]
    order = sorted(range(len(groups)), key=lambda i: -means[i])
    half = -(-limit // len(NUMBERS))
    chosen = [i for n in NUMBERS for i in [i for i in order if groups[i].label("number") == n][:half]]
    return [groups[i] for i in sorted(chosen)]


def by_determiner(pairs: Sequence[PromptGroup], limit: int) -> dict[str, list[Prompt]]:
    """The prompts of pairs by their determiner, of each pair the first, then of each the second ..."""
    found: dict[str, list[Prompt]] = {name: [] for name in DETERMINER_NUMBER}
    for prompts in zip_longest(*(group.prompts for group in pairs)):
        for group, prompt in zip(pairs, prompts, strict=True):
            listed = found[str(group.label("determiner"))]
            if prompt is not None and len(listed) < limit:
                listed.append(prompt)
    return {name: listed for name, listed in found.items() if listed}


def words(model: Any, prompts: dict[str, list[Prompt]]) -> dict[str, tuple[str, ...]]:
    """The words of figure 5 that this model can be asked."""
    asked = [prompt for listed in prompts.values() for prompt in listed]

    def usable(word: str) -> bool:
        try:
            check_words(model, asked, [word])
        except ValueError:
            return False
        return True

    found = {section: tuple(filter(usable, listed)) for section, listed in FIGURE_5.items()}
    if not all(found.values()):
        raise ValueError("this model has no one token for any of the words of a section")
    return found
