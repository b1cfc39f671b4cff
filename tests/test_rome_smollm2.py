"""Rank-one edits of the real model."""

from __future__ import annotations

from typing import Any

import pytest

import kntools as kn
from kntools.analyses.edit_cases import Question
from kntools.analyses.edit_scores import ask
from kntools.editing.rome_rows import TEMPLATES
from kntools.models import adapter
from tests import zoo
from tests.test_rome import Plain

pytestmark = [pytest.mark.smollm2, pytest.mark.slow]
PROMPT = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")


def test_ottawa_becomes_rome_and_back(smollm2: Any) -> None:
    before = zoo.bits(smollm2)
    questions = [
        Question("edited", PROMPT.text, " Rome"),
        Question("edited", PROMPT.text, " Ottawa"),
        Question("symmetric", "Rome is the capital of", " Canada"),
        Question("unrelated", "The Colosseum is located in the city of", " Rome"),
    ]
    clean = ask(smollm2, questions, prepend_bos=False)
    edit = kn.rome(smollm2, PROMPT, " Rome", layer=8, prepend_bos=False)
    with edit.applied(smollm2):
        edited = ask(smollm2, questions, prepend_bos=False)
    assert zoo.bits(smollm2) == before
    assert clean[1].exact and clean[0].p < 0.01
    assert edited[0].exact and edited[0].p > 0.5 and edited[0].p == pytest.approx(edit.after, abs=1e-4)
    assert not edited[1].exact
    assert not edited[2].exact, "the reverse does not follow from the edit"
    assert clean[3].exact
    assert ask(smollm2, questions, prepend_bos=False) == clean


def test_the_first_steps_are_those_of_the_plain_loop(smollm2: Any) -> None:
    few = TEMPLATES[:4]
    edit = kn.rome(smollm2, PROMPT, " Rome", layer=5, templates=few, steps=3, prepend_bos=False)
    with adapter.frozen_parameters(smollm2):
        _, curve, _, _ = Plain(smollm2, PROMPT, " Rome", 5, few, False).run(3)
    ours, theirs = [s.log_probability for s in edit.steps], [c[0] for c in curve]
    assert ours[0] == pytest.approx(theirs[0], abs=1e-4)
    # Adam's first update is the sign of the gradient times lr. Where an entry is nothing but rounding, the order of a
    # sum decides, and with it the number of threads; tests/test_rome.py compares every step where that does not happen.
    assert ours == pytest.approx(theirs, abs=0.05)
    assert ours[-1] - ours[0] > 1
