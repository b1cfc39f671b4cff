"""Which layers have neurons: asked of the model, before and inside of a run; what has none says so."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

import kntools as kn
from kntools.models import neuron_layers
from tests import zoo
from tests.loop import one_by_one, tokens_for

PROMPT = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")
CORRUPTED = "The capital of France is"

WIDTHS = {
    "mixtral": (0, 0, 0),
    "deepseek2": (48, 0, 0),
    "deepseek3": (48, 0, 0),
    "qwen3_next": (48, 0, 48, 0),
    "mamba": (0, 0, 0),
    "bloom": (128, 128, 128),
    "mpt": (128, 128, 128),
    "opt": (48, 48, 48),
    "gemma2": (48, 48, 48, 48),
    "bert": (48, 48, 48),
}


def native(**options: Any) -> TransformerBridge:
    config = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_head": 8, "n_ctx": 32, "d_vocab": 50, "seed": 1}
    return TransformerBridge.boot_native({**config, **options})


def widths(model: Any) -> tuple[int, ...]:
    return tuple(layer.width for layer in neuron_layers.neurons_of(model))


@pytest.mark.parametrize("name", WIDTHS)
def test_widths(name: str) -> None:
    model = zoo.tiny(name)
    assert widths(model) == WIDTHS[name]
    for layer, found in enumerate(neuron_layers.neurons_of(model)):
        assert bool(found.reason) == (found.width == 0)
        if found.width:
            _, cache = model.run_with_cache(tokens_for(model))
            mlp = model.blocks[layer].mlp
            expected = cache[f"blocks.{layer}.mlp.hook_post"] @ mlp.W_out
            expected = expected if mlp.b_out is None else expected + mlp.b_out
            torch.testing.assert_close(cache[f"blocks.{layer}.{found.output}"], expected, atol=1e-4, rtol=1e-4)


def test_widths_of_other_models() -> None:
    assert widths(zoo.ragged()) == (48, 20, 48, 48)
    compatible = zoo.fresh("gpt2")
    compatible.enable_compatibility_mode()
    assert widths(compatible) == (48,) * 4
    sick = zoo.fresh("gpt2")
    with torch.no_grad():
        sick.blocks[2].mlp.W_out[0] = torch.nan
    assert widths(sick) == (48,) * 4  # whatever reads it finds the nan
    attention = native(attn_only=True, act_fn="gelu")
    assert widths(attention) == (0, 0)
    with pytest.raises(ValueError, match=r"layer 1 .* no neurons: it has no MLP; no layer"):
        kn.sweep(attention, torch.tensor([1, 2, 3]), [kn.ablate_neurons([(1, 3)])])
    half = kn.scale_site("attn_out", 1, 0.5, pos=None)
    expected = attention.run_with_hooks(torch.tensor([[1, 2, 3]]), fwd_hooks=half)[:, -1]
    torch.testing.assert_close(kn.sweep(attention, torch.tensor([1, 2, 3]), [half]), expected)


def test_training_mode_and_the_random_state_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**zoo.RECIPES["gpt2"].options, "resid_pdrop": 0.5}
    monkeypatch.setitem(zoo.RECIPES, "gpt2", zoo.Recipe("GPT2Config", "GPT2LMHeadModel", options))
    model = zoo.fresh("gpt2").train()
    before = torch.random.get_rng_state()
    assert widths(model) == (48,) * 4
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", ["gpt2", "opt", "bloom", "qwen3_next"])
def test_asked_inside_of_a_run(name: str) -> None:
    """A model that nobody asked before is asked by the hook itself, beside the run and the hooks of others."""
    known, new = zoo.tiny(name), zoo.fresh(name)
    neuron_layers.neurons_of(known)
    tokens, calls = tokens_for(known).expand(2, -1), [0]

    def count(x: Tensor, hook: Any) -> Tensor:
        calls[0] += 1
        return x * 0.5

    # The bridge of OPT notes the shape of a run: the one inside must not leave another.
    hooks = kn.ablate_neurons([(0, 3), (2, 7)], pos=-1) + kn.scale_site("mlp_out", 0, 0.5, pos=1)
    user = [(f"blocks.{layer}.hook_mlp_out", count) for layer in (0, 2)]
    expected = known.run_with_hooks(tokens, fwd_hooks=[*user, *hooks])
    assert calls == [2]
    with new.hooks(fwd_hooks=[*user, *hooks]):
        logits, cache = new.run_with_cache(tokens)
    assert calls == [4]
    torch.testing.assert_close(logits, expected, atol=0, rtol=0)
    assert cache["blocks.1.hook_resid_pre"].shape[:2] == tokens.shape
    torch.testing.assert_close(new(tokens), known(tokens), atol=0, rtol=0)


def test_a_hook_called_by_hand_sees_its_tensor_alone() -> None:
    [(name, fn)] = kn.ablate_neurons([(1, 3)], pos=0)
    assert fn(torch.ones(1, 2, 8), hook=SimpleNamespace(name=name))[0, 0, 3] == 0


@pytest.mark.parametrize(
    "hooks",
    [
        kn.ablate_neurons([(1, 3)]),
        kn.enhance_neurons(["L1.N3"], pos=0),
        kn.set_neurons([(1, 3)], 2.0, pos=None),
        kn.mean_ablate_neurons([(1, 3)], torch.zeros(3, 40)),
        kn.scale_site("mlp.hook_post", 1, 0.0),
        kn.scale_site("mlp.hook_pre", 1, 0.0),
        kn.add_vector("mlp.hook_post", 1, torch.ones(32)),
        kn.patch({"blocks.1.mlp.hook_post": torch.zeros(1, 6, 32)}, "mlp.hook_post", 1),
        kn.capture({}, ["mlp.hook_post"], [1]),
    ],
    ids=lambda hooks: repr(hooks[0][1]),
)
@pytest.mark.parametrize("name", ["mixtral", "deepseek2", "qwen3_next"])
def test_hooks_on_neurons_that_do_not_exist(name: str, hooks: list[kn.Hook]) -> None:
    model = zoo.tiny(name)
    tokens, clean = tokens_for(model), model(tokens_for(model))
    for run in (lambda: model.run_with_hooks(tokens, fwd_hooks=hooks), lambda: kn.sweep(model, PROMPT, [hooks])):
        with pytest.raises(ValueError, match=r"layer 1 of .* no neurons"):
            run()
    torch.testing.assert_close(model(tokens), clean, atol=0, rtol=0)


TEXTS = ["The capital of Canada is Ottawa."] * 4
REFUSED: dict[str, Callable[[Any], Any]] = {
    "scan": lambda model: kn.neuron_scan(model, PROMPT, [(1, 3)]),
    "scan of a layer": lambda model: kn.neuron_scan(model, PROMPT, layers=1),
    "rome": lambda model: kn.rome(model, PROMPT, " Rome", layer=1),
    "fine_tune": lambda model: kn.fine_tune(model, PROMPT, " Rome", layer=1),
    "edit_values": lambda model: kn.edit_values(model, [(1, 3)], " Ottawa", " Rome"),
    "erase_values": lambda model: kn.erase_values(model, [(1, 3)]),
    "second_moment": lambda model: kn.second_moment(model, [0, 1] if widths(model)[0] else 1, TEXTS),
    "from_matrix": lambda model: kn.SecondMoment.from_matrix(model, 1, torch.eye(48), 99),
    "patch": lambda model: kn.activation_patch(model, PROMPT, CORRUPTED, site="mlp.hook_post", layers=[1]),
    "patch neurons": lambda model: kn.activation_patch(
        model, PROMPT, CORRUPTED, site="mlp.hook_pre", layers=[1], neurons=[3]
    ),
    "attribution_patch": lambda model: kn.attribution_patch(model, PROMPT, CORRUPTED, site="mlp.hook_post", layers=[1]),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("name", ["mixtral", "deepseek3", "mamba"])
def test_functions_of_neurons_say_which_layer_has_none(name: str, what: str) -> None:
    where = "neurons are in layer 0" if name == "deepseek3" else "no layer of this model has"
    with pytest.raises((ValueError, KeyError), match=rf"layer [01] of .* no neurons: .*{where}|does not exist on this"):
        REFUSED[what](zoo.tiny(name))


@pytest.mark.parametrize(
    "attribute", [kn.integrated_gradients, kn.activation_x_gradient, kn.activation], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("name", ["mixtral", "mamba"])
def test_no_attribution_without_neurons(name: str, attribute: Callable[..., Any]) -> None:
    for site in ("mlp.hook_post", "mlp.hook_pre"):
        with pytest.raises(ValueError, match="no layer of this model has neurons"):
            attribute(zoo.tiny(name), PROMPT, site=site)


@pytest.mark.parametrize("name", ["mixtral", "deepseek2", "deepseek3", "qwen3_next", "bloom", "mpt"])
def test_everything_else_is_the_plain_loop(name: str) -> None:
    model = zoo.tiny(name)
    clean, corrupted = kn.encode(model, PROMPT), kn.encode(model, kn.Prompt(CORRUPTED, " Ottawa"))
    _, cache = model.run_with_cache(clean.tokens)
    for site in ("resid_pre", "attn_out", "mlp_out", "resid_post"):
        grid = kn.activation_patch(model, PROMPT, CORRUPTED, site=site)
        hybrid = name == "qwen3_next" and site == "attn_out"  # the other layers have linear attention
        assert grid.layers == ((3,) if hybrid else tuple(range(model.cfg.n_layers)))
        runs = [kn.patch(cache, site, layer, p) for layer in grid.layers for p in range(clean.tokens.shape[1])]
        expected = one_by_one(model, corrupted.tokens, runs)[:, clean.target_ids[0]].view(grid.values.shape)
        torch.testing.assert_close(grid.values, expected, atol=1e-5, rtol=1e-4)
    trace = kn.causal_trace(model, PROMPT, samples=2)
    assert trace.scores.shape == (model.cfg.n_layers, clean.tokens.shape[1])
    tokens = clean.tokens
    for _ in range(3):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    written = model.tokenizer.decode(tokens[0, clean.tokens.shape[1] :])
    assert kn.generate(model, PROMPT, max_new_tokens=3).removeprefix(PROMPT.text) == written
