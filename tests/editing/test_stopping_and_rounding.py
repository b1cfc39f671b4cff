"""When the search for a value stops, and how often an edit is rounded."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.editing.changes import Change
from kntools.editing.rome_settings import RomeSettings
from kntools.models import adapter
from tests import zoo
from tests.editing.test_weight_edits import edits

PROMPT = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")
TARGET = " Rome"
pytestmark = pytest.mark.filterwarnings("ignore:.*in L[0-9]+. the")


def test_the_search_stops_by_its_whole_loss() -> None:
    """At thresholds where each term, and each sum of two terms, would stop it in another step."""
    model = zoo.tiny("llama")
    settings = RomeSettings(steps=12, weight_decay=3.0, kl_weight=0.5, stop_loss=-1.0, templates=["{}", "Yes. {}"])
    whole = kn.rome(model, PROMPT, TARGET, layer=1, settings=settings).steps
    assert len(whole) == 12
    parts = [
        lambda s: s.target,
        lambda s: s.kl,
        lambda s: s.decay,
        lambda s: s.target + s.kl,
        lambda s: s.target + s.decay,
        lambda s: s.kl + s.decay,
    ]

    def stop(value: Any, threshold: float) -> int:
        return next((n for n, step in enumerate(whole) if value(step) < threshold), len(whole) - 1)

    tried = set()
    for low, high in pairwise(sorted({s.loss for s in whole})):
        threshold = (low + high) / 2
        expected = stop(lambda s: s.loss, threshold)
        if expected < len(whole) - 1:
            early = kn.rome(model, PROMPT, TARGET, layer=1, settings=replace(settings, stop_loss=threshold))
            assert early.steps == whole[: expected + 1]
            tried |= {n for n, part in enumerate(parts) if stop(part, threshold) != expected}
    assert tried == set(range(len(parts))), "a term would do as well as the loss"
    # Below, not at: the loss of the first step alone is no reason to stop there.
    same = replace(settings, stop_loss=whole[0].loss)
    assert len(kn.rome(model, PROMPT, TARGET, layer=1, settings=same).steps) > 1


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_an_edit_of_a_bfloat16_model_is_rounded_once(name: str) -> None:
    model = zoo.fresh(name, torch.bfloat16)
    differs = []
    for edit in edits(model):
        once = [adapter.w_out(model, n).detach().clone() for n in range(adapter.n_layers(model))]
        twice = [w.clone() for w in once]
        for change in edit.changes:
            assert change.update.dtype == torch.float32
            w = adapter.w_out(model, change.layer).detach()
            rows = torch.arange(len(w)) if change.rows is None else change.rows
            once[change.layer][rows] = (w[rows].double() + change.update.double()).to(w.dtype)
            twice[change.layer][rows] = w[rows] + change.update.to(w.dtype)
        with edit.applied(model):
            new = [adapter.w_out(model, n).detach().clone() for n in range(len(once))]
        assert all(torch.equal(a, b) for a, b in zip(new, once, strict=True)), edit.title()
        differs.append(any(not torch.equal(a, b) for a, b in zip(once, twice, strict=True)))
    assert differs[:2] == [True, True], "of ROME and of value rows, whose updates are large: rounded twice is the same"


def test_an_edit_of_a_float64_model_is_not_rounded() -> None:
    model = zoo.fresh("llama", torch.float64)
    edit = kn.edit_values(model, [(1, 2), (1, 7)], " Ottawa", " Rome")
    [change], w = edit.changes, adapter.w_out(model, 1).detach().clone()
    w[change.rows] += change.update.double()
    with edit.applied(model):
        assert torch.equal(adapter.w_out(model, 1), w)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_gradient_by_an_update_is_not_rounded(dtype: torch.dtype) -> None:
    """Adam moves an entry however small its gradient: 1e-9 is 0 in float16."""
    model = zoo.tiny("llama", dtype)
    update = torch.zeros(zoo.D_MLP, zoo.D_MODEL, requires_grad=True)
    rounded = Change(1, update).rounded(model)
    (1.1e-9 * rounded).sum().backward()
    assert update.grad is not None and torch.equal(update.grad, torch.full_like(update, 1.1e-9))
    assert not rounded.any()
