"""A fact at a time: the first part of the report against plain hooks, and what its facts are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.report import QUICK, Study
from kntools.report.choices import NotPossible
from kntools.report.fact_effects import FactEffects, fact_effects
from kntools.report.fact_figure import facts
from kntools.report.facts import FACTS
from kntools.report.shown import Numbers, Picture
from tests import zoo

SIZE = replace(QUICK, facts=3, phrasings=4, draws=4)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(zoo.tiny("llama"), SIZE, tmp_path_factory.mktemp("facts"), prepend_bos=False, progress=False)


@pytest.fixture(scope="module")
def found(study: Study) -> FactEffects:
    return fact_effects(study)


def test_the_facts_are_real_and_asked_in_several_ways() -> None:
    assert len(FACTS) >= 6
    for fact in FACTS:
        assert len(set(fact.texts)) == len(fact.texts) >= 4
        assert fact.target.startswith(" ")
        assert all(fact.target.strip() not in text for text in fact.texts)


def test_the_numbers_are_those_of_plain_hooks(study: Study, found: FactEffects) -> None:
    model = study.model

    def mean_probability(fact: int, hooks: list[kn.Hook]) -> float:
        values = []
        for prompt in found.facts[fact].prompts:
            encoded = kn.encode(model, prompt, prepend_bos=False)
            with torch.no_grad():
                logits = model.run_with_hooks(encoded.tokens, fwd_hooks=hooks)
            values.append(float(logits[0, -1].softmax(-1)[encoded.target_ids[0]]))
        return sum(values) / len(values)

    assert len(found.facts) == 3
    for i in range(3):
        assert float(found.clean[i]) == pytest.approx(mean_probability(i, []), abs=1e-5)
        top = kn.ablate_neurons(found.parts[i].top(found.top))
        assert float(found.leading[i]) == pytest.approx(mean_probability(i, top), abs=1e-5)
        for j in range(3):
            off, twice = (f(found.neurons[i]) for f in (kn.ablate_neurons, kn.enhance_neurons))
            assert float(found.suppressed[i, j]) == pytest.approx(mean_probability(j, off), abs=1e-5)
            assert float(found.enhanced[i, j]) == pytest.approx(mean_probability(j, twice), abs=1e-5)


def test_attributions_are_kept_to_the_last_bit(study: Study, found: FactEffects) -> None:
    alone = kn.integrated_gradients(study.model, found.facts[1].prompts, prepend_bos=False, progress=False)
    assert found.parts[1].prompts == alone.prompts
    assert torch.equal(found.parts[1].scores, alone.scores)
    again = fact_effects(study)
    assert torch.equal(again.random, found.random) and torch.equal(again.parts[2].residual, found.parts[2].residual)


def test_what_is_said_is_what_the_tables_hold(study: Study, found: FactEffects) -> None:
    shown = facts(study)
    tables = {part.name: part.frame for part in shown.parts if isinstance(part, Numbers)}
    control = tables["facts-control"]
    gain = (control["random off, mean"] - control[f"top {found.top} off"]).mean()
    assert f"by {gain:.3f} [" in shown.finding
    below = int((control[f"top {found.top} off"] < control["lowest"]).sum())
    assert f"in {below} of 3 facts by more than every random draw" in shown.finding
    assert len(tables["facts-prompts"]) == 12 and len(tables["facts-scores"]) == 12 * 20
    assert len([part for part in shown.parts if isinstance(part, Picture)]) == 7


def test_facts_that_a_model_has_no_token_for_are_named(study: Study, found: FactEffects) -> None:
    one_token = []
    for fact in FACTS:
        try:
            [kn.encode(study.model, p) for p in fact.prompts()]
            one_token.append(fact.name)
        except ValueError:
            assert fact.name in found.missing
    assert [fact.name for fact in found.facts] == one_token[:3] and found.missing
    assert "Left out" in facts(study).notes[0]


def test_a_masked_model_is_asked_at_its_mask(tmp_path: Path) -> None:
    study = Study(kn.load_model("tiny-bert"), replace(SIZE, facts=1, draws=1), tmp_path, progress=False)
    [fact] = fact_effects(study).facts
    assert fact.prompts[0].text == "The capital of Canada is [MASK]."


def test_a_model_without_any_of_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kntools.report import fact_effects as module

    monkeypatch.setattr(module, "FACTS", FACTS[4:5])
    with pytest.raises(NotPossible, match="one token"):
        facts(Study(zoo.tiny("llama"), SIZE, tmp_path, progress=False))


@pytest.mark.slow
@pytest.mark.smollm2
def test_smollm2_knows_every_phrasing(smollm2: Any) -> None:
    """The answer is the first choice after every text, so the page shows facts that the model has."""
    for fact in FACTS:
        for prompt in fact.prompts():
            encoded = kn.encode(smollm2, prompt, prepend_bos=False)
            with torch.no_grad():
                logits = smollm2(encoded.tokens)[0, -1]
            assert int(logits.argmax()) == encoded.target_ids[0], prompt.text
