"""Rank-one edits of the real model."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.editing.changes import Change
from kntools.editing.rome_settings import TEMPLATES, RomeSettings
from kntools.editing.weight_edits import LayerEdit
from kntools.engine.answers import ask
from kntools.models.attachment import with_gradients
from tests import zoo
from tests.plain_rome import Plain

pytestmark = [pytest.mark.smollm2, pytest.mark.slow]
PROMPT = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")


def test_ottawa_becomes_rome_and_back(smollm2: Any) -> None:
    before = zoo.bits(smollm2)
    prompts = [
        kn.Prompt(PROMPT.text, " Rome"),
        kn.Prompt(PROMPT.text, " Ottawa"),
        kn.Prompt("Rome is the capital of", " Canada"),  # symmetric
        kn.Prompt("The Colosseum is located in the city of", " Rome"),  # unrelated
    ]
    questions = [kn.encode(smollm2, prompt, prepend_bos=False) for prompt in prompts]
    clean = ask(smollm2, questions)
    bare, few = kn.encode(smollm2, PROMPT, prepend_bos=False), RomeSettings(templates=TEMPLATES[:4])
    edit = kn.rome(smollm2, bare, " Rome", layer=8, settings=few)
    with edit.applied(smollm2):
        edited = ask(smollm2, questions)
    assert zoo.bits(smollm2) == before
    assert clean[1].exact and clean[0].probability < 0.01
    p = edited[0].probability
    assert edited[0].exact and p > 0.5 and p == pytest.approx(edit.after, abs=1e-4)
    assert not edited[1].exact
    assert not edited[2].exact, "the reverse does not follow from the edit"
    assert clean[3].exact
    assert ask(smollm2, questions) == clean


def test_the_first_steps_are_those_of_the_plain_loop(smollm2: Any) -> None:
    few = TEMPLATES[:4]
    bare = kn.encode(smollm2, PROMPT, prepend_bos=False)
    edit = kn.rome(smollm2, bare, " Rome", layer=5, settings=RomeSettings(templates=few, steps=3))
    _, curve, _, _ = with_gradients(smollm2, lambda: Plain(smollm2, PROMPT, " Rome", 5, few, False).run(3))
    ours, theirs = [s.log_probability for s in edit.steps], [c[0] for c in curve]
    assert ours[0] == pytest.approx(theirs[0], abs=1e-4)
    # Adam's first update is the sign of the gradient times lr. Where an entry is nothing but rounding, the order of a
    # sum decides, and with it the number of threads; test_rome.py compares every step where that does not happen.
    assert ours == pytest.approx(theirs, abs=0.05)
    assert ours[-1] - ours[0] > 1


CAPITALS = {
    "Canada": (" Ottawa", " Rome"),
    "France": (" Paris", " Madrid"),
    "Italy": (" Rome", " London"),
    "Japan": (" Tokyo", " Paris"),
    "Germany": (" Berlin", " Athens"),
    "Spain": (" Madrid", " Tokyo"),
    "Egypt": (" Cairo", " Berlin"),
    "Russia": (" Moscow", " Cairo"),
}


def test_eight_capitals_hold_together_where_their_plain_sum_does_not(smollm2: Any) -> None:
    prompts = [kn.Prompt(f"The capital of {s} is", own, subject=s) for s, (own, _) in CAPITALS.items()]
    targets = [new for _, new in CAPITALS.values()]
    asked = [kn.encode(smollm2, p, prepend_bos=False) for p in prompts]
    # One template and 14 steps: enough for each edit to hold, and what happens to their sum does not depend on more.
    settings = RomeSettings(templates=TEMPLATES[:1], steps=14)
    single = kn.rome(smollm2, asked, targets, layer=5, settings=settings)
    total = reduce(add, single)
    new = [replace(p, target=t) for p, t in zip(prompts, targets, strict=True)]
    asked = [kn.encode(smollm2, p, prepend_bos=False) for p in new]
    with total.applied(smollm2):
        held = [answer.first for answer in ask(smollm2, asked)]
    assert all(held)
    deltas = torch.stack([edit.delta for edit in single])
    plain = LayerEdit((Change(5, deltas.sum(0)),), "plain sum", total.provenance)
    with plain.applied(smollm2):
        assert sum(answer.first for answer in ask(smollm2, asked)) < 5
