"""What the hook functions of a pass do beside their own work: they must fire, and may keep an activation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kntools.hooks.positioned import position_axis, shares_memory

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
        into[name] = Watched(kept, position_axis(hook), local)
        return activation.copy_(kept) if shares_memory(name) else kept

    return keep
