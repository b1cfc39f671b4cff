"""How much a report looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Size:
    """Counts of everything. `QUICK` takes minutes for a small model on two cores, `FULL` is for intervals to rely on.

    ```python
    replace(QUICK, traces=10)       # a size of your own
    ```
    """

    name: str
    # A fact at a time.
    facts: int
    phrasings: int  # of each
    draws: int  # of random neurons to compare with
    # Figure 1.
    per_determiner: int  # prompts
    # Figures 2 to 4.
    pairs: int  # of determiner and noun
    groups: int  # of every other paradigm and relation
    frames: int  # sentences per group
    paradigms: int  # how many paradigms and relations there are, the number paradigm included
    relations: int
    # Figures 5 to 7.
    nouns: int  # prompts with nouns of either number
    corpus: int  # tokens that the model writes, for figure 6
    # Figure 8.
    judged_pairs: int
    judged_facts: int
    # Figure 9.
    traces: int  # prompts of each kind
    samples: int  # of noise per prompt
    sever: tuple[Literal["mlp", "attn"], ...]
    # Figures 10 and 11.
    moment: int  # tokens for a second moment, at least; twice as many as a layer has neurons, if that is more
    edits: int  # facts per data set
    among: int | None  # facts among which those are looked for that the model knows
    methods: tuple[str, ...]
    continuations: int  # facts of which the entropy of generated text is measured
    warning: str = ""  # what a report of this size is not


QUICK = Size(
    name="quick",
    facts=6,
    phrasings=4,
    draws=5,
    per_determiner=4,
    pairs=12,
    groups=2,
    frames=4,
    paradigms=2,
    relations=2,
    nouns=12,
    corpus=3_000,
    judged_pairs=10,
    judged_facts=5,
    traces=3,
    samples=1,
    sever=(),
    moment=0,
    edits=2,
    among=40,
    methods=("rome",),
    continuations=0,
    warning="A quick run: n is too small for evidence.",
)
FULL = Size(
    name="full",
    facts=8,
    phrasings=5,
    draws=20,
    per_determiner=50,
    pairs=100,
    groups=30,
    frames=10,
    paradigms=8,
    relations=6,
    nouns=200,
    corpus=100_000,
    judged_pairs=100,
    judged_facts=100,
    traces=100,
    samples=10,
    sever=("mlp", "attn"),
    moment=50_000,
    edits=100,
    among=None,
    methods=("rome", "fine-tuning"),
    continuations=20,
)
