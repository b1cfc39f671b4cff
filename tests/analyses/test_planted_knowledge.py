"""Recall of planted neurons: 1 for a method that looks at the weights, chance for random ones, by hand for others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.analyses.method_comparison import RANDOM
from kntools.analyses.planted_knowledge import PlantedFacts, false_facts, planted_facts
from kntools.editing.planting import planted
from tests import zoo

FACTS = [kn.Prompt("The capital of Canada is", " Rome"), kn.Prompt("The capital of Japan is", " Paris")]


def looking_at_weights(model: Any) -> Any:
    """How much the output row of each neuron differs from what it is now."""
    before = [model.blocks[n].mlp.W_out.detach().clone() for n in range(model.cfg.n_layers)]

    def method(model: Any, prompt: kn.Prompt) -> kn.Attribution:
        moved = [(model.blocks[n].mlp.W_out.detach() - w).norm(dim=1) for n, w in enumerate(before)]
        return replace(kn.activation(model, prompt), scores=torch.stack(moved)[None])

    return method


def test_recall_of_the_weights_is_one_and_others_are_counted_by_hand(tmp_path: Path) -> None:
    model = zoo.fresh("llama")
    methods = {"weights": looking_at_weights(model), "gradient": kn.activation_x_gradient}
    how: dict[str, Any] = {"methods": methods, "count": 6, "draws": 2, "steps": 60, "until": 0.05}
    found = planted_facts(model, FACTS, **how, run=tmp_path / "run")
    assert len(found.rows) == 2 * 2 * 3 and {len(row["ranks"]) for row in found.rows} == {6}
    for row in found.rows:
        prompt = next(p for p in FACTS if p.text == row["text"])
        neurons = [kn.Neuron(*pair) for pair in row["planted"]]
        e = kn.encode(model, prompt)
        assert row["before"] == pytest.approx(float(kn.sweep(model, e, [()]).softmax(-1)[0, e.target_ids[0]]))
        if row["method"] == "weights":
            assert sorted(row["ranks"]) == [1, 2, 3, 4, 5, 6]
        if row["method"] == "gradient":
            with planted(model, prompt, neurons, steps=60, until=0.05) as learned:
                scores = kn.activation_x_gradient(model, prompt).scores[0].flatten()
            assert (learned.probability, learned.steps) == (row["after"], row["steps"])
            expected = [1 + int((scores > scores[n.layer * 48 + n.index]).sum()) for n in neurons]
            assert row["ranks"] == expected
    draws = {tuple(map(tuple, row["planted"])) for row in found.rows}
    assert len(draws) == 4 and all(len(set(neurons)) == 6 for neurons in draws)
    table = found.recall(12).set_index("method")
    for method, own in found.learned().groupby("method"):
        assert table.loc[method, "recall"] == pytest.approx(
            sum(r <= 12 for ranks in own["ranks"] for r in ranks) / len(own) / 6
        )
    assert table.loc["weights", "recall"] == 1 and (table["chance"] == 12 / 192).all() and RANDOM in table.index
    with pytest.raises(ValueError, match="another run"):
        planted_facts(model, FACTS, **{**how, "count": 5}, run=tmp_path / "run")

    def never(model: Any, prompt: kn.Prompt) -> kn.Attribution:
        raise AssertionError("it is finished")

    again = planted_facts(model, FACTS, **{**how, "methods": dict.fromkeys(methods, never)}, run=tmp_path / "run")
    assert again.frame.equals(found.frame) and list(again.curve()["k"].unique()) == [6, 12, 30, 60, 120]
    assert kn.load(again.save(tmp_path / "a.json")).recall().equals(again.recall()) and again.plot().data


def test_facts_that_were_not_learned_do_not_count() -> None:
    rows = [
        {"text": text, "method": m, "after": after, "ranks": ranks}
        for text, after, ranks in (("a", 0.99, [1, 50]), ("b", 0.2, [1, 2]))
        for m in ("x", RANDOM)
    ]
    found = PlantedFacts.of(rows, {"model": "m"}, count=2, neurons=100, until=0.9)
    assert found.recall()["recall"].tolist() == [0.5, 0.5] and found.recall()["n"].tolist() == [1, 1]
    assert "1 of 2 facts learned by 2 of 100 neurons" in found.describe()


def test_false_facts_have_answers_of_other_facts() -> None:
    model = kn.load_model("tiny-bert")
    prompts = false_facts("P36", model, limit=8, path="sample")
    true = {p.text: p.target for p in kn.data.pararel("P36", path="sample").prompts(model)}
    assert len(prompts) == 8 and all(true[p.text] != p.target and p.target in true.values() for p in prompts)
    assert prompts == false_facts("P36", model, limit=8, path="sample")
    assert prompts != false_facts("P36", model, limit=8, path="sample", seed=1)
    with pytest.raises(ValueError, match="no two facts"):
        false_facts("P36", model, limit=1, path="sample")


def test_what_cannot_be() -> None:
    model = zoo.tiny("llama")
    for prompts, more in (([], {}), (FACTS, {"count": 0}), (FACTS, {"count": 97}), (FACTS, {"draws": 0})):
        with pytest.raises(ValueError):
            planted_facts(model, prompts, methods={"activation": kn.activation}, **more)
