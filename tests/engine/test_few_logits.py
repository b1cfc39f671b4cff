"""A metric that reads the logits of two tokens alone: passes that make no others, and the same values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.engine.capability import capability
from kntools.metrics import LogitDifference
from tests import zoo
from tests.loop import overridden, tokens_for

TARGET, FOIL = 7, 3


@contextmanager
def shapes(model: Any) -> Iterator[list[tuple[int, int]]]:
    """Rows and logits of each pass, as the unembedding makes them. The probe is no part of it."""
    found: list[tuple[int, int]] = []
    with overridden(model.unembed.hook_out, lambda forward, x: found.append((len(x), x.shape[-1])) or forward(x)):
        capability(model, tokens_for(model))
        found.clear()
        yield found


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


def unmade(module: Any, args: Any, output: Tensor) -> Tensor:
    """A change of logits by their place, which is another one among the logits of two tokens."""
    return output.index_fill(-1, torch.tensor([0, output.shape[-1] - 1]), -1e9)


@pytest.mark.parametrize("where", ["matrix", "bridge", "model"])
@pytest.mark.parametrize("late", [True, False])
def test_what_changes_logits_by_their_place_sees_all_of_them(where: str, late: bool) -> None:
    model = zoo.fresh("llama")
    tokens, few = tokens_for(model), kn.logit_difference(TARGET, 0)
    if late:
        assert capability(model, tokens).few_logits
    if where == "model":
        hook = lambda module, args, out: out.__setitem__("logits", unmade(module, args, out.logits))  # noqa: E731
        model.original_model.register_forward_hook(hook)
    else:
        {"matrix": model.unembed.original_component, "bridge": model.unembed}[where].register_forward_hook(unmade)
    values = kn.sweep(model, tokens, runs_of(model), pos=-1, metric=few)
    expected = kn.sweep(model, tokens, runs_of(model), pos=-1, metric=lambda logits: logits[:, TARGET] - logits[:, 0])
    torch.testing.assert_close(values, expected)
    assert bool((values > 1e8).all())


@pytest.mark.parametrize("places", [[0], [-1], [0, -1], range(100, 120), [3]])
def test_a_model_that_changes_logits_by_their_place_makes_all_of_them(places: Sequence[int]) -> None:
    model = zoo.fresh("llama")
    forward = model.original_model.forward

    def masked(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        out.logits = out.logits.index_fill(-1, torch.tensor(places) % out.logits.shape[-1], -1e9)
        return out

    model.original_model.forward = masked
    tokens = tokens_for(model)
    assert capability(model, tokens).fork and not capability(model, tokens).few_logits
    masked_id = places[0] % int(model.cfg.d_vocab)
    values = kn.sweep(model, tokens, runs_of(model), pos=-1, metric=kn.logit_difference(TARGET, masked_id))
    assert bool((values > 1e8).all())


def test_hooks_may_use_the_unembedding() -> None:
    model = zoo.tiny("llama")
    tokens, lens = tokens_for(model), list[int]()

    def look(x: Tensor, hook: Any) -> None:
        lens.append(model.unembed.original_component(x).shape[-1])

    kn.sweep(model, tokens, [[("blocks.1.hook_resid_post", look)]], pos=-1, metric=kn.logit_difference(TARGET, FOIL))
    assert set(lens) == {int(model.cfg.d_vocab)}


def test_a_metric_that_only_resembles_it_gets_all_logits() -> None:
    class Twice(LogitDifference):
        def __call__(self, logits: Tensor) -> Tensor:
            return 2 * super().__call__(logits)

    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    twice, once = (
        kn.sweep(model, tokens, runs_of(model), pos=-1, metric=m)
        for m in (Twice(TARGET, FOIL), kn.logit_difference(TARGET, FOIL))
    )
    torch.testing.assert_close(twice, 2 * once)


def test_the_unembedding_is_as_it_was_after_an_interrupt() -> None:
    model = zoo.fresh("llama")
    tokens, matrix = tokens_for(model), model.unembed.original_component
    armed, struck = list[bool](), list[int]()

    def stop(forward: Any, logits: Tensor) -> Tensor:
        if armed and "forward" in vars(matrix):
            struck.append(logits.shape[-1])
            raise KeyboardInterrupt
        return forward(logits)

    with overridden(model.unembed.hook_out, stop), pytest.raises(KeyboardInterrupt):
        assert capability(model, tokens).few_logits
        armed.append(True)
        kn.sweep(model, tokens, [[]], pos=-1, metric=kn.logit_difference(TARGET, FOIL))
    assert struck == [2] and "forward" not in vars(matrix)
