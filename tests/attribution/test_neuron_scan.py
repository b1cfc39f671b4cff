"""Neuron scans against the plain loop, and beside attribution."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import kntools as kn
from tests import zoo
from tests.loop import ALL, one_by_one

CAPITAL = kn.Prompt("The capital of Canada is", " Ottawa")


def prompt_for(name: str) -> kn.Prompt:
    return kn.Prompt("The capital of Canada is [MASK].", "Ottawa") if zoo.RECIPES[name].masked else CAPITAL


@pytest.mark.parametrize("name", ALL)
def test_every_neuron_of_a_layer_equals_the_loop(name: str) -> None:
    model = zoo.tiny(name)
    e = kn.encode(model, prompt_for(name))
    with kn.set_options(max_rows=20):
        scan = kn.neuron_scan(model, e.prompt, layers=1)
    assert scan.neurons == tuple(kn.Neuron(1, i) for i in range(zoo.D_MLP))
    hooks = [kn.ablate_neurons([n], pos=e.position) for n in scan.neurons]
    expected = one_by_one(model, e.tokens, hooks, pos=e.position)[:, e.target_ids[0]]
    torch.testing.assert_close(scan.values[0], expected, atol=1e-6, rtol=1e-3)
    clean = one_by_one(model, e.tokens, [[]], pos=e.position)[0, e.target_ids[0]]
    assert float(scan.clean) == pytest.approx(float(clean), rel=1e-4)
    assert float(scan.effect.abs().max()) > 0


def test_chosen_neurons_other_factors_positions_and_metrics() -> None:
    model = zoo.tiny("llama")
    e = kn.encode(model, prompt_for("llama"))
    wanted = [(2, 7), (0, 3), (2, 1), (0, 3), (3, 40)]
    scan = kn.neuron_scan(model, e.prompt, neurons=wanted, factor=2.0, pos=[2, 4], metric=lambda x: x[:, 5])
    assert scan.neurons == (kn.Neuron(2, 7), kn.Neuron(0, 3), kn.Neuron(2, 1), kn.Neuron(3, 40))
    hooks = [kn.scale_neurons([n], 2.0, pos=[2, 4]) for n in scan.neurons]
    torch.testing.assert_close(scan.values[0], kn.sweep(model, e.tokens, hooks)[:, 5], atol=1e-5, rtol=1e-5)
    both = kn.neuron_scan(model, e.prompt, layers=[0, 3])
    assert len(both.neurons) == 2 * zoo.D_MLP


def test_several_prompts_are_each_alone() -> None:
    """Of other lengths, and with an answer of several tokens."""
    model = zoo.tiny("llama")
    prompts = [
        CAPITAL,
        kn.Prompt("Is Japan near", " Cuba"),
        kn.Prompt("The capital of Japan is", " Ouagadougou", multi_token="sum"),
        kn.Prompt("The capital of Japan is", " Tokyo"),
    ]
    names = ["L1.N2", (0, 3), kn.Neuron(3, 40)]
    together = kn.neuron_scan(model, prompts, names)
    assert together.values.shape == (4, 3) and together.prompts == tuple(prompts)
    for number, prompt in enumerate(prompts):
        alone = kn.neuron_scan(model, prompt, names)
        torch.testing.assert_close(together.values[number], alone.values[0], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(together.clean[number], alone.clean[0], atol=1e-6, rtol=1e-4)
        assert together.top(3, prompt=number) == alone.top(3)
    att = kn.integrated_gradients(model, prompts)
    frame = together.to_frame(att)
    row = frame[(frame["prompt"] == 3) & (frame["layer"] == 0)].iloc[0]
    assert row["score"] == pytest.approx(att.score_of(kn.Neuron(0, 3), prompt=3))
    assert row["value"] == pytest.approx(float(together.values[3, 1]))
    with pytest.raises(ValueError, match="other prompts"):
        together.agreement(kn.integrated_gradients(model, prompts[:2]))


@pytest.mark.parametrize("name", ["llama", "gemma2", "bert"])
@pytest.mark.parametrize("ablation", ["zero", "mean", "resample", "given"])
def test_ablation_puts_other_activations_in_place(name: str, ablation: str) -> None:
    """Prompts of several lengths, each neuron by itself, against a plain loop."""
    model, neurons = zoo.tiny(name), [kn.Neuron(1, 7), kn.Neuron(0, 3), kn.Neuron(1, 40)]
    cities = ("Canada", "Ottawa"), ("Japan", "Tokyo"), ("Cuba", "Havana")
    asked = "Is {} near France? The capital is [MASK]." if name == "bert" else "The capital of {} is"
    prompts = [kn.Prompt(asked.format(c), a if name == "bert" else f" {a}") for c, a in cities]
    if name != "bert":
        prompts.append(kn.Prompt("Is Japan near", " Cuba"))
    encoded = [kn.encode(model, p) for p in prompts]
    own = torch.stack(
        [
            torch.stack([cache[f"blocks.{n}.mlp.hook_post"][0, e.position] for n in range(model.cfg.n_layers)])
            for e in encoded
            for _, cache in [model.run_with_cache(e.tokens)]
        ]
    ).detach()
    base = {
        "zero": torch.zeros_like(own),
        "mean": own.mean(0).expand_as(own),
        "resample": torch.cat([own[1:], own[:1]]),
        "given": torch.linspace(-1, 1, own[0].numel()).view(own[0].shape).expand_as(own),
    }[ablation]
    given = base[0] if ablation == "given" else ablation
    scan = kn.neuron_scan(model, prompts, neurons, ablation=given, metric="probability")
    half = kn.neuron_scan(model, prompts, neurons, ablation=given, factor=0.5, metric="probability")
    if isinstance(given, torch.Tensor):  # an array will do
        assert kn.neuron_scan(model, prompts, neurons, ablation=given.numpy(), metric="probability") == scan
    by = (
        "scaled by 0"
        if ablation == "zero"
        else f"ablated by {'given activations' if ablation == 'given' else ablation}"
    )
    assert f"{by}:" in repr(scan) and ("scaled by 0.5:" if ablation == "zero" else f"{by}, factor 0.5:") in repr(half)
    for number, e in enumerate(encoded):
        for column, n in enumerate(neurons):
            for found, factor in ((scan, 0.0), (half, 0.5)):
                there = float(own[number, n.layer, n.index])
                value = float(base[number, n.layer, n.index]) * (1 - factor) + factor * there
                hooks = kn.set_neurons([n], value, pos=e.position)
                expected = one_by_one(model, e.tokens, [hooks], pos=e.position)[0, e.target_ids[0]]
                assert float(found.values[number, column]) == pytest.approx(float(expected), rel=1e-3, abs=1e-6)
    assert {"zero": "scaled by 0", "given": "given activations"}.get(ablation, f"by {ablation}") in repr(scan)


def test_beside_attribution() -> None:
    """Of a layer whose neurons the answer depends on linearly, the score is what ablation takes away."""
    model = zoo.tiny("gpt2")
    prompt = prompt_for("gpt2")
    att = kn.integrated_gradients(model, prompt)
    scan = kn.neuron_scan(model, prompt, layers=3)
    assert scan.agreement(att)["pearson"] > 0.5
    frame = scan.to_frame(att)
    assert frame["score"][7] == pytest.approx(att.score_of(kn.Neuron(3, 7)))
    figure = scan.plot(att)
    assert len(figure.data[0].x) == zoo.D_MLP and "Ottawa" in figure.layout.title.text
    assert len(scan.plot().data[0].x) == zoo.D_MLP


def test_the_result(tmp_path: Path) -> None:
    scan = kn.neuron_scan(zoo.tiny("llama"), prompt_for("llama"), layers=2)
    again = kn.load(scan.save(tmp_path / "scan.safetensors"))
    assert again == scan and repr(again) == repr(scan)
    best = scan.top(1)[0]
    assert scan.effect[0].abs().argmax() == best.index and repr(best) in scan._repr_html_()


def test_errors_say_what_to_type() -> None:
    model, prompt = zoo.tiny("llama"), prompt_for("llama")
    for wrong in ({}, {"layers": 1, "neurons": [(1, 2)]}):
        with pytest.raises(ValueError, match="one of the two"):
            kn.neuron_scan(model, prompt, **wrong)
    with pytest.raises(ValueError, match="empty"):
        kn.neuron_scan(model, prompt, neurons=[])
    with pytest.raises(IndexError, match="layer 4 does not exist"):
        kn.neuron_scan(model, prompt, layers=4)
    with pytest.raises(IndexError, match="neurons 0 to 47"):
        kn.neuron_scan(model, prompt, neurons=[(1, 48)])
    with pytest.raises(ValueError, match="one value per row"):
        kn.neuron_scan(model, prompt, layers=1, metric=lambda x: x)
    for ablation in ("mean", "resample", torch.zeros(3, 3)):
        with pytest.raises(ValueError, match="ablation"):
            kn.neuron_scan(model, prompt, layers=1, ablation=ablation)
    with pytest.raises(ValueError, match="leave pos out"):
        kn.neuron_scan(model, [prompt, kn.Prompt("Is Japan near", " Cuba")], layers=1, ablation="mean", pos=2)
