"""What each figure is asked about: which paradigms and relations, and which of their prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import zip_longest
from typing import Any, TypeVar

from kntools import data
from kntools.analyses.edit_cases import Case, Question
from kntools.analyses.fig02_pair_search import NUMBERS
from kntools.analyses.fig09_tracing_profile import traced_prompts
from kntools.analyses.noun_prompts import noun_prompts
from kntools.analyses.prompt_groups import PromptGroup, known_prompts, prompt_groups
from kntools.analyses.word_lists import FIGURE_5
from kntools.analyses.word_probabilities import check_words
from kntools.data.grouping import DETERMINER_NUMBER
from kntools.engine.answers import answer_probabilities
from kntools.models import adapter
from kntools.prompts import Prompt

# A causal model is asked for the noun, which comes last; a masked one for the determiner.
CAUSAL = (
    "determiner_noun_agreement_1", "regular_plural_subject_verb_agreement_1",
    "determiner_noun_agreement_with_adjective_1", "determiner_noun_agreement_irregular_1",
    "irregular_plural_subject_verb_agreement_1", "distractor_agreement_relational_noun", "anaphor_gender_agreement",
    "anaphor_number_agreement",
)  # fmt: skip
MASKED = (
    "determiner_noun_agreement_2", "regular_plural_subject_verb_agreement_1", "determiner_noun_agreement_with_adj_2",
    "determiner_noun_agreement_irregular_2", *CAUSAL[4:],
)  # fmt: skip
# Pairs of our own, for where BLiMP is not at hand or not in the model's words.
SAMPLE = {
    False: ("sample_determiner_noun_agreement_1", "sample_subject_verb_agreement"),
    True: ("sample_determiner_noun_agreement_2", "sample_subject_verb_agreement"),
}
RELATIONS = ("P36", "P1376", "P101", "P103", "P30", "P176")

# So many sentences tell whether a tokenizer knows the words.
_READ = 100
# So many times as many pairs are looked at as are chosen.
_AMONG = 4

T = TypeVar("T")


class NotPossible(Exception):
    """This figure is not defined for this model, or there is no data for it. The text says why, for the page."""


@contextmanager
def possible() -> Iterator[None]:
    """Where the data has nothing that this model can be asked, that is a line of the page, and no end of the report.

    Only what chooses prompts stands in here: an error of an analysis is an error.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise NotPossible("its data set is not at hand (set KNTOOLS_DATA to a folder that holds it)") from error
    except ValueError as error:
        raise NotPossible(str(error).split(";")[0]) from error


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


def answered(make: Callable[[], Sequence[Any]]) -> dict[str, Any]:
    """What `make` chooses as JSON, or why nothing can be chosen."""
    try:
        with possible():
            return {"chosen": [asdict(one) for one in make()]}
    except NotPossible as why:
        return {"why": str(why)}


def read_prompt(row: dict[str, Any]) -> Prompt:
    return Prompt(**row)


def read_group(row: dict[str, Any]) -> PromptGroup:
    prompts, labels = tuple(map(read_prompt, row["prompts"])), tuple((k, v) for k, v in row["labels"])
    return PromptGroup(**{**row, "prompts": prompts, "labels": labels})


def read_case(row: dict[str, Any]) -> Case:
    questions = tuple(Question(**one) for one in row["questions"])
    return Case(**{**row, "prompt": read_prompt(row["prompt"]), "questions": questions})


def paradigms(model: Any) -> tuple[str, ...]:
    """Those that this model can be asked; the first one is that of determiners and the number of their nouns."""
    masked = adapter.is_masked(model)
    names = MASKED if masked else CAUSAL
    pairs = data.blimp(names[0])
    if pairs.source.startswith("built-in") or not _knows_words(model, [pair.good for pair in pairs[:_READ]]):
        return SAMPLE[masked]
    return names


def _knows_words(model: Any, sentences: Sequence[str]) -> bool:
    """Or does it spell most sentences, or have no token for them? A small model may have few words."""
    unknown = model.tokenizer.unk_token_id
    pieces = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in sentences]
    read = [
        unknown not in ids and len(ids) <= 2 * len(text.split()) for text, ids in zip(sentences, pieces, strict=True)
    ]
    return 2 * sum(read) > len(read)


