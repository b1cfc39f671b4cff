"""The forgetting curve against edits that are applied by hand."""

from __future__ import annotations

import math
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import kntools as kn
from kntools.analyses import Continuations, editors, fine_tune_method, forgetting_curve
from kntools.analyses.forgetting import ORDERS
from kntools.editing.rome_settings import RomeSettings
from tests import zoo
from tests.analyses.test_edit_consistency import cases
from tests.analyses.test_edit_measures import perplexity
from tests.plain_rome import text_keys

FEW = RomeSettings(steps=3, templates=["{}"])
TEXTS = (zoo.SENTENCES[1],)
HOW = Continuations(answer=0, unrelated=TEXTS)


@torch.no_grad()
def p(model: Any, text: str, answer: str) -> float:
    e = kn.encode(model, kn.Prompt(text, answer))
    return float(model(e.tokens)[0, -1].softmax(-1)[e.target_ids[0]])


def test_each_state_is_that_of_edits_applied_by_hand(tmp_path: Path) -> None:
    model, c = zoo.fresh("llama"), text_keys(zoo.fresh("llama"), 1)
    digest, asked = zoo.bits(model), cases(3)
    how = editors(model, ["rome", "emmet"], layer=1, second_moment=c, settings=FEW)
    run = tmp_path / "run.jsonl"
    found = forgetting_curve(model, asked, how, counts=[1, 3], continuations=HOW, run=run)
    assert zoo.bits(model) == digest
    table = found.to_frame().set_index(["editor", "order", "edits", "score"])["value"]

    def now() -> tuple[float, float]:
        return sum(p(model, case.prompt.text, case.target) for case in asked) / 3, perplexity(model, TEXTS)

    by_hand: dict[tuple[str, str], tuple[float, float]] = {
        ("before", "at once"): now(),
        ("before", "in sequence"): now(),
    }
    prompts, targets = [case.prompt for case in asked], [case.target for case in asked]
    with ExitStack() as stack:
        for edit in kn.rome(model, prompts, targets, layer=1, second_moment=c, settings=FEW):
            stack.enter_context(edit.applied(model))
        by_hand["rome", "at once"] = now()
    with kn.emmet(model, prompts, targets, layers=1, second_moments=c, settings=FEW).applied(model):
        by_hand["emmet", "at once"] = now()
    for name in ("rome", "emmet"):
        with ExitStack() as stack:
            for prompt, target in zip(prompts, targets, strict=True):
                if name == "rome":
                    edit = kn.rome(model, prompt, target, layer=1, second_moment=c, settings=FEW)
                else:
                    edit = kn.emmet(model, prompt, target, layers=1, second_moments=c, settings=FEW)
                stack.enter_context(edit.applied(model))
            by_hand[name, "in sequence"] = now()
    for (editor, order), (reliability, read) in by_hand.items():
        assert table[editor, order, 3, "reliability, p"] == pytest.approx(reliability, rel=1e-3, abs=1e-6)
        assert table[editor, order, 3, "perplexity"] == pytest.approx(read, rel=1e-3)
    assert table["rome", "at once", 1, "reliability, p"] == pytest.approx(
        table["rome", "in sequence", 1, "reliability, p"], rel=1e-3
    )
    assert by_hand["rome", "at once"][1] != pytest.approx(by_hand["emmet", "at once"][1], rel=1e-4)
    for order in ("at once", "in sequence"):
        one = forgetting_curve(model, asked, how, counts=[1, 3], orders=[order], continuations=HOW).to_frame()
        both = found.to_frame()
        pd.testing.assert_frame_equal(one, both[both["order"] == order].reset_index(drop=True))
    twice = forgetting_curve(model, asked, how, counts=[1, 1], orders=["at once"] * 2, continuations=HOW).to_frame()
    assert not twice.duplicated(["editor", "order", "edits", "score"]).any()
    lines = run.read_text()
    assert forgetting_curve(model, asked, how, counts=[1, 3], continuations=HOW, run=run) == found
    assert run.read_text() == lines  # nothing is done twice
    again = kn.load(found.save(tmp_path / "curve.json"))
    assert again == found and "reliability, exact" in found.summary() and len(found.plot(score="perplexity").data) >= 6


