"""How much a report looks at."""

from dataclasses import dataclass

from kntools.analyses.edit_methods import EDITORS
from kntools.tracing.restoration import Severed


@dataclass(frozen=True)
class Size:
    """Counts of everything. `QUICK` takes minutes for a small model on two cores, `FULL` is for intervals to rely on.

    ```python
    replace(QUICK, traces=10)       # a size of your own
    ```
    """

    name: str = "full"
    warning: str = ""  # what a report of this size is not
    # A fact at a time.
    facts: int = 8
    phrasings: int = 5  # of each
    draws: int = 20  # of random neurons to compare with
    # Figure 1.
    per_determiner: int = 50  # prompts
    # Figures 2 to 4.
    pairs: int = 100  # of determiner and noun
    groups: int = 30  # of every other paradigm and relation
    frames: int = 10  # sentences per group
    paradigms: int = 8  # the number paradigm included
    relations: int = 6
    # Figures 5 to 7.
    nouns: int = 200  # prompts with nouns of either number
    # Figure 8.
    judged_pairs: int = 100
    judged_facts: int = 100
    transferred: int = 100  # pairs of each paradigm
    # Figure 9.
    traces: int = 100  # prompts of each kind
    samples: int = 10  # of noise per prompt
    sever: tuple[Severed, ...] = ("mlp", "attn")
    # Figures 10 and 11.
    moment: int = 50_000  # tokens for a second moment, at least; twice as many as a layer has neurons, if that is more
    edits: int = 100  # facts per data set
    among: int | None = None  # facts among which those are looked for that the model knows; `None`: all
    methods: tuple[str, ...] = EDITORS
    continuations: int = 20  # facts of which the entropy of generated text is measured


FULL = Size()
QUICK = Size(
    name="quick",
    warning="A quick run: n is too small for evidence.",
    facts=6,
    phrasings=4,
    draws=5,
    per_determiner=4,
    pairs=48,  # what is tested: more pairs say more than more sentences of each
    groups=2,
    frames=2,  # R1^2 compares two
    paradigms=2,
    relations=2,
    nouns=12,
    judged_pairs=10,  # 8 could not pass the test, which is one of twelve
    judged_facts=10,
    transferred=10,
    traces=3,
    samples=1,
    sever=(),
    moment=0,
    edits=2,
    among=40,
    methods=("rome",),
    continuations=0,
)