def groups(model: Any, name: str, limit: int, frames: int, seed: int, prepend_bos: bool | None) -> list[PromptGroup]:
    """Only what the model gets right: a wrong answer has no knowledge neurons to look for."""
    return list(
        prompt_groups(
            model, name, frames=frames, limit=limit, seed=seed, known_only=True, prepend_bos=prepend_bos
        )
    )  # fmt: skip


def pairs(
    model: Any, paradigm: str, limit: int, frames: int, seed: int, prepend_bos: bool | None, max_rows: int | None
) -> list[PromptGroup]:
    """Of determiner-noun pairs that the model gets right, those of either number that it finds the most probable.

    A score is a part of a probability: where the model hardly expects the word, there is nothing to share out.
    """
    found = groups(model, paradigm, _AMONG * limit, frames, seed, prepend_bos)
    every = [prompt for group in found for prompt in group.prompts]
    [values] = answer_probabilities(model, every, prepend_bos=prepend_bos, max_rows=max_rows)
    each = [float(some.mean()) for some in values.split([len(group.prompts) for group in found])]
    order = sorted(range(len(found)), key=lambda i: -each[i])
    half = -(-limit // len(NUMBERS))
    chosen = [i for n in NUMBERS for i in [i for i in order if found[i].label("number") == n][:half]]
    return [found[i] for i in sorted(chosen)]


def by_determiner(pairs: Sequence[PromptGroup], limit: int) -> dict[str, list[Prompt]]:
    """The prompts of pairs by their determiner, of each pair the first, then of each the second ..."""
    found: dict[str, list[Prompt]] = {}
    for prompts in zip_longest(*(group.prompts for group in pairs)):
        for group, prompt in zip(pairs, prompts, strict=True):
            some = found.setdefault(group.label("determiner") or "", [])
            if prompt is not None and len(some) < limit:
                some.append(prompt)
    return {name: found[name] for name in DETERMINER_NUMBER if name in found}


def nouns(model: Any, paradigm: str, limit: int, seed: int) -> dict[str, list[Prompt]]:
    """Prompts of either number, two at least, for a test."""
    found = noun_prompts(model, paradigm, limit=limit, seed=seed)
    if min(len(some) for some in found.values()) < 2 or len(found) < 2:
        raise ValueError(f"{paradigm} has fewer than 2 prompts of a number that this model can be asked")
    return found


def words(model: Any, prompts: dict[str, list[Prompt]]) -> dict[str, tuple[str, ...]]:
    """The words of figure 5 that this model can be asked."""
    asked = [p for some in prompts.values() for p in some]

    def usable(word: str) -> bool:
        try:
            check_words(model, asked, [word])
        except ValueError:
            return False
        return True

    found = {section: tuple(w for w in some if usable(w)) for section, some in FIGURE_5.items()}
    if not all(found.values()):
        raise ValueError("this model has no one token for any of the words of a section")
    return found


def judged(model: Any, source: str, limit: int, seed: int, prepend_bos: bool | None) -> list[Prompt]:
    """Prompts that the model gets right, one per pair or fact."""
    [found] = known_prompts(model, [source], limit=limit, seed=seed, prepend_bos=prepend_bos).values()
    if not found:
        raise ValueError(f"{source}: the model gets none of it right")
    return found


def traced(model: Any, what: str, limit: int, prepend_bos: bool | None, sampled: bool) -> list[Prompt]:
    """Prompts that the model gets right; frames of our own where the pairs are our own."""
    if what == "determiner_noun" and sampled:
        frames = data.agreement_frames(what, limit=limit, known_only=model, prepend_bos=prepend_bos, progress=False)
        found = list(frames.prompts(model))
    else:
        found = traced_prompts(model, what, limit=limit, prepend_bos=prepend_bos)
    if not found:
        raise ValueError(f"{what.replace('_', '-')}: the model gets no prompt right")
    return found
