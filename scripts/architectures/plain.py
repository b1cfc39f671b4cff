"""Plain runs of a model: TransformerLens' `run_with_hooks` and torch's own module hooks, one run at a time.

Nothing here uses kntools. A neuron is an input of the module that holds `W_out`, whatever the hook points are called.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from scripts.architectures.build import Case

Change = Callable[[Tensor], Tensor]
#: A hook point's name, or `(module, "input" | "output")`, and what to make of the activation there.
Place = str | tuple[nn.Module, str]


def run(case: Case, tokens: Tensor, changes: Sequence[tuple[Place, Change]] = ()) -> Tensor:
    """Logits `[pos d_vocab]`."""
    forget_lengths(case)
    points = [(place, _named(change)) for place, change in changes if isinstance(place, str)]
    with ExitStack() as stack:
        for place, change in changes:
            if not isinstance(place, str):
                stack.enter_context(_on_module(*place, change))
        return case.model.run_with_hooks(tokens, fwd_hooks=points)[0]


def logits_at_answer(case: Case, tokens: Tensor, changes: Sequence[tuple[Place, Change]] = ()) -> Tensor:
    return run(case, tokens, changes)[case.position(tokens)]


def seen(case: Case, tokens: Tensor, places: Sequence[Place]) -> list[Any]:
    """Activations at some places, in one run; `None` at a place that the run did not pass."""
    found: dict[int, Tensor] = {}

    def keep(number: int) -> Change:
        def change(x: Tensor) -> Tensor:
            found[number] = x.detach().clone()
            return x

        return change

    with torch.no_grad():
        run(case, tokens, [(place, keep(number)) for number, place in enumerate(places)])
    return [found.get(number) for number in range(len(places))]


def gradient(
    case: Case,
    tokens: Tensor,
    place: Place,
    value: Callable[[Tensor], Tensor],
    *,
    at: int | None = None,
    scale: float = 1.0,
    changes: Sequence[tuple[Place, Change]] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """The activation at a place, times `scale`; the gradient of `value(logits at the answer)` by it; the value.

    `at` is a position: then both are those of that position alone.
    """
    leaves: list[Tensor] = []

    def replace(x: Tensor) -> Tensor:
        part = x if at is None else x[:, at]
        leaves.append((scale * part).detach().clone().requires_grad_())
        if at is None:
            return leaves[-1]
        out = x.detach().clone() if not x.requires_grad else x.clone()
        out[:, at] = leaves[-1]
        return out

    with torch.enable_grad():
        result = value(logits_at_answer(case, tokens, [*changes, (place, replace)]))
        [found] = torch.autograd.grad(result, leaves[-1])
    return leaves[-1].detach(), found, result.detach()


# --- places -----------------------------------------------------------------------------------------


def layers(case: Case) -> range:
    return range(len(getattr(case.model, "blocks", ())))  # encoder-decoders have two stacks of other names


def hook(site: str, layer: int) -> str:
    return f"blocks.{layer}.{site}"


@functools.cache
def layers_with(case: Case, tail: str) -> list[int]:
    """The layers whose hook point of this name is passed in a run."""
    names = set(case.model.hook_dict)
    there = [layer for layer in layers(case) if hook(tail, layer) in names]
    passed = seen(case, case.tokens(), [hook(tail, layer) for layer in there])
    return [layer for layer, x in zip(there, passed, strict=True) if x is not None]


def named(case: Case, tail: str) -> dict[int, Place]:
    """The hook points of this name, by layer."""
    return {layer: hook(tail, layer) for layer in layers_with(case, tail)}


def neuron_layers(case: Case) -> list[int]:
    """The layers that have neurons, as the table of families says."""
    wanted = case.family.neurons
    return list(layers(case) if wanted == "all" else wanted)


def writer(case: Case, layer: int) -> nn.Module | None:
    """The module that holds `W_out`; `None` where the model runs without calling it (compatibility mode)."""
    w = case.model.blocks[layer].mlp.W_out
    owners = [
        m
        for m in case.model.blocks[layer].modules()
        if not list(m.children()) and getattr(m, "weight", None) is not None and m.weight.data_ptr() == w.data_ptr()
    ]
    return next((m for m in owners if seen(case, case.tokens(), [(m, "input")])[0] is not None), None)


def neurons(case: Case, layer: int) -> Place:
    """Where neurons are: what the module of `W_out` reads."""
    module = writer(case, layer)
    return hook("mlp.hook_post", layer) if module is None else (module, "input")


def written(case: Case, layer: int) -> Place:
    """Where it is seen what `W_out` makes of them."""
    module, names = writer(case, layer), (hook("mlp.hook_out", layer), hook("hook_mlp_out", layer))
    return next(name for name in names if name in case.model.hook_dict) if module is None else (module, "output")


def frozen_norm(case: Case, tokens: Tensor, layer: int) -> list[tuple[Place, Change]]:
    """Changes that hold the scale of a norm behind the MLP at its value in the run; none where there is none.

    Such a norm is one that reads what `W_out` gives. It writes its input times a fixed ratio, that of the run.
    """
    norms = [m for m in case.model.blocks[layer].modules() if "Norm" in type(m).__name__ and not list(m.children())]
    output, *read = seen(case, tokens, [written(case, layer), *((m, "input") for m in norms)])
    for norm, x in zip(norms, read, strict=True):
        if x is not None and x.shape == output.shape and torch.equal(x, output):
            hold = _Hold(seen(case, tokens, [(norm, "output")])[0] / x)
            return [((norm, "input"), hold.note), ((norm, "output"), hold.write)]
    return []


class _Hold:
    """A norm that has a fixed ratio instead of its own scale."""

    def __init__(self, ratio: Tensor) -> None:
        self.ratio = self.read = ratio

    def note(self, x: Tensor) -> Tensor:
        self.read = x
        return x

    def write(self, x: Tensor) -> Tensor:
        return self.read * self.ratio


# --- attaching --------------------------------------------------------------------------------------


def _named(change: Change) -> Callable[..., Tensor]:
    return lambda x, hook: change(x)


@contextmanager
def _on_module(module: nn.Module, side: str, change: Change) -> Iterator[None]:
    def changed(x: Tensor) -> Tensor:
        return change(x) if x.ndim > 2 else change(x[None])[0]  # OPT flattens `[batch pos]`, and the batch is 1

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (changed(args[0]), *args[1:])

    def after(_: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        return (changed(out[0]), *out[1:]) if isinstance(out, tuple) else changed(out)

    handle = module.register_forward_pre_hook(before) if side == "input" else module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def forget_lengths(case: Case) -> None:
    """Rotary tables that remember the longest run are put back as they were made."""
    for module in case.source.modules():
        original = getattr(module, "original_inv_freq", None)
        if original is not None and getattr(module, "rope_type", None) == "dynamic":
            module.inv_freq, module.max_seq_len_cached = original.clone(), module.original_max_seq_len
