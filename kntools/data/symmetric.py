"""Bijective facts: an edit of "the capital of s is t" should also change what "t is the capital of" says."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Unpack

from kntools.data.filters import Filters, select
from kntools.data.pararel_facts import RELATIONS, Fact, pararel
from kntools.data.patterns import fill
from kntools.data.records import Candidate, Loaded, Record, Skipped
from kntools.data.sources import Source
from kntools.models.names import check_name

# Relation -> how a fact is asked, and how the reverse is asked of its target.
PATTERNS = {
    "P36": ("The capital of [X] is [Y].", "[X] is the capital of [Y]."),
    "P1376": ("[X] is the capital of [Y].", "The capital of [X] is [Y]."),
}


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
    check_name("symmetric relation", relation, {name: RELATIONS[name] for name in PATTERNS})

    def record(fact: Fact, new: Fact) -> SymmetricFact:
        return SymmetricFact(fact.subject, fact.target, new.target, new.subject, relation, *PATTERNS[relation])

    return with_new_targets(pararel(relation, path=path), record, lambda fact: fact.target, "", filters)


def with_new_targets(
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
