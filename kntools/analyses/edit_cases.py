"""What an edit is tried on: the fact to change, and questions that should, and should not, be answered anew."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, compress, islice
from typing import Any, Literal, get_args

from kntools import data
from kntools.arguments import whole, without_effect
from kntools.data import CounterFactRecord, ReducedRecord, SymmetricFact
from kntools.data.records import Loaded, Skipped
from kntools.engine.inputs import check_choice
from kntools.engine.texts import chunks
from kntools.models.causality import is_masked
from kntools.prompts import MASK, Prompt

#: The data sets that edits are evaluated on.
EditData = Literal["counterfact", "P36", "P1376", "P101", "P27"]

# Records that are asked at a time, until there are enough.
_ASKED_TOGETHER = 512
_COUNTERFACT = CounterFactRecord | ReducedRecord


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
    """One edit, and the questions before and after it."""

    key: str
    prompt: Prompt  # with the old answer and the subject
    target: str  # the new answer
    questions: tuple[Question, ...]
    generation: str | None = None  # a text to be continued


#: The role of the questions whose answers an edit must leave as they are.
NEIGHBOUR = "neighborhood true"

#: Role of a prompt -> its questions: their roles, and which of the prompt's two answers is asked for. An edit goes from
#: target to foil. Of a symmetric fact s -> t that becomes s -> t', t' should then lead to s (`reverse new`) and t no
#: longer (`reverse old`); where a field changes, the occupation should follow.
QUESTIONS: dict[str, tuple[tuple[str, Literal["target", "foil"]], ...]] = {
    role: ((f"{name} new", "foil"), (f"{name} true", "target"))
    for role, name in {
        **{role: role for role in ("forward", "synonym", "rewrite", "paraphrase", "neighborhood")},
        "fact": "forward",
        "two_hop": "two-hop",
    }.items()
}
QUESTIONS |= {
    "reverse_new": (("reverse new", "target"), ("reverse new before", "foil")),
    "reverse_old": (("reverse old", "target"),),
    "second_hop": (("second hop", "target"),),
}


def cases_of(model: Any, records: Iterable[Any]) -> list[Case]:
    """Cases from records of CounterFact, or of facts with consequences; only those that the model can be asked.

    A masked model can be asked for answers of one token alone.
    """
    listed, masked = tuple(records), is_masked(model)
    prompts = Loaded(listed, Skipped(), "").prompts(model, multi_token="sum")
    asked: dict[int, dict[str, list[Prompt]]] = {id(record): {} for record in listed}
    for record, role, prompt in zip(prompts.records, prompts.roles, prompts.prompts, strict=True):
        asked[id(record)].setdefault(role, []).append(prompt)
    found = []
    for record in listed:
        needed = {record.known_role}
        if not isinstance(record, _COUNTERFACT):  # whose records need not have paraphrases and neighbours
            needed |= {candidate.role for candidate in record.candidates(masked)}
        if asked[id(record)].keys() >= needed:
            found.append(_case(record, asked[id(record)]))
    return found


def _case(record: Any, asked: dict[str, list[Prompt]]) -> Case:
    questions = [
        Question(name, prompt.text, str(getattr(prompt, side)))
        for role, prompts in asked.items()
        for name, side in QUESTIONS.get(role, ())
        for prompt in prompts
    ]
    edited = asked[record.known_role][0]
    questions += _further(record, edited, asked)
    texts: Sequence[str | None] = ()
    if isinstance(record, _COUNTERFACT):
        # A reduced record has one text that goes on.
        texts = record.generation_prompts if isinstance(record, CounterFactRecord) else [record.rephrase_prompt]
        key = f"counterfact {record.case_id}"
    else:
        key = f"{record.relation} {record.subject} {record.target}"
    generation = next((text.rstrip() for text in texts if text is not None), None)
    return Case(key, replace(edited, foil=None, multi_token="error"), str(edited.foil), tuple(questions), generation)


def _further(record: Any, edited: Prompt, asked: dict[str, list[Prompt]]) -> Iterator[Question]:
    """Questions for a causal model only: neighbours after the edited sentence (CounterFact+), and the country of a
    capital (two hops)."""
    if MASK in edited.text:
        return
    for near in asked.get("neighborhood", []):
        text = f"{edited.text}{edited.foil}. {near.text}"
        yield Question("neighborhood+ new", text, str(near.foil))
        yield Question("neighborhood+ true", text, near.target)
    if isinstance(record, SymmetricFact) and record.relation == "P36":
        for which, capital in (("new", edited.foil), ("true", edited.target)):
            yield Question(f"two-hop {which}", f"The country whose capital is{capital} is", f" {record.subject}")


def make_cases(model: Any, what: EditData, limit: int, *, seed: int = 0, among: int | None = None) -> list[Case]:
    """`limit` cases: `"counterfact"` records that the model knows, or facts of `"P36"`, `"P1376"`, `"P101"`, `"P27"`.

    CounterFact records with all fields come first, then reduced ones, which have one neighbour and no paraphrase. Of
    facts, those that the model knows come first, then others up to `limit`; they are looked for in a sample of `among`.
    """
    check_choice("what", what, get_args(EditData))
    limit = whole("limit", limit, least=0)
    if what == "counterfact":
        without_effect("for 'counterfact', of which all records are read", among=among)
        return _known_counterfact(model, limit)
    load: dict[str, Callable[..., Any]] = {"P101": data.synonym_facts, "P27": data.two_hop_facts}
    facts = load.get(what, partial(data.symmetric_facts, what))(seed=seed, limit=among)
    first_of: dict[str, Case] = {}  # each subject once: "The capital of X is" has one answer to edit
    for case in cases_of(model, facts):
        first_of.setdefault(str(case.prompt.subject), case)
    cases = list(first_of.values())
    known = {case.key for case in compress(cases, _knows(model, cases))}
    return sorted(cases, key=lambda case: case.key not in known)[:limit]


def _known_counterfact(model: Any, limit: int) -> list[Case]:
    full = data.counterfact(known_only=model, limit=limit)
    found = cases_of(model, full)
    if len(found) == limit or full.is_sample:
        return found
    ids = {record.case_id for record in data.counterfact()}
    more = data.counterfact_reduced().where(lambda record: record.case_id not in ids, "in the full set")
    parts = (cases_of(model, part) for part in chunks(more, _ASKED_TOGETHER))
    known = chain.from_iterable(compress(part, _knows(model, part)) for part in parts)
    return [*found, *islice(known, limit - len(found))]


def _knows(model: Any, cases: Sequence[Case]) -> list[bool]:
    """Does the model begin to say the old answer of each case by itself?"""
    return data.known(model, [case.prompt for case in cases], two_way=False)
