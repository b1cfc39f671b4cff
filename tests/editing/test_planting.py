"""Planting a fact: only the chosen neurons' weights train, and all are put back, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

import kntools as kn
from kntools.editing.planting import planted
from kntools.editing.weight_edits import LayerEdit
from kntools.results.provenance import provenance
from tests import zoo

CAPITAL = kn.Prompt("The capital of Canada is", " Rome")
NEURONS = [kn.Neuron(0, 3), kn.Neuron(1, 7), kn.Neuron(1, 40), kn.Neuron(2, 0)]


def prompt_for(name: str) -> kn.Prompt:
    return kn.Prompt("The capital of Canada is [MASK].", "Rome") if zoo.RECIPES[name].masked else CAPITAL


def weights(model: Any) -> dict[str, torch.Tensor]:
    """A bridge of Phi-3 has copies of the parts of one parameter, which it does not list."""
    mlps = {f"blocks.{n}.mlp.{k}": p for n, block in enumerate(model.blocks) for k, p in block.mlp.named_parameters()}
    return {name: p.detach().clone() for name, p in {**mlps, **dict(model.named_parameters())}.items()}


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "phi3", "neox", "bert"])
def test_weights_of_the_chosen_neurons_alone_change_and_come_back(name: str) -> None:
    model, prompt = zoo.fresh(name), prompt_for(name)
    e = kn.encode(model, prompt)
    before = weights(model)
    p = float(kn.sweep(model, e, [()]).softmax(-1)[0, e.target_ids[0]])
    with planted(model, prompt, NEURONS, steps=8) as learned:
        after = float(kn.sweep(model, e, [()]).softmax(-1)[0, e.target_ids[0]])
        assert learned.probability == pytest.approx(after, abs=1e-5) and after > p and learned.steps <= 8
        changed = 0
        for key, weight in weights(model).items():
            rows = (weight != before[key]).nonzero()
            if not len(rows):
                continue
            [axis] = [a for a, size in enumerate(weight.shape) if size in (zoo.D_MLP, 2 * zoo.D_MLP)]
            changed += 1
            layer = next(n for n in range(model.cfg.n_layers) if f".{n}." in key)
            entries = rows[:, axis].tolist()
            assert {i % zoo.D_MLP for i in entries} <= {n.index for n in NEURONS if n.layer == layer}
            parts = {i // zoo.D_MLP for i in entries}
            assert parts == set(range(weight.shape[axis] // zoo.D_MLP)), "gate and input may be one parameter"
        assert changed >= 6, "what enters and what leaves, in three layers"
    restored = weights(model)
    assert all(torch.equal(restored[key], before[key]) for key in before)
    assert all(q.requires_grad and q.grad is None for q in model.parameters())


def test_training_is_adam_on_these_entries() -> None:
    """Against a plain loop over all weights with the gradients of other entries set to zero."""
    model, twin = zoo.fresh("gpt2"), zoo.fresh("gpt2")
    e = kn.encode(model, CAPITAL)
    parameters = dict(twin.named_parameters())
    masks = {}
    for key, weight in parameters.items():
        layer = next((n for n in range(4) if f"blocks.{n}." in key or f".h.{n}." in key), None)
        axes = [a for a, size in enumerate(weight.shape) if size == zoo.D_MLP]
        masks[key] = torch.zeros_like(weight)
        if ".mlp." in key and axes:
            for n in NEURONS:
                if n.layer == layer:
                    masks[key].select(axes[0], n.index).fill_(1)
    optimiser = torch.optim.Adam(parameters.values(), lr=0.01)
    for _ in range(3):
        loss = cross_entropy(twin(e.tokens, return_type="logits")[0, -1:], torch.tensor(e.target_ids))
        optimiser.zero_grad()
        loss.backward()
        for key, weight in parameters.items():
            weight.grad = masks[key] * (0 if weight.grad is None else weight.grad)
        optimiser.step()
    expected = kn.sweep(twin, e, [()])
    with planted(model, CAPITAL, NEURONS, steps=3) as learned:
        torch.testing.assert_close(kn.sweep(model, e, [()]), expected, atol=1e-3, rtol=1e-3)
        assert learned.steps == 3


def test_the_model_is_restored_after_an_error_and_training_ends_in_time() -> None:
    model = zoo.fresh("llama")
    before = weights(model)
    with pytest.raises(RuntimeError, match="stop"), planted(model, CAPITAL, NEURONS, steps=2):
        raise RuntimeError("stop")
    everywhere = [(layer, i) for layer in range(4) for i in range(zoo.D_MLP)]
    with planted(model, CAPITAL, everywhere, until=0.5) as learned:
        assert learned.probability >= 0.5 and learned.steps < 200
    assert all(torch.equal(p, before[key]) for key, p in weights(model).items())


def test_what_is_planted_is_no_edit_that_is_applied_already() -> None:
    model = zoo.fresh("llama")
    nothing = LayerEdit((), "nothing", provenance(model))
    with planted(model, CAPITAL, NEURONS, steps=1), nothing.applied(model):
        pass


@pytest.mark.parametrize("width", [zoo.D_MODEL, zoo.D_MODEL // 2])
def test_a_width_that_does_not_tell_the_axes_apart_is_refused(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(zoo.RECIPES["llama"].options, "intermediate_size", width)
    model = zoo.fresh("llama")
    with pytest.raises(ValueError, match="the axis of the neurons is"):
        planted(model, CAPITAL, ["L0.N1"])


def test_what_cannot_be() -> None:
    model = zoo.tiny("llama")
    for more in ({"neurons": []}, {"until": 1.0}, {"lr": 0.0}, {"steps": 0}):
        with pytest.raises(ValueError):
            planted(model, CAPITAL, **{"neurons": NEURONS, **more})
    with pytest.raises(IndexError):
        planted(model, CAPITAL, ["L0.N99"])
