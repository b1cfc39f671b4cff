"""Which edits are applied to which model, and the copies that put the weights back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from kntools.models import adapter

if TYPE_CHECKING:
    from kntools.editing.weight_edits import Change, WeightEdit


@dataclass
class Applied:
    """An edit that is applied now."""

    edit: WeightEdit
    fingerprint: str  # of the weights before it
    digests: dict[int, str]  # of the matrices that it changes, before it
    saved: list[tuple[Change, Tensor]] = field(default_factory=list)


_stacks: WeakKeyDictionary[Any, list[Applied]] = WeakKeyDictionary()


def push(edit: WeightEdit, model: Any) -> None:
    """Check `edit` and apply it. If anything goes wrong the weights are as before."""
    stack = _stacks.setdefault(model, [])
    if any(_same(edit, entry.edit) for entry in stack):
        raise RuntimeError("this edit is applied already; undo it first, or leave its scope")
    entry = Applied(edit, adapter.fingerprint(model), {})
    _check_weights(entry, model, stack)  # before anything that another model may not have, such as the layer
    entry.digests.update({layer: w_out_digest(model, layer) for layer in edit.layers})
    _check(entry, model, stack)
    stack.append(entry)  # before the first write: wherever Ctrl-C strikes, what was written is put back
    try:
        with torch.no_grad():
            for change in edit.changes:
                w = adapter.w_out(model, change.layer)
                old = (w if change.rows is None else w[change.rows.to(w.device)]).clone()
                entry.saved.append((change, old))
                # In float32: a model in half precision is rounded once, not twice.
                _write(w, change, (old.float() + change.update.to(w.device).float()).to(w.dtype))
    except BaseException:
        _restore(model, stack.pop())
        raise


def pop(edit: WeightEdit, model: Any) -> None:
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


def w_out_digest(model: Any, layer: int) -> str:
    """A hash of every bit of one layer's `W_out`."""
    return _digest(adapter.w_out(model, layer))


def weights_digest(model: Any) -> str:
    """A hash of every bit of all parameters: the proof that a model is as it was."""
    whole = hashlib.blake2b(digest_size=16)
    for name, parameter in sorted(model.named_parameters(), key=lambda item: item[0]):
        whole.update(f"{name} {_digest(parameter)}".encode())
    return whole.hexdigest()


def _digest(tensor: Tensor) -> str:
    raw = tensor.detach().cpu().contiguous().view(torch.uint8).numpy()
    return hashlib.blake2b(raw.data, digest_size=16).hexdigest()


def _check_weights(entry: Applied, model: Any, stack: list[Applied]) -> None:
    """Was the edit made on these weights: as they are now, or as they were before one of the edits applied?"""
    wanted = entry.edit.provenance["fingerprint"]
    if wanted not in [one.fingerprint for one in (entry, *stack)]:
        raise ValueError(
            f"this edit was made on other weights ({entry.edit.provenance['model']}, fingerprint {wanted}) than those "
            f"of this {adapter.model_name(model)} ({entry.fingerprint}); make it anew on this model"
        )


def _check(entry: Applied, model: Any, stack: list[Applied]) -> None:
    """Does it fit the matrices that it changes, and are these what they were?"""
    edit, known = entry.edit, [entry, *stack]
    for change in edit.changes:
        w = adapter.w_out(model, change.layer)
        rows = w.shape[0] if change.rows is None else len(change.rows)
        if change.update.shape != (rows, w.shape[1]):
            raise ValueError(
                f"the change of layer {change.layer} is {tuple(change.update.shape)}, its W_out {tuple(w.shape)}"
            )
        if not bool(torch.isfinite(change.update).all()):
            raise FloatingPointError(f"the change of layer {change.layer} holds nan or inf; the model is untouched")
    for layer in edit.layers:
        if edit.provenance["w_out"][str(layer)] not in [e.digests[layer] for e in known if layer in e.digests]:
            raise ValueError(
                f"W_out of layer {layer} is not what it was when this edit was made (was another edit kept?); "
                "undo that change, or make the edit anew"
            )


def _same(one: WeightEdit, other: WeightEdit) -> bool:
    if one is other:
        return True
    if len(one.changes) != len(other.changes):
        return False
    pairs = zip(one.changes, other.changes, strict=True)
    return all(a.layer == b.layer and torch.equal(a.update, b.update) and _equal(a.rows, b.rows) for a, b in pairs)


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


def _restore(model: Any, entry: Applied) -> None:
    with torch.no_grad():
        for change, old in reversed(entry.saved):
            _write(adapter.w_out(model, change.layer), change, old)


def _write(w: Tensor, change: Change, values: Tensor) -> None:
    if change.rows is None:
        w.copy_(values)
    else:
        w[change.rows.to(w.device)] = values.to(w.device)
