"""Which edits are applied to which model, and the copies that put the weights back.

Ctrl-C may strike at any line. An edit is on its model's stack from before its first write until after its last row
has been put back, so what the stack says of the weights is never too little.
"""

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
        adapter.check_model(model)
        self.edit, self.changes, self.stack = edit, edit.changes, _stacks.setdefault(model, [])
        if any(same(self.changes, other.changes) for other in self.stack):
            raise RuntimeError("this edit is applied already; undo it first, or leave its scope")
        self.before, self.after = fingerprint(model), ""  # of the weights without it and with it
        self._check_weights(model)  # before anything that another model may not have, such as the layer
        for change in self.changes:
            change.check(model)
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

    def _check_weights(self, model: Any) -> None:
        """Was the edit made on these weights: as they are now, or as they were before one of the edits applied?"""
        if self.stack and self.before != self.stack[-1].after:
            raise ValueError(
                "the weights were changed by something else after the last edit was applied; undo that change, "
                "or undo the edits first"
            )
        made_on = self.edit.provenance["fingerprint"]
        if made_on not in [other.before for other in (self, *self.stack)]:
            raise ValueError(
                f"this edit was made on other weights ({self.edit.provenance['model']}, fingerprint {made_on}) than "
                f"those of this {adapter.model_name(model)} ({self.before}); compute it again on this model"
            )


_stacks: WeakKeyDictionary[Any, list[Application]] = WeakKeyDictionary()


def applied_edits(model: Any) -> list[Edit]:
    """The edits that are applied to the model now, the first one first."""
    return [application.edit for application in _stacks.get(model, [])]


def fingerprints(model: Any) -> list[str]:
    """Of the weights as they are now, and as they were before each of the edits that are applied."""
    return [fingerprint(model), *(application.before for application in _stacks.get(model, []))]


def find(edit: Edit, model: Any) -> Application:
    for application in _stacks.get(model, []):
        if application.edit is edit:
            return application
    raise RuntimeError("this edit is not applied to this model; nothing to undo")
