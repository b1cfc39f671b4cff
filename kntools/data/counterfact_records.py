"""CounterFact: facts to be rewritten, with prompts that should and should not change (Meng et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Unpack

from kntools.data import hub, sample, sources
from kntools.data.filters import Filters, select
from kntools.data.patterns import question
from kntools.data.read import Row, json_lines
from kntools.data.records import Candidate, Loaded
from kntools.prompts import MASK


@dataclass(frozen=True)
class CounterFactRecord:
    """One record with all fields of the original.

    As prompts: `rewrite` and `paraphrase` ask for `target`, with `new_target` as the foil; `neighborhood`
    asks the same of other subjects, which an edit must leave alone; `attribute` asks about subjects of which
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

    Arguments:
        path: a `.jsonl` file, a data folder, a folder in the layout of the hub's `azhx/counterfact`, or
            `"sample"`. `None` looks in `$KNTOOLS_DATA`, then on the hub, then takes the built-in sample.
        filters: `limit`, `seed`, `target`, `known_only`; see `kn.data.Filters`.

    Returns:
        `Loaded[CounterFactRecord]`.

    Raises:
        ValueError: a malformed record.
        FileNotFoundError: `path` is not the data set.
    """
    wanted = sources.Wanted(
        name="CounterFact",
        files=("counterfact/counterfact_1000.jsonl",),
        read=json_lines,
        hub_set=hub.COUNTERFACT,
        sample=sample.counterfact,
    )
    tables, source = sources.load(wanted, path)
    return select([_full(row) for row in tables[0]], source, **filters)


def counterfact_reduced(*, path: str | Path | None = None, **filters: Unpack[Filters]) -> Loaded[ReducedRecord]:
    """All of CounterFact, reduced to the rewrite and one neighbour, in the order of `case_id`.

    ```python
    kn.data.counterfact_reduced(limit=1000, seed=0, known_only=model)
    ```

    Arguments:
        path: a data folder, one `.jsonl` file, or a folder in the layout of the hub's
            `NeelNanda/counterfact-tracing`. `None` looks in `$KNTOOLS_DATA`, then on the hub.
        filters: `limit`, `seed`, `target`, `known_only`; see `kn.data.Filters`.

    Returns:
        `Loaded[ReducedRecord]`.

    Raises:
        ValueError: a malformed record.
        FileNotFoundError: the data is nowhere.
    """
    one_file = path is not None and Path(path).is_file()
    parts = ("train",) if one_file else ("train", "edit", "val")
    wanted = sources.Wanted(
        name="CounterFact in its reduced form",
        files=tuple(f"counterfact/counterfact_easyedit_{part}.jsonl" for part in parts),
        read=json_lines,
        hub_set=hub.COUNTERFACT_REDUCED,
    )
    tables, source = sources.load(wanted, path)
    rows = [row for table in tables for row in table]
    records = [_traced(i, row) if "target_false" in row.values else _reduced(row) for i, row in enumerate(rows)]
    return select(sorted(records, key=lambda record: record.case_id), source, **filters)


def ask(
    role: str,
    text: str,
    masked: bool,
    target: str,
    foil: str | None = None,
    subject: str | None = None,
    starts: int | None = None,
) -> Candidate:
    """A text that ends where its answer begins, as a question; a masked model gets its mask there."""
    before = text.rstrip()
    return question(role, f"{before} {MASK}." if masked else before, target, subject, foil=foil, starts=starts)


def _full(row: Row) -> CounterFactRecord:
    rewrite = row.child("requested_rewrite")
    true, new = rewrite.child("target_true"), rewrite.child("target_new")
    template = rewrite.text("prompt")
    if template.count("{}") != 1:
        raise ValueError(f"{rewrite.where}: field 'prompt' is {template!r}; expected one {{}} for the subject")
    return CounterFactRecord(
        case_id=row.integer("case_id"),
        subject=rewrite.text("subject"),
        target=true.text("str"),
        new_target=new.text("str"),
        template=template,
        relation=rewrite.text("relation_id"),
        target_id=true.text("id"),
        new_target_id=new.text("id"),
        paraphrase_prompts=row.texts("paraphrase_prompts"),
        neighborhood_prompts=row.texts("neighborhood_prompts"),
        attribute_prompts=row.texts("attribute_prompts"),
        generation_prompts=row.texts("generation_prompts"),
        pararel_idx=row.integer("pararel_idx"),
    )


def _reduced(row: Row) -> ReducedRecord:
    return ReducedRecord(
        case_id=row.integer("case_id"),
        subject=row.text("subject"),
        target=row.text("ground_truth"),
        new_target=row.text("target_new"),
        prompt=row.text("prompt"),
        rephrase_prompt=row.text("rephrase_prompt"),
        locality_prompt=row.text("locality_prompt"),
        locality_target=row.text("locality_ground_truth"),
    )


def _traced(number: int, row: Row) -> ReducedRecord:
    """A row of `NeelNanda/counterfact-tracing`: no case_id, targets with a leading space."""
    return ReducedRecord(
        case_id=number,
        subject=row.text("subject"),
        target=row.text("target_true").strip(),
        new_target=row.text("target_false").strip(),
        prompt=row.text("prompt"),
    )
