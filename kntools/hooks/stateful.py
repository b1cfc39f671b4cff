"""Hook functions that pass something on to one another within a run."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kntools.sites import Hook


class StatefulHook:
    """A hook function that shares `state` with other hooks of its list, and treats each token by itself.

    Rows of a sweep are run side by side: every row gets functions with their own state; the same list may be
    given to several rows.
    """

    def __init__(self, fn: Callable[[Tensor, dict[Any, Any]], Tensor | None], state: dict[Any, Any]) -> None:
        self.fn, self.state = fn, state

    def __call__(self, activation: Tensor, hook: Any) -> Tensor | None:
        return self.fn(activation, self.state)

    def for_row(self, states: dict[int, dict[str, Any]]) -> "StatefulHook":
        """This hook for one row; `states` are the row's own, by the states that they stand for."""
        return StatefulHook(self.fn, states.setdefault(id(self.state), {}))


def by_row(each: Sequence[Sequence[Hook]]) -> list[Hook]:
    """Hooks for a pass in which row n of the batch has the stateful hooks `each[n]`, and no others."""
    points: dict[str, list[tuple[int, StatefulHook]]] = {}
    states: list[dict[int, dict[str, Any]]] = [{} for _ in each]
    for row, hooks in enumerate(each):
        for name, fn in hooks:
            if not isinstance(fn, StatefulHook):
                raise TypeError(f"{fn!r} may look at other rows; give the hooks of edits (edit.hooks(model))")
            points.setdefault(name, []).append((row, fn.for_row(states[row])))
    return [(name, StatefulHook(_of_rows(fns), {})) for name, fns in points.items()]


def _of_rows(fns: Sequence[tuple[int, StatefulHook]]) -> Callable[[Tensor, dict[Any, Any]], Tensor]:
    def in_turn(activation: Tensor, state: dict[Any, Any]) -> Tensor:
        rows = list(activation.split(1))
        for row, fn in fns:
            new = fn(rows[row], None)
            rows[row] = rows[row] if new is None else new
        return torch.cat(rows)

    return in_turn
