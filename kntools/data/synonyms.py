"""Facts that can be said another way: who works in the field of linguistics is a linguist."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Unpack

from kntools.data import sample
from kntools.data.filters import Filters
from kntools.data.pararel_facts import Fact, pararel
from kntools.data.patterns import fill
from kntools.data.read import table
from kntools.data.records import Candidate, Loaded
from kntools.data.symmetric import with_new_targets
from kntools.models.names import check_name

PATTERN = "[X] works in the field of [Y]."
# "famous" stands between the article and the answer, so that no a/an gives the answer away.
SYNONYM_PATTERN = "[X] is a famous [Y]."


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
            fill("fact", PATTERN, self.subject, self.target, masked, foil=self.new_target),
            fill("synonym", SYNONYM_PATTERN, self.subject, self.occupation, masked, foil=self.new_occupation),
        ]


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
        filters: `seed` also decides which new target a fact gets, whatever the other filters are.
    """
    check_name("relation with synonyms", relation, {"P101": "field of work"})
    facts, job = pararel(relation, path=path), field_occupations(synonyms)

    def record(fact: Fact, new: Fact) -> SynonymFact:
        return SynonymFact(fact.subject, fact.target, new.target, job[fact.target], job[new.target], relation)

    return with_new_targets(facts, record, lambda fact: job.get(fact.target), "no occupation for this field", filters)


def field_occupations(path: str | Path | None = None) -> dict[str, str]:
    """The table field of work -> occupation, built in or your own.

    ```python
    kn.data.field_occupations()["linguistics"]      # 'linguist'
    ```
    """
    file = sample.FOLDER / "field_to_occupation.tsv" if path is None else Path(path)
    found: dict[str, str] = {}
    for row in table(file, ("field", "occupation")):
        field = row.text("field")
        if field in found:
            raise ValueError(f"{row.where}: the field {field!r} is in the table twice")
        found[field] = row.text("occupation")
    return found
