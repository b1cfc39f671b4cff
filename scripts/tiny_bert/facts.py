"""The world of facts: every row of the built-in tables whose answer is one word, in every phrasing."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

SAMPLE = Path(__file__).resolve().parents[2] / "kntools" / "data" / "sample"
RELATIONS = ("capital", "capital_of", "field", "occupation")


@dataclass(frozen=True)
class FactSentence:
    """One fact in one phrasing. `held_out` says that training never shows this text."""

    relation: str
    subject: str
    answer: str
    pattern: str
    held_out: bool = False

    @property
    def text(self) -> str:
        return self.pattern.replace("[X]", self.subject).replace("[Y]", self.answer)

    @property
    def prompt(self) -> str:
        return self.pattern.replace("[X]", self.subject).replace("[Y]", "[MASK]")


def _table(name: str) -> list[dict[str, str]]:
    with (SAMPLE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _pairs() -> dict[str, list[tuple[str, str]]]:
    countries, people = _table("countries.tsv"), _table("people.tsv")
    return {
        "capital": [(row["country"], row["capital"]) for row in countries],
        "capital_of": [(row["capital"], row["country"]) for row in countries],
        "field": [(row["name"], row["field"]) for row in people],
        "occupation": [(row["name"], row["occupation"]) for row in people],
    }


def fact_sentences() -> list[FactSentence]:
    """All facts in all phrasings. Each fact misses one phrasing in training, a different one from fact to
    fact; a text that two relations share (`Rome serves as the capital of Italy.`) is held out in both."""
    patterns: dict[str, list[str]] = {relation: [] for relation in RELATIONS}
    for row in _table("phrasings.tsv"):
        patterns[row["relation"]].append(row["pattern"])
    everything: list[FactSentence] = []
    held_out_texts: set[str] = set()
    for relation, pairs in _pairs().items():
        for index, (subject, answer) in enumerate(pairs):
            if " " in answer:
                continue
            missing = index % len(patterns[relation])
            for number, pattern in enumerate(patterns[relation]):
                sentence = FactSentence(relation, subject, answer, pattern)
                everything.append(sentence)
                if number == missing:
                    held_out_texts.add(sentence.text)
    return [FactSentence(s.relation, s.subject, s.answer, s.pattern, s.text in held_out_texts) for s in everything]
