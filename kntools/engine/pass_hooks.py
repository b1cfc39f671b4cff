"""What happens to the hook functions of a pass: each must fire, sees its own rows, and may keep an activation."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kntools.hooks.positioned import axis_of_positions, shares_memory
from kntools.hooks.stateful import StatefulHook
from kntools.sites import Hook

PassHook = Callable[..., Any]


class MustFire:
    """Wraps hook functions; one that never ran in a pass is an error."""

    def __init__(self) -> None:
        self._waiting: dict[object, str] = {}

    def wrap(self, label: str, fn: PassHook) -> PassHook:
        key = object()
        self._waiting[key] = label

        def call(activation: Any, hook: Any) -> Any:
            self._waiting.pop(key, None)
            return fn(activation, hook=hook)

        return call

    def check(self) -> None:
        if self._waiting:
            raise RuntimeError(
                f"the hook on {next(iter(self._waiting.values()))} never fired: this model does not compute that "
                "activation, or its use_... switch is off (e.g. model.set_use_attn_result(True))"
            )


def on_rows(
    x: Tensor, parts: Iterable[tuple[slice, Sequence[Callable[[Tensor], Tensor | None]]]], name: str
) -> Tensor | None:
    """Rows of a batch, in ascending order, through functions of their own, in turn; `None` if nothing was changed."""
    pieces, done = [], 0
    if one_memory := x.shape[0] > 1 and x.stride(0) == 0:  # positions: what is written in place is for one row
        x = x.contiguous()
    for span, fns in parts:
        part = old = x[span]
        for fn in fns:
            new = fn(part)
            part = part if new is None else new
        if part is not old:
            if part.shape != old.shape:
                raise ValueError(f"a hook at {name} returned {tuple(part.shape)} for {tuple(old.shape)}")
            pieces += [x[done : span.start], part]
            done = span.stop
    if not pieces:
        return x if one_memory else None
    return torch.cat([*pieces, x[done:]])


def by_row(each: Sequence[Sequence[Hook]]) -> list[Hook]:
    """Hooks for a pass in which row n of the batch has the hooks `each[n]`, those of an edit, and no others."""
    points: dict[str, dict[int, list[PassHook]]] = {}
    states: list[dict[int, dict[str, Any]]] = [{} for _ in each]
    for row, hooks in enumerate(each):
        for name, fn in hooks:
            if not isinstance(fn, StatefulHook):
                raise TypeError(f"{fn!r} may look at other rows; give the hooks of edits (edit.hooks(model))")
            points.setdefault(name, {}).setdefault(row, []).append(partial(fn.for_row(states[row]), hook=None))

    def point(name: str, rows: dict[int, list[PassHook]]) -> Hook:
        parts = [(slice(row, row + 1), fns) for row, fns in rows.items()]
        return name, StatefulHook(lambda x, _: on_rows(x, parts, name), {})

    return [point(name, rows) for name, rows in points.items()]


@dataclass
class Watched:
    """An activation to differentiate by, as it was in the pass."""

    tensor: Tensor  # [row pos ...] of one item, the whole activation
    axis: int
    local: tuple[int, ...]  # asked positions within the pass

    def select(self, whole: Tensor) -> Tensor:
        """The asked positions of `whole`, as `[row pos ...]`."""
        moved = whole.movedim(self.axis, 1)
        return moved.index_select(1, torch.tensor(self.local, device=whole.device))


def watch(name: str, local: tuple[int, ...], into: dict[str, Watched]) -> PassHook:
    """A hook function that makes the activation one that can be differentiated by."""

    def keep(activation: Tensor, hook: Any) -> Tensor:
        # A new tensor in any case: the slice that came in is not what the pass goes on with.
        kept = activation.clone() if activation.requires_grad else activation.detach().clone().requires_grad_()
        into[name] = Watched(kept, axis_of_positions(activation, hook), local)
        return activation.copy_(kept) if shares_memory(name) else kept

    return keep
