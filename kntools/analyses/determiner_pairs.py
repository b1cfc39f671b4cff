"""Determiner-noun pairs in many sentences: `these horses` in its own sentence, and in those of other pairs."""

import random
from dataclasses import dataclass, replace
from itertools import chain

from kntools import data
from kntools.data.blimp_pairs import SAMPLES, MinimalPair
from kntools.data.records import Loaded, Skipped
from kntools.randomness import python_random

#: What stands before the determiner, between it and the noun, and behind: `Carl cured`, `old`, `.`
Frame = tuple[str, str, str]


@dataclass(frozen=True)
class Phrase:
    """`Carl cured | these | old | horses | .`"""

    record: MinimalPair
    frame: Frame
    determiner: str
    noun: str

    def within(self, frame: Frame) -> MinimalPair:
        """The minimal pair of this determiner and noun, in another sentence."""
        assert self.record.words is not None
        good, bad = self.record.words
        wrong = (bad, self.noun) if good.lower() == self.determiner.lower() else (self.determiner, bad)
        return replace(self.record, good=_sentence(frame, self.determiner, self.noun), bad=_sentence(frame, *wrong))


def pairs_in_frames(
    loaded: Loaded[MinimalPair], frames: int, limit: int | None, seed: int
) -> tuple[Loaded[MinimalPair], dict[str, list[MinimalPair]]]:
    """Pairs in sentences, and by name: `these horses` -> those of it in its own sentence and in `frames - 1` others.

    Of many pairs a sample of four times the `limit` is made: a model can be asked only for some of them.
    """
    parsed = [phrase for phrase in map(_parsed, loaded) if phrase is not None]
    sentences = sorted({p.frame for p in parsed})
    pairs = {f"{p.determiner.lower()} {p.noun}": p for p in reversed(parsed)}
    keys = sorted(pairs)
    if limit is not None and 4 * limit < len(keys):
        keys = sorted(python_random(seed).sample(keys, 4 * limit))
    found = {}
    for key in keys:
        own = pairs[key].frame
        drawn = random.Random(f"{seed}/{key}").sample(sentences, min(len(sentences), frames))
        others = [frame for frame in drawn if frame != own][: frames - 1]
        found[key] = [pairs[key].within(frame) for frame in (own, *others)]
    reasons = {"noun phrase of another form": len(loaded) - len(parsed), "over the limit": len(pairs) - len(keys)}
    records = tuple(chain.from_iterable(found.values()))
    return replace(loaded, records=records, skipped=loaded.skipped + Skipped.of(reasons)), found


def _parsed(record: MinimalPair) -> Phrase | None:
    """The noun is the last word, next to the determiner or after one adjective (not `movie` `theater`)."""
    words, determiner = record.good.split(), data.determiner(record)
    if determiner is None or record.words is None:
        return None
    at = max((i for i, w in enumerate(words) if w.lower() == determiner), default=len(words))
    noun = words[-1].rstrip(".!?")
    # Our own sample has both kinds in one paradigm, and no compounds.
    adjectives = (0, 1) if record.paradigm in SAMPLES else (int("_adj" in record.paradigm),)
    if len(words) - 2 - at not in adjectives or record.words[0].lower() not in (determiner, noun.lower()):
        return None
    frame = " ".join(words[:at]), " ".join(words[at + 1 : -1]), words[-1][len(noun) :]
    return Phrase(record, frame, words[at], noun)


def _sentence(frame: Frame, determiner: str, noun: str) -> str:
    before, between, end = frame
    return " ".join(w for w in (before, determiner, between, noun) if w) + end
