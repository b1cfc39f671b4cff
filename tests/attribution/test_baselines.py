"""Where baselines read their activations: at the mask, and over the tokens of an answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.sites import hook_name
from tests import zoo
from tests.attribution.test_attribution import reference

SITES = ["mlp.hook_post", "mlp.hook_pre"]

# The mask is the first, a middle and nearly the last token; the first two prompts are equally long and share passes.
MASKED = [
    kn.Prompt("[MASK] is the capital of Canada.", "Ottawa"),
    kn.Prompt("The capital of [MASK] is Paris.", "France"),
    kn.Prompt("The quick brown fox jumps over the lazy [MASK].", "dog"),
]
# Two tokens each, but for the last; the first two are equally long.
SEVERAL = [
    kn.Prompt("The capital of Canada is", " Ottawa is", multi_token="sum"),
    kn.Prompt("The capital of Japan is", " Tokyo the", multi_token="sum"),
    kn.Prompt("Ottawa is the capital of", " Canada is", multi_token="sum"),
    kn.Prompt("Is Italy near", " France", multi_token="sum"),
]


def assert_scores_are_the_formula(model: Any, prompts: list[kn.Prompt], site: str, max_rows: int | None) -> None:
    with kn.set_options(max_rows=max_rows):
        product = kn.activation_x_gradient(model, prompts, site=site)
        plain = kn.activation(model, prompts, site=site)
    for number, prompt in enumerate(prompts):
        e = kn.encode(model, prompt)
        _, cache = model.run_with_cache(e.tokens)
        for layer in range(model.cfg.n_layers):
            expected = reference(model, prompt, layer, site=site)
            error = (product.scores[number, layer] - expected).norm() / expected.norm()
            assert float(error) < 1e-3, (number, layer)
            w = cache[hook_name(site, layer)][0, list(e.positions)]
            torch.testing.assert_close(plain.scores[number, layer], w.sum(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("site", SITES)
def test_baselines_of_a_masked_model_are_read_at_the_mask(site: str) -> None:
    model = zoo.tiny("bert")
    encoded = [kn.encode(model, prompt) for prompt in MASKED]
    assert len({e.position for e in encoded}) == 3
    assert encoded[0].tokens.shape == encoded[1].tokens.shape
    for max_rows in (None, 1):
        assert_scores_are_the_formula(model, MASKED, site, max_rows=max_rows)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("site", SITES)
def test_baselines_add_up_over_the_tokens_of_an_answer(name: str, site: str) -> None:
    model = zoo.tiny(name)
    encoded = [kn.encode(model, prompt) for prompt in SEVERAL]
    assert [len(e.positions) for e in encoded] == [2, 2, 2, 1]
    for max_rows in (None, 1):
        assert_scores_are_the_formula(model, SEVERAL, site, max_rows=max_rows)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_mean_activations_are_those_at_the_answer_position(name: str, site: str) -> None:
    """At the mask, or where the first token of the answer is predicted, however many tokens follow."""
    model = zoo.tiny(name)
    prompts = [replace(p, multi_token="first") for p in (MASKED if name == "bert" else SEVERAL)]
    total = torch.zeros(model.cfg.n_layers, zoo.D_MLP)
    for prompt in prompts:
        e = kn.encode(model, prompt)
        _, cache = model.run_with_cache(e.tokens)
        total += torch.stack([cache[hook_name(site, i)][0, e.position] for i in range(model.cfg.n_layers)])
    means = kn.activation(model, prompts, site=site).scores.mean(0)
    torch.testing.assert_close(means, total / len(prompts), atol=1e-5, rtol=1e-4)
