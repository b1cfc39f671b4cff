"""Which edits are applied to which model, and the copies that put the weights back.

Ctrl-C may strike at any line. An edit is on its model's stack from before its first write until after its last row
has been put back, so what the stack says of the weights is never too little.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from kntools.editing.changes import Change
from kntools.editing.constraints import Constraints
from kntools.models import adapter
from kntools.results.encoding import same
from kntools.results.fingerprint import fingerprint


@runtime_checkable
class Edit(Protocol):
    """What the stack needs to know of an edit; see `kntools.editing.weight_edits.WeightEdit`."""

    @property
    def changes(self) -> tuple[Change, ...]: ...
    @property
    def constraints(self) -> tuple[Constraints, ...]: ...
    @property
    def provenance(self) -> dict[str, Any]: ...


class Application:
    """An edit on its way onto the stack of a model, and off it again."""

    def __init__(self, edit: Edit, model: Any) -> None:
        self.edit, self.changes, self.stack = edit, edit.changes, _stack(model)
        check(edit, self.changes, model)
        self.before, self.after = fingerprint(model), ""  # of the weights without it and with it
        self.saved = [(change, change.read(model)) for change in self.changes]

    def apply(self, model: Any) -> None:
        """Edit the weights: wholly, or, if interrupted, not at all."""
        try:
            self.stack.append(self)
            for change in self.changes:
                change.add(model)
            self.after = fingerprint(model)
        except BaseException:
            self.undo(model)
            raise

    def undo(self, model: Any) -> None:
        """Put the saved copies back: wholly, also if interrupted. Off the stack there is nothing to do."""
        if self in self.stack and self.stack[-1] is not self:
            raise RuntimeError(
                "another edit was applied after this one; undo that one first (scopes close in the opposite order). "
                "Nothing was undone"
            )
        try:
            self._restore(model)
        except KeyboardInterrupt:
            self._restore(model)
            raise

    def _restore(self, model: Any) -> None:
        """What was interrupted may be done again: the copies go when they have been written."""
        if self in self.stack:
            for change, old in reversed(self.saved):
                change.write(model, old)
            self.stack.remove(self)


class AppliedAlready(RuntimeError):
    """An edit with the same changes is on the model."""


def check(edit: Edit, changes: Sequence[Change], model: Any) -> None:
    """May the edit, whose `changes` these are, act on the model: applied, or as hooks?

    It was made on these weights, as they are now or as they were before one of the edits applied, and is not there yet.
    """
    stack = _stack(model)
    if any(same(tuple(changes), other.changes) for other in stack):
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


_stacks: WeakKeyDictionary[Any, list[Application]] = WeakKeyDictionary()


def _stack(model: Any) -> list[Application]:
    adapter.check_model(model)
    return _stacks.setdefault(model, [])


def applied_edits(model: Any) -> list[Edit]:
    """The edits that are applied to the model now, the first one first."""
    return [application.edit for application in _stack(model)]


def fingerprints(model: Any) -> list[str]:
    """Of the weights as they are now, and as they were before each of the edits that are applied."""
    return [fingerprint(model), *(application.before for application in _stack(model))]


def find(edit: Edit, model: Any) -> Application:
    for application in _stack(model):
        if application.edit is edit:
            return application
    raise RuntimeError("this edit is not applied to this model; nothing to undo")
