"""BLiMP: 67 paradigms of 1,000 minimal pairs each (Warstadt et al., 2020), aligned token by token."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Unpack

from kntools.arguments import without_effect
from kntools.data import hub, sources
from kntools.data.filters import Filters, select
from kntools.data.records import EMPTY, Candidate, Loaded
from kntools.models.names import check_name
from kntools.prompts import MASK, Prompt
from kntools.word_borders import occurrences

ROLE = "pair"

PARADIGMS: tuple[str, ...] = tuple(sources.NAMES["paradigms"])
# Which of our own pairs can stand in when BLiMP is not there.
_STAND_INS = {
    "determiner_noun_agreement_1": "sample_determiner_noun_agreement_1",
    "determiner_noun_agreement_2": "sample_determiner_noun_agreement_2",
    "regular_plural_subject_verb_agreement_1": "sample_subject_verb_agreement",
}
#: The paradigms of the built-in sample.
SAMPLES = tuple(_STAND_INS.values())


@dataclass(frozen=True)
class MinimalPair:
    """Two sentences, `good` acceptable and `bad` not, with BLiMP's names of their difference.

    As a prompt its target is the token of `good` and its foil the token of `bad` at the one place where they
    differ. A masked model sees both sides of it, a causal one what comes before.
    """

    good: str
    bad: str
    paradigm: str
    pair_id: int
    field: str
    term: str

    # "The model knows it" means that the target is more probable than the foil.
    two_way: ClassVar[bool] = True

    @property
    def words(self) -> tuple[str, str] | None:
        """The two words in which the sentences differ, or `None` if it is not just one word in place."""
        good, bad = self.good.split(), self.bad.split()
        differing = [i for i, (g, b) in enumerate(zip(good, bad, strict=False)) if g != b]
        if len(good) != len(bad) or len(differing) != 1:
            return None
        return _bare(good[differing[0]]), _bare(bad[differing[0]])

    @property
    def target(self) -> str:
        """The good one of `words`, or an empty string."""
        return self.words[0] if self.words else ""

    @staticmethod
    def aligned(tokenizer: Any, masked: bool, pairs: "Sequence[MinimalPair]") -> list[Candidate]:
        """One candidate per pair: a prompt if the sentences differ in one whole-word token in place.

        The candidate carries the token ids found here: the prompt's text must give the same ones again.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError("minimal pairs need a fast tokenizer (use_fast=True) to locate tokens")
        mask = tokenizer.mask_token_id if masked else None
        goods = _encode(tokenizer, [pair.good for pair in pairs])
        bads = _encode(tokenizer, [pair.bad for pair in pairs])
        return [_candidate(*each, mask) for each in zip(pairs, goods, bads, strict=True)]


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


_Tokens = tuple[list[int], list[tuple[int, int]]]  # ids, and where each one stands in the sentence


def _candidate(pair: MinimalPair, good_tokens: _Tokens, bad_tokens: _Tokens, mask: int | None) -> Candidate:
    """`mask` is the mask's id, `None` for a causal model."""
    (good, good_spans), (bad, bad_spans) = good_tokens, bad_tokens
    differing = [i for i, (g, b) in enumerate(zip(good, bad, strict=False)) if g != b]
    if good == bad:  # also two sentences which a lower-casing tokenizer cannot tell apart
        return Candidate(ROLE, None, "identical pair")
    if len(good) != len(bad) or len(differing) != 1:
        return Candidate(ROLE, None, "multi-token difference")
    [at] = differing
    (start, end), (bad_start, bad_end) = _word_span(pair.good, good_spans[at]), _word_span(pair.bad, bad_spans[at])
    if not (_whole(pair.good, start, end) and _whole(pair.bad, bad_start, bad_end)):
        return Candidate(ROLE, None, "fragment of a word differs")
    if mask is not None:
        text = pair.good[:start] + MASK + pair.good[end:]
        around = (*good[:at], mask, *good[at + 1 :])
        target, foil = pair.good[start:end], pair.bad[bad_start:bad_end]
    else:
        text = pair.good[:start].rstrip()
        around = tuple(good[:at])
        if not text:
            return Candidate(ROLE, None, EMPTY)
        # With their leading space: " dog" and "dog" are different tokens.
        target, foil = pair.good[len(text) : end], pair.bad[len(text) : bad_end]
    return Candidate(ROLE, Prompt(text, target, foil=foil), ids=(around, (good[at],), (bad[at],)))


def _encode(tokenizer: Any, sentences: list[str]) -> list[_Tokens]:
    if not sentences:
        return []
    lean = {"return_attention_mask": False, "return_token_type_ids": False}  # takes half the time
    out = tokenizer(sentences, add_special_tokens=False, return_offsets_mapping=True, **lean)
    return list(zip(out["input_ids"], out["offset_mapping"], strict=True))


def _word_span(sentence: str, span: tuple[int, int]) -> tuple[int, int]:
    """The token's characters without the space that byte-level and SentencePiece tokens begin with."""
    start, end = span
    return end - len(sentence[start:end].lstrip()), end


def _whole(sentence: str, start: int, end: int) -> bool:
    """Does the token begin and end where a word does? An apostrophe ends one: `doesn` of `doesn't` counts."""
    token = sentence[start:end]
    return token[:1].isalnum() and (start, end) in occurrences(sentence, token)


def _bare(word: str) -> str:
    """Without the punctuation around it; an apostrophe inside stays."""
    return word.strip(".,;:!?\"'()")
