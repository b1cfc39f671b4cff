"""ParaRel: facts of one relation and paraphrased patterns to ask for them (Elazar et al., 2021)."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from kntools.data import sources
from kntools.data.filters import Filters, select
from kntools.data.patterns import fill
from kntools.data.read import Row
from kntools.data.records import Candidate, Loaded
from kntools.models.names import check_name

# Wikidata's names of ParaRel's relations.
RELATIONS: dict[str, str] = sources.NAMES["relations"]
_WITHOUT_PATTERNS = ("P31", "P527")


@dataclass(frozen=True)
class Fact:
    """One fact and the patterns that ask for it; `[X]` is the subject, `[Y]` the target.

    Each pattern is a question with the role `pattern 0`, `pattern 1` ... in the order of the pattern file.
    """

    subject: str
    target: str
    relation: str
    patterns: tuple[str, ...]
    uuid: str = ""

    def candidates(self, masked: bool) -> list[Candidate]:
        return [
            fill(f"pattern {i}", pattern, self.subject, self.target, masked) for i, pattern in enumerate(self.patterns)
        ]


def pararel(relation: str, *, path: str | Path | None = None, **filters: Unpack[Filters]) -> Loaded[Fact]:
    """The facts of one relation, each with all patterns of the relation.

    ```python
    facts = kn.data.pararel("P36", limit=50, seed=0)
    for fact, prompts in facts.prompts(model).by_record():     # the paraphrases of one fact together
        att = kn.integrated_gradients(model, prompts)
    ```

    A masked model can use every pattern, a causal one only those that end in the answer. Some relations have
    each pattern twice, with "a" and with "an"; as in the published data both are asked, whatever the answer.

    Arguments:
        relation: Wikidata's id, one of `kn.data.RELATIONS`; the built-in sample has P36, P1376, P101 and P106.
        path: a data folder or its `pararel` folder (with `patterns/` and `facts/`), or `"sample"`.
    """
    if relation in _WITHOUT_PATTERNS:
        raise ValueError(f"ParaRel has facts of {relation} but no patterns; choose another relation")
    check_name("ParaRel relation", relation, RELATIONS)
    files = (f"pararel/patterns/{relation}.jsonl", f"pararel/facts/{relation}.jsonl")
    wanted = sources.Wanted(f"ParaRel {relation}", files)
    (pattern_rows, fact_rows), source = sources.load(wanted, path)
    patterns = tuple(map(_pattern, pattern_rows))
    facts = [
        Fact(row.text("sub_label"), row.text("obj_label"), relation, patterns, row.text("uuid")) for row in fact_rows
    ]
    return select(facts, source, **filters)


def _pattern(row: Row) -> str:
    """Checked, and with single spaces: two patterns of P279 have a double one, which is another token."""
    text = row.text("pattern")
    if text.count("[X]") != 1 or text.count("[Y]") != 1:
        raise ValueError(f"{row.where}: pattern {text!r} must hold one [X] (subject) and one [Y] (answer)")
    return re.sub(" {2,}", " ", text)
