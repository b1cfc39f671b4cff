"""Layers with different numbers of neurons, or none: scores are those of a plain loop, and no other neuron is named."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kntools as kn
from kntools.analyses.fig01_attribution_profile import attribution_profile
from kntools.analyses.neuron_search import ADAPTIVE, shuffled_neurons
from kntools.attribution.random_neurons import random_like
from kntools.editing.rome_settings import RomeSettings, layer_for
from tests import zoo
from tests.attribution.test_attribution import reference
from tests.loop import one_by_one

PROMPTS = [
    kn.Prompt(f"The capital of {a} is", f" {b}", subject=a) for a, b in (("Canada", "Ottawa"), ("France", "Paris"))
]
WIDTHS = {"ragged": (48, 20, 48, 48), "deepseek3": (48, 0, 0), "qwen3_next": (48, 0, 48, 0)}


@cache
def model_of(name: str) -> Any:
    return zoo.ragged() if name == "ragged" else zoo.tiny(name)


@cache
def attribution(name: str) -> kn.Attribution:
    return kn.integrated_gradients(model_of(name), PROMPTS, rule="midpoint", steps=4)


def neurons_of(name: str) -> set[kn.Neuron]:
    return {kn.Neuron(layer, i) for layer, width in enumerate(WIDTHS[name]) for i in range(width)}


RULES: dict[str, tuple[Callable[..., kn.Attribution], list[float]]] = {
    "midpoint": (
        lambda *a, **k: kn.integrated_gradients(*a, rule="midpoint", steps=4, **k),
        [0.125, 0.375, 0.625, 0.875],
    ),
    "activation_x_gradient": (kn.activation_x_gradient, [1.0]),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("site", ["mlp.hook_post", "mlp.hook_pre"])
@pytest.mark.parametrize("name", WIDTHS)
def test_scores_are_those_of_the_plain_loop(name: str, site: str, rule: str) -> None:
    model, (function, gammas) = model_of(name), RULES[rule]
    att = function(model, PROMPTS, site=site)
    assert att.widths == WIDTHS[name] and att.scores.shape == (2, len(WIDTHS[name]), 48)
    for p, prompt in enumerate(PROMPTS):
        for layer, width in enumerate(WIDTHS[name]):
            if width:
                expected = reference(model, prompt, layer, gammas, [1 / len(gammas)] * len(gammas), site=site)
                torch.testing.assert_close(att.scores[p, layer, :width].double(), expected, atol=1e-6, rtol=1e-3)
            assert not att.scores[p, layer, width:].any()


@pytest.mark.parametrize("name", WIDTHS)
def test_layers_are_complete(name: str) -> None:
    att = kn.integrated_gradients(model_of(name), PROMPTS)
    has = torch.tensor(WIDTHS[name]) > 0
    if name == "ragged":  # experts are switched along the path, where P leaps and has no derivative
        assert (att.residual.abs() <= 0.01 * att.gap.abs().clamp(min=0.05)).all()
    torch.testing.assert_close(att.scores.sum(-1), att.gap + att.residual)
    assert (att.nodes[:, has] > 0).all() and not att.nodes[:, ~has].any() and not att.gap[:, ~has].any()


@pytest.mark.parametrize("name", WIDTHS)
def test_only_neurons_that_exist_are_named(name: str, tmp_path: Path) -> None:
    att, exist = attribution(name), neurons_of(name)
    assert set(att.top(len(exist))) == set(att.top(len(exist), prompt=1)) == exist
    with pytest.raises(ValueError, match=f"there are {len(exist)} neurons"):
        att.top(len(exist) + 1)
    frame = att.to_frame()
    assert len(frame) == 2 * len(exist)
    assert {kn.Neuron(*pair) for pair in zip(frame.layer, frame.neuron, strict=True)} == exist
    assert kn.load(att.save(tmp_path / "a.safetensors")) == att
    generator = torch.Generator().manual_seed(0)
    layer = min(n for n, width in enumerate(WIDTHS[name]) if width == min(filter(None, WIDTHS[name])))
    some = [kn.Neuron(layer, i) for i in range(10)]
    drawn = [random_like(some, att.widths, generator) for _ in range(20)]
    assert {n for draw in drawn for n in draw} <= exist - set(some)
    assert set(kn.knowledge_neurons(att, threshold=1e-9, share=0.1, target_count=(0, 999)).neurons) <= exist
    with pytest.raises(IndexError, match="does not exist"):
        att.score_of(kn.Neuron(1, WIDTHS[name][1]))
    assert f"{len(exist)} neurons" in repr(att) and ("others have none" in repr(att)) == (0 in WIDTHS[name])


@pytest.mark.parametrize("mode", ["leading", "ranked", "bins"])
@pytest.mark.parametrize("name", WIDTHS)
def test_plots_leave_the_cells_of_no_neuron_empty(name: str, mode: str) -> None:
    att, exist = attribution(name), neurons_of(name)
    [trace] = [t for t in att.plot(mode=mode, columns=30).data if t.type == "heatmap"]
    mean, ranks = att.scores.mean(0), []
    for texts, values, places in zip(trace.text, trace.z, trace.customdata, strict=True):
        for text, value, rank in zip(texts, values, places, strict=True):
            if np.isnan(value):
                continue
            neuron = kn.Neuron.parse(text)
            assert neuron in exist and value == pytest.approx(float(mean[neuron.layer, neuron.index]))
            ranks.append(rank)
    shown = {"leading": 30, "ranked": 30, "bins": 30}[mode]
    least = sum(min(shown, width) for width in WIDTHS[name] if width == 48)
    assert len(ranks) >= least and max(ranks) <= len(exist)
    bars = kn.plots.neuron_bars(att, k=999).data[0]
    assert {kn.Neuron.parse(text) for text in bars.y} == exist


def test_analyses_of_layers_of_different_width() -> None:
    att = attribution("ragged")
    shuffled = shuffled_neurons(att.scores, 0, att.widths)
    assert not shuffled[:, 1, 20:].any() and not torch.equal(shuffled, att.scores)
    torch.testing.assert_close(shuffled.sort(-1).values, att.scores.sort(-1).values, atol=0, rtol=0)
    profile = attribution_profile(model_of("ragged"), {"Ottawa": PROMPTS}, settings=ADAPTIVE)
    assert set(profile.leading(164)) == neurons_of("ragged")
    with pytest.raises(ValueError, match="there are 164"):
        profile.leading(165)


@pytest.mark.parametrize(("name", "layer"), [("ragged", 1), ("qwen3_next", 2)])
def test_scans_edits_and_patches_of_these_layers(name: str, layer: int) -> None:
    model, width = model_of(name), WIDTHS[name][layer]
    e = kn.encode(model, PROMPTS[0])
    scan = kn.neuron_scan(model, PROMPTS[0], layers=layer)
    runs = [kn.ablate_neurons([(layer, i)]) for i in range(width)]
    expected = one_by_one(model, e.tokens, runs)[:, e.target_ids[0]]
    torch.testing.assert_close(scan.values[0], expected, atol=1e-6, rtol=1e-4)
    scan.agreement(kn.activation(model, PROMPTS[0]))
    with pytest.raises(IndexError, match=f"layer {layer} has neurons 0 to {width - 1}"):
        kn.neuron_scan(model, PROMPTS[0], [(layer, width)])
    moment = kn.second_moment(model, [0, layer], zoo.SENTENCES * 3)
    assert moment[layer].matrix.shape == (width, width) and moment[0].matrix.shape == (48, 48)
    edit = kn.rome(model, PROMPTS[0], " Rome", layer=layer, settings=RomeSettings(templates=("{}",), steps=3))
    assert edit.delta.shape == (width, zoo.D_MODEL)
    erased = kn.erase_values(model, [(layer, width - 1)])
    ablated = kn.ablate_neurons([(layer, width - 1)], pos=None)
    with erased.applied(model):
        torch.testing.assert_close(
            model(e.tokens), model.run_with_hooks(e.tokens, fwd_hooks=ablated), atol=1e-4, rtol=1e-4
        )


def test_patching_neurons_takes_layers_of_one_width() -> None:
    model, clean = model_of("ragged"), PROMPTS[0]
    with pytest.raises(ValueError, match=r"different numbers of neurons, \{0: 48, 1: 20"):
        kn.activation_patch(model, clean, PROMPTS[1].text, site="mlp.hook_post", neurons=True, positions=-1)
    grid = kn.activation_patch(
        model, clean, PROMPTS[1].text, site="mlp.hook_post", neurons=True, positions=-1, layers=[1]
    )
    assert grid.values.shape == (1, 20)
    grid = kn.activation_patch(model_of("qwen3_next"), clean, PROMPTS[1].text, site="mlp.hook_post")
    assert grid.layers == (0, 2)


def test_the_layer_to_edit_has_neurons() -> None:
    assert layer_for(model_of("deepseek3")) == 0 and layer_for(model_of("qwen3_next")) in (0, 2)
    with pytest.raises(ValueError, match="no layer of this model has neurons"):
        layer_for(zoo.tiny("mixtral"))
