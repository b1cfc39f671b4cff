"""What the report asks about: which pairs, and which of their prompts."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import rankdata

import kntools as kn
from kntools import analyses
from kntools.analyses.edit_result import EditConsistency
from kntools.analyses.prompt_group import PromptGroup, prompt_groups
from kntools.arguments import without_effect
from kntools.report import QUICK, Study, choices, edit_figures, word_figures
from kntools.report.page import PageTable

PARADIGM = "sample_determiner_noun_agreement_2"


def test_pairs_are_the_most_probable_ones_of_either_number() -> None:
    model = kn.load_model("tiny-bert")
    every = prompt_groups(model, PARADIGM, frames=3, limit=16, seed=0, known_only=True)
    chosen = choices.probable_pairs(model, PARADIGM, 4, 3, 0)

    def probability(group: PromptGroup) -> float:
        found = []
        for prompt in group.prompts:
            e = kn.encode(model, prompt)
            found.append(float(model(e.tokens)[0, e.position].softmax(-1)[e.target_ids[0]]))
        return sum(found) / len(found)

    assert [g.key for g in chosen] == [g.key for g in every if g in chosen]
    for number in ("singular", "plural"):
        mine = [g for g in chosen if g.label("number") == number]
        others = [g for g in every if g.label("number") == number and g not in mine]
        assert len(mine) == 2 and others
        with torch.no_grad():
            assert min(map(probability, mine)) >= max(map(probability, others))


def test_prompts_by_determiner_take_turns() -> None:
    def group(determiner: str, noun: str, count: int) -> PromptGroup:
        prompts = tuple(kn.Prompt(f"{n} {determiner}", f" {noun}") for n in range(count))
        return PromptGroup(noun, "p", "linguistic", prompts, (("determiner", determiner),))

    pairs = [group("those", "dogs", 3), group("this", "cat", 1), group("those", "cats", 2), group("this", "cow", 2)]
    found = choices.by_determiner(pairs, 3)
    assert {name: [(p.text[0], p.target.strip()) for p in some] for name, some in found.items()} == {
        "this": [("0", "cat"), ("0", "cow"), ("1", "cow")],
        "those": [("0", "dogs"), ("0", "cats"), ("1", "dogs")],
    }
    assert list(found) == ["this", "those"]


def test_every_data_set_of_figure_11_is_asked(smollm2: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KNTOOLS_DATA", raising=False)  # the built-in sample, as `make demo` has it
    monkeypatch.setattr(Study, "second_moment", None)
    monkeypatch.setattr(edit_figures, "_how", lambda study: "")
    asked: list[str] = []

    def left(model: Any, cases: Any, methods: Any, **options: Any) -> EditConsistency:
        """Answers to all cases but those of P36, as if they were those of a model."""
        asked.extend(case.key.split()[0] for case in cases)
        kept = [case for case in cases if not case.key.startswith("P36")]
        answer = {"p": 0.5, "first": True, "exact": True, "tokens": 1.0}
        before = tuple({"answers": {q.role: [answer] for q in case.questions}} for case in kept)
        why = {"one reason": 1, "another reason": 1}
        return EditConsistency(tuple(case.key for case in kept), before, {"rome": before}, why, {})

    monkeypatch.setattr(analyses, "edit_consistency", left)
    shown = edit_figures.consistency(Study(smollm2, replace(QUICK, among=12), out=tmp_path))
    assert asked == [name for name in ("P36", "P101", "counterfact") for _ in range(QUICK.edits)]
    [frame] = [block.frame for block in shown.blocks if isinstance(block, PageTable)]
    assert set(frame["data"]) == {"P101", "counterfact"}
    assert "Left out: P36 (no edit of it is left)." in shown.remarks
    assert f"{QUICK.edits} edits (1: one reason; 1: another reason)" in shown.remarks


def test_a_mistake_of_the_report_is_no_lack_of_data() -> None:
    with pytest.raises(ValueError, match=r"among=40 has no effect here; omit it"), choices.possible():
        without_effect("here", among=40)
    with pytest.raises(choices.NotPossible, match="no pairs"), choices.possible():
        raise ValueError("no pairs; give some")


@pytest.mark.parametrize("words", [4, 7])
def test_the_correlation_of_figure_6_is_tested_exactly(words: int) -> None:
    """p is the share of all orders with a correlation as strong, up to rounding; equal values share a rank."""
    draw = np.random.default_rng(words)
    frame = pd.DataFrame({"bias": draw.integers(0, 4, words).astype(float), "effect": draw.normal(size=words)})
    rho, p = word_figures._correlation(frame)
    ranks = [rankdata(frame[name]) for name in ("bias", "effect")]
    every = [np.corrcoef(order, ranks[1])[0, 1] for order in permutations(ranks[0])]
    assert rho == pytest.approx(np.corrcoef(*ranks)[0, 1])
    sides = [np.mean([sign * r >= sign * rho - 1e-9 for r in every]) for sign in (1, -1)]
    assert p == pytest.approx(min(1, 2 * min(sides)))
    assert all(np.isnan(word_figures._correlation(frame.assign(effect=1.0))))
