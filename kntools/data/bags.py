"""Dai et al.'s prompts file: ParaRel's facts with all their prompts written out."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from kntools.data import sample, sources
from kntools.data.filters import Filters, select
from kntools.data.pararel_facts import RELATIONS
from kntools.data.patterns import NOT_LAST, before_answer, question
from kntools.data.read import Row, json_object
from kntools.data.records import Candidate, Loaded
from kntools.models.names import check_name
from kntools.prompts import MASK

FILE = "pararel/data_all_allbags.json.gz"


@dataclass(frozen=True)
class Bag:
    """One fact with its prompts, each with one `[MASK]`. The file does not name the subject."""

    target: str
    relation: str
    label: str
    texts: tuple[str, ...]

    def candidates(self, masked: bool) -> list[Candidate]:
        texts = self.texts if masked else tuple(map(before_answer, self.texts))
        return [
            Candidate(f"prompt {i}", None, NOT_LAST) if text is None else question(f"prompt {i}", text, self.target)
            for i, text in enumerate(texts)
        ]


def pararel_bags(relation: str, *, path: str | Path | None = None, **filters: Unpack[Filters]) -> Loaded[Bag]:
    """The facts ("bags") of one relation in Dai et al.'s prompts file.

    ```python
    bags = kn.data.pararel_bags("P101", limit=10)
    bags[0].texts[0], bags[0].target           # 'Alan Turing works in the field of [MASK].', 'logic'
    ```

    It holds more facts than `pararel`, since ParaRel's vocabulary filter was not applied, but no subjects. In
    six relations the first prompt of a bag does not end in its mask; a causal model skips such prompts.

    Arguments:
        relation: Wikidata's id. The file has 34 relations, those with at least four patterns.
        path: the file (`.json` or `.json.gz`), a data folder or its `pararel` folder, or `"sample"`.
    """
    wanted = sources.Wanted(
        name=f"prompts file, relation {relation}",
        files=(FILE,),
        read=lambda file: _rows(file, relation),
        sample=(lambda: _sample(relation)) if relation in sample.RELATIONS else None,
    )
    [rows], source = sources.load(wanted, path)
    return select([_bag(row) for row in rows], source, **filters)


def _rows(file: Path, relation: str) -> list[Row]:
    status = file.stat()
    relations = _parsed(file, status.st_mtime_ns, status.st_size)
    check_name(f"relation in {file.name}", relation, {key: RELATIONS.get(key, "") for key in relations})
    bags = relations[relation]
    if not isinstance(bags, list) or not bags:
        raise ValueError(f"{file}: {relation} must be a list of bags, found {type(bags).__name__}")
    return [Row(f"{file}: {relation}, bag {i}", {"bag": bag}) for i, bag in enumerate(bags)]


@functools.lru_cache(maxsize=1)
def _parsed(file: Path, modified: int, size: int) -> dict[str, Any]:
    """The whole file, kept: it takes a second to unpack, and relations are asked for one after the other."""
    return json_object(file)


def _bag(row: Row) -> Bag:
    entries = row.values["bag"]
    expected = "a list of [prompt with [MASK], answer, 'Pnnn(label)']"
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{row.where}: found {entries!r}; expected {expected}")
    for i, entry in enumerate(entries):
        if not (isinstance(entry, list) and len(entry) == 3 and all(isinstance(e, str) and e.strip() for e in entry)):
            raise ValueError(f"{row.where}, prompt {i}: found {entry!r}; expected {expected}")
        if entry[0].count(MASK) != 1:
            raise ValueError(f"{row.where}, prompt {i}: {entry[0]!r} must hold one {MASK}")
        if entry[1:] != entries[0][1:]:
            raise ValueError(f"{row.where}, prompt {i}: answer and relation {entry[1:]} differ from the bag's first")
    _, target, name = entries[0]
    relation, _, label = name.partition("(")
    return Bag(target, relation, label.removesuffix(")"), tuple(entry[0] for entry in entries))


def _sample(relation: str) -> list[list[Row]]:
    """The sample's facts with their patterns filled in."""
    patterns, facts = sample.relation(relation)
    name = f"{relation}({RELATIONS[relation]})"
    rows = []
    for fact in facts:
        subject, answer = fact.text("sub_label"), fact.text("obj_label")
        texts = [p.text("pattern").replace("[X]", subject).replace("[Y]", MASK) for p in patterns]
        rows.append(Row(fact.where, {"bag": [[text, answer, name] for text in texts]}))
    return [rows]
