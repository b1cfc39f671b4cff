"""A fact at a time: the first part of the report against plain hooks, and what its facts are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.report import QUICK, Study
from kntools.report import facts as module
from kntools.report.choices import NotPossible
from kntools.report.facts import FACTS, FactEffects, fact_effects, fact_prompts, facts
from kntools.report.page import Chart, PageTable
from tests import zoo

SIZE = replace(QUICK, facts=3, phrasings=4, draws=4)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(zoo.tiny("llama"), SIZE, tmp_path_factory.mktemp("facts"))


@pytest.fixture(scope="module")
def found(study: Study) -> FactEffects:
    return fact_effects(study)


def test_the_facts_are_real_and_asked_in_several_ways() -> None:
    assert len(FACTS) >= 6
    for fact in FACTS.values():
        answer, texts = fact["answer"], fact["texts"]
        assert len(set(texts)) == len(texts) >= 4
        assert all(answer not in text for text in texts)
        assert [p.target for p in fact_prompts(fact)] == [f" {answer}"] * len(texts)


def test_the_numbers_are_those_of_plain_hooks(study: Study, found: FactEffects) -> None:
    model, attributions = study.model, list(found.attributions.values())

    def mean_probability(fact: int, hooks: list[kn.Hook]) -> float:
        values = []
        for prompt in attributions[fact].prompts:
            encoded = kn.encode(model, prompt)
            with torch.no_grad():
                logits = model.run_with_hooks(encoded.tokens, fwd_hooks=hooks)
            values.append(float(logits[0, -1].softmax(-1)[encoded.target_ids[0]]))
        return sum(values) / len(values)

    assert len(attributions) == 3
    for i in range(3):
        assert float(found.clean[i]) == pytest.approx(mean_probability(i, []), abs=1e-5)
        top = kn.ablate_neurons(attributions[i].top(found.top))
        assert float(found.leading[i]) == pytest.approx(mean_probability(i, top), abs=1e-5)
        for j in range(3):
            off, twice = (f(kn.knowledge_neurons(attributions[i])) for f in (kn.ablate_neurons, kn.enhance_neurons))
            assert float(found.suppressed[i, j]) == pytest.approx(mean_probability(j, off), abs=1e-5)
            assert float(found.enhanced[i, j]) == pytest.approx(mean_probability(j, twice), abs=1e-5)
        tokens = kn.encode(model, attributions[i].prompts[0]).tokens
        said = [model.run_with_hooks(tokens, fwd_hooks=hooks)[0, -1].argmax() for hooks in ([], off, twice)]
        assert list(found.says[i]) == [model.tokenizer.decode([token]) for token in said]


def test_attributions_are_kept_to_the_last_bit(study: Study, found: FactEffects) -> None:
    name, att = list(found.attributions.items())[1]
    alone, again = kn.integrated_gradients(study.model, att.prompts), fact_effects(study)
    assert att.prompts == alone.prompts and torch.equal(att.scores, alone.scores)
    assert torch.equal(again.random, found.random)
    assert torch.equal(again.attributions[name].residual, att.residual)


def test_tables_hold_the_effects(study: Study, found: FactEffects) -> None:
    shown = facts(study)
    tables = {block.csv: block.frame for block in shown.blocks if isinstance(block, PageTable)}
    control, changes = (tables[f"tables/facts-{what}.csv"] for what in ("control", "interventions"))
    assert control["random off, mean"].tolist() == pytest.approx(found.random.mean(1).tolist(), rel=1e-5)
    for values, what in ((found.suppressed, "suppressed"), (found.enhanced, "enhanced")):
        for i, row in enumerate(values.tolist()):
            assert changes[what][i] == row[i]
            assert changes[f"others {what}"][i] == pytest.approx((sum(row) - row[i]) / (len(row) - 1), rel=1e-5)
    assert len(tables["tables/facts-prompts.csv"]) == 12 and len(tables["tables/facts-scores.csv"]) == 12 * 20
    assert len([block for block in shown.blocks if isinstance(block, Chart)]) == 7


def test_the_loss_of_few_facts_is_at_most_1(study: Study, found: FactEffects, monkeypatch: pytest.MonkeyPatch) -> None:
    """Student's interval of these three is -1.25 to -0.22."""
    few = replace(found, leading=torch.tensor([0.1, 0.5, 0.2]), random=torch.ones(3, 4))
    monkeypatch.setattr(module, "fact_effects", lambda study: few)
    assert "by -0.733 [-1.000, -0.216]" in facts(study).sentence


def test_facts_that_a_model_has_no_token_for_are_named(study: Study, found: FactEffects) -> None:
    one_token = []
    for name, fact in FACTS.items():
        try:
            [kn.encode(study.model, p) for p in fact_prompts(fact)]
            one_token.append(name)
        except ValueError:
            assert name in found.missing
    assert list(found.attributions) == one_token[:3] and found.missing
    assert "Left out" in facts(study).remarks


def test_a_masked_model_is_asked_at_its_mask(tmp_path: Path) -> None:
    study = Study(kn.load_model("tiny-bert"), replace(SIZE, facts=1, draws=1), tmp_path)
    [att] = fact_effects(study).attributions.values()
    assert (att.prompts[0].text, att.prompts[0].target) == ("The capital of Canada is [MASK].", "Ottawa")


def test_a_model_without_any_of_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FACTS", dict([list(FACTS.items())[4]]))
    with pytest.raises(NotPossible, match="one token"):
        facts(Study(zoo.tiny("llama"), SIZE, tmp_path))


@pytest.mark.slow
@pytest.mark.smollm2
def test_smollm2_knows_every_phrasing(smollm2: Any) -> None:
    """The answer is the first choice after every text, so the page shows facts that the model has."""
    for fact in FACTS.values():
        for prompt in fact_prompts(fact):
            encoded = kn.encode(smollm2, prompt)
            with torch.no_grad():
                logits = smollm2(encoded.tokens)[0, -1]
            assert int(logits.argmax()) == encoded.target_ids[0], prompt.text
