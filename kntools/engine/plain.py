"""The plain loop: what a sweep means, and what it falls back to where a model's batch cannot grow."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from kntools.engine.forward import PassOutput, Watched
from kntools.engine.plan import Item
from kntools.hooks.positioned import position_axis, shares_memory
from kntools.models import adapter
from kntools.sites import resolve_positions

T = TypeVar("T")


def run_plain(model: Any, tokens: Tensor, asked: Sequence[Sequence[int]], item: Item) -> PassOutput:
    """One intervention in a run of its own: the whole prompt, every row from the embedding on."""
    inter = item.intervention
    fired: set[int] = set()
    watched: dict[str, Watched] = {}
    hooks = [
        (adapter.hook_point(model, name), noting(fn, number, fired))
        for number, (name, fn) in enumerate([*inter.hooks, *[(n, _watch(n, pos, watched)) for n, pos in inter.wrt]])
    ]
    logits = adapter.run(model, tokens[inter.prompt].expand(inter.rows, -1), hooks=hooks)
    for number, name in enumerate(inter.names()):
        if number not in fired:
            raise RuntimeError(f"the hook on {name!r} (intervention {item.number}) never fired on this model")
    picked = logits[:, list(asked[inter.prompt])]
    return PassOutput(picked, {item.number: slice(0, inter.rows)}, {item.number: watched})


def noting(fn: Callable[..., Any], key: T, fired: set[T]) -> Callable[..., Any]:
    """The hook function, which puts `key` into `fired` whenever it runs."""

    def call(activation: Any, hook: Any) -> Any:
        fired.add(key)
        return fn(activation, hook=hook)

    return call


def _watch(name: str, pos: Any, watched: dict[str, Watched]) -> Callable[..., Tensor]:
    def watch(activation: Tensor, hook: Any) -> Tensor:
        axis = position_axis(hook)
        kept = activation.clone() if activation.requires_grad else activation.detach().clone().requires_grad_()
        watched[name] = Watched(kept, axis, resolve_positions(pos, kept.shape[axis]))
        return activation.copy_(kept) if shares_memory(name) else kept

    return watch
