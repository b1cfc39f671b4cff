"""Data sets as typed records that turn into prompts for any model, with a count of what was left out and why.

    facts = kn.data.pararel("P36", limit=50, seed=0)     # Loaded[Fact]
    prompts = facts.prompts(model)                       # Prompts: masked or causal, as the model asks
    prompts.skipped                                      # reason -> count

One module per source. What all loaders share: data is looked for at `path=` (a file, a data folder, or `"sample"`),
in `$KNTOOLS_DATA`, on the Hugging Face hub, and in the built-in sample, in this order; `loaded.source` says where.
`filters` are `limit`, `seed`, `target` and `known_only` (see `Filters`). An unknown name is a `ValueError` that
offers the nearest, a malformed record one that names file and line, and a data set that is nowhere a
`FileNotFoundError` that says what to type.
"""

from kntools.data.agreement import Frame, agreement_frames
from kntools.data.blimp_pairs import PARADIGMS, MinimalPair, blimp
from kntools.data.counterfact_records import CounterFactRecord, ReducedRecord, counterfact, counterfact_reduced
from kntools.data.facts import KnownFact, known_facts
from kntools.data.filters import Filters, known
from kntools.data.grouping import determiner, gender, group, number
from kntools.data.pararel_consequences import (
    SymmetricFact,
    SynonymFact,
    TwoHopFact,
    field_occupations,
    symmetric_facts,
    synonym_facts,
    two_hop_facts,
)
from kntools.data.pararel_facts import RELATIONS, Fact, pararel
from kntools.data.records import Loaded, PromptSet, Skipped, TokenizerOnly

__all__ = [
    "PARADIGMS",
    "RELATIONS",
    "CounterFactRecord",
    "Fact",
    "Filters",
    "Frame",
    "KnownFact",
    "Loaded",
    "MinimalPair",
    "PromptSet",
    "ReducedRecord",
    "Skipped",
    "SymmetricFact",
    "SynonymFact",
    "TokenizerOnly",
    "TwoHopFact",
    "agreement_frames",
    "blimp",
    "counterfact",
    "counterfact_reduced",
    "determiner",
    "field_occupations",
    "gender",
    "group",
    "known",
    "known_facts",
    "number",
    "pararel",
    "symmetric_facts",
    "synonym_facts",
    "two_hop_facts",
]


def __dir__() -> list[str]:
    """What autocompletion offers: the public names, without the modules that they come from."""
    return __all__
