"""The training text and the vocabulary, both functions of a seed alone."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterator

from tiny_bert.facts import fact_sentences
from tiny_bert.grammar import BE_PAST, BE_PRESENT, DETERMINERS, HAVE, OPENINGS, agreement_sentence
from tiny_bert.lexicon import ADJECTIVES, NAMES, NOUNS, PLURAL_PRONOUNS, PREPOSITIONS, SINGULAR_PRONOUNS, VERBS

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FACT_SHARE = 0.3


def agreement_text(seed: int, count: int) -> Iterator[str]:
    """`count` agreement sentences. A string seed: `random` hashes it the same way in every process."""
    rng = random.Random(f"tiny-bert/agreement/{seed}")
    for _ in range(count):
        yield agreement_sentence(rng)[0]


def training_facts() -> list[tuple[str, str]]:
    """Distinct fact texts that training may show, with the word to ask for (a text may come with both ends)."""
    return sorted({(fact.prompt, fact.answer) for fact in fact_sentences() if not fact.held_out})


def training_text(seed: int, count: int) -> Iterator[str]:
    """The mixture that training reads: agreement sentences and facts, as plain text."""
    rng = random.Random(f"tiny-bert/mixture/{seed}")
    facts = training_facts()
    agreement = agreement_text(seed, count)
    for _ in range(count):
        if rng.random() < FACT_SHARE:
            prompt, answer = rng.choice(facts)
            yield prompt.replace("[MASK]", answer)
        else:
            yield next(agreement)


def words_of(text: str) -> list[str]:
    """Words and punctuation marks, as a BERT pre-tokenizer cuts them."""
    return re.findall(r"\w+|[^\w\s]", text)


def number_words() -> set[str]:
    """Words that show or take a number: determiners, nouns, present verbs, be and have."""
    words = {*DETERMINERS, "an", *BE_PRESENT, *BE_PAST, *HAVE}
    words |= {word[0].upper() + word[1:] for word in words}
    words |= {word for noun in NOUNS for word in (noun.singular, noun.plural)}
    return words | {word for verb in VERBS for word in (verb.plain, verb.third)}


def vocabulary() -> list[str]:
    """Special tokens, single characters (so that no ASCII word is unknown), then whole words in order."""
    words: set[str] = set()
    lower = [*DETERMINERS, "an", "there", "and", *BE_PRESENT, *BE_PAST, *HAVE, *OPENINGS]
    lower += [*PREPOSITIONS, *SINGULAR_PRONOUNS, *PLURAL_PRONOUNS, *ADJECTIVES]
    for noun in NOUNS:
        lower += words_of(f"{noun.form(False)} {noun.form(True)}")
    for verb in VERBS:
        lower += [verb.plain, verb.third, verb.past]
    words.update(lower, NAMES)
    # What can open a sentence needs its capitalised form.
    openers = [*DETERMINERS, "an", "there", *PREPOSITIONS, *SINGULAR_PRONOUNS, *PLURAL_PRONOUNS, *ADJECTIVES]
    words.update(word[0].upper() + word[1:] for word in openers)
    for fact in fact_sentences():
        words.update(words_of(fact.text))
    alphabet = string.ascii_letters + string.digits
    characters = [*alphabet, *string.punctuation]
    pieces = [f"##{character}" for character in alphabet]
    whole = sorted(words - set(characters))
    return [*SPECIAL_TOKENS, *characters, *pieces, *whole]
