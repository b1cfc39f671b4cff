"""CounterFact: facts to be rewritten, with prompts that should and should not change (Meng et al., 2022)."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Unpack

from kntools.data import hub, sources
from kntools.data.filters import Filters, select
from kntools.data.patterns import ask
from kntools.data.read import Row
from kntools.data.records import Candidate, Loaded


@dataclass(frozen=True)
class CounterFactRecord:
    """One record with all fields of the original.

    As prompts: `rewrite` and `paraphrase` ask for `target`, with `new_target` as the foil; `neighborhood`
    asks the same of other subjects, which an edit must not change; `attribute` asks about subjects of which
    `new_target` is true. `generation_prompts` have no answer and are read, not scored.
    """

    case_id: int
    subject: str
    target: str
    new_target: str
    template: str
    relation: str
    target_id: str
    new_target_id: str
    paraphrase_prompts: tuple[str, ...]
    neighborhood_prompts: tuple[str, ...]
    attribute_prompts: tuple[str, ...]
    generation_prompts: tuple[str, ...]
    pararel_idx: int

    known_role: ClassVar[str] = "rewrite"

    @property
    def prompt(self) -> str:
        """The fact as a text that ends where the answer begins."""
        return self.template.replace("{}", self.subject)

    def candidates(self, masked: bool) -> list[Candidate]:
        true, new = self.target, self.new_target
        return [
            ask("rewrite", self.prompt, masked, true, new, self.subject, starts=self.template.find("{}")),
            *(ask("paraphrase", text, masked, true, new, self.subject) for text in self.paraphrase_prompts),
            *(ask("neighborhood", text, masked, true, new) for text in self.neighborhood_prompts),
            *(ask("attribute", text, masked, new, true) for text in self.attribute_prompts),
        ]


# Where the fields are in the published records.
_REWRITE = {
    "subject": "requested_rewrite.subject",
    "target": "requested_rewrite.target_true.str",
    "new_target": "requested_rewrite.target_new.str",
    "template": "requested_rewrite.prompt",
    "relation": "requested_rewrite.relation_id",
    "target_id": "requested_rewrite.target_true.id",
    "new_target_id": "requested_rewrite.target_new.id",
}


@dataclass(frozen=True)
class ReducedRecord:
    """One CounterFact record in the reduced form: the rewrite, one further prompt, one neighbour.

    `rephrase_prompt` is usually one of the generation prompts rather than a paraphrase, so it makes no prompt
    with an answer. The hub's reduced set has neither it nor the neighbour.
    """

    case_id: int
    subject: str
    target: str
    new_target: str
    prompt: str
    rephrase_prompt: str | None = None
    locality_prompt: str | None = None
    locality_target: str | None = None

    known_role: ClassVar[str] = "rewrite"

    def candidates(self, masked: bool) -> list[Candidate]:
        found = [ask("rewrite", self.prompt, masked, self.target, self.new_target, self.subject)]
        if self.locality_prompt is not None and self.locality_target is not None:
            found.append(ask("neighborhood", self.locality_prompt, masked, self.locality_target, self.new_target))
        return found


def counterfact(*, path: str | Path | None = None, **filters: Unpack[Filters]) -> Loaded[CounterFactRecord]:
    """CounterFact with all fields.

    ```python
    records = kn.data.counterfact(limit=100)
    records[0].prompt, records[0].target, records[0].new_target
    records.prompts(model, role="rewrite")
    ```
    """
    wanted = sources.Wanted("CounterFact", ("counterfact/counterfact_1000.jsonl",), hub_set=hub.COUNTERFACT)
    [rows], source = sources.load(wanted, path)
    for row in rows:
        row.child("requested_rewrite").template("prompt")
    return select([row.record(CounterFactRecord, **_REWRITE) for row in rows], source, **filters)


def counterfact_reduced(*, path: str | Path | None = None, **filters: Unpack[Filters]) -> Loaded[ReducedRecord]:
    """All of CounterFact, reduced to the rewrite and one neighbour, in the order of `case_id`.

    ```python
    kn.data.counterfact_reduced(limit=1000, seed=0, known_only=model)
    ```
    """
    one_file = path is not None and Path(path).is_file()
    parts = ("train",) if one_file else ("train", "edit", "val")
    files = tuple(f"counterfact/counterfact_easyedit_{part}.jsonl" for part in parts)
    wanted = sources.Wanted("CounterFact in its reduced form", files, hub_set=hub.COUNTERFACT_REDUCED)
    tables, source = sources.load(wanted, path)
    records = [_reduced(i, row) for i, row in enumerate(row for table in tables for row in table)]
    return select(sorted(records, key=lambda record: record.case_id), source, **filters)


def _reduced(number: int, row: Row) -> ReducedRecord:
    if "target_false" in row.values:  # `NeelNanda/counterfact-tracing`: no case_id, targets with a leading space
        true, new = row.text("target_true").strip(), row.text("target_false").strip()
        return ReducedRecord(number, row.text("subject"), true, new, row.text("prompt"))
    names = {"target": "ground_truth", "new_target": "target_new", "locality_target": "locality_ground_truth"}
    return row.record(ReducedRecord, **names)
