"""Rows for masked-language-model training: which text, and which of its words are asked for."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from transformers import BertTokenizer

from tiny_bert.grammar import DETERMINERS
from tiny_bert.lexicon import ADJECTIVES, HELD_OUT_NOUNS, NOUNS
from tiny_bert.text import FACT_SHARE, agreement_text, number_words, training_facts

POOL = 8  # batches drawn at once
SENTENCES = 150_000
MASK_SHARE = 0.2  # of the words of an agreement sentence; at least one
MARKED_ONLY = 0.7  # share of rows in which only words that tell or ask for a number are masked
ANSWER_ONLY = 0.6  # share of fact sentences in which the answer alone is masked
SECOND_SENTENCE = 0.15  # share of agreement rows with one more sentence, so that later positions are trained
NO_PERIOD = 0.15  # share of rows without the final period, so that an unfinished prompt is nothing new


def _ids(tokenizer: BertTokenizer, words: Iterable[str]) -> frozenset[int]:
    return frozenset(tokenizer.convert_tokens_to_ids(sorted(words)))


class _SilentSlots:
    """Places of determiners before a held-out noun: they are shown but never asked for.

    Only neutral modifiers stand there. Were they asked for, the model would learn that these nouns refuse
    "these" and "this", and P(these | owls) would be zero by training rather than by grammar.
    """

    def __init__(self, tokenizer: BertTokenizer) -> None:
        openers = {*DETERMINERS, "an"}
        self.openers = _ids(tokenizer, openers | {word.capitalize() for word in openers})
        self.between = _ids(tokenizer, ADJECTIVES)
        held_out = [noun for noun in NOUNS if noun.singular in HELD_OUT_NOUNS]
        self.nouns = _ids(tokenizer, {form for noun in held_out for form in (noun.singular, noun.plural)})

    def find(self, ids: list[int]) -> frozenset[int]:
        silent = set()
        for start, token in enumerate(ids):
            if token in self.openers:
                noun = next(other for other in ids[start + 1 :] if other not in self.between)
                if noun in self.nouns:
                    silent.add(start)
        return frozenset(silent)


class Batches:
    """Rows of token ids with masks, drawn from a local generator."""

    def __init__(self, tokenizer: BertTokenizer, seed: int, sentences: int) -> None:
        self.rng = random.Random(f"tiny-bert/batches/{seed}")
        self.mask, self.pad = tokenizer.mask_token_id, tokenizer.pad_token_id
        self.cls, self.sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.number_ids = _ids(tokenizer, number_words())
        lines = list(agreement_text(seed, sentences))
        rows: list[list[int]] = tokenizer(lines, add_special_tokens=False)["input_ids"]
        silent = _SilentSlots(tokenizer)
        self.agreement = [(ids, silent.find(ids)) for ids in rows]
        self.facts: list[tuple[list[int], int]] = []
        for prompt, answer in training_facts():
            ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            place = ids.index(self.mask)
            ids[place] = tokenizer.convert_tokens_to_ids(answer)
            self.facts.append((ids, place))

    def log_frequencies(self, size: int) -> Tensor:
        """Log unigram frequency of every token in the mixture, with one count for those that never come."""
        counts = torch.zeros(size, dtype=torch.float64)
        for rows, share in ((self.agreement, 1 - FACT_SHARE), (self.facts, FACT_SHARE)):
            found = torch.bincount(torch.tensor([t for ids, _ in rows for t in ids]), minlength=size)
            counts += found * share / len(rows)
        return (counts + 1e-6).log().sub(counts.sum().log()).float()

    def _row(self) -> tuple[list[int], list[int]]:
        """Token ids of one row without [CLS] and [SEP], and the places to mask."""
        return self._fact_row() if self.rng.random() < FACT_SHARE else self._agreement_row()

    def _fact_row(self) -> tuple[list[int], list[int]]:
        ids, place = self.rng.choice(self.facts)
        if place != len(ids) - 1:
            ids = self._unfinished(ids)
        if self.rng.random() < ANSWER_ONLY:
            return ids, [place]
        return ids, self._some(list(range(len(ids))), len(ids))

    def _agreement_row(self) -> tuple[list[int], list[int]]:
        ids, silent = self.rng.choice(self.agreement)
        if self.rng.random() < SECOND_SENTENCE:
            more, more_silent = self.rng.choice(self.agreement)
            silent = silent | {len(ids) + at for at in more_silent}
            ids = ids + more
        ids = self._unfinished(ids)
        places = [at for at in range(len(ids)) if at not in silent]
        telling = [at for at in places if ids[at] in self.number_ids] if self.rng.random() < MARKED_ONLY else []
        return ids, self._some(telling or places, len(ids))

    def _unfinished(self, ids: list[int]) -> list[int]:
        return ids[:-1] if self.rng.random() < NO_PERIOD else ids

    def _some(self, places: list[int], length: int) -> list[int]:
        return self.rng.sample(places, min(len(places), max(1, round(MASK_SHARE * length))))

    def stream(self, rows: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches without end. Rows of like length share one, which saves two thirds of the padding."""
        while True:
            pool = sorted((self._row() for _ in range(rows * POOL)), key=lambda row: len(row[0]))
            batches = [pool[start : start + rows] for start in range(0, len(pool), rows)]
            self.rng.shuffle(batches)
            for batch in batches:
                yield self._pad(batch)

    def _pad(self, rows: list[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
        """Input ids and attention mask `[row pos]`, and labels (-100 where nothing is asked)."""
        width = max(len(ids) for ids, _ in rows) + 2
        tokens = torch.full((len(rows), width), self.pad)
        labels = torch.full((len(rows), width), -100)
        for row, (ids, places) in enumerate(rows):
            full = torch.tensor([self.cls, *ids, self.sep])
            tokens[row, : len(full)] = full
            at = torch.tensor(places) + 1
            labels[row, at] = full[at]
            tokens[row, at] = self.mask
        return tokens, (tokens != self.pad).long(), labels
