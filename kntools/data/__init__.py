"""Data sets as typed records that turn into prompts for any model, with a count of what was left out and why.

    facts = kn.data.pararel("P36", limit=50, seed=0)     # Loaded[Fact]
    prompts = facts.prompts(model)                       # Prompts: masked or causal, as the model asks
    prompts.skipped                                      # reason -> count

One module per data set. What all loaders share: data is looked for at `path=` (a file, a data folder, or `"sample"`),
in `$KNTOOLS_DATA`, on the Hugging Face hub, and in the built-in sample, in this order; `loaded.source` says where.
`filters` are `limit`, `seed`, `target` and `known_only` (see `Filters`). An unknown name is a `ValueError` that
offers the nearest, a malformed record one that names file and line, and a data set that is nowhere a
`FileNotFoundError` that says what to type.
"""

from kntools.data.agreement import Frame as Frame
from kntools.data.agreement import agreement_frames as agreement_frames
from kntools.data.blimp_pairs import PARADIGMS as PARADIGMS
from kntools.data.blimp_pairs import blimp as blimp
from kntools.data.counterfact_records import CounterFactRecord as CounterFactRecord
from kntools.data.counterfact_records import ReducedRecord as ReducedRecord
from kntools.data.counterfact_records import counterfact as counterfact
from kntools.data.counterfact_records import counterfact_reduced as counterfact_reduced
from kntools.data.facts import KnownFact as KnownFact
from kntools.data.facts import known_facts as known_facts
from kntools.data.filters import Filters as Filters
from kntools.data.filters import known as known
from kntools.data.grouping import determiner as determiner
from kntools.data.grouping import gender as gender
from kntools.data.grouping import group as group
from kntools.data.grouping import number as number
from kntools.data.pairs import MinimalPair as MinimalPair
from kntools.data.pararel_facts import RELATIONS as RELATIONS
from kntools.data.pararel_facts import Fact as Fact
from kntools.data.pararel_facts import pararel as pararel
from kntools.data.records import Loaded as Loaded
from kntools.data.records import PromptSet as PromptSet
from kntools.data.records import Skipped as Skipped
from kntools.data.records import TokenizerOnly as TokenizerOnly
from kntools.data.symmetric import SymmetricFact as SymmetricFact
from kntools.data.symmetric import symmetric_facts as symmetric_facts
from kntools.data.synonyms import SynonymFact as SynonymFact
from kntools.data.synonyms import field_occupations as field_occupations
from kntools.data.synonyms import synonym_facts as synonym_facts
from kntools.data.two_hops import TwoHopFact as TwoHopFact
from kntools.data.two_hops import two_hop_facts as two_hop_facts
from kntools.models.names import public_names as _public_names

__all__ = _public_names(vars())
