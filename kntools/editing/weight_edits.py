"""An edit of weights is a value; applying it is a scope, after which every bit is as before.

Scopes nest. They are closed in the opposite order; each puts back the copy that it saved on entry. One that is left
early is undone together with those above it: the last one out leaves every bit as it was. Ctrl-C may strike at any
line. An edit is on its model's stack from before its first write until after its last row has been put back, so what
the stack says of the weights is never too little.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import pandas as pd
import torch

from kntools.editing.changes import Change, Constraints, as_hooks, joined
from kntools.models import adapter
from kntools.results.encoding import same
from kntools.results.fingerprint import fingerprint
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
            RuntimeError: it is applied already; or, on exit, an edit that was applied later is still there: then both
                are undone when that one is.
        """
        return applied_scope(lambda: _application(self, model))

    def apply(self, model: Any) -> None:
        """Edit `model` until `undo`. Raises as `applied` does; the weights are then unchanged."""
        _application(self, model).apply()

    def undo(self, model: Any) -> None:
        """Restore the weights from before `apply`: the saved copy, not a subtraction.

        Raises:
            RuntimeError: the edit is not applied, or another one was applied after it: then both are undone when that
                one is.
        """
        own = [application for application in _stack(model) if application.edit is self]
        if not own:
            raise RuntimeError("this edit is not applied to this model; nothing to undo")
        own[0].undo()

    def hooks(self, model: Any) -> list[Hook]:
        """The edit as hooks, without a change of weights: `kn.sweep(model, tokens, [edit.hooks(model)])`.

        What the changed rows of `W_out` would add is added to the output of the MLP, at every position; in half
        precision, as the rounded weights would add it. A hook that is attached to that output already comes before
        it, and sees the output without the edit (under `applied`, with it). Raises as `applied` does.
        """
        return as_hooks(model, checked(self, model))

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

    def describe(self) -> str:
        return f"{type(self).__name__} {self.title()} ({self.provenance['model']})"


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

    def to_frame(self) -> pd.DataFrame:
        """One row per change: `layer, rows of W_out, norm of the change`."""
        rows = [(c.layer, len(c.update), float(c.update.norm())) for c in self.changes]
        return pd.DataFrame(rows, columns=["layer", "rows of W_out", "norm of the change"])


@dataclass(eq=False)
class Application:
    """An edit on its way onto the stack of a model, and off it again; or what else writes to the weights for a while.

    `write` changes the weights, `restore` puts back what was saved before.
    """

    model: Any
    write: Callable[[], Any]
    restore: Callable[[], None]
    edit: WeightEdit | None = None
    changes: tuple[Change, ...] = ()
    left: bool = False

    def __post_init__(self) -> None:
        self.stack = _stack(self.model)
        self.before, self.after = fingerprint(self.model), ""  # of the weights without it and with it

    def apply(self) -> Any:
        """Edit the weights: wholly, or, if interrupted, not at all."""
        try:
            self.stack.append(self)
            made = self.write()
            self.after = fingerprint(self.model)
            return made  # Ctrl-C before this line is caught too
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Put the saved copies back: wholly, also if interrupted. Off the stack there is nothing to do."""
        try:
            self._restore()
        except KeyboardInterrupt:
            self._restore()
            raise
        if self in self.stack:
            raise RuntimeError(
                "another edit was applied after this one, and is still there (scopes close in the opposite order); "
                "this one will be undone together with it: undo that one, or leave its scope"
            )

    def _restore(self) -> None:
        """What was interrupted may be done again: the copies go when they have been written."""
        self.left = True
        while self.stack and self.stack[-1].left:
            self.stack[-1].restore()
            self.stack.pop()


def applied_scope(make: Callable[[], Application]) -> AbstractContextManager[Any]:
    """A scope with what `make` gives on entry."""
    made: list[Application] = []

    def enter() -> Any:
        made.append(make())
        return made[0].apply()

    def leave() -> None:
        for application in made:
            application.undo()

    return scope(enter, leave)


def _application(edit: WeightEdit, model: Any) -> Application:
    changes = checked(edit, model)
    saved = [(change, change.read(model)) for change in changes]

    def write() -> Any:
        for change in changes:
            change.add(model)
        return model

    def restore() -> None:
        for change, old in reversed(saved):
            change.write(model, old)

    return Application(model, write, restore, edit, changes)


class AppliedAlready(RuntimeError):
    """An edit with the same changes is on the model."""


def checked(edit: WeightEdit, model: Any) -> tuple[Change, ...]:
    """The changes of an edit that may act on the model: applied, or as hooks.

    It was made on these weights, as they are now or as they were before one of the edits applied, and is not there yet.
    """
    stack, changes = _stack(model), edit.changes
    if any(other.edit is not None and same(changes, other.changes) for other in stack):
        raise AppliedAlready("this edit is applied already; undo it first, or leave its scope")
    now, *before = fingerprints(model)
    if stack and now != stack[-1].after:
        raise ValueError(
            "the weights were changed by something else after the last edit was applied; undo that change, "
            "or undo the edits first"
        )
    made_on = edit.provenance["fingerprint"]
    if made_on not in (now, *before):
        raise ValueError(
            f"this edit was made on other weights ({edit.provenance['model']}, fingerprint {made_on}) than "
            f"those of this {adapter.model_name(model)} ({now}); compute it again on this model"
        )
    for change in changes:  # after the weights: another model may not have the layer
        change.check(model)
    return changes


_stacks: WeakKeyDictionary[Any, list[Application]] = WeakKeyDictionary()


def _stack(model: Any) -> list[Application]:
    adapter.check_model(model)
    return _stacks.setdefault(model, [])


def applied_constraints(model: Any, layer: int) -> list[Constraints]:
    """What the edits that are applied now want of a layer."""
    edits = [application.edit for application in _stack(model) if application.edit is not None]
    return [own for edit in edits for own in edit.constraints if own.layer == layer]


def fingerprints(model: Any) -> list[str]:
    """Of the weights as they are now, and as they were before each of the edits that are applied."""
    return [fingerprint(model), *(application.before for application in _stack(model))]
