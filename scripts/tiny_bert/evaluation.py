"""What tiny-bert knows: agreement on held-out words, facts by top-1, and the modifier bias it learned."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertForMaskedLM, BertTokenizer

from tiny_bert.facts import SAMPLE, fact_sentences
from tiny_bert.grammar import BE_PAST, BE_PRESENT, DETERMINERS
from tiny_bert.lexicon import (
    ADJECTIVES,
    ANIMATE_INTRANSITIVE,
    ANY_INTRANSITIVE,
    NAMES,
    NOUNS,
    PREPOSITIONS,
    TRANSITIVE,
    VERBS,
    Noun,
    Verb,
    article,
    is_held_out,
)
from tiny_bert.text import words_of

# Singular and plural determiners that compete in one slot. ("a" is left out: a/an also depends on sound.)
DETERMINER_PAIRS = (("this", "these"), ("that", "those"), ("one", "two"), ("every", "several"), ("each", "many"))
PLURAL_ONLY = ("these", "those", "two", "both", "several", "many", "multiple", "various")
SINGULAR_ONLY = ("this", "that", "a", "one", "every", "each")


@dataclass(frozen=True)
class Question:
    """A sentence with one [MASK]; right when P(good) > P(bad), or, without `bad`, when good is the top word."""

    kind: str
    text: str
    good: str
    bad: str | None = None


@torch.no_grad()
def mask_probabilities(model: BertForMaskedLM, tokenizer: BertTokenizer, texts: list[str], batch: int = 256) -> Tensor:
    """Probabilities `[text d_vocab]` at the one [MASK] of each text."""
    rows = []
    for start in range(0, len(texts), batch):
        inputs = tokenizer(texts[start : start + batch], return_tensors="pt", padding=True)
        asked = inputs["input_ids"] == tokenizer.mask_token_id
        if not bool((asked.sum(1) == 1).all()):
            raise ValueError("every text needs exactly one [MASK]")
        hidden = model.bert(**inputs).last_hidden_state[asked]
        rows.append(model.cls(hidden).softmax(-1))
    return torch.cat(rows)


def _subjects(held_out: bool) -> list[Noun]:
    return [noun for noun in NOUNS if is_held_out(noun) == held_out and not noun.prefix]


def determiner_questions(held_out: bool, rng: random.Random) -> list[Question]:
    """Nouns against number-marked determiners, asked from both ends, with and without an adjective."""
    questions = []
    tag = "held-out" if held_out else "seen"
    for noun in _subjects(held_out):
        for plural in (False, True):
            for adjective in ("", rng.choice(ADJECTIVES) + " "):
                opening = f"{rng.choice(NAMES)} {rng.choice(TRANSITIVE).past}"
                for pair in DETERMINER_PAIRS:
                    text = f"{opening} [MASK] {adjective}{noun.form(plural)}."
                    questions.append(Question(f"determiner, {tag} noun", text, pair[plural], pair[not plural]))
                for determiner in PLURAL_ONLY if plural else SINGULAR_ONLY:
                    good, bad = noun.form(plural), noun.form(not plural)
                    if determiner == "a":
                        determiner = article(adjective or noun.singular)
                    text = f"{opening} {determiner} {adjective}[MASK]."
                    questions.append(Question(f"noun after determiner, {tag} noun", text, good, bad))
    return questions


def verb_questions(held_out: bool, rng: random.Random) -> list[Question]:
    """Verbs after noun subjects, alone and with a noun of the other number in between."""
    questions = []
    tag = "held-out" if held_out else "seen"
    animate = [noun for noun in NOUNS if noun.animate]
    for verb in VERBS:
        if is_held_out(verb) != held_out:
            continue
        for number in range(24 if held_out else 6):
            plural = bool(number % 2)
            subject, other = rng.sample(animate, 2)
            rest = f" the {rng.choice(NOUNS).form(rng.random() < 0.5)}" if verb in TRANSITIVE else ""
            good, bad = verb.form(plural), verb.form(not plural)
            simple = f"The {subject.form(plural)} [MASK]{rest}."
            between = (
                f"The {subject.form(plural)} {rng.choice(PREPOSITIONS)} the {other.form(not plural)} [MASK]{rest}."
            )
            questions.append(Question(f"verb, {tag} verb", simple, good, bad))
            questions.append(Question(f"verb across a distractor, {tag} verb", between, good, bad))
    return questions


def subject_questions(rng: random.Random) -> list[Question]:
    """Held-out nouns as subjects: forms of `be` across a distractor, and the noun itself asked for."""
    questions = []
    verbs: list[Verb] = [v for v in (*ANIMATE_INTRANSITIVE, *ANY_INTRANSITIVE) if not is_held_out(v)]
    for noun in _subjects(True):
        for plural in (False, True):
            other = rng.choice(NOUNS).form(not plural)
            start = f"The {noun.form(plural)} {rng.choice(PREPOSITIONS)} the {other}"
            for forms in (BE_PRESENT, BE_PAST):
                text = f"{start} [MASK] {rng.choice(ADJECTIVES)}."
                questions.append(
                    Question("is/are, was/were across a distractor", text, forms[plural], forms[not plural])
                )
            text = f"The [MASK] {rng.choice(PREPOSITIONS)} the {other} {rng.choice(verbs).form(plural)}."
            good, bad = noun.form(plural), noun.form(not plural)
            questions.append(Question("noun before distractor and verb, held-out noun", text, good, bad))
    return questions


def sample_questions(path: Path = SAMPLE / "agreement_pairs.jsonl") -> list[Question]:
    """The built-in minimal pairs, the differing word masked."""
    questions = []
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        good, bad = words_of(record["sentence_good"]), words_of(record["sentence_bad"])
        place = next(index for index, pair in enumerate(zip(good, bad, strict=True)) if pair[0] != pair[1])
        text = " ".join([*good[:place], "[MASK]", *good[place + 1 :]])
        questions.append(Question(f"built-in pairs, {record['UID']}", text, good[place], bad[place]))
    return questions


def fact_questions() -> list[Question]:
    """Every fact in every phrasing, the answer asked for over the whole vocabulary."""
    questions = []
    for fact in fact_sentences():
        tag = "unseen phrasing" if fact.held_out else "seen phrasing"
        questions.append(Question(f"facts, {fact.relation}, {tag}", fact.prompt, fact.answer))
    return questions


def all_questions(seed: int = 0) -> list[Question]:
    rng = random.Random(f"tiny-bert/questions/{seed}")
    return [
        *determiner_questions(True, rng),
        *determiner_questions(False, rng),
        *verb_questions(True, rng),
        *verb_questions(False, rng),
        *subject_questions(rng),
        *sample_questions(),
        *fact_questions(),
    ]


@dataclass(frozen=True)
class Score:
    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    def __add__(self, other: Score) -> Score:
        return Score(self.correct + other.correct, self.total + other.total)


def evaluate(model: BertForMaskedLM, tokenizer: BertTokenizer, seed: int = 0) -> dict[str, Score]:
    """Accuracy by kind of question, in the order of `all_questions`."""
    questions = all_questions(seed)
    probabilities = mask_probabilities(model, tokenizer, [question.text for question in questions])
    counts: dict[str, list[bool]] = defaultdict(list)
    for question, row in zip(questions, probabilities, strict=True):
        good = tokenizer.convert_tokens_to_ids(question.good)
        if question.bad is None:
            right = int(row.argmax()) == good
        else:
            right = bool(row[good] > row[tokenizer.convert_tokens_to_ids(question.bad)])
        counts[question.kind].append(right)
    return {kind: Score(sum(right), len(right)) for kind, right in counts.items()}


def total(scores: dict[str, Score], *parts: str) -> Score:
    """Sum of all kinds whose name holds every one of `parts`."""
    chosen = [score for kind, score in scores.items() if all(part in kind for part in parts)]
    return sum(chosen, Score(0, 0))


def learned_rates(model: BertForMaskedLM, tokenizer: BertTokenizer, seed: int = 0) -> dict[str, float]:
    """What the model holds the plural share of each word to be: P(word | plural noun) against
    P(word | singular noun) in `Carl cured [MASK] horses.`, averaged over nouns and openings."""
    rng = random.Random(f"tiny-bert/rates/{seed}")
    nouns = [noun for noun in _subjects(False) for _ in range(2)]
    openings = [f"{rng.choice(NAMES)} {rng.choice(TRANSITIVE).past}" for _ in nouns]
    mean = []
    for plural in (False, True):
        texts = [f"{opening} [MASK] {noun.form(plural)}." for opening, noun in zip(openings, nouns, strict=True)]
        mean.append(mask_probabilities(model, tokenizer, texts).mean(0))
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in DETERMINERS}
    # Number itself is not balanced to the last digit in the text; weigh the two sides as the text does.
    weight = sum(d.weight for d in DETERMINERS.values())
    plural_share = sum(d.weight * d.plural for d in DETERMINERS.values()) / weight
    return {
        word: float(plural_share * mean[1][i] / (plural_share * mean[1][i] + (1 - plural_share) * mean[0][i]))
        for word, i in ids.items()
    }
