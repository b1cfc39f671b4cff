"""HookedTransformer and HookedEncoder (transformer-lens 3.x) are first-class: same numbers, same weights.

Run by `make test-legacy`, in an environment with transformer-lens 3.9.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import kntools as kn
from kntools.engine.capability import capability
from kntools.models import adapter, named
from kntools.sites import hook_name
from tests import zoo
from tests.hooked import as_hooked_transformer
from tests.loop import gradient_by_loop, one_by_one, sites_of, tokens_for

pytestmark = pytest.mark.legacy
TWINS = ["llama", "gpt2", "bert"]


def pair(name: str) -> tuple[Any, Any]:
    return zoo.tiny(name), zoo.hooked_twin(name)


def prompts_for(name: str) -> list[kn.Prompt]:
    end, space = (" [MASK].", "") if name == "bert" else ("", " ")
    return [
        kn.Prompt(f"The capital of {country} is{end}", space + city, subject=country)
        for country, city in (("Canada", "Ottawa"), ("France", "Paris"))
    ]


def interventions_for(name: str) -> list[list[kn.Hook]]:
    hooks = [
        kn.scale_site(site, layer, 0.3, pos=p) for site in sites_of(name) for layer in (0, 2) for p in (1, -1, None)
    ]
    return [
        *hooks,
        [],
        kn.ablate_neurons([(1, n) for n in range(20)], pos=2),
        [("unembed.hook_in", lambda x, hook: x * 0.5)],
    ]


@pytest.mark.parametrize("name", TWINS)
def test_the_old_classes_share_passes_too(name: str) -> None:
    _, twin = pair(name)
    found = capability(twin, tokens_for(twin))
    assert found.fork and found.prefix == (name != "bert")


@pytest.mark.parametrize("name", TWINS)
def test_sweep_equals_loop_and_bridge(name: str) -> None:
    bridge, twin = pair(name)
    tokens = tokens_for(twin)
    interventions = interventions_for(name)
    ours = kn.sweep(twin, tokens, interventions, pos=-1).softmax(-1)
    torch.testing.assert_close(ours, one_by_one(twin, tokens, interventions), atol=1e-5, rtol=0)
    # Sites that share a name but not a meaning: a bridge's resid_mid is what the MLP reads, not the stream itself;
    # HookedEncoder counts the norms of a post-norm block to other sites than the bridge does.
    other = {"hook_resid_mid"} | ({"hook_attn_out", "hook_resid_post"} if name == "bert" else set())
    interventions = [i for i in interventions if not any(n.split(".")[-1] in other for n, _ in i)]
    ours = kn.sweep(twin, tokens, interventions, pos=-1).softmax(-1)
    torch.testing.assert_close(kn.sweep(bridge, tokens, interventions, pos=-1).softmax(-1), ours, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TWINS)
def test_gradients_equal_loop(name: str) -> None:
    _, twin = pair(name)
    tokens = tokens_for(twin)
    metric = kn.log_probability(7)
    for site in ("mlp.hook_post", "resid_pre", "z"):
        for layer in (0, 2):
            hooks, at = kn.scale_site(site, layer, 0.7, pos=1), hook_name(site, layer)
            [rows] = kn.sweep_gradients(twin, tokens, [kn.Intervention(hooks, wrt=[(at, None)])], metric, pos=-1)
            expected = gradient_by_loop(twin, tokens, hooks, at, metric)
            torch.testing.assert_close(rows.wrt[at].gradient, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", TWINS)
def test_encode_gives_the_same_tokens(name: str) -> None:
    bridge, twin = pair(name)
    for prompt in prompts_for(name):
        a, b = kn.encode(bridge, prompt), kn.encode(twin, prompt)
        assert a.tokens.tolist() == b.tokens.tolist()
        assert (a.positions, a.target_ids, a.subject) == (b.positions, b.target_ids, b.subject)


@pytest.mark.parametrize("rule", ["adaptive", "midpoint"])
@pytest.mark.parametrize("name", TWINS)
def test_attribution_is_the_same(name: str, rule: str) -> None:
    bridge, twin = pair(name)
    of_bridge = kn.integrated_gradients(bridge, prompts_for(name), rule=rule)
    of_twin = kn.integrated_gradients(twin, prompts_for(name), rule=rule)
    torch.testing.assert_close(of_twin.probability, of_bridge.probability, atol=1e-5, rtol=0)
    torch.testing.assert_close(of_twin.scores, of_bridge.scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TWINS)
def test_hooks_without_a_position_act_at_the_answer(name: str) -> None:
    """... in a sweep of a prompt, and in a run of one row; a masked model in a run does not know."""
    bridge, twin = pair(name)
    prompt, hooks = prompts_for(name)[0], kn.ablate_neurons([(1, n) for n in range(20)])
    e = kn.encode(twin, prompt)
    [ours], [other] = (kn.sweep(model, prompt, [hooks]).softmax(-1) for model in (twin, bridge))
    torch.testing.assert_close(ours, other, atol=1e-5, rtol=0)
    with torch.no_grad():
        if name == "bert":
            with pytest.raises(ValueError, match="answers at its mask"):
                twin.run_with_hooks(e.tokens, fwd_hooks=hooks)
            return
        alone = twin.run_with_hooks(e.tokens, fwd_hooks=hooks)[0, -1].softmax(-1)
    torch.testing.assert_close(ours, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TWINS)
def test_patching_and_tracing_are_the_same(name: str) -> None:
    bridge, twin = pair(name)
    clean, corrupted = prompts_for(name)
    for site, options in (("resid_pre", {}), ("z", {"heads": True})):
        of_bridge, of_twin = (kn.activation_patch(m, clean, corrupted, site=site, **options) for m in (bridge, twin))
        torch.testing.assert_close(of_twin.values, of_bridge.values, atol=1e-4, rtol=1e-4)
    noise = 0.3 * torch.randn(2, 1, zoo.D_MODEL, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        of_bridge, of_twin = (kn.causal_trace(m, clean, noise=noise, kind="mlp", window=2) for m in (bridge, twin))
    if name != "bert":  # whose embedding hooks stand before and behind the norm
        torch.testing.assert_close(of_twin.per_sample, of_bridge.per_sample, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TWINS)
def test_neuron_identity(name: str) -> None:
    _, twin = pair(name)
    names = [hook_name("mlp.hook_post", 1), hook_name("mlp_out", 1)]
    _, cache = twin.run_with_cache(tokens_for(twin), names_filter=names)
    b_out = adapter.b_out(twin, 1)
    out = cache[names[0]] @ adapter.w_out(twin, 1) + (0 if b_out is None else b_out)
    torch.testing.assert_close(out, cache[names[1]], atol=1e-5, rtol=1e-5)


def test_smollm2_on_hooked_transformer(smollm2: Any) -> None:
    """The real model: bridge and HookedTransformer give the same attribution."""
    # The bridge has wrapped its own copy of the model: read the weights anew.
    source = AutoModelForCausalLM.from_pretrained(named.NAMED["smollm2-135m"]())
    twin = as_hooked_transformer(source, smollm2.tokenizer)
    prompt = kn.encode(smollm2, kn.Prompt("The capital of France is", " Paris"), prepend_bos=False)
    of_bridge = kn.integrated_gradients(smollm2, prompt)
    of_twin = kn.integrated_gradients(twin, prompt)
    assert float(of_bridge.probability) == pytest.approx(0.77, abs=0.01)
    torch.testing.assert_close(of_twin.probability, of_bridge.probability, atol=1e-5, rtol=0)
    torch.testing.assert_close(of_twin.scores, of_bridge.scores, atol=1e-4, rtol=0)
