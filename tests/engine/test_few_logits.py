"""A metric that reads the logits of two tokens alone: passes that make no others, and the same values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.engine.capability import capability
from tests import zoo
from tests.loop import tokens_for

TARGET, FOIL = 7, 3


@contextmanager
def shapes(model: Any) -> Iterator[list[tuple[int, int]]]:
    """Rows and logits of each pass, as the unembedding makes them."""
    found: list[tuple[int, int]] = []
    handle = model.unembed.register_forward_hook(lambda module, args, out: found.append((len(out), out.shape[-1])))
    try:
        yield found
    finally:
        handle.remove()


def runs_of(model: Any) -> list[kn.Intervention]:
    layers = range(model.cfg.n_layers)
    return [kn.Intervention(kn.scale_site("mlp.hook_post", layer, 0.5, pos=-1)) for layer in layers]


@pytest.mark.parametrize("name", zoo.ALL)
def test_values_and_gradients_are_those_of_all_logits(name: str) -> None:
    model = zoo.tiny(name)
    tokens, words = tokens_for(model), int(model.cfg.d_vocab)
    few, every = kn.logit_difference(TARGET, FOIL), lambda logits: logits[:, TARGET] - logits[:, FOIL]
    can = capability(model, tokens)
    assert can.few_logits == can.fork
    made = 2 if can.few_logits else words
    with shapes(model) as found:
        values = kn.sweep(model, tokens, runs_of(model), pos=-1, metric=few)
    assert max(found)[1] == made
    torch.testing.assert_close(values, kn.sweep(model, tokens, runs_of(model), pos=-1, metric=every))
    runs = [kn.Intervention((), wrt=[(f"blocks.{n}.mlp.hook_post", -1)]) for n in range(model.cfg.n_layers)]
    with shapes(model) as found:
        own = kn.sweep_gradients(model, tokens, runs, few, pos=-1)
    assert max(found)[1] == made
    for a, b in zip(own, kn.sweep_gradients(model, tokens, runs, every, pos=-1), strict=True):
        torch.testing.assert_close(a.values, b.values)
        for hook, derivative in a.wrt.items():
            torch.testing.assert_close(derivative.gradient, b.wrt[hook].gradient)


def test_each_prompt_has_tokens_of_its_own() -> None:
    model = zoo.tiny("llama")
    tokens = torch.cat([tokens_for(model), tokens_for(model).roll(1, -1)])
    runs = [kn.Intervention(run.hooks, prompt=n % 2) for n, run in enumerate(2 * runs_of(model))]
    asked = [(TARGET, FOIL), (FOIL, 11)]
    capability(model, tokens)  # whose probe is no part of the count
    with shapes(model) as found:
        values = kn.sweep(model, tokens, runs, pos=-1, metric=[kn.logit_difference(*pair) for pair in asked])
    assert max(found)[1] == 3
    logits = kn.sweep(model, tokens, runs, pos=-1)
    expected = [row[asked[n % 2][0]] - row[asked[n % 2][1]] for n, row in enumerate(logits)]
    torch.testing.assert_close(values, torch.stack(expected))


def test_all_logits_where_something_else_reads_them() -> None:
    model = zoo.tiny("llama")
    tokens, seen = tokens_for(model), list[int]()
    words, few = int(model.cfg.d_vocab), kn.logit_difference(TARGET, FOIL)

    def look(x: Tensor, hook: Any) -> None:
        seen.append(x.shape[-1])

    kn.sweep(model, tokens, [*runs_of(model), [("unembed.hook_out", look)]], pos=-1, metric=few)
    assert set(seen) == {words}
    with shapes(model) as found:  # one of two metrics may read any
        both = torch.cat([tokens, tokens])
        kn.sweep(model, both, [kn.Intervention((), prompt=1)], pos=-1, metric=[few, kn.probability(TARGET)])
    assert {width for _, width in found} == {words}
    with pytest.raises(IndexError, match=f"token id {words} does not exist: the vocabulary has {words}"):
        kn.sweep(model, tokens, runs_of(model), pos=-1, metric=kn.logit_difference(words, FOIL))


def test_an_unembedding_that_is_more_than_a_matrix_makes_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.fresh("llama")

    def mask(module: Any, args: Any, output: Tensor) -> Tensor:
        output[..., model.cfg.d_vocab - 1] = -1e9  # no such place among the logits of two tokens
        return output

    model.original_model.lm_head.register_forward_hook(mask)
    tokens, few = tokens_for(model), kn.logit_difference(TARGET, FOIL)
    assert capability(model, tokens).fork and not capability(model, tokens).few_logits
    values = kn.sweep(model, tokens, runs_of(model), pos=-1, metric=few)
    plain = zoo.tiny("llama")
    torch.testing.assert_close(values, kn.sweep(plain, tokens, runs_of(plain), pos=-1, metric=few))


def test_the_unembedding_is_as_it_was_after_an_interrupt() -> None:
    model = zoo.fresh("llama")
    tokens = tokens_for(model)

    def stop(x: Tensor, hook: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kn.sweep(
            model, tokens, [[("blocks.1.hook_resid_post", stop)]], pos=-1, metric=kn.logit_difference(TARGET, FOIL)
        )
    assert not [name for name, module in model.named_modules() if "forward" in vars(module)]
