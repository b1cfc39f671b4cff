"""Direct logit attribution: what the logit loses on the direct path alone, neuron by neuron and layer by layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.models.unembedding import held_norms
from tests import zoo
from tests.attribution.test_attribution import prompts_for, scale_behind
from tests.attribution.test_attribution_metrics import pairs_for
from tests.attribution.test_post_norm import model_of
from tests.models.test_neuron_layers import native

#: Without the cap behind the logits, which is not linear; and with what Granite multiplies.
CHANGED: dict[str, dict[str, Any]] = {
    "gemma2": {"final_logit_softcapping": None},
    "granite": {"residual_multiplier": 0.5, "logits_scaling": 2.0},
}


def changed(name: str) -> Any:
    """The tiny model, with other options."""
    recipe = zoo.RECIPES[name]
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(zoo.RECIPES, name, replace(recipe, options={**recipe.options, **CHANGED[name]}))
        return zoo.fresh(name)


def model_and_prompt(name: str) -> tuple[Any, kn.Encoded]:
    if name == "native":
        tokens = torch.tensor([[3, 1, 4, 1, 5]])
        asked = kn.Prompt("no tokenizer", " reads this", foil=" or this")
        return native(act_fn="gelu"), kn.Encoded(asked, tokens, (4,), (7,), (2,), None, False, ("?",) * 5)
    if name == "compatibility mode":
        model = zoo.fresh("gpt2")
        model.enable_compatibility_mode()
        return model, kn.encode(model, pairs_for("gpt2")[0])
    make = changed if name in CHANGED else model_of if name in ("gemma3", "olmo2") else zoo.tiny
    model = make(name)
    return model, kn.encode(model, pairs_for("llama")[0])


@torch.no_grad()
def on_the_direct_path(model: Any, e: kn.Encoded, layer: int, hooks: list[Any]) -> Tensor:
    """Logits `[d_vocab]` with `hooks` in one layer, when all that later layers write and all norms' scales stay."""
    _, cache = model.run_with_cache(e.tokens)

    def stay(name: str) -> Any:
        return name, lambda x, hook: cache[name]

    later = range(layer + 1, model.cfg.n_layers)
    held = [f"blocks.{n}.{site}" for n in later for site in ("hook_attn_out", "hook_mlp_out")]
    scales = [s for s in (scale_behind(model, layer), "ln_final.hook_scale") if s in cache]
    return model.run_with_hooks(e.tokens, fwd_hooks=[*hooks, *map(stay, [*held, *scales])])[0, e.position]


NAMES = ["gpt2", "compatibility mode", "llama", "neox", "gptj", "gemma2", "gemma3", "olmo2", "granite", "native"]
NAMES += ["cohere", "falcon_h1"]  # the logits, and what MLPs write, are multiplied by numbers


@pytest.mark.parametrize("name", NAMES)
def test_neurons_and_the_bias_of_a_layer_give_what_it_writes(name: str) -> None:
    model, e = model_and_prompt(name)
    assert e.foil_ids is not None
    right, wrong = e.target_ids[0], e.foil_ids[0]
    measures = {"logit": lambda x: x[right], "contrast": lambda x: x[right] - x[wrong]}
    for metric, measure in measures.items():
        att = kn.direct_logit_attribution(model, e, metric=metric)  # type: ignore[arg-type] # a loop
        assert att.metric == metric and att.rule == "direct_logit"
        assert att.post_norm == ("frozen" if name in ("gemma2", "gemma3", "olmo2") else None)
        scale = float(att.scores.abs().max())
        # Of Falcon-H1 the last one: the later ones also write by their state spaces.
        for layer in range(model.cfg.n_layers)[-1 if name == "falcon_h1" else 0 :]:
            own = measure(on_the_direct_path(model, e, layer, []))

            def without(site: str, change: Any, own: Tensor = own, layer: int = layer, measure: Any = measure) -> float:
                return float(own - measure(on_the_direct_path(model, e, layer, [(f"blocks.{layer}.{site}", change)])))

            written = without("hook_mlp_out", lambda x, hook: torch.zeros_like(x))
            bias = getattr(model.blocks[layer].mlp, "b_out", None)
            of_bias = 0.0 if bias is None else without("hook_mlp_out", lambda x, hook, b=bias: x - b)
            assert float(att.scores[0, layer].sum()) + of_bias == pytest.approx(written, rel=1e-4, abs=1e-4)
            assert abs(float(att.residual[0, layer])) < 1e-4 * max(1.0, scale)
            for neuron in (0, 3, 11):

                def off(x: Tensor, hook: Any, neuron: int = neuron) -> Tensor:
                    out = x.clone()
                    out[..., neuron] = 0
                    return out

                lost = without("mlp.hook_post", off)
                assert float(att.scores[0, layer, neuron]) == pytest.approx(lost, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_norm_of_nothing(name: str) -> None:
    """A state of zeros has no direction: the norm is that of small states."""
    model, row = zoo.tiny(name), torch.linspace(-1, 2, 32)
    norm = model.ln_final
    with torch.no_grad():
        expected = (norm(1e-6 * row[None, None]) - norm(0 * row[None, None]))[0, 0] / 1e-6
    for state in (torch.zeros(32), torch.ones(32) * (name == "gpt2")):
        [held] = held_norms(model, norm, state[None])
        torch.testing.assert_close(held.forward(row), expected, rtol=1e-2, atol=1e-2)


def test_the_default_and_functions_of_the_logits() -> None:
    model, prompts = zoo.tiny("llama"), pairs_for("llama")
    contrast = kn.direct_logit_attribution(model, prompts)
    assert contrast.metric == "contrast" and contrast.scores.shape == (3, 4, 48)
    plain = [replace(p, foil=None) for p in prompts]
    own = kn.direct_logit_attribution(model, plain)
    assert own.metric == "logit" and "direct_logit, logit" in repr(own)
    foils = kn.direct_logit_attribution(model, [replace(p, target=str(p.foil), foil=None) for p in prompts])
    torch.testing.assert_close(contrast.scores, own.scores - foils.scores, atol=1e-5, rtol=1e-4)
    e = kn.encode(model, prompts[0])
    half = kn.direct_logit_attribution(model, prompts[0], metric=lambda x: x[:, e.target_ids[0]] / 2)
    torch.testing.assert_close(2 * half.scores[0], own.scores[0])
    for wrong in ("probability", "log_probability", lambda x: x[:, 3] ** 2):
        with pytest.raises(ValueError, match="not linear in the logits; use 'logit'"):
            kn.direct_logit_attribution(model, prompts, metric=wrong)  # type: ignore[arg-type] # a loop


def test_the_pieces_of_an_answer_add_up() -> None:
    model = zoo.tiny("gpt2")
    prompt = kn.Prompt("The capital of Canada is", " Ottawa is", multi_token="sum")
    att = kn.direct_logit_attribution(model, prompt)
    first = kn.direct_logit_attribution(model, kn.Prompt("The capital of Canada is", " Ottawa"))
    second = kn.direct_logit_attribution(model, kn.Prompt("The capital of Canada is Ottawa", " is"))
    torch.testing.assert_close(att.scores, first.scores + second.scores, atol=1e-5, rtol=1e-3)


def test_a_masked_model_is_refused() -> None:
    with pytest.raises(ValueError, match="head of a masked model is not linear"):
        kn.direct_logit_attribution(zoo.tiny("bert"), prompts_for("bert")[0])
