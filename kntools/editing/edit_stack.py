"""Which edits are applied to which model, and the copies that put the weights back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kntools.models import adapter
from kntools.results.encoding import same
from kntools.results.fingerprint import fingerprint


@dataclass(frozen=True, eq=False)
class Change:
    """What is added to `W_out` of one layer: to all of its rows, or to the rows (neurons) named."""

    layer: int
    update: Float[Tensor, "row d_model"]
    rows: Int[Tensor, " row"] | None = None


@dataclass
class Applied:
    """An edit that is applied now, and fingerprints of the weights before and after it."""

    edit: Any  # a `WeightEdit`
    before: str
    after: str = ""
    saved: list[tuple[Change, Tensor]] = field(default_factory=list)


_stacks: WeakKeyDictionary[Any, list[Applied]] = WeakKeyDictionary()


def push(edit: Any, model: Any) -> None:
    """Check `edit` and apply it. If anything goes wrong the weights are as before."""
    stack = _stacks.setdefault(model, [])
    if any(same(edit.changes, entry.edit.changes) for entry in stack):
        raise RuntimeError("this edit is applied already; undo it first, or leave its scope")
    entry = Applied(edit, fingerprint(model))
    _check(edit, model, entry.before, stack)
    stack.append(entry)  # before the first write: wherever Ctrl-C strikes, what was written is put back
    try:
        with torch.no_grad():
            for change in edit.changes:
                w = adapter.w_out(model, change.layer)
                old = (w if change.rows is None else w[change.rows.to(w.device)]).clone()
                entry.saved.append((change, old))
                # In float32: a model in half precision is rounded once, not twice.
                _write(w, change, (old.float() + change.update.to(w.device).float()).to(w.dtype))
        entry.after = fingerprint(model)
    except BaseException:
        _restore(model, stack.pop())
        raise


def pop(edit: Any, model: Any) -> None:
    """Put the saved copies back; only the edit that was applied last can go."""
    stack = _stacks.get(model, [])
    if not any(entry.edit is edit for entry in stack):
        raise RuntimeError("this edit is not applied to this model; nothing to undo")
    if stack[-1].edit is not edit:
        raise RuntimeError(
            "another edit was applied after this one; undo that one first (scopes close in the opposite order). "
            "Nothing was undone"
        )
    _restore(model, stack.pop())


def _check(edit: Any, model: Any, now: str, stack: list[Applied]) -> None:
    """Was the edit made on these weights: as they are now, or as they were before one of the edits applied?"""
    if stack and now != stack[-1].after:
        raise ValueError(
            "the weights were changed by something else after the last edit was applied; undo that change, "
            "or undo the edits first"
        )
    made_on = edit.provenance["fingerprint"]
    if made_on not in [now, *(entry.before for entry in stack)]:
        raise ValueError(
            f"this edit was made on other weights ({edit.provenance['model']}, fingerprint {made_on}) than those "
            f"of this {adapter.model_name(model)} ({now}); make it anew on this model"
        )
    for change in edit.changes:
        w = adapter.w_out(model, change.layer)
        rows = w.shape[0] if change.rows is None else len(change.rows)
        if change.update.shape != (rows, w.shape[1]):
            raise ValueError(
                f"the change of layer {change.layer} is {tuple(change.update.shape)}, its W_out {tuple(w.shape)}"
            )
        if not bool(torch.isfinite(change.update).all()):
            raise FloatingPointError(f"the change of layer {change.layer} holds nan or inf; the model is untouched")


def _restore(model: Any, entry: Applied) -> None:
    with torch.no_grad():
        for change, old in reversed(entry.saved):
            _write(adapter.w_out(model, change.layer), change, old)


def _write(w: Tensor, change: Change, values: Tensor) -> None:
    if change.rows is None:
        w.copy_(values)
    else:
        w[change.rows.to(w.device)] = values.to(w.device)
