"""Regressions of edit success on layer and tracing effect, against least squares with explicit dummies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.analyses import TracingAndEditing, rome_method, tracing_and_editing
from kntools.analyses.hase_regression import r_squared
from kntools.editing.rome_settings import RomeSettings
from tests import zoo
from tests.analyses.test_edit_consistency import cases

FEW = RomeSettings(steps=3, templates=["{}"])


def least_squares(columns: Tensor, y: Tensor) -> float:
    """R^2 by the normal equations: `columns` `[row column]` hold a constant, or dummies that add up to one."""
    fitted = columns @ torch.linalg.pinv(columns.T @ columns) @ columns.T @ y
    return 1 - float(((y - fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def columns_of(effect: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    facts, layers = effect.shape
    dummies = torch.eye(layers, dtype=torch.float64).repeat(facts, 1)
    ones = torch.ones(facts * layers, 1, dtype=torch.float64)
    x = effect.reshape(-1, 1)
    return dummies, torch.cat([ones, x], 1), torch.cat([dummies, x], 1)


@pytest.mark.parametrize("slope", [0.0, 0.7])
def test_r_squared_is_that_of_least_squares(slope: float) -> None:
    generator = torch.Generator().manual_seed(3)
    effect = torch.rand(9, 5, generator=generator, dtype=torch.float64)
    by_layer = torch.linspace(0, 1, 5, dtype=torch.float64)
    success = slope * effect + by_layer + 0.3 * torch.randn(9, 5, generator=generator, dtype=torch.float64)
    layer, alone, both = (least_squares(c, success.flatten()) for c in columns_of(effect))
    assert r_squared(success, effect).tolist() == pytest.approx([layer, alone, both, both - layer], abs=1e-10)
    constant = torch.full_like(effect, 0.4)
    assert r_squared(success, constant).tolist() == pytest.approx([layer, 0, layer, 0], abs=1e-10)
    frame = pd.DataFrame(
        [(f"f{n}", k, float(effect[n, k]), float(success[n, k])) for n in range(9) for k in range(5)],
        columns=["fact", "layer", "effect", "success"],
    )
    found = TracingAndEditing(frame, {"model": "hand-made"}).summary().set_index("success on")
    assert found["r2"].tolist() == pytest.approx([layer, alone, both, both - layer])
    gain = found.loc["gain"]
    assert 0 <= gain["low"] <= gain["high"] <= 1 and found["facts"].eq(9).all() and found["layers"].eq(5).all()


def test_r_squared_of_constants_and_of_small_effects() -> None:
    generator = torch.Generator().manual_seed(4)
    effect, success = torch.rand(2, 7, 3, generator=generator, dtype=torch.float64)
    assert r_squared(success, 1e-13 * effect).tolist() == pytest.approx(r_squared(success, effect).tolist())
    assert r_squared(torch.full_like(effect, 0.1), effect).isnan().all(), "there is nothing to explain"
    layers = torch.tensor([0.1, 0.7, 0.3], dtype=torch.float64).expand(7, 3)  # nothing is left within a layer
    assert r_squared(layers, effect)[[0, 2, 3]].tolist() == [1, 1, 0]
    assert r_squared(success, layers)[3] == 0


def test_effects_and_successes_are_those_of_plain_calls(tmp_path: Path) -> None:
    model, asked = zoo.fresh("llama"), cases(3)
    digest = zoo.bits(model)
    methods: dict[int, Any] = {n: rome_method(n, settings=FEW) for n in (0, 2)}
    run = tmp_path / "run.jsonl"
    found = tracing_and_editing(model, asked, methods, samples=2, run=run)
    assert zoo.bits(model) == digest

    def p(case: Any) -> float:
        e = kn.encode(model, kn.Prompt(case.prompt.text, case.target))
        return float(model(e.tokens)[0, -1].detach().softmax(-1)[e.target_ids[0]])

    expected = []
    for n, case in enumerate(asked):
        trace = kn.causal_trace(model, case.prompt, samples=2, seed=n)
        before = p(case)
        for layer in (0, 2):
            [edit] = methods[layer](model, [case.prompt], [case.target])
            with edit.applied(model):
                success = (p(case) - before) / (1 - before)
            expected.append((f"case {n}", layer, float(trace.effect[layer, trace.subject[-1]]), success))
    frame = found.to_frame()
    assert list(zip(frame["fact"], frame["layer"], strict=True)) == [row[:2] for row in expected]
    assert frame["effect"].tolist() == pytest.approx([row[2] for row in expected], abs=1e-5)
    assert frame["success"].tolist() == pytest.approx([row[3] for row in expected], abs=1e-5)
    files = {file: file.read_text() for file in tmp_path.glob("*.jsonl")}
    assert len(files) == 2
    assert tracing_and_editing(model, asked, methods, samples=2, run=run) == found
    assert {file: file.read_text() for file in tmp_path.glob("*.jsonl")} == files
    other = tracing_and_editing(model, asked[::-1], methods, samples=2, run=run).to_frame()
    trace = kn.causal_trace(model, asked[2].prompt, samples=2, seed=0)  # in another order, noise of another seed
    assert other["effect"].tolist()[:2] == pytest.approx(trace.effect[[0, 2], trace.subject[-1]].tolist(), abs=1e-5)
    with pytest.raises(ValueError, match="another run"):
        tracing_and_editing(model, asked, methods, samples=3, run=run)
    assert kn.load(found.save(tmp_path / "found.json")) == found and "gain" in found.describe()
    assert len(found.plot().data[0].x) == 6


def test_what_is_refused() -> None:
    model = zoo.tiny("llama")
    with pytest.raises(ValueError, match="a method for each layer"):
        tracing_and_editing(model, cases(3), {})
    for wrong, error in (({9: rome_method(1)}, IndexError), ({-1: rome_method(1)}, IndexError), ({"1": 0}, TypeError)):
        with pytest.raises(error, match="layer"):
            tracing_and_editing(model, cases(3), wrong)
    for settings in ({"kind": "mpl"}, {"samples": 0}, {"seed": "a"}):
        with pytest.raises((TypeError, ValueError), match=next(iter(settings))):
            tracing_and_editing(model, cases(3), {1: rome_method(1)}, **settings)
    with pytest.raises(ValueError, match=r"2 facts \(left out: none\), a regression needs 3; give more facts"):
        tracing_and_editing(model, cases(2), {1: rome_method(1, settings=FEW)}, samples=1)
