"""Facts from which another one follows by a second step: a citizen's country has a capital."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Unpack

from kntools.data.filters import Filters
from kntools.data.pararel_facts import Fact, pararel
from kntools.data.patterns import fill
from kntools.data.records import Candidate, Loaded
from kntools.data.symmetric import with_new_targets

PATTERN = "[X] is a citizen of [Y]."
BOTH_HOPS = "The capital of the country that [X] is a citizen of is [Y]."
SECOND_HOP = "The capital of [X] is [Y]."


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
            fill("fact", PATTERN, self.subject, self.target, masked, foil=self.new_target),
            fill("two_hop", BOTH_HOPS, self.subject, self.capital, masked, foil=self.new_capital),
            fill("second_hop", SECOND_HOP, self.new_target, self.new_capital, masked),
        ]


def two_hop_facts(*, path: str | Path | None = None, **filters: Unpack[Filters]) -> Loaded[TwoHopFact]:
    """Countries of people (P27) with the capitals of these countries (P36), each with a new country.

    ```python
    facts = kn.data.two_hop_facts(limit=20)
    facts.prompts(model, role="two_hop")     # "The capital of the country that Alan Turing is a citizen of is"
    ```

    Arguments:
        path: as in `pararel`; the built-in sample lacks P27.
        filters: `seed` also decides which new target a fact gets, whatever the other filters are.
    """
    facts = pararel("P27", path=path)
    capitals = {fact.subject: fact.target for fact in pararel("P36", path=path)}

    def record(fact: Fact, new: Fact) -> TwoHopFact:
        return TwoHopFact(fact.subject, fact.target, new.target, capitals[fact.target], capitals[new.target], "P27")

    return with_new_targets(
        facts, record, lambda fact: capitals.get(fact.target), "no capital of this country", filters
    )
