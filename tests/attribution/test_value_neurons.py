"""Log-probability increase and query neurons, against plain loops over neurons and over entries of heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from tests import zoo
from tests.attribution.test_attribution import prompts_for
from tests.attribution.test_neuron_card import gain_of

PROMPT = kn.Prompt("The capital of Canada is", " Ottawa")


def log_p(model: Any, e: kn.Encoded, state: Tensor, held: Tensor | None = None) -> float:
    """log P of the answer with another state behind the last layer."""
    return float(log_ps(model, e, state[None], held))


@torch.no_grad()
def log_ps(model: Any, e: kn.Encoded, states: Tensor, held: Tensor | None = None) -> Tensor:
    """The same of many states, a row each."""

    def put(x: Tensor, hook: Any) -> Tensor:
        out = x.clone()
        out[:, e.position] = states
        return out

    hooks: list[Any] = [(f"blocks.{model.cfg.n_layers - 1}.hook_resid_post", put)]
    if held is not None:
        hooks.append(("ln_final.hook_scale", lambda x, hook: held))
    logits = model.run_with_hooks(e.tokens.expand(len(states), -1), fwd_hooks=hooks)
    return logits[:, e.position].log_softmax(-1)[:, e.target_ids[0]]


def before_mlp(cache: Any, layer: int, at: int) -> Tensor:
    """After attention; GPT-NeoX and GPT-J add both at once."""
    if f"blocks.{layer}.hook_resid_mid" in cache:
        return cache[f"blocks.{layer}.hook_resid_mid"][0, at]
    return cache[f"blocks.{layer}.hook_resid_pre"][0, at] + cache[f"blocks.{layer}.hook_attn_out"][0, at]


def value(model: Any, name: str, cache: Any, n: kn.Neuron, at: int) -> Tensor:
    """What a neuron adds to the residual stream."""
    moved = cache[f"blocks.{n.layer}.mlp.hook_post"][0, at, n.index] * model.blocks[n.layer].mlp.W_out[n.index]
    if name != "gemma2":
        return moved
    inside = cache[f"blocks.{n.layer}.mlp.hook_out"][0, at]
    return moved * gain_of(model, name, f"blocks.{n.layer}.ln2_post") / (inside.square().mean() + 1e-6).sqrt()


@pytest.mark.filterwarnings("ignore")  # a bridge warns of the oracle's edit of a scale
@pytest.mark.parametrize("final_norm", ["live", "frozen"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2"])
def test_increase_is_that_of_a_loop_over_neurons(name: str, final_norm: Any) -> None:
    model, e = zoo.tiny(name), kn.encode(zoo.tiny(name), PROMPT)
    with kn.set_options(max_rows=20):
        att = kn.log_probability_increase(model, PROMPT, final_norm=final_norm)
    assert att.metric == "log_probability" and att.rule == "log_probability_increase"
    assert att.residual.isnan().all() and not att.nodes.any()
    _, cache = model.run_with_cache(e.tokens)
    held = cache["ln_final.hook_scale"] if final_norm == "frozen" else None
    for layer in range(model.cfg.n_layers):
        h = before_mlp(cache, layer, e.position)
        for index in (0, 11, 47):
            moved = h + value(model, name, cache, kn.Neuron(layer, index), e.position)
            expected = log_p(model, e, moved, held) - log_p(model, e, h, held)
            assert float(att.scores[0, layer, index]) == pytest.approx(expected, abs=1e-4, rel=1e-3)


def test_prompts_metrics_and_answers_of_several_tokens() -> None:
    model = zoo.tiny("llama")
    prompts = [PROMPT, kn.Prompt("Is Japan near", " Cuba", foil=" Rome")]
    both = kn.log_probability_increase(model, prompts)
    for number, prompt in enumerate(prompts):
        alone = kn.log_probability_increase(model, prompt)
        torch.testing.assert_close(both.scores[number], alone.scores[0], atol=1e-5, rtol=1e-3)
    contrast = kn.log_probability_increase(model, prompts[1], metric="contrast")
    foil = kn.log_probability_increase(model, kn.Prompt("Is Japan near", " Rome"))
    torch.testing.assert_close(contrast.scores[0], both.scores[1] - foil.scores[0], atol=1e-4, rtol=1e-3)
    long = kn.log_probability_increase(model, kn.Prompt("The capital of Canada is", " Ottawa is", multi_token="sum"))
    second = kn.log_probability_increase(model, kn.Prompt("The capital of Canada is Ottawa", " is"))
    torch.testing.assert_close(long.scores, both.scores[:1] + second.scores, atol=1e-4, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_query_neurons_are_those_of_a_loop_over_entries_of_heads(name: str) -> None:
    """As in the published code, with the mean that LayerNorm takes away: shares of what an entry reads."""
    model, e, count = zoo.tiny(name), kn.encode(zoo.tiny(name), PROMPT), 40
    _, cache = model.run_with_cache(e.tokens)
    n_layers, length = model.cfg.n_layers, e.tokens.shape[1]
    centred = name != "llama"
    entries, states, places, moved = [], [], [], []
    for layer in range(n_layers):
        at, attn = f"blocks.{layer}", model.blocks[layer].attn
        h = cache[f"{at}.hook_resid_pre"][0, e.position]
        before = log_p(model, e, h)
        heads, group = attn.W_O.shape[0], attn.W_O.shape[0] // cache[f"{at}.attn.hook_v"].shape[2]
        gain = model.blocks[layer].ln1._original_component.weight
        for head in range(heads):
            for source in range(length):
                x = cache[f"{at}.hook_resid_pre"][0, source]
                own = cache[f"{at}.attn.hook_v"][0, source, head // group] @ attn.W_O[head]
                places.append((before, layer, source, head))
                moved.append(h + cache[f"{at}.attn.hook_pattern"][0, head, e.position, source] * own)
                for d in range(attn.W_O.shape[1]):
                    read = cache[f"{at}.attn.hook_pattern"][0, head, e.position, source]
                    written = read * cache[f"{at}.attn.hook_v"][0, source, head // group, d] * attn.W_O[head, d]
                    key = gain * attn.W_V[head // group, :, d]
                    key = key - key.mean() if centred else key
                    states.append(h + written)
                    entries.append((before, layer, source, head, key, float(x @ key)))
    (places, entries) = (
        sorted(
            ((p - before, *rest) for p, (before, *rest) in zip(log_ps(model, e, torch.stack(x)), given, strict=True)),
            key=lambda found: -found[0],
        )
        for x, given in ((moved, places), (states, entries))
    )
    for leading in (len(places) // 4, len(places)):
        allowed, expected = [place[1:] for place in places[:leading]], torch.zeros(n_layers, model.cfg.d_mlp)
        for importance, layer, source, _, key, whole in [own for own in entries if own[1:4] in allowed][:count]:
            for below in range(layer):
                for index in range(model.cfg.d_mlp):
                    added = value(model, name, cache, kn.Neuron(below, index), source)
                    expected[below, index] += float(importance) * float(added @ key) / whole
        att = kn.query_neurons(model, PROMPT, heads=leading, entries=count)
        assert att.rule == "query_neurons" and float(expected.abs().max()) > 0.01
        torch.testing.assert_close(att.scores[0], expected, atol=1e-3 * float(expected.abs().max()), rtol=1e-2)


def test_few_heads_give_nearly_the_same_query_neurons() -> None:
    model = zoo.tiny("gemma2")  # a norm behind attention and MLP, grouped queries
    whole, few = (kn.query_neurons(model, PROMPT, heads=heads, entries=10) for heads in (10**6, 20))
    assert len(set(whole.top(10)) & set(few.top(10))) >= 5
    assert not few.scores[:, -1].any(), "nothing reads the last layer"


def test_a_masked_model_is_refused() -> None:
    for function in (kn.log_probability_increase, kn.query_neurons):
        with pytest.raises(ValueError, match="head of a masked model is not linear"):
            function(zoo.tiny("bert"), prompts_for("bert")[0])
    with pytest.raises(ValueError, match="heads=0"):
        kn.query_neurons(zoo.tiny("gpt2"), PROMPT, heads=0)
