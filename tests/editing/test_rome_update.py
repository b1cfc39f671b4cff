"""Rank-one edits: the algebra of the update, what an edit says of itself, and its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.editing.rome_settings import TEMPLATES
from kntools.models import adapter
from tests import zoo
from tests.plain_rome import FEW, PROMPT, TARGET, rome, text_keys

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*in L[0-9]+. the"
)  # a random model knows nothing, and edits of it say so


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("key", ["consistent", "published"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_algebra(name: str, key: Any, real: bool) -> None:
    model = zoo.tiny(name)
    c = text_keys(model, 2) if real else None
    edit = rome(model, layer=2, second_moment=c, key=key, steps=5, templates=FEW)
    old = adapter.w_out(model, 2).detach().clone()
    b = adapter.b_out(model, 2)
    with edit.applied(model):
        new = adapter.w_out(model, 2).detach().clone()
    k = edit.key if key == "consistent" else edit.prompt_key
    value = k @ new + (0 if b is None else b.detach())
    assert float((value - edit.value).norm() / edit.value.norm()) < 1e-4
    assert float((k @ new - k @ old).norm()) > 0.1
    change = (new - old).double()
    assert float((change - edit.delta).abs().max()) < 1e-6
    singular = torch.linalg.svdvals(edit.delta.double())
    assert singular[0] > 1e-3 and singular[1] < 1e-6 * singular[0]
    # Keys that are orthogonal to k in the metric of C^-1 are unchanged: those with k C^-1 x = 0.
    u = (
        edit.key.double()
        if c is None
        else torch.linalg.solve(c.matrix.double() + edit.ridge * torch.eye(zoo.D_MLP).double(), edit.key.double())
    )
    x = torch.randn(20, zoo.D_MLP, generator=torch.Generator().manual_seed(0)).double()
    orthogonal = x - (x @ u)[:, None] * u / (u @ u)
    assert float((orthogonal @ edit.delta.double()).abs().max()) < 1e-4 * float((x @ edit.delta.double()).abs().max())


def test_a_second_moment_protects_the_keys_it_was_measured_on() -> None:
    """What C is for: of all updates with k W' = v it changes those keys least (Meng et al. 2022, equation 1)."""
    model = zoo.tiny("llama")
    c = text_keys(model, 1)
    with_c, without = (rome(model, second_moment=m, steps=5) for m in (c, None))
    harm = [float((e.delta.T @ c.matrix @ e.delta).trace()) for e in (with_c, without)]
    assert harm[0] < 0.9 * harm[1]
    assert with_c.uses_second_moment and not without.uses_second_moment
    assert "C = I" in repr(without) and "C of L1" in repr(with_c) and "ridge" in with_c._repr_html_()


def test_the_edited_weights_do_what_the_hooks_and_the_diagnostics_say() -> None:
    model = zoo.tiny("gemma2")
    edit = rome(model)
    e = kn.encode(model, kn.Prompt(PROMPT.text, TARGET))
    hooked = kn.sweep(model, e.tokens, [edit.hooks(model)]).softmax(-1)[0]
    with edit.applied(model):
        weights = model(e.tokens)[0, -1].softmax(-1)
    torch.testing.assert_close(hooked, weights, atol=1e-5, rtol=1e-4)
    assert edit.after == pytest.approx(float(weights[e.target_ids[0]]), abs=1e-5)
    assert edit.before == pytest.approx(float(model(e.tokens)[0, -1].softmax(-1)[e.target_ids[0]]), abs=1e-5)
    assert edit.after > 1.5 * edit.before


def test_templates_are_shipped_given_or_written_by_the_model() -> None:
    model = zoo.tiny("llama")
    assert TEMPLATES[0] == "{}" and len(set(TEMPLATES)) == len(TEMPLATES) > 5
    shipped = rome(model, steps=2)
    assert shipped.provenance["settings"]["templates"] == list(TEMPLATES)
    drawn = [rome(model, steps=2, templates=4, seed=s).provenance["settings"]["templates"] for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 4 and drawn[0][0] == "{}"


def test_warnings() -> None:
    model = zoo.tiny("llama")
    with pytest.warns(UserWarning, match="has not taken"):
        rome(model, layer=3, steps=2)
    edit = rome(model, steps=2)
    good = replace(edit, after=0.9, ridge=1e-6)
    assert edit.relative_norm < 0.5 < edit.key_cosine and good.warnings() == []
    turned = torch.roll(edit.prompt_key, 7)
    assert "If the subject opens the text" in replace(good, prompt_key=turned - edit.key).warnings()[0]
    [large] = replace(good, weight_norm=edit.weight_norm / 1e3).warnings()
    assert "expect other facts to change" in large and "second_moment=" not in large  # it was given
    assert "warning" in repr(edit) and "cosine" in repr(edit)


def test_save_and_load(tmp_path: Path) -> None:
    model = zoo.tiny("llama")
    edit = rome(model, second_moment=text_keys(model, 1), steps=3)
    again = kn.load(edit.save(tmp_path / "edit.safetensors"), kn.WeightEdit)
    assert isinstance(again, kn.RankOneEdit) and torch.equal(again.delta, edit.delta)
    assert again == edit and again.prompt == PROMPT and repr(again) == repr(edit)
    assert edit.to_frame().columns.tolist() == ["step", "loss", "target", "kl", "decay"] and len(edit.to_frame()) == 3
    with again.applied(model):
        assert not torch.equal(adapter.w_out(model, 1), adapter.w_out(zoo.tiny("gpt2"), 1))
