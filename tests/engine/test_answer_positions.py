"""Hooks and logits without a position are at the answer: where that is known, exactly there; elsewhere an error."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.engine.inputs import make_inputs
from kntools.sites import ANSWER, Positions
from tests import zoo
from tests.loop import one_by_one, tokens_for

MASKED = kn.Prompt("Is [MASK] the capital of Canada?", "Ottawa", subject="Canada")
CAUSAL = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")
NEURONS = [(1, n) for n in range(0, 48, 2)]
VECTOR = torch.linspace(-2, 2, zoo.D_MODEL)

#: Every factory whose hooks act at the answer if nothing is said.
FACTORIES: dict[str, Callable[[Positions], list[kn.Hook]]] = {
    "scale_neurons": lambda pos: kn.scale_neurons(NEURONS, 0.5, pos=pos),
    "ablate_neurons": lambda pos: kn.ablate_neurons(NEURONS, pos=pos),
    "enhance_neurons": lambda pos: kn.enhance_neurons(NEURONS, pos=pos),
    "set_neurons": lambda pos: kn.set_neurons(NEURONS, 1.0, pos=pos),
    "scale_site": lambda pos: kn.scale_site("mlp_out", 1, 0.0, pos=pos),
    "add_vector": lambda pos: kn.add_vector("resid_post", 1, VECTOR, pos),
}
LEFT_OUT: dict[str, Callable[[], list[kn.Hook]]] = {
    "scale_neurons": lambda: kn.scale_neurons(NEURONS, 0.5),
    "ablate_neurons": lambda: kn.ablate_neurons(NEURONS),
    "enhance_neurons": lambda: kn.enhance_neurons(NEURONS),
    "set_neurons": lambda: kn.set_neurons(NEURONS, 1.0),
    "scale_site": lambda: kn.scale_site("mlp_out", 1, 0.0),
    "add_vector": lambda: kn.add_vector("resid_post", 1, VECTOR),
}
FACTORY = pytest.mark.parametrize("factory", FACTORIES)


@FACTORY
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_in_a_sweep_of_a_prompt_it_is_the_prompts_own(name: str, factory: str) -> None:
    model = zoo.tiny(name)
    e = kn.encode(model, MASKED if name == "bert" else CAUSAL)
    expected = one_by_one(model, e.tokens, [FACTORIES[factory](e.position)], pos=e.position)
    elsewhere = one_by_one(model, e.tokens, [FACTORIES[factory](1 if name != "bert" else -1)], pos=e.position)
    assert float((expected - elsewhere).abs().max()) > 1e-4, "where it acts makes no difference: nothing is compared"
    for given in (e, e.prompt, [e]):
        for pos in (None, e.position):
            found = kn.sweep(model, given, [LEFT_OUT[factory]()], pos=pos)
            torch.testing.assert_close(found.softmax(-1), expected, atol=1e-5, rtol=0)


@FACTORY
def test_in_a_run_of_one_row_of_a_causal_model_it_is_the_last_token(factory: str) -> None:
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    expected = one_by_one(model, tokens, [FACTORIES[factory](-1)])
    torch.testing.assert_close(one_by_one(model, tokens, [LEFT_OUT[factory]()]), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(kn.sweep(model, tokens, [LEFT_OUT[factory]()]).softmax(-1), expected, atol=1e-5, rtol=0)
    with torch.no_grad(), model.hooks(fwd_hooks=LEFT_OUT[factory]()):
        torch.testing.assert_close(model(tokens)[:, -1].softmax(-1), expected, atol=1e-6, rtol=0)


@FACTORY
def test_where_it_is_not_known_it_is_an_error(factory: str) -> None:
    hooks = LEFT_OUT[factory]()
    bert, llama = zoo.tiny("bert"), zoo.tiny("llama")
    masked, two = kn.encode(bert, MASKED).tokens, tokens_for(llama).repeat(2, 1)
    with torch.no_grad():
        with pytest.raises(ValueError, match="a masked model answers at its mask: give pos="):
            bert.run_with_hooks(masked, fwd_hooks=hooks)
        with pytest.raises(ValueError, match="2 rows are run, which may be padded: give pos="):
            llama.run_with_hooks(two, fwd_hooks=hooks)
    with pytest.raises(ValueError, match="give the hook pos="):
        kn.sweep(bert, masked, [hooks], pos=-1)
    with pytest.raises(ValueError, match="give the hook pos="):
        kn.sweep(llama, two, [kn.Intervention(hooks, prompt=1)], pos=-1)


def test_logits_of_unknown_positions_are_an_error() -> None:
    bert, llama = zoo.tiny("bert"), zoo.tiny("llama")
    with pytest.raises(ValueError, match="token ids of a masked model is unknown; give pos="):
        kn.sweep(bert, kn.encode(bert, MASKED).tokens, [[]])
    with pytest.raises(ValueError, match="token ids of 2 rows is unknown; give pos="):
        kn.sweep(llama, tokens_for(llama).repeat(2, 1), [kn.Intervention((), prompt=1)])
    with pytest.raises(TypeError, match=r"is a text; write kn\.Prompt"):
        inspect.unwrap(make_inputs)(llama, CAUSAL.text)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_each_of_several_prompts_has_its_own(name: str) -> None:
    """Masks at different places of texts of equal length; a causal text with and without a word behind it."""
    model = zoo.tiny(name)
    texts = ["Is [MASK] the capital of Canada?", "The capital of [MASK] is Rome.", "[MASK] is the capital of Cuba."]
    causal = ["The capital of Canada is", "The capital of Japan is", "The quick brown fox jumps"]
    space = "" if name == "bert" else " "
    prompts = [kn.Prompt(t, f"{space}Ottawa") for t in (texts if name == "bert" else causal)]
    encoded = [kn.encode(model, p) for p in prompts]
    assert len({e.tokens.shape[1] for e in encoded}) == 1 and len({e.position for e in encoded}) == (
        3 if name == "bert" else 1
    )
    runs = [kn.Intervention(kn.ablate_neurons(NEURONS), prompt=n) for n in (2, 0, 1)]
    expected = [
        one_by_one(model, encoded[n].tokens, [kn.ablate_neurons(NEURONS, pos=encoded[n].position)], encoded[n].position)
        for n in (2, 0, 1)
    ]
    torch.testing.assert_close(kn.sweep(model, prompts, runs).softmax(-1), torch.cat(expected), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"kn.Intervention\(hooks, prompt=n\)"):
        kn.sweep(model, prompts, [kn.ablate_neurons(NEURONS)])


def test_an_answer_of_several_tokens_has_several() -> None:
    model = zoo.tiny("llama")
    e = kn.encode(model, replace(CAUSAL, target=" Ouagadougou", multi_token="sum"))
    assert len(e.positions) > 2
    with torch.no_grad():
        expected = model.run_with_hooks(e.tokens, fwd_hooks=kn.ablate_neurons(NEURONS, pos=e.positions))
    found = kn.sweep(model, e, [kn.ablate_neurons(NEURONS)])
    assert found.shape == (1, len(e.positions), model.cfg.d_vocab)
    torch.testing.assert_close(found.softmax(-1), expected[:, list(e.positions)].softmax(-1), atol=1e-5, rtol=0)


def test_a_gradient_by_the_answer_is_at_the_answer() -> None:
    model, name = zoo.tiny("bert"), "blocks.1.mlp.hook_post"
    e = kn.encode(model, MASKED)
    metric = kn.probability(e.target_ids)
    found, expected = kn.sweep_gradients(
        model, e, [kn.Intervention((), wrt=[(name, pos)]) for pos in (ANSWER, e.position)], metric
    )
    assert torch.equal(found.wrt[name].gradient, expected.wrt[name].gradient)
    assert float(found.wrt[name].gradient.abs().max()) > 0


def test_a_captured_activation_is_the_answers() -> None:
    model, seen = zoo.tiny("bert"), dict[str, Tensor]()
    e = kn.encode(model, MASKED)
    kn.sweep(model, e, [kn.capture(seen, ["mlp.hook_post"], [1], ANSWER)])
    _, cache = model.run_with_cache(e.tokens)
    torch.testing.assert_close(seen["blocks.1.mlp.hook_post"], cache["blocks.1.mlp.hook_post"][:, [e.position]])


def test_reprs_say_where() -> None:
    [(_, hook)] = kn.ablate_neurons([(1, 2)])
    assert repr(hook) == "<scale by 0 [L1.N2] at the answer>" and repr(ANSWER) == "ANSWER"
    outside: Any = zoo.tiny("gpt2").blocks[1].mlp.hook_post
    with pytest.raises(RuntimeError, match="outside of a model's forward pass; give it pos="):
        hook(torch.zeros(1, 2, 48), hook=outside)
