"""BLiMP: 67 paradigms of 1,000 minimal pairs each (Warstadt et al., 2020)."""

from pathlib import Path
from typing import Unpack

from kntools.arguments import without_effect
from kntools.data import hub, sources
from kntools.data.filters import Filters, select
from kntools.data.pairs import MinimalPair
from kntools.data.records import Loaded
from kntools.models.names import check_name

PARADIGMS: tuple[str, ...] = tuple(sources.NAMES["paradigms"])
#: Those of the built-in sample.
SAMPLES = (
    "sample_determiner_noun_agreement_1",
    "sample_determiner_noun_agreement_2",
    "sample_subject_verb_agreement",
)

# Which of our own pairs can stand in when BLiMP is not there.
_STAND_INS = {
    "determiner_noun_agreement_1": "sample_determiner_noun_agreement_1",
    "determiner_noun_agreement_2": "sample_determiner_noun_agreement_2",
    "regular_plural_subject_verb_agreement_1": "sample_subject_verb_agreement",
}


def blimp(paradigm: str, *, path: str | Path | None = None, **filters: Unpack[Filters]) -> Loaded[MinimalPair]:
    """The minimal pairs of one BLiMP paradigm.

    ```python
    pairs = kn.data.blimp("determiner_noun_agreement_2", limit=100, seed=0)
    pairs[0].good, pairs[0].bad
    prompts = pairs.prompts(model)            # those that differ in exactly one of the model's tokens
    ```

    Arguments:
        paradigm: one of `kn.data.PARADIGMS`, or of the built-in ones, whose names begin with `sample_`.
        path: a `.jsonl` file, a folder of them, or a folder in the layout of the hub's `nyu-mll/blimp`, and what every
            loader takes.

    Raises:
        ValueError: an unknown paradigm, or a file that holds pairs of another one (its `UID`).
    """
    check_name("BLiMP paradigm", paradigm, (*PARADIGMS, *SAMPLES))
    own = paradigm if paradigm in SAMPLES else _STAND_INS.get(paradigm)
    if own == paradigm:
        without_effect(f"for {paradigm!r}, which is part of kntools", path=None if path == sources.SAMPLE else path)
    wanted = sources.Wanted(
        name=f"BLiMP {paradigm}",
        files=(f"blimp/{paradigm}.jsonl",),
        hub_set=hub.BLIMP,
        hub_config=paradigm,
        sample=("agreement_pairs.jsonl",) if own else (),
    )
    [rows], source = sources.load(wanted, sources.SAMPLE if own == paradigm else path)
    names = {"good": "sentence_good", "bad": "sentence_bad", "paradigm": "UID", "term": "linguistics_term"}
    pairs = [row.record(MinimalPair, **names) for row in rows if not source.is_sample or row.values.get("UID") == own]
    if not source.is_sample:
        for row, pair in zip(rows, pairs, strict=True):
            if pair.paradigm != paradigm:
                raise ValueError(f"{row.where}: field 'UID' is {pair.paradigm!r}; expected {paradigm!r}")
    return select(pairs, source, **filters)
