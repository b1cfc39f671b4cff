"""What an edit is tried on: the fact to change, and questions that should, and should not, be answered anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kntools import data
from kntools.data import CounterFactRecord, ReducedRecord, SymmetricFact, SynonymFact
from kntools.data.prompting import to_prompts
from kntools.data.records import Loaded, Skipped
from kntools.models import adapter
from kntools.prompts import Prompt, answer_ids

# Records that are asked at a time, until there are enough.
_ASKED_TOGETHER = 512


@dataclass(frozen=True)
class Question:
    """How probable is `answer` after `text`? `role` says what the answer means for the edit."""

    role: str
    text: str
    answer: str


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
    for r in _usable(model, records, "rewrite"):
        new, true = f" {r.new_target}", f" {r.target}"
        if isinstance(r, CounterFactRecord):
            paraphrases, neighbours, begins = r.paraphrase_prompts, r.neighborhood_prompts, r.generation_prompts[:1]
        else:  # its only neighbour, and a text that goes on
            paraphrases, neighbours = (), () if r.locality_prompt is None else (r.locality_prompt,)
            begins = () if r.rephrase_prompt is None else (r.rephrase_prompt,)
        roles = {"rewrite": (r.prompt,), "paraphrase": paraphrases, "neighborhood": neighbours}
        questions = [
            Question(f"{role} {which}", text.rstrip(), answer)
            for role, texts in roles.items()
            for text in texts
            for which, answer in (("new", new), ("true", true))
        ]
        generation = begins[0].rstrip() if begins else None
        prompt = Prompt(r.prompt.rstrip(), true, subject=r.subject)
        cases.append(Case(f"counterfact {r.case_id}", prompt, new, tuple(questions), generation))
    return cases


def symmetric_cases(model: Any, facts: Iterable[SymmetricFact]) -> list[Case]:
    """s -> t becomes s -> t'. Then t' should lead to s (`reverse new`), and t no longer (`reverse old`)."""
    cases = []
    for f in _usable(model, facts, "forward"):
        asked = {c.role: c.prompt for c in f.candidates(adapter.is_masked(model)) if c.prompt is not None}
        if len(asked) < 3:
            continue
        forward, to_new, to_old = asked["forward"], asked["reverse_new"], asked["reverse_old"]
        questions = (
            Question("forward new", forward.text, f" {f.new_target}"),
            Question("forward true", forward.text, forward.target),
            Question("reverse new", to_new.text, f" {f.subject}"),
            Question("reverse new before", to_new.text, f" {f.new_subject}"),
            Question("reverse old", to_old.text, f" {f.subject}"),
        )
        prompt = Prompt(forward.text, forward.target, subject=f.subject)
        cases.append(Case(f"{f.relation} {f.subject} {f.target}", prompt, f" {f.new_target}", questions))
    return cases


def synonym_cases(model: Any, facts: Iterable[SynonymFact]) -> list[Case]:
    """The field of work changes; the occupation should follow."""
    cases = []
    for f in _usable(model, facts, "fact"):
        asked = {c.role: c.prompt for c in f.candidates(adapter.is_masked(model)) if c.prompt is not None}
        if len(asked) < 2:
            continue
        fact, synonym = asked["fact"], asked["synonym"]
        questions = (
            Question("forward new", fact.text, f" {f.new_target}"),
            Question("forward true", fact.text, fact.target),
            Question("synonym new", synonym.text, f" {f.new_occupation}"),
            Question("synonym true", synonym.text, synonym.target),
        )
        prompt = Prompt(fact.text, fact.target, subject=f.subject)
        cases.append(Case(f"{f.relation} {f.subject} {f.target}", prompt, f" {f.new_target}", questions))
    return cases


def make_cases(
    model: Any, what: str, limit: int, *, seed: int, prepend_bos: bool | None, among: int | None = None
) -> list[Case]:
    """`limit` cases: `"counterfact"` records that the model knows, or facts of `"P36"`, `"P1376"`, `"P101"`.

    CounterFact records with all fields come first, then reduced ones, which have one neighbour and no paraphrase.

    Of the facts, those that the model knows come first (the others are filled up with), so that both the raw and the
    conditioned scores have as many as there are. They are looked for among so many facts (a sample), or all.
    """
    if what == "counterfact":
        full = data.counterfact(known_only=model, limit=limit, prepend_bos=prepend_bos, progress=False)
        found = counterfact_cases(model, full)
        if len(found) == limit or "sample" in full.source:
            return found
        ids = {record.case_id for record in data.counterfact()}
        more = data.counterfact_reduced().where(lambda record: record.case_id not in ids, "in the full set")
        for start in range(0, len(more), _ASKED_TOGETHER):
            some = counterfact_cases(model, more[start : start + _ASKED_TOGETHER])
            right = data.known(model, [c.prompt for c in some], two_way=False, prepend_bos=prepend_bos, progress=False)
            found += [case for case, r in zip(some, right, strict=True) if r]
            if len(found) >= limit:
                break
        return found[:limit]
    load: Callable[..., Any] = data.synonym_facts if what == "P101" else data.symmetric_facts
    build: Callable[..., list[Case]] = synonym_cases if what == "P101" else symmetric_cases
    # Each subject once: "The capital of X is" has one answer to edit.
    seen: set[str] = set()
    cases = []
    for case in build(model, load(what, seed=seed, limit=among)):
        subject = str(case.prompt.subject)
        if subject not in seen and (not adapter.is_masked(model) or _one_token_each(model, case)):
            seen.add(subject)
            cases.append(case)
    right = data.known(model, [case.prompt for case in cases], prepend_bos=prepend_bos, progress=False)
    order = sorted(range(len(cases)), key=lambda n: not right[n])
    return [cases[n] for n in order[:limit]]


def _one_token_each(model: Any, case: Case) -> bool:
    """Are all answers of a case one token? A masked model can be asked for no more."""
    try:
        for question in case.questions:
            answer_ids(model, question.text, question.answer)
    except ValueError:
        return False
    return True


def _usable(model: Any, records: Iterable[Any], role: str) -> Sequence[Any]:
    """Records whose question of this role the model can be asked."""
    given = tuple(records)
    return to_prompts(Loaded(given, Skipped(), "given"), model, role=role, multi_token="sum").records if given else ()