def test_edits_that_cannot_be_made_are_counted() -> None:
    model, asked = zoo.fresh("llama"), cases(2)

    def some(model: Any, prompts: Any, targets: Any) -> Any:
        if asked[1].prompt in prompts:
            raise ValueError("not this one")
        return fine_tune_method(1, steps=2)(model, prompts, targets)

    found = forgetting_curve(model, asked, {"some": some}, counts=[2], continuations=HOW).to_frame()
    assert set(found[found["editor"] == "some"]["failed"]) == {1} and set(found["edits"]) == {2}
    wide = {"threshold": 0.0, "second_moment": text_keys(model, 1), "layer": 1, "settings": FEW}
    found = forgetting_curve(
        model, asked, editors(model, ["alpha_edit"], **wide), counts=[2], continuations=HOW
    ).to_frame()
    values = found[found["score"] == "perplexity"].set_index(["editor", "order"])
    assert set(values.loc["alpha_edit", "failed"]) == {2}
    assert values.loc[("alpha_edit", "at once"), "value"] == values.loc[("before", "at once"), "value"]


@pytest.mark.parametrize("order", ORDERS)
def test_a_method_whose_edits_are_nan_is_not_one_that_failed(order: Any) -> None:
    model = zoo.fresh("llama")
    digest = zoo.bits(model)

    def broken(model: Any, prompts: Any, targets: Any) -> Any:
        edits = kn.rome(model, prompts, targets, layer=1, settings=FEW)
        return [replace(edit, right=edit.right * math.nan) for edit in edits]

    with pytest.raises(FloatingPointError, match="nan"):
        forgetting_curve(model, cases(2), {"broken": broken}, counts=[2], orders=[order], continuations=HOW)
    assert zoo.bits(model) == digest


def test_a_change_that_two_facts_need_is_made_once() -> None:
    model = zoo.fresh("llama")
    digest = zoo.bits(model)

    def erase(model: Any, prompts: Any, targets: Any) -> Any:
        return [kn.erase_values(model, [(1, 2)]) for _ in prompts]

    found = forgetting_curve(model, cases(2), {"erase": erase}, counts=[2], continuations=HOW).to_frame()
    values = found[found["score"] == "perplexity"].set_index(["editor", "order"])["value"]
    assert zoo.bits(model) == digest and set(found["failed"]) == {0}
    with kn.erase_values(model, [(1, 2)]).applied(model):
        expected = perplexity(model, TEXTS)
    assert values["erase", "at once"] == values["erase", "in sequence"] == pytest.approx(expected, rel=1e-5)


def test_what_is_refused() -> None:
    model = zoo.tiny("llama")
    for counts in ([], [0], [3], [2.5], 2):
        with pytest.raises((TypeError, ValueError), match="counts"):
            forgetting_curve(model, cases(2), ["rome"], counts=counts, layer=1)
    for orders, problem in ((["at last"], "'at once', 'in sequence'"), ([], "orders is empty")):
        with pytest.raises(ValueError, match=problem):
            forgetting_curve(model, cases(2), ["rome"], counts=[1], orders=orders, layer=1)
    with pytest.raises(ValueError, match="no cases"):
        forgetting_curve(model, [], ["rome"], counts=[1], layer=1)
    with pytest.raises(ValueError, match="by name"):
        forgetting_curve(model, cases(2), {"x": fine_tune_method(1)}, layer=1)
    assert math.isfinite(HOW.perplexities(model, [()])[0])


def test_a_run_of_facts_with_other_answers_is_another_run(tmp_path: Path) -> None:
    model, [case] = zoo.fresh("llama"), cases(1)
    tuned = {"ft": fine_tune_method(1, steps=1)}
    for asked in (case, replace(case, target=" Oslo")):
        with nullcontext() if asked is case else pytest.raises(ValueError, match="another run"):
            forgetting_curve(model, [asked], tuned, counts=[1], continuations=HOW, run=tmp_path / "run")
