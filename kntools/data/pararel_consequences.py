"""Facts from which others follow, each with a new target: after an edit the others should follow from that.

The capital of s is t, so t is the capital of s (symmetric); who works in the field of linguistics is a linguist
(synonyms); a citizen's country has a capital (two hops).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Unpack

from kntools.data.filters import Filters, select
from kntools.data.pararel_facts import RELATIONS, Fact, pararel
from kntools.data.patterns import fill
from kntools.data.read import table
from kntools.data.records import Candidate, Loaded, Record, Skipped
from kntools.data.sources import FOLDER, Source
from kntools.models.names import check_name

_CAPITAL, _CAPITAL_OF = "The capital of [X] is [Y].", "[X] is the capital of [Y]."
# Relation -> how a fact is asked, and how the reverse is asked of its target.
_SYMMETRIC = {"P36": (_CAPITAL, _CAPITAL_OF), "P1376": (_CAPITAL_OF, _CAPITAL)}
_FIELD = "[X] works in the field of [Y]."
# "famous" stands between the article and the answer, so that no a/an gives the answer away.
_OCCUPATION = "[X] is a famous [Y]."
_CITIZEN = "[X] is a citizen of [Y]."
_BOTH_HOPS = "The capital of the country that [X] is a citizen of is [Y]."


@dataclass(frozen=True)
class SymmetricFact:
    """A fact s -> t, the new target t' of an edit, and t' 's own subject before the edit.

    As prompts: `forward` from s to t (foil t'); `reverse_new` from t' to s, which is right after the edit
    (foil: the subject that t' belongs to); `reverse_old` from t to s, which is right before the edit and
    wrong after.
    """

    subject: str
    target: str
    new_target: str
    new_subject: str
    relation: str
    pattern: str
    reverse_pattern: str

    known_role: ClassVar[str] = "forward"

    def candidates(self, masked: bool) -> list[Candidate]:
        s, t, new = self.subject, self.target, self.new_target
        return [
            fill("forward", self.pattern, s, t, masked, foil=new),
            fill("reverse_new", self.reverse_pattern, new, s, masked, foil=self.new_subject),
            fill("reverse_old", self.reverse_pattern, t, s, masked),
        ]


@dataclass(frozen=True)
class SynonymFact:
    """A fact s -> field, the new field of an edit, and the occupations that go with the two.

    As prompts: `fact` asks for the field (foil: the new one); `synonym` asks for the occupation that belongs
    to the field (foil: that of the new one). After a successful edit the foils are the right answers.
    """

    subject: str
    target: str
    new_target: str
    occupation: str
    new_occupation: str
    relation: str

    known_role: ClassVar[str] = "fact"

    def candidates(self, masked: bool) -> list[Candidate]:
        return [
            fill("fact", _FIELD, self.subject, self.target, masked, foil=self.new_target),
            fill("synonym", _OCCUPATION, self.subject, self.occupation, masked, foil=self.new_occupation),
        ]


@dataclass(frozen=True)
class TwoHopFact:
    """A person's country, the new country of an edit, and the capitals of the two.

    As prompts: `fact` asks for the country (foil: the new one); `two_hop` asks for the capital of the person's country
    (foil: that of the new one); `second_hop` asks for the capital of the new country, which does not change. After
    a successful edit the foils are the right answers.
    """

    subject: str
    target: str
    new_target: str
    capital: str
    new_capital: str
    relation: str

    known_role: ClassVar[str] = "fact"

    def candidates(self, masked: bool) -> list[Candidate]:
        return [
            fill("fact", _CITIZEN, self.subject, self.target, masked, foil=self.new_target),
            fill("two_hop", _BOTH_HOPS, self.subject, self.capital, masked, foil=self.new_capital),
            fill("second_hop", _CAPITAL, self.new_target, self.new_capital, masked),
        ]


def symmetric_facts(
    relation: str, *, path: str | Path | None = None, **filters: Unpack[Filters]
) -> Loaded[SymmetricFact]:
    """Facts of a relation with a reverse question, each with a new target from the same relation.

    ```python
    facts = kn.data.symmetric_facts("P36", limit=20)
    forward = facts.prompts(model, role="forward")          # "The capital of Canada is" -> " Ottawa"
    reverse = facts.prompts(model, role="reverse_new")      # "Rome is the capital of" -> " Canada"
    ```

    Arguments:
        relation: `"P36"` (capital) or `"P1376"` (capital of).
        filters: `seed` also decides which new target a fact gets, whatever the other filters are. It is never a target
            of the same subject.
    """
    check_name("symmetric relation", relation, {name: RELATIONS[name] for name in _SYMMETRIC})

    def record(fact: Fact, new: Fact) -> SymmetricFact:
        return SymmetricFact(fact.subject, fact.target, new.target, new.subject, relation, *_SYMMETRIC[relation])

    return _with_new_targets(pararel(relation, path=path), record, lambda fact: fact.target, "", filters)


def synonym_facts(
    relation: str = "P101",
    *,
    path: str | Path | None = None,
    synonyms: str | Path | None = None,
    **filters: Unpack[Filters],
) -> Loaded[SynonymFact]:
    """Facts with a synonymous question, each with a new target of another occupation.

    ```python
    facts = kn.data.synonym_facts("P101", limit=20)
    facts.prompts(model, role="fact")        # "Alan Turing works in the field of" -> " logic"
    facts.prompts(model, role="synonym")     # "Alan Turing is a famous" -> " logician"
    ```

    Arguments:
        synonyms: your own table: tab-separated, columns `field` and `occupation`; `None` is the built-in one.
        filters: as in `symmetric_facts`.
    """
    check_name("relation with synonyms", relation, {"P101": "field of work"})
    facts, occupations = pararel(relation, path=path), field_occupations(synonyms)
    return _with_consequences(SynonymFact, facts, occupations, "no occupation for this field", filters)


def two_hop_facts(*, path: str | Path | None = None, **filters: Unpack[Filters]) -> Loaded[TwoHopFact]:
    """Countries of people (P27) with the capitals of these countries (P36), each with a new country.

    ```python
    facts = kn.data.two_hop_facts(limit=20)
    facts.prompts(model, role="two_hop")     # "The capital of the country that Alan Turing is a citizen of is"
    ```

    Arguments:
        path: as in `pararel`; the built-in sample lacks P27.
        filters: as in `symmetric_facts`.
    """
    facts = pararel("P27", path=path)
    capitals = {fact.subject: fact.target for fact in pararel("P36", path=path)}
    return _with_consequences(TwoHopFact, facts, capitals, "no capital of this country", filters)


def field_occupations(path: str | Path | None = None) -> dict[str, str]:
    """The table field of work -> occupation, built in or your own.

    ```python
    kn.data.field_occupations()["linguistics"]      # 'linguist'
    ```
    """
    file = FOLDER / "field_to_occupation.tsv" if path is None else Path(path)
    found: dict[str, str] = {}
    for row in table(file, ("field", "occupation")):
        field = row.text("field")
        if field in found:
            raise ValueError(f"{row.where}: the field {field!r} is in the table twice")
        found[field] = row.text("occupation")
    return found


def _with_consequences(
    kind: Callable[..., Record], facts: Loaded[Fact], follows: dict[str, str], lacking: str, filters: Filters
) -> Loaded[Record]:
    """Records that also hold what follows from the target and from the new one."""

    def record(fact: Fact, new: Fact) -> Record:
        followed = follows[fact.target], follows[new.target]
        return kind(fact.subject, fact.target, new.target, *followed, fact.relation)

    return _with_new_targets(facts, record, lambda fact: follows.get(fact.target), lacking, filters)


def _with_new_targets(
    facts: Loaded[Fact],
    record: Callable[[Fact, Fact], Record],
    meaning: Callable[[Fact], str | None],
    lacking: str,
    filters: Filters,
) -> Loaded[Record]:
    """A record of each fact and another one of a different `meaning`, whose target is not true of the fact's subject.

    `lacking` is the reason of facts without a meaning. The choice depends on the seed, the fact and the facts of the
    relation alone, not on hash order.
    """
    usable = [fact for fact in facts if meaning(fact) is not None]
    true_of: dict[str, set[str]] = {}
    for fact in usable:
        true_of.setdefault(fact.subject, set()).add(fact.target)
    others = sorted(usable, key=lambda fact: (fact.target, fact.subject, fact.uuid))
    meant = [(other, meaning(other)) for other in others]
    records = []
    for fact in usable:
        rng = random.Random(f"{filters.get('seed') or 0}/{fact.relation}/{fact.subject}/{fact.target}")
        true, same = true_of[fact.subject], meaning(fact)
        if options := [other for other, means in meant if other.target not in true and means != same]:
            records.append(record(fact, rng.choice(options)))
    alone = len(usable) - len(records)
    skipped = Skipped.of({lacking: len(facts) - len(usable), "no other target in the relation": alone})
    return select(records, Source(facts.source, facts.is_sample), skipped, **filters)
