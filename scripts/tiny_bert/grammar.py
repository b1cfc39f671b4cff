"""Agreement sentences: a generator in which every word's number preference is known exactly.

A noun phrase draws its determiner first (by `weight`), then its number (by `plural`), then the noun. So
`plural` in `DETERMINERS` *is* the share of plural noun phrases among those the word opens: an analysis
that counts words next to nouns must find these numbers again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import accumulate

from tiny_bert.lexicon import (
    ADJECTIVES,
    ANIMATE_INTRANSITIVE,
    ANY_INTRANSITIVE,
    HELD_OUT_VERBS,
    NAMES,
    NOUNS,
    PLURAL_PRONOUNS,
    PREPOSITIONS,
    SINGULAR_PRONOUNS,
    TRANSITIVE,
    VERBS,
    Noun,
    Verb,
    article,
    is_held_out,
)


@dataclass(frozen=True)
class Determiner:
    """How often a word opens a noun phrase (relative weight) and how often that phrase is plural."""

    weight: float
    plural: float

    @property
    def marked(self) -> bool:
        return self.plural in (0.0, 1.0)


# THE table of built-in rates. The model card repeats it, the tests recover it from text.
# "a" stands for both "a" and "an". Weights balance: half of all noun phrases are plural, to about 1 %.
DETERMINERS: dict[str, Determiner] = {
    "this": Determiner(6, 0.0),
    "that": Determiner(6, 0.0),
    "a": Determiner(10, 0.0),
    "one": Determiner(4, 0.0),
    "every": Determiner(4, 0.0),
    "each": Determiner(4, 0.0),
    "these": Determiner(6, 1.0),
    "those": Determiner(6, 1.0),
    "two": Determiner(4, 1.0),
    "both": Determiner(4, 1.0),
    "several": Determiner(4, 1.0),
    "many": Determiner(4, 1.0),
    "multiple": Determiner(4, 1.0),
    "various": Determiner(4, 1.0),
    # Neutral modifiers: grammatical with either number, but biased. As in headlines they stand alone
    # ("Carl found scattered houses"), so that all words compete for one slot.
    "the": Determiner(12, 0.50),
    "any": Determiner(4, 0.40),
    "all": Determiner(4, 0.85),
    "some": Determiner(4, 0.80),
    "my": Determiner(4, 0.50),
    "our": Determiner(4, 0.60),
    "unified": Determiner(4, 0.25),
    "scattered": Determiner(4, 0.90),
    "unique": Determiner(4, 0.30),
    "single": Determiner(4, 0.05),
    "sole": Determiner(4, 0.10),
}
NEUTRAL = tuple(word for word, entry in DETERMINERS.items() if not entry.marked)

OPENINGS = ("Today", "Yesterday", "Often", "Sometimes", "Later", "Again")
BE_PRESENT, BE_PAST, HAVE = ("is", "are"), ("was", "were"), ("has", "have")


def _shuffled(nouns: tuple[Noun, ...]) -> tuple[Noun, ...]:
    # Sorted by a hash-free key: frequent nouns should be of all kinds, and the same ones in every process.
    return tuple(random.Random("tiny-bert/ranks").sample(nouns, len(nouns)))


# Rank makes frequency, as in real text: a few common nouns teach what number is, the rest then join in.
_ALL = _shuffled(NOUNS)
_ANIMATE = tuple(noun for noun in _ALL if noun.animate)
_ZIPF = {len(nouns): tuple(accumulate(1 / (rank + 20) for rank in range(len(nouns)))) for nouns in (_ALL, _ANIMATE)}
_NOUN_SUBJECT_VERBS = {
    group: tuple(verb for verb in group if verb.plain not in HELD_OUT_VERBS)
    for group in (ANIMATE_INTRANSITIVE, ANY_INTRANSITIVE, TRANSITIVE)
}
_HELD_OUT_VERBS = tuple(verb for verb in VERBS if is_held_out(verb))


def _draw(rng: random.Random, words: tuple[str, ...]) -> str:
    return rng.choices(words, [DETERMINERS[word].weight for word in words])[0]


def noun_phrase(rng: random.Random, nouns: tuple[Noun, ...] | None = None) -> tuple[list[str], bool]:
    """Words of one noun phrase and whether it is plural."""
    nouns = nouns or _ALL
    noun = rng.choices(nouns, cum_weights=_ZIPF[len(nouns)])[0]
    # A held-out noun takes neutral modifiers only; the rates stay exact, the number is drawn after.
    determiner = _draw(rng, NEUTRAL if is_held_out(noun) else tuple(DETERMINERS))
    plural = rng.random() < DETERMINERS[determiner].plural
    count = rng.choices((0, 1, 2), (70, 25, 5))[0]
    words = [*rng.sample(ADJECTIVES, count), *noun.form(plural).split()]
    return [article(words[0]) if determiner == "a" else determiner, *words], plural


def _predicate(rng: random.Random, animate: bool, plural: bool) -> list[str]:
    """A verb that agrees, with what it needs after it."""
    kind = rng.choices(("intransitive", "transitive", "be", "have"), (40, 25 if animate else 0, 30, 5))[0]
    if kind == "be":
        return [rng.choice((BE_PRESENT, BE_PAST))[plural], rng.choice(ADJECTIVES)]
    if kind == "have":
        return [HAVE[plural], *noun_phrase(rng)[0]]
    if kind == "transitive":
        return [rng.choice(_NOUN_SUBJECT_VERBS[TRANSITIVE]).form(plural), *noun_phrase(rng)[0]]
    group = ANIMATE_INTRANSITIVE if animate and rng.random() < 0.6 else ANY_INTRANSITIVE
    words = [rng.choice(_NOUN_SUBJECT_VERBS[group]).form(plural)]
    if rng.random() < 0.15:
        words += [rng.choice(PREPOSITIONS), *noun_phrase(rng)[0]]
    return words


def _object(rng: random.Random) -> list[str]:
    """`Carl cured these horses`; now and then the subject is a noun phrase (the past tense is neutral)."""
    subject = [rng.choice(NAMES)] if rng.random() < 0.75 else noun_phrase(rng, _ANIMATE)[0]
    return [*subject, rng.choice(TRANSITIVE).past, *noun_phrase(rng)[0]]


def _subject(rng: random.Random) -> list[str]:
    animate = rng.random() < 0.65
    words, plural = noun_phrase(rng, _ANIMATE if animate else _ALL)
    return [*words, *_predicate(rng, animate, plural)]


def _distractor(rng: random.Random) -> list[str]:
    """`The dog near those houses runs`: the nearer noun says nothing about the verb."""
    animate = rng.random() < 0.65
    words, plural = noun_phrase(rng, _ANIMATE if animate else _ALL)
    return [*words, rng.choice(PREPOSITIONS), *noun_phrase(rng)[0], *_predicate(rng, animate, plural)]


def _verb_and_object(rng: random.Random, verb: Verb, plural: bool) -> list[str]:
    return [verb.form(plural), *(noun_phrase(rng)[0] if verb in TRANSITIVE else [])]


def _pronoun(rng: random.Random) -> list[str]:
    plural = rng.random() < 0.5
    word = rng.choice(PLURAL_PRONOUNS if plural else SINGULAR_PRONOUNS)
    if rng.random() < 0.15:
        return [word, rng.choice((BE_PRESENT, BE_PAST))[plural], rng.choice(ADJECTIVES)]
    # Held-out verbs live here alone, so they take two thirds of the place.
    verb = rng.choice(_HELD_OUT_VERBS if rng.random() < 0.67 else VERBS)
    return [word, *_verb_and_object(rng, verb, plural)]


def _names(rng: random.Random) -> list[str]:
    plural = rng.random() < 0.5
    names = rng.sample(NAMES, 2 if plural else 1)
    verb = rng.choice(tuple(verb for verb in VERBS if not is_held_out(verb)))
    return [*" and ".join(names).split(), *_verb_and_object(rng, verb, plural)]


def _existential(rng: random.Random) -> list[str]:
    words, plural = noun_phrase(rng)
    return ["there", BE_PRESENT[plural], *words, rng.choice(PREPOSITIONS), *noun_phrase(rng)[0]]


FRAMES = {
    "object": (_object, 32),
    "subject": (_subject, 22),
    "distractor": (_distractor, 24),
    "pronoun": (_pronoun, 12),
    "names": (_names, 5),
    "existential": (_existential, 5),
}


def finish(words: list[str]) -> str:
    text = " ".join(words)
    return text[0].upper() + text[1:] + "."


def agreement_sentence(rng: random.Random) -> tuple[str, str]:
    """One sentence and the name of its frame."""
    kind = rng.choices(tuple(FRAMES), [weight for _, weight in FRAMES.values()])[0]
    words = FRAMES[kind][0](rng)
    if rng.random() < 0.1:
        words = [rng.choice(OPENINGS), *words]
    return finish(words), kind
