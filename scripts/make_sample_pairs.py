"""Write the built-in minimal pairs, `kntools/data/sample/agreement_pairs.jsonl`.

    python scripts/make_sample_pairs.py            # writes the file in the package
    python scripts/make_sample_pairs.py --out F    # writes F

The pairs are ours (no sentence is taken from BLiMP); field names are BLiMP's, so one loader reads both.
Everything follows from `SEED` and the word lists: the same file every time, whatever the machine.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from tiny_bert.lexicon import (
    ADJECTIVES,
    ANIMATE_INTRANSITIVE,
    ANY_INTRANSITIVE,
    NAMES,
    NOUNS,
    PREPOSITIONS,
    TRANSITIVE,
    Noun,
)

SEED = 20220
PAIRS_EACH = 100
DEFAULT_OUT = Path(__file__).resolve().parents[1] / "kntools" / "data" / "sample" / "agreement_pairs.jsonl"

# The singular and the plural member of each demonstrative.
DEMONSTRATIVES = (("this", "these"), ("that", "those"))
BE_FORMS = (("is", "are"), ("was", "were"))


def _object_phrase(rng: random.Random, index: int) -> tuple[str, str, Noun, bool, str]:
    """Opening ("Carl cured"), adjective or "", noun, number and distance (0 = this, 1 = that)."""
    opening = f"{rng.choice(NAMES)} {rng.choice(TRANSITIVE).past}"
    # Number and distance cycle rather than being drawn, so that the file is exactly balanced.
    plural, distance = bool(index % 2), (index // 2) % 2
    adjective = rng.choice(ADJECTIVES) if index % 3 == 2 else ""
    return opening, adjective, rng.choice(NOUNS), plural, DEMONSTRATIVES[distance][plural]


def _sentence(*words: str) -> str:
    text = " ".join(word for word in words if word)
    return text[0].upper() + text[1:] + "."


def noun_differs(rng: random.Random, index: int) -> tuple[str, str]:
    """The noun is last and differs, so a decoder can be asked too."""
    opening, adjective, noun, plural, determiner = _object_phrase(rng, index)
    good, bad = (_sentence(opening, determiner, adjective, noun.form(n)) for n in (plural, not plural))
    return good, bad


def determiner_differs(rng: random.Random, index: int) -> tuple[str, str]:
    """The determiner differs: what tells them apart comes after it."""
    opening, adjective, noun, plural, determiner = _object_phrase(rng, index)
    pair = next(pair for pair in DEMONSTRATIVES if determiner in pair)
    good, bad = (_sentence(opening, pair[n], adjective, noun.form(plural)) for n in (plural, not plural))
    return good, bad


def verb_differs(rng: random.Random, index: int) -> tuple[str, str]:
    """The verb differs. In half of the pairs a noun of the other number stands between."""
    plural = bool(index % 2)
    subject = rng.choice([noun for noun in NOUNS if noun.animate])
    words = ["the", rng.choice(ADJECTIVES) if index % 5 == 4 else "", subject.form(plural)]
    if (index // 2) % 2:
        other = rng.choice([noun for noun in NOUNS if noun.singular != subject.singular])
        words += [rng.choice(PREPOSITIONS), "the", other.form(not plural)]
    if index % 3 == 0:
        forms, rest = rng.choice(BE_FORMS), rng.choice(ADJECTIVES)
    else:
        verb = rng.choice(ANIMATE_INTRANSITIVE + ANY_INTRANSITIVE)
        forms, rest = (verb.form(False), verb.form(True)), ""
    return _sentence(*words, forms[plural], rest), _sentence(*words, forms[not plural], rest)


KINDS: dict[str, tuple[str, Callable[[random.Random, int], tuple[str, str]]]] = {
    "sample_determiner_noun_agreement_1": ("determiner_noun_agreement", noun_differs),
    "sample_determiner_noun_agreement_2": ("determiner_noun_agreement", determiner_differs),
    "sample_subject_verb_agreement": ("subject_verb_agreement", verb_differs),
}


def records() -> Iterator[dict[str, object]]:
    """All records in file order; a sentence never comes twice."""
    for uid, (term, make) in KINDS.items():
        # A string seed is hashed with SHA-512 by `random`, so it does not depend on PYTHONHASHSEED.
        rng = random.Random(f"{SEED}/{uid}")
        seen: set[str] = set()
        for pair_id in range(PAIRS_EACH):
            good, bad = make(rng, pair_id)
            while good in seen or bad in seen:
                good, bad = make(rng, pair_id)
            seen |= {good, bad}
            yield {
                "sentence_good": good,
                "sentence_bad": bad,
                "field": "morphology",
                "linguistics_term": term,
                "UID": uid,
                "pair_id": pair_id,
            }


def text() -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    out: Path = parser.parse_args().out
    out.write_text(text(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
