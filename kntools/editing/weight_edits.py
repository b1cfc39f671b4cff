"""An edit of weights is a value; applying it is a scope, after which every bit is as before.

Scopes nest. They are closed in the opposite order; each puts back the copy that it saved on entry.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch

from kntools.editing.changes import Change, as_hooks
from kntools.editing.constraints import Constraints, joined
from kntools.editing.edit_stack import Application, check, find
from kntools.results.result import Result
from kntools.scopes import scope
from kntools.sites import Hook


class WeightEdit(Result):
    """A change of the `W_out` of some layers, bound to the weights it was computed on.

    ```python
    with edit.applied(model): ...     # bit for bit restored on exit, also after an exception
    edit.apply(model); edit.undo(model)
    both = one + other                # two edits of different layers, made on the same weights
    edit.save("edit.safetensors"); kn.load("edit.safetensors")
    ```

    `changes` has the updates of each layer, `constraints` the values of each key, where these are known.
    `provenance` has the fingerprint of the weights that the edit was computed on.

    Edits may be nested. One that was made while another one was applied is applied on top of it. So can one be that was
    made on the unedited weights: then both are added, whether or not they hold together.
    """

    changes: tuple[Change, ...]
    constraints: tuple[Constraints, ...]
    provenance: dict[str, Any]

    def applied(self, model: Any) -> AbstractContextManager[Any]:
        """A scope in which `model` is edited; yields the model.

        Raises:
            ValueError: the edit was made on other weights.
            RuntimeError: it is applied already; or, on exit, an edit that was applied later is still there.
        """
        made: list[Application] = []

        def enter() -> Any:
            made.append(Application(self, model))
            made[0].apply(model)
            return model

        def leave() -> None:
            for application in made:
                application.undo(model)

        return scope(enter, leave)

    def apply(self, model: Any) -> None:
        """Edit `model` until `undo`. Raises as `applied` does; the weights are then unchanged."""
        Application(self, model).apply(model)

    def undo(self, model: Any) -> None:
        """Restore the weights from before `apply`: the saved copy, not a subtraction.

        Raises:
            RuntimeError: the edit is not applied, or another one was applied after it.
        """
        find(self, model).undo(model)

    def hooks(self, model: Any) -> list[Hook]:
        """The edit as hooks, without a change of weights: `kn.sweep(model, tokens, [edit.hooks(model)])`.

        What the changed rows of `W_out` would add is added to the output of the MLP, at every position; in half
        precision, as the rounded weights would add it. Raises as `applied` does.
        """
        changes = self.changes
        check(self, changes, model)
        return as_hooks(model, changes)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(change.layer for change in self.changes))

    def __add__(self, other: "WeightEdit") -> "LayerEdit":
        """Both edits as one: of different layers, or of different rows (neurons) of one layer.

        Edits that give their keys exact values in the same layer (`kn.rome`, `kn.emmet`) are solved again; both
        hold (EMMET's equality).

        Raises:
            ValueError: they were made on different weights, or change the same rows.
        """
        if self.provenance["fingerprint"] != other.provenance["fingerprint"]:
            raise ValueError(
                "these edits were made on different weights, so they do not add up; "
                "apply an edit that was computed inside the scope of another one inside that scope"
            )
        label = f"{self.title()} + {other.title()}"
        shared = sorted({a.layer for a in self.changes for b in other.changes if a.shares_rows(b)})
        if not shared:
            kept = (*self.constraints, *other.constraints)
            return LayerEdit((*self.changes, *other.changes), label, self.provenance, constraints=kept)
        if not (self._is_exact() and other._is_exact()):
            raise ValueError(
                f"both edits change the same rows of W_out in layer {', '.join(map(str, shared))}: each was solved "
                "alone, and their sum satisfies neither. Make them together (kn.emmet(model, prompts, targets, "
                "layers=...)), or apply one (`with one.applied(model):`) and make the other there"
            )
        both = joined([*self.constraints, *other.constraints])
        return LayerEdit((Change(both.layer, both.solve()),), label, self.provenance, constraints=(both,))

    def _is_exact(self) -> bool:
        """Is it, in one layer, what its own keys and their values ask for, and nothing else?"""
        if [c.layer for c in self.constraints] != [c.layer for c in self.changes] or len(self.changes) != 1:
            return False
        [own], [change] = self.constraints, self.changes
        return change.rows is None and torch.allclose(own.solve(), change.update, rtol=1e-3, atol=1e-7)

    def title(self) -> str:
        """A description in one line."""
        return f"edit of layers {list(self.layers)}"


@dataclass(frozen=True, eq=False, repr=False)
class LayerEdit(WeightEdit):
    """An edit given by its changes: value-slot edits, fine-tuning, sums of edits.

    `label` says what it is, `details` what is known of it (losses, neurons).
    """

    changes: tuple[Change, ...]
    label: str
    provenance: dict[str, Any]
    details: Mapping[str, Any] = field(default_factory=dict)
    constraints: tuple[Constraints, ...] = ()

    def title(self) -> str:
        return self.label

    def describe(self) -> str:
        return f"LayerEdit {self.label} ({self.provenance['model']})"

    def to_frame(self) -> pd.DataFrame:
        """One row per change: `layer, rows of W_out, norm of the change`."""
        rows = [(c.layer, len(c.update), float(c.update.norm())) for c in self.changes]
        return pd.DataFrame(rows, columns=["layer", "rows of W_out", "norm of the change"])
