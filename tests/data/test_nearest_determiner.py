"""Of two determiners the nearest to the noun decides."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from kntools import data
from kntools.analyses.fig06_cooccurrence_bias import count_beside
from kntools.analyses.prompt_group import prompt_groups
from kntools.analyses.words import noun_prompts
from tests import planted
from tests.data.test_skipped_reasons import write_lines


def noun_pair(good: str, bad: str, paradigm: str = "determiner_noun_agreement_1") -> data.MinimalPair:
    return data.MinimalPair(good, bad, paradigm, 0, "morphology", "determiner_noun_agreement")


@pytest.mark.parametrize(
    ("good", "bad", "determiner", "number"),
    [
        ("That dog jumps over those books.", "That dog jumps over those book.", "those", "plural"),
        ("Those people think about this book.", "Those people think about this books.", "this", "singular"),
        ("Those people and these people see that old book.", "Those people and these people see that old books.",
         "that", "singular"),
        ("This dog sees those out in the open books by this table.",
         "This dog sees those out in the open book by this table.", "those", "plural"),
        ("That dog jumps over these books.", "That dog jumps over this books.", "these", "plural"),  # it differs itself
    ],
)  # fmt: skip
def test_the_nearest_determiner_before_the_noun_decides(good: str, bad: str, determiner: str, number: str) -> None:
    pair = noun_pair(good, bad)
    assert (data.determiner(pair), data.number(pair)) == (determiner, number)


TWO = [
    ("That dog jumps over those books.", "That dog jumps over those book."),
    ("Those people think about this book.", "Those people think about this books."),
    ("That cat and those people.", "That cat and those cat."),
    ("Those people and that cat.", "Those people and that people."),
    ("This book and this book.", "This book and this books."),  # its determiner stands twice: which one is not known
]


def two_determiners(folder: Path) -> Path:
    rows = [
        {"sentence_good": good, "sentence_bad": bad, "UID": "determiner_noun_agreement_1", "pair_id": i,
         "field": "morphology", "linguistics_term": "determiner_noun_agreement"} for i, (good, bad) in enumerate(TWO)
    ]  # fmt: skip
    return write_lines(folder / "determiner_noun_agreement_1.jsonl", rows)


def test_a_slot_takes_the_place_of_the_nearest_determiner(tmp_path: Path) -> None:
    found = noun_prompts(planted.cached(), "determiner_noun_agreement_1", path=two_determiners(tmp_path))
    assert {number: {(p.text, p.target) for p in some} for number, some in found.items()} == {
        "plural": {("That dog jumps over {}", " books"), ("That cat and {}", " people")},
        "singular": {("Those people think about {}", " book"), ("Those people and {}", " cat")},
    }


def test_a_pair_is_the_noun_and_its_nearest_determiner(tmp_path: Path) -> None:
    path = two_determiners(tmp_path)
    found = prompt_groups(planted.cached(), "determiner_noun_agreement_1", frames=5, least=1, path=path)
    labels = {g.key: (g.label("determiner"), g.label("noun"), g.label("number")) for g in found}
    assert labels == {
        "those books": ("those", "books", "plural"), "this book": ("this", "book", "singular"),
        "those people": ("those", "people", "plural"), "that cat": ("that", "cat", "singular"),
    }  # fmt: skip
    starts = {"That dog jumps over", "Those people think about", "That cat and", "Those people and", "This book and"}
    for group in found:
        assert {p.text for p in group.prompts} == {f"{start} {group.label('determiner')}" for start in starts}
        assert {p.target for p in group.prompts} == {f" {group.label('noun')}"}


def test_frames_agree_with_the_word_they_are_about() -> None:
    """By the tables of the language: which forms are plural is not read from the frame."""
    plural = {"these", "those", "are", "were"}
    for frame in data.agreement_frames():
        number = "plural" if frame.subject in plural or frame.target in plural else "singular"
        assert (frame.number, data.number(frame)) == (number, number)
        if frame.kind == "determiner_noun":
            demonstratives = [w for w in frame.before.split() if w in ("this", "that", "these", "those")]
            assert data.determiner(frame) == demonstratives[-1] == frame.before.split()[-2]
            assert frame.target.endswith("s") == (number == "plural") and frame.foil.endswith("s") != (
                number == "plural"
            )
        else:
            assert data.determiner(frame) is None
            assert frame.before.startswith(frame.subject) and frame.before.split()[-1] not in frame.subject


def test_the_nearest_noun_decides_what_a_word_stands_beside() -> None:
    nouns = {"horse": "singular", "doors": "plural", "books": "plural", "man": "singular"}
    texts = ["some horse doors", "all doors man", "all old books", "some . books"]
    counts = count_beside(texts, ["some", "all"], nouns)
    assert counts == {"all": Counter(plural=2, singular=0), "some": Counter(plural=0, singular=1)}
