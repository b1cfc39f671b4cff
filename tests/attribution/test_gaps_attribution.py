"""Where attribution reads its activations, what capture keeps, and who is compared with whom."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.analyses.fig02_pair_search import PairSearch
from kntools.attribution.random_neurons import random_like
from kntools.sites import Neuron, hook_name
from tests import zoo
from tests.loop import tokens_for

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


def activations_and_gradients(model: Any, e: kn.Encoded, name: str) -> tuple[Tensor, Tensor]:
    """`[answer position, neuron]` each: P is the product over the answer's tokens, differentiated by plain autograd."""
    at = list(e.positions)
    _, cache = model.run_with_cache(e.tokens, names_filter=name)
    kept: list[Tensor] = []

    def keep(x: Tensor, hook: Any) -> Tensor:
        kept.append(x.detach().clone().requires_grad_())
        return kept[0]

    with torch.enable_grad():
        logits = model.run_with_hooks(e.tokens, fwd_hooks=[(name, keep)])
        p = torch.ones(())
        for position, token in zip(at, e.target_ids, strict=True):
            p = p * logits[0, position].softmax(-1)[token]
        [gradient] = torch.autograd.grad(p, kept)
    return cache[name][0, at].detach(), gradient[0, at]


def assert_scores_are_the_formula(model: Any, prompts: list[kn.Prompt], site: str, max_rows: int | None) -> None:
    with kn.set_options(max_rows=max_rows):
        product = kn.activation_x_gradient(model, prompts, site=site)
        plain = kn.activation(model, prompts, site=site)
    for number, prompt in enumerate(prompts):
        e = kn.encode(model, prompt)
        for layer in range(model.cfg.n_layers):
            w, gradient = activations_and_gradients(model, e, hook_name(site, layer))
            expected = (w * gradient).sum(0)
            error = (product.scores[number, layer] - expected).norm() / expected.norm()
            assert float(error) < 1e-3, (number, layer)
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


# --- capture --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pos", [None, range(6), -1], ids=str)
@pytest.mark.parametrize("site", ["resid_post", "resid_mid", "z", "pattern", "mlp.hook_post"])
def test_what_was_captured_stays_when_the_activation_is_written_to(site: str, pos: Any) -> None:
    model = zoo.tiny("llama")
    tokens, name = tokens_for(model), hook_name(site, 1)
    assert tokens.shape[1] == 6
    _, cache = model.run_with_cache(tokens)
    originals: list[Tensor] = []

    def overwrite(x: Tensor, hook: Any) -> None:
        originals.append(x)
        x.fill_(7.0)

    seen: dict[str, Tensor] = {}
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=[*kn.capture(seen, [site], [1], pos=pos), (name, overwrite)])
    assert bool((originals[0] == 7.0).all())
    axis = 2 if site == "pattern" else 1
    expected = cache[name] if pos != -1 else cache[name].narrow(axis, 5, 1)
    assert torch.equal(seen[name], expected)


def test_writing_to_what_was_captured_changes_no_run() -> None:
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    seen: dict[str, Tensor] = {}

    def overwrite(x: Tensor, hook: Any) -> None:
        seen["blocks.1.hook_resid_post"].fill_(7.0)

    hooks = [*kn.capture(seen, ["resid_post"], [1]), ("blocks.1.hook_resid_post", overwrite)]
    with torch.no_grad():
        clean = model(tokens, return_type="logits")
        assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=hooks), clean)


# --- groups of unequal size, and random controls ----------------------------------------------------------


def pairs(number: str, count: int, found: dict[Neuron, int]) -> list[dict[str, Any]]:
    """Rows of so many pairs; each neuron is found in the first so many of them."""
    return [
        {
            "determiner": "this" if number == "singular" else "these", "number": number, "half": "selection",
            "neurons": [[n.layer, n.index] for n, times in found.items() if i < times],
        }
        for i in range(count)
    ]  # fmt: skip


def test_leading_neurons_of_groups_of_unequal_size_are_those_of_the_largest_difference_of_shares() -> None:
    """By counts alone, each of these neurons would be one of the larger group; by shares alone, `common` the first."""
    often, both, rare, equal, common = (Neuron(0, i) for i in (1, 2, 3, 4, 0))
    singular = {often: 9, both: 4, rare: 3, equal: 6, common: 10}  # of 12: shares 0.75, 0.33, 0.25, 0.5, 0.83
    plural = {often: 1, both: 3, rare: 2, equal: 2, common: 4}  # of 4: shares 0.25, 0.75, 0.5, 0.5, 1
    rows = [*pairs("singular", 12, singular), *pairs("plural", 4, plural)]
    for order in (rows, rows[::-1]):
        found = PairSearch.of(order, {"model": "m"})
        assert found.leading("singular", 4) == (often,)
        assert found.leading("plural", 4) == (both, rare, common)
        assert found.leading("plural") == (both,)


def test_leading_neurons_where_there_is_no_other_group() -> None:
    first, second = Neuron(0, 1), Neuron(0, 2)
    found = PairSearch.of(pairs("plural", 5, {second: 2, first: 4}), {"model": "m"})
    assert found.leading("plural", 3) == (first, second)
    assert found.leading("singular", 3) == ()


def test_random_controls_are_other_neurons_of_the_same_layers() -> None:
    """Half of a layer is given, so that its control must be exactly the other half."""
    given = [Neuron(2, 0), (0, 7), (2, 3), Neuron(2, 5), (2, 6), (5, 4)]
    drawn: set[tuple[Neuron, ...]] = set()
    for seed in range(40):
        controls = random_like(given, 8, torch.Generator().manual_seed(seed))
        assert Counter(n.layer for n in controls) == {2: 4, 0: 1, 5: 1}
        assert len(set(controls)) == len(controls)
        assert {n.index for n in controls if n.layer == 2} == {1, 2, 4, 7}
        assert not set(controls) & {Neuron(*n) if isinstance(n, tuple) else n for n in given}
        assert controls == random_like(given, 8, torch.Generator().manual_seed(seed))
        drawn.add(controls)
    for layer, own in ((0, 7), (5, 4)):  # 40 draws of 7 neurons: each is drawn, the given one never
        assert {n.index for c in drawn for n in c if n.layer == layer} == set(range(8)) - {own}
    with pytest.raises(ValueError, match="layer 2 has 3 other neurons, 4 are needed"):
        random_like(given, 7, torch.Generator().manual_seed(0))
