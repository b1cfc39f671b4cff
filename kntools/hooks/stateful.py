"""Hook functions that pass something on to one another within a run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class StatefulHook:
    """A hook function that shares `state` with other hooks of its list, and treats each token by itself.

    Rows of a sweep are run side by side: every row gets functions with their own state; the same list may be
    given to several rows.
    """

    fn: Callable[[Tensor, dict[str, Any]], Tensor | None]
    state: dict[str, Any]

    def __call__(self, activation: Tensor, hook: Any) -> Tensor | None:
        return self.fn(activation, self.state)

    def for_row(self, states: dict[int, dict[str, Any]]) -> "StatefulHook":
        """This hook for one row; `states` are the row's own, by the states that they stand for."""
        return replace(self, state=states.setdefault(id(self.state), {}))
