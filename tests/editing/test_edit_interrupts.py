"""Ctrl-C at every source line of the code that applies and undoes edits: the weights are what the stack says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import kntools as kn
from kntools import scopes
from kntools.editing import changes, weight_edits
from kntools.editing.changes import Change
from kntools.editing.weight_edits import LayerEdit
from kntools.results.provenance import provenance
from tests import zoo
from tests.line_interrupts import Line, tracing

FILES = {str(module.__file__) for module in (changes, scopes, weight_edits)}


@contextmanager
def interrupted(at: int, struck: set[str]) -> Iterator[None]:
    """Raise what Ctrl-C raises before the `at`-th line; only once, for Python then stops tracing."""
    seen = 0

    def strike(line: Line) -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            struck.add(line[0].co_name)
            raise KeyboardInterrupt

    with tracing(FILES, strike):
        yield


@pytest.fixture(scope="module")
def model() -> Any:
    return zoo.fresh("llama")


@pytest.fixture(scope="module")
def edit(model: Any) -> kn.WeightEdit:
    """A whole matrix, and some rows of others."""
    ones = torch.ones(zoo.D_MLP, zoo.D_MODEL)
    some = Change(2, ones[:3], torch.tensor([1, 5, 9])), Change(3, ones[:1], torch.tensor([0]))
    return LayerEdit((Change(1, ones), *some), "made by hand", provenance(model))


def is_applied(edit: kn.WeightEdit, model: Any) -> bool:
    return any(application.edit is edit for application in weight_edits._stack(model))


def test_a_scope_always_leaves_the_model_as_it_was(model: Any, edit: kn.WeightEdit) -> None:
    before, struck = zoo.bits(model), set[str]()
    for at in range(1, 1000):
        try:
            with interrupted(at, struck), edit.applied(model):
                assert zoo.bits(model) != before
        except KeyboardInterrupt:
            assert zoo.bits(model) == before and not is_applied(edit, model)
        else:
            break
    with edit.applied(model):
        pass
    assert zoo.bits(model) == before
    assert struck >= {"applied", "scope", "apply", "undo", "_restore", "add", "read", "write", "check"} and at > 60


def test_nested_scopes_leave_the_model_as_it_was(model: Any, edit: kn.WeightEdit) -> None:
    before = zoo.bits(model)
    other = kn.erase_values(model, [(1, 3), (0, 2)])
    for at in range(1, 1000):
        try:
            with interrupted(at, set()), edit.applied(model), other.applied(model):
                pass
        except KeyboardInterrupt:
            assert zoo.bits(model) == before
            assert not is_applied(edit, model) and not is_applied(other, model)
        else:
            break
    assert at > 120


def test_an_interrupted_apply_does_nothing(model: Any, edit: kn.WeightEdit) -> None:
    before = zoo.bits(model)
    for at in range(1, 1000):
        try:
            with interrupted(at, set()):
                edit.apply(model)
        except KeyboardInterrupt:
            assert zoo.bits(model) == before and not is_applied(edit, model)
        else:
            break
    edit.undo(model)
    assert zoo.bits(model) == before


def test_an_interrupted_undo_has_undone_all_or_nothing(model: Any, edit: kn.WeightEdit) -> None:
    before = zoo.bits(model)
    with edit.applied(model):
        edited = zoo.bits(model)
    ends = set()
    for at in range(1, 1000):
        edit.apply(model)
        try:
            with interrupted(at, set()):
                edit.undo(model)
        except KeyboardInterrupt:
            assert zoo.bits(model) == (edited if is_applied(edit, model) else before)
            ends.add(is_applied(edit, model))
            if is_applied(edit, model):
                edit.undo(model)
            assert zoo.bits(model) == before
        else:
            break
    assert ends == {True, False}
