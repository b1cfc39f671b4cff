"""What an edit is tried on: the fact to change, and questions that should, and should not, be answered anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from kntools import data
from kntools.data import CounterFactRecord, ReducedRecord, SymmetricFact, SynonymFact
from kntools.engine.answers import ask
from kntools.models.causality import is_masked
from kntools.prompts import Encoded, Prompt, encode_each

#: The data sets that edits are evaluated on.
EditData = Literal["counterfact", "P36", "P1376", "P101"]

# Records that are asked at a time, until there are enough.
_ASKED_TOGETHER = 512


@dataclass(frozen=True)
class Question:
    """How probable is `answer` after `text` (or at its mask)? `role` says what the answer means for the edit."""

    role: str
    text: str
    answer: str

    @property
    def prompt(self) -> Prompt:
        return Prompt(self.text, self.answer, multi_token="sum")


@dataclass(frozen=True)
class Case:
    """One edit, and what is asked before and after it."""

    key: str
    prompt: Prompt  # with the old answer and the subject
    target: str  # the new answer
    questions: tuple[Question, ...]
    generation: str | None = None  # a text to be continued


def counterfact_cases(model: Any, records: Iterable[CounterFactRecord | ReducedRecord]) -> list[Case]:
    """CounterFact: each of rewrite, paraphrases and neighbours is asked for the new and for the true answer."""
    cases = []
    for record, asked in _askable(model, records, "rewrite"):
        [rewrite] = asked["rewrite"]
        answers = {"new": str(rewrite.foil), "true": rewrite.target}
        questions = [
            (f"{role} {which}", prompt.text, answer)
            for role in ("rewrite", "paraphrase", "neighborhood")
            for prompt in asked.get(role, [])
            for which, answer in answers.items()
        ]
        # A reduced record has no paraphrase, and one text that goes on.
        full = isinstance(record, CounterFactRecord)
        texts = record.generation_prompts if full else [t for t in [record.rephrase_prompt] if t is not None]
        case = _case(f"counterfact {record.case_id}", rewrite, questions)
        cases.append(replace(case, generation=texts[0].rstrip() if texts else None))
    return cases


def symmetric_cases(model: Any, facts: Iterable[SymmetricFact]) -> list[Case]:
    """s -> t becomes s -> t'. Then t' should lead to s (`reverse new`), and t no longer (`reverse old`)."""
    cases = []
    for fact, asked in _askable(model, facts, "forward", "reverse_new", "reverse_old"):
        [forward], [to_new], [to_old] = (asked[role] for role in ("forward", "reverse_new", "reverse_old"))
        questions = [
            ("forward new", forward.text, str(forward.foil)),
            ("forward true", forward.text, forward.target),
            ("reverse new", to_new.text, to_new.target),
            ("reverse new before", to_new.text, str(to_new.foil)),
            ("reverse old", to_old.text, to_old.target),
        ]
        cases.append(_case(f"{fact.relation} {fact.subject} {fact.target}", forward, questions))
    return cases


def synonym_cases(model: Any, facts: Iterable[SynonymFact]) -> list[Case]:
    """The field of work changes; the occupation should follow."""
    cases = []
    for fact, asked in _askable(model, facts, "fact", "synonym"):
        [field], [synonym] = asked["fact"], asked["synonym"]
        questions = [
            ("forward new", field.text, str(field.foil)),
            ("forward true", field.text, field.target),
            ("synonym new", synonym.text, str(synonym.foil)),
            ("synonym true", synonym.text, synonym.target),
        ]
        cases.append(_case(f"{fact.relation} {fact.subject} {fact.target}", field, questions))
    return cases


def make_cases(model: Any, what: EditData, limit: int, *, seed: int = 0, among: int | None = None) -> list[Case]:
    """`limit` cases: `"counterfact"` records that the model knows, or facts of `"P36"`, `"P1376"`, `"P101"`.

    CounterFact records with all fields come first, then reduced ones, which have one neighbour and no paraphrase. Of
    the facts, those that the model knows come first (the others are filled up with), so that both the raw and the
    conditioned scores have as many as there are; they are looked for among so many facts (a sample), or all.
    """
    if what == "counterfact":
        return _known_counterfact(model, limit)
    load: Callable[..., Any] = data.synonym_facts if what == "P101" else data.symmetric_facts
    build: Callable[..., list[Case]] = synonym_cases if what == "P101" else symmetric_cases
    first_of: dict[str, Case] = {}  # each subject once: "The capital of X is" has one answer to edit
    for case in build(model, load(what, seed=seed, limit=among)):
        first_of.setdefault(str(case.prompt.subject), case)
    judged = _known(model, list(first_of.values()))
    return [case for _, case in sorted(judged, key=lambda known: not known[0])[:limit]]


def _known_counterfact(model: Any, limit: int) -> list[Case]:
    full = data.counterfact(known_only=model, limit=limit)
    found = counterfact_cases(model, full)
    if len(found) == limit or full.is_sample:
        return found
    ids = {record.case_id for record in data.counterfact()}
    more = data.counterfact_reduced().where(lambda record: record.case_id not in ids, "in the full set")
    for start in range(0, len(more), _ASKED_TOGETHER):
        if len(found) >= limit:
            break
        cases = counterfact_cases(model, more[start : start + _ASKED_TOGETHER])
        found += [case for known, case in _known(model, cases) if known]
    return found[:limit]


def _known(model: Any, cases: list[Case]) -> list[tuple[bool, Case]]:
    """Each case, and whether the model begins to say its old answer by itself."""
    prompts = [replace(case.prompt, multi_token="first") for case in cases]
    return [(answer.first, case) for answer, case in zip(ask(model, prompts) if cases else [], cases, strict=True)]


def _case(key: str, prompt: Prompt, questions: Iterable[tuple[str, str, str]]) -> Case:
    """A prompt's foil is the new answer."""
    return Case(key, replace(prompt, foil=None), str(prompt.foil), tuple(Question(*asked) for asked in questions))


def _askable(model: Any, records: Iterable[Any], *roles: str) -> Iterator[tuple[Any, dict[str, list[Prompt]]]]:
    """Records with questions of all these roles that the model can be asked, and all their questions by role.

    A masked model can be asked for answers of one token alone.
    """
    listed = list(records)
    found = [(n, c) for n, r in enumerate(listed) for c in r.candidates(is_masked(model))]
    prompts = [(n, c.role, c.prompt) for n, c in found if c.prompt is not None]
    encoded = encode_each(model, [replace(prompt, multi_token="sum") for _, _, prompt in prompts])
    asked: list[dict[str, list[Prompt]]] = [{} for _ in listed]
    for (n, role, prompt), e in zip(prompts, encoded, strict=True):
        if isinstance(e, Encoded):
            asked[n].setdefault(role, []).append(prompt)
    yield from ((r, of_record) for r, of_record in zip(listed, asked, strict=True) if of_record.keys() >= set(roles))
