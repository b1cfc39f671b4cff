"""Name what a minimal pair is about: its determiner, its number, its gender; `None` if it has none."""

from collections.abc import Callable
from itertools import takewhile
from typing import Any

from kntools.data.blimp_pairs import MinimalPair
from kntools.data.records import Loaded, Record

SINGULAR, PLURAL = "singular", "plural"
OTHER = "other"


def word_forms(pairs: str) -> list[list[str]]:
    """`"book/books car/cars"` as pairs."""
    return [pair.split("/") for pair in pairs.split()]


DETERMINER_NUMBER = {"this": SINGULAR, "that": SINGULAR, "these": PLURAL, "those": PLURAL}
ANAPHOR_NUMBER = {"himself": SINGULAR, "herself": SINGULAR, "itself": SINGULAR, "themselves": PLURAL}
ANAPHOR_GENDER = {"himself": "masculine", "herself": "feminine", "itself": "neuter"}
AUXILIARY_NUMBER = {
    **dict.fromkeys(("is", "was", "has", "does"), SINGULAR),
    **dict.fromkeys(("are", "were", "have", "do"), PLURAL),
}

# In these subject-verb paradigms the subject noun differs, not the verb.
_NOUN_DIFFERS = ("regular_plural_subject_verb_agreement_2", "irregular_plural_subject_verb_agreement_2")
# How irregular nouns end in the singular and in the plural. Longer endings come first.
_NOUN_ENDINGS = word_forms(
    "man/men child/children person/people foot/feet tooth/teeth goose/geese mouse/mice louse/lice ox/oxen "
    "fe/ves f/ves on/a um/a us/i is/es"
)


def determiner(record: Any) -> str | None:
    """`this`, `that`, `these` or `those`: the demonstrative of a determiner-noun pair or frame."""
    if hasattr(record, "determiner"):
        return record.determiner
    if not isinstance(record, MinimalPair) or record.words is None or record.term != "determiner_noun_agreement":
        return None
    word = record.words[0].lower()
    if word in DETERMINER_NUMBER:
        return word
    # The nearest before the noun; BLiMP also has "those out in the open women".
    words = zip(record.good.split(), record.bad.split(), strict=True)
    before = [good.lower() for good, _ in takewhile(lambda pair: pair[0] == pair[1], words)]
    return next((w for w in reversed(before) if w in DETERMINER_NUMBER), None)


def number(record: Any) -> str | None:
    """`singular` or `plural`: of the determiner, anaphor or subject that the pair or frame is about."""
    if hasattr(record, "number"):
        return record.number
    if not isinstance(record, MinimalPair) or record.words is None:
        return None
    if record.term == "determiner_noun_agreement":
        return DETERMINER_NUMBER.get(determiner(record) or "")
    if record.term == "anaphor_agreement":
        return ANAPHOR_NUMBER.get(record.words[0].lower())
    if record.term == "subject_verb_agreement":
        good, bad = record.words
        return noun_number(good, bad) if record.paradigm in _NOUN_DIFFERS else verb_number(good, bad)
    return None


def gender(record: Any) -> str | None:
    """`masculine`, `feminine` or `neuter`: of the reflexive pronoun of an anaphor pair."""
    if not isinstance(record, MinimalPair) or record.words is None or record.term != "anaphor_agreement":
        return None
    return ANAPHOR_GENDER.get(record.words[0].lower())


def verb_number(verb: str, other: str) -> str | None:
    """The number of `verb`, told from the form it contrasts with: `runs` from `run` is singular."""
    known = AUXILIARY_NUMBER.get(verb.lower().removesuffix("n't"))
    if known:
        return known
    if verb in _with_s(other):
        return SINGULAR
    return PLURAL if other in _with_s(verb) else None


def noun_number(noun: str, other: str) -> str | None:
    """The number of `noun`, told from the form it contrasts with: `men` from `man` is plural."""
    if noun in _plurals(other):
        return PLURAL
    return SINGULAR if other in _plurals(noun) else None


def group(loaded: Loaded[Record], by: Callable[[Record], str | None]) -> dict[str, Loaded[Record]]:
    """The records by the name that `by` gives them, names sorted, records without one last under `other`.

    ```python
    groups = kn.data.group(kn.data.blimp("determiner_noun_agreement_2"), kn.data.determiner)
    {name: len(records) for name, records in groups.items()}      # that, these, this, those
    ```

    In each group the records of the other groups count as skipped.
    """
    names = {id(record): by(record) for record in loaded}
    found = sorted({name for name in names.values() if name is not None})

    def having(name: str | None, reason: str) -> Loaded[Record]:
        return loaded.where(lambda record: names[id(record)] == name, reason)

    groups = {name: having(name, f"not {name}") for name in found}
    if None in names.values():
        groups[OTHER] = having(None, "in a named group")
    return groups


def _with_s(word: str) -> set[str]:
    """The spellings of a verb's third person or a noun's regular plural."""
    forms = {word + "s", word + "es"}
    return forms | {word[:-1] + "ies"} if word.endswith("y") else forms


def _plurals(noun: str) -> set[str]:
    irregular = {noun.removesuffix(one) + many for one, many in _NOUN_ENDINGS if noun.endswith(one)}
    return _with_s(noun) | irregular
