"""kntools leaves a model, and the process, as it found them: also after an error or Ctrl-C at any point."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.engine.capability import capability
from kntools.engine.plan import Intervention
from tests import zoo
from tests.leaks import NAME, PROMPTS, nothing_leaks, prepared
from tests.loop import one_by_one

Operation = Callable[[Any, Tensor, list[kn.Hook]], Any]


@pytest.fixture(scope="module", params=["llama", "opt", "llama with hooks"])
def model(request: pytest.FixtureRequest) -> Any:
    name = request.param.split()[0]
    return prepared(name, hooked=name != request.param)


def in_small_passes(run: Callable[[], Any]) -> Any:
    with kn.set_options(max_rows=1):
        return run()


OPERATIONS: dict[str, Operation] = {
    "encode": lambda m, t, hooks: kn.encode(m, PROMPTS[0]),
    "sweep": lambda m, t, hooks: kn.sweep(m, t, [hooks, [], kn.corrupt([1], torch.ones(1, 32))]),
    "sweep metric": lambda m, t, hooks: kn.sweep(m, t, [hooks, []], metric=kn.probability(5)),
    "small passes": lambda m, t, hooks: in_small_passes(lambda: kn.sweep(m, t, [hooks, []])),
    "sweep_gradients": lambda m, t, hooks: kn.sweep_gradients(
        m, t, [Intervention(hooks, wrt=[(NAME, -1)]), Intervention((), wrt=[(NAME, 2)])], kn.probability(5)
    ),
}  # fmt: skip
ATTRIBUTIONS: dict[str, Operation] = {
    f.__name__: lambda m, t, hooks, f=f: f(m, PROMPTS)
    for f in (kn.integrated_gradients, kn.activation, kn.activation_x_gradient)
}
ATTRIBUTIONS["fixed rule"] = lambda m, t, hooks: kn.integrated_gradients(m, PROMPTS, rule="midpoint", steps=3)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("operation", [*OPERATIONS, *ATTRIBUTIONS])
def test_nothing_leaks(model: Any, operation: str, grad: bool) -> None:
    tokens = kn.encode(model, PROMPTS[0]).tokens
    with nothing_leaks(model), torch.set_grad_enabled(grad):
        (OPERATIONS | ATTRIBUTIONS)[operation](model, tokens, kn.scale_site("z", 1, 0.5))
        assert torch.is_grad_enabled() == grad


def test_inference_mode_has_no_gradients_and_says_so(model: Any) -> None:
    with nothing_leaks(model), torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        kn.integrated_gradients(model, PROMPTS)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("place", ["hook_embed", "blocks.0.hook_resid_pre", NAME, "unembed.hook_in"])
@pytest.mark.parametrize("operation", [o for o in OPERATIONS if o != "encode"])
def test_nothing_leaks_when_a_hook_raises(model: Any, operation: str, place: str, error: type[BaseException]) -> None:
    def fail(x: Tensor, hook: Any) -> None:
        raise error("out of cheese")

    tokens = kn.encode(model, PROMPTS[0]).tokens
    with nothing_leaks(model), pytest.raises(error, match="out of cheese"):
        OPERATIONS[operation](model, tokens, [("blocks.1.hook_attn_out", lambda x, hook: x * 2), (place, fail)])


@pytest.mark.parametrize("operation", ["sweep_gradients", "integrated_gradients", "activation"])
def test_nothing_leaks_when_it_is_interrupted_anywhere(operation: str) -> None:
    """Ctrl-C in the n-th call of any module: while the model is tried out, a prefix is built, rows are added."""
    model = prepared("llama")
    tokens = kn.encode(model, PROMPTS[0]).tokens
    run = (OPERATIONS | ATTRIBUTIONS)[operation]
    remaining = 0

    def count(*_: Any) -> None:
        nonlocal remaining
        remaining -= 1
        if remaining == 0:
            raise KeyboardInterrupt

    interrupted = 0
    for calls in (1, 2, 30, 77, 150, 333, 500, 800, 1300, 2100):
        remaining = calls
        handle = torch.nn.modules.module.register_module_forward_pre_hook(count)
        try:
            with nothing_leaks(model):
                try:
                    run(model, tokens, [])
                except KeyboardInterrupt:
                    interrupted += 1
        finally:
            handle.remove()
    assert interrupted >= 5
    # ... and what was learnt until then is not wrong.
    hooks = [kn.ablate_neurons([(1, 3)]), kn.scale_site("z", 2, 0.0, pos=1)]
    torch.testing.assert_close(
        kn.sweep(model, tokens, hooks).softmax(-1), one_by_one(model, tokens, hooks), atol=1e-5, rtol=0
    )


# --- the user's own hooks -------------------------------------------------------------------------------


def edits(pos: int) -> dict[str, list[kn.Hook]]:
    def in_place(x: Tensor, hook: Any) -> Tensor:
        x[:, pos] = 0
        return x

    return {
        "a function": [("blocks.0.hook_resid_post", lambda x, hook: x * 0.5)],
        "one position": [("blocks.0.hook_resid_post", in_place)],
        "one of ours": kn.ablate_neurons([(0, n) for n in range(48)], pos=pos),
    }


@pytest.mark.parametrize("learnt", ["before", "under the hook"])
@pytest.mark.parametrize("pos", [-1, 2])
@pytest.mark.parametrize("kind", ["a function", "one position", "one of ours"])
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_hooks_that_were_there_before_still_work(name: str, kind: str, pos: int, learnt: str) -> None:
    """`with model.hooks(...)` around a sweep: what a model does with a lesion."""
    model = zoo.fresh(name)
    end = " [MASK]." if name == "bert" else ""
    tokens = kn.encode(model, kn.Prompt(PROMPTS[0].text + end, " Ottawa")).tokens
    runs = [[], kn.ablate_neurons([(2, 3)], pos=-1), kn.scale_site("z", 1, 0.5, pos=3)]
    clean = one_by_one(model, tokens, runs)
    if learnt == "before":
        kn.sweep(model, tokens, runs, pos=-1)
    with model.hooks(fwd_hooks=edits(pos)[kind]):
        expected = one_by_one(model, tokens, runs)
        ours = kn.sweep(model, tokens, runs, pos=-1).softmax(-1)
        [gradients] = kn.sweep_gradients(model, tokens, [Intervention((), wrt=[(NAME, -1)])], kn.probability(5), pos=-1)
    assert (expected - clean).abs().max() > 1e-3
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    assert gradients.values.item() == pytest.approx(expected[0, 5].item(), rel=1e-3)
    torch.testing.assert_close(kn.sweep(model, tokens, runs, pos=-1).softmax(-1), clean, atol=1e-5, rtol=0)
    assert capability(model, tokens).prefix == (name == "llama"), "what was seen under the hook was taken for good"


def test_a_model_that_nobody_uses_is_freed() -> None:
    model = zoo.fresh("gpt2")
    kn.integrated_gradients(model, PROMPTS[0])
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
