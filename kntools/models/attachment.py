"""What a run changes in a model for its duration: hook functions attached or kept out, gradients of parameters."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from threading import RLock
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch.nn import Module
from transformer_lens.hook_points import HookPoint

from kntools.models.modules import has_pytorch_hooks
from kntools.scopes import between

P = ParamSpec("P")
T = TypeVar("T")

#: A hook point (or another module, whose output is meant) and a function `fn(activation, hook=...)`.
PointHook = tuple[Module, Callable[..., Any]]

_locks: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def one_thread(function: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """A function of a model that one thread calls at a time: what it changes would act on the runs of others."""

    @wraps(function)
    def alone(model: Any, *args: P.args, **options: P.kwargs) -> T:
        with _locks.setdefault(model, RLock()):
            return function(model, *args, **options)

    return alone


@one_thread
def with_hooks(model: Any, hooks: Sequence[PointHook], call: Callable[[], T]) -> T:
    """What `call` gives while hook functions are attached. These are detached, and only these, whatever happens."""
    attached: list[tuple[Module, set[int], list[int]]] = []  # the numbers of what was there before, and of what is new

    def attach() -> None:
        for point, fn in hooks:
            attached.append((point, set(point._forward_hooks), []))
            if isinstance(point, HookPoint):
                point.add_hook(fn)
            else:
                point.register_forward_hook(lambda module, inputs, output, fn=fn: fn(output, hook=None))
            attached[-1][2].append(next(reversed(point._forward_hooks)))

    def detach() -> None:
        for point, before, own in attached:
            # Without a number of its own: it was interrupted while it was attached.
            numbers = set(own) or set(point._forward_hooks) - before
            if isinstance(point, HookPoint):
                point.fwd_hooks[:] = [h for h in point.fwd_hooks if h.hook.id not in numbers]
            for number in numbers:
                point._forward_hooks.pop(number, None)

    return between(attach, call, detach)


@one_thread
def without_hooks(model: Any, call: Callable[[], T]) -> T:
    """What `call` gives while no hook that somebody attached acts; what is attached meanwhile does."""
    points = [(p, p._forward_hooks) for p in points_of(model)]

    def hide() -> None:
        for point, hooks in points:
            wiring = {handle.hook.id for handle in point.fwd_hooks if is_wiring(handle)}
            point._forward_hooks = OrderedDict((number, fn) for number, fn in hooks.items() if number in wiring)

    def show() -> None:
        for point, hooks in points:
            point._forward_hooks = hooks

    return between(hide, call, show)


@one_thread
def has_hooks(model: Any) -> bool:
    """Has somebody attached hooks to the model, at hook points or by PyTorch? Those that wire a bridge do not count."""
    at_points = any(not is_wiring(handle) for p in points_of(model) for handle in [*p.fwd_hooks, *p.bwd_hooks])
    return at_points or has_pytorch_hooks(model)


def points_of(model: Any) -> Iterable[HookPoint]:
    """Every hook point once, whatever its names."""
    return {id(p): p for p in model.hook_dict.values()}.values()


def is_wiring(handle: Any) -> bool:
    """Did TransformerLens itself attach it, to wire the model?"""
    function = getattr(handle, "user_hook", None)  # transformer-lens 4.x keeps it; 3.x says only what is permanent
    own = function is None or str(getattr(function, "__module__", "")).startswith("transformer_lens.")
    return bool(handle.is_permanent) and own


def check_gradients(model: Any) -> None:
    if torch.is_inference_mode_enabled():
        raise RuntimeError("torch.inference_mode() has no gradients; use torch.no_grad() instead")
    if any(p.is_inference() for p in model.parameters()):
        raise RuntimeError("this model was made within torch.inference_mode(), without gradients; make it outside")


@one_thread
@torch.enable_grad()
def with_gradients(model: Any, compute: Callable[[], T]) -> T:
    """What `compute` gives with gradients of activations. Parameters are left out of them for a while."""
    check_gradients(model)
    trainable = [p for p in model.parameters() if p.requires_grad]

    def require(on: bool) -> None:
        for p in trainable:
            p.requires_grad_(on)

    return between(lambda: require(False), compute, lambda: require(True))
