"""An edit is a value, applying it a scope, and afterwards every bit is as before."""

from __future__ import annotations

import asyncio
import warnings
from contextlib import nullcontext
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.editing.changes import Change
from kntools.editing.planting import planted
from kntools.editing.rome_settings import RomeSettings
from kntools.editing.weight_edits import LayerEdit
from kntools.engine.generation import sample_texts
from kntools.models import adapter
from kntools.models.causality import is_masked
from kntools.results.provenance import provenance
from tests import zoo
from tests.leaks import nothing_leaks, prepared

PROMPT = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")
FEW = RomeSettings(steps=3, templates=["{}", "Yes, it is. {}"])
pytestmark = pytest.mark.filterwarnings("ignore:.*in L[0-9]+. the")


def edits(model: Any) -> list[kn.WeightEdit]:
    """One of each kind."""
    if is_masked(model):
        return [kn.edit_values(model, [(1, 3)], "Ottawa", "Rome"), kn.erase_values(model, [(0, n) for n in range(9)])]
    return [
        kn.rome(model, PROMPT, " Rome", layer=1, settings=FEW),
        kn.edit_values(model, [*((1, n) for n in range(9)), (2, 5)], " Ottawa", " Rome"),
        kn.erase_values(model, [(0, n) for n in range(9)]),
        kn.fine_tune(model, PROMPT, " Rome", layer=1, steps=2),
    ]


def logits(model: Any) -> torch.Tensor:
    return model(torch.arange(5, 12)[None]).detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", zoo.ALL)
def test_same_bits_after_every_edit(name: str, dtype: torch.dtype) -> None:
    model = zoo.fresh(name, dtype)
    before, clean = zoo.bits(model), logits(model)
    for edit in edits(model):
        with edit.applied(model) as same:
            assert same is model
            assert zoo.bits(model) != before
            assert not torch.equal(logits(model), clean), "the weights that were edited are not those that run"
        assert zoo.bits(model) == before
        assert torch.equal(logits(model), clean)
        with pytest.raises(KeyboardInterrupt), edit.applied(model):
            raise KeyboardInterrupt
        assert zoo.bits(model) == before
        edit.apply(model)
        edit.undo(model)
        assert zoo.bits(model) == before


def test_the_change_is_what_is_added() -> None:
    model = zoo.fresh("llama")
    for edit in edits(model):
        old = [adapter.w_out(model, n).detach().clone() for n in range(4)]
        expected = [w.clone() for w in old]
        for change in edit.changes:
            if change.rows is None:
                expected[change.layer] += change.update
            else:
                expected[change.layer][change.rows] += change.update
        with edit.applied(model):
            for n in range(4):
                torch.testing.assert_close(adapter.w_out(model, n).detach(), expected[n])


@pytest.mark.parametrize(("size", "lost"), [(0.2, True), (0.8, False)])
def test_hooks_round_as_the_weights_do(size: float, lost: bool) -> None:
    """An update that half precision rounds away does nothing, written or acted out: bfloat16 has steps of 0.5 at 64."""
    model = zoo.fresh("llama", torch.bfloat16)
    weights = adapter.w_out(model, 1)
    with torch.no_grad():
        weights.copy_(torch.full_like(weights, 64.0))
    edit = LayerEdit((Change(1, torch.full(weights.shape, size)),), "a little more", provenance(model))
    [change], old = edit.changes, weights.detach().float().clone()
    before = logits(model)
    hooked = model.run_with_hooks(torch.arange(5, 12)[None], fwd_hooks=edit.hooks(model)).detach()
    expected = change.rounded(model)
    with edit.applied(model):
        written = logits(model)
        assert torch.equal(adapter.w_out(model, 1).float() - old, expected)
    assert torch.equal(hooked, before) == torch.equal(written, before) == lost
    assert torch.equal(Change(1, expected).rounded(zoo.tiny("llama")), expected)  # float32 takes it whole


def test_scopes_nest() -> None:
    model = zoo.fresh("llama")
    before = zoo.bits(model)
    one, two, three, four = edits(model)
    expected = sum(change.update for edit in (one, four) for change in edit.changes)
    with one.applied(model), two.applied(model), four.applied(model):
        after = kn.rome(model, PROMPT, " Paris", layer=2, settings=FEW)  # made on the edited weights
        with after.applied(model), three.applied(model):
            pass
    clean = adapter.w_out(model, 1).detach().clone()
    with one.applied(model), four.applied(model):
        torch.testing.assert_close(adapter.w_out(model, 1).detach(), clean + expected)
    assert zoo.bits(model) == before
    with pytest.raises(ValueError, match="other weights"):
        after.apply(model)
    with pytest.raises(ValueError, match="do not add up"):
        _ = one + after


def test_edits_of_different_rows_add_up() -> None:
    model = zoo.fresh("llama")
    before = zoo.bits(model)
    one = kn.rome(model, PROMPT, " Rome", layer=1, settings=FEW)
    other = kn.rome(model, PROMPT, " Rome", layer=2, settings=FEW)
    rows = [kn.edit_values(model, [(0, n)], " Ottawa", " Rome") for n in (1, 3)]
    both = one + rows[0] + other + rows[1]
    with one.applied(model), other.applied(model), rows[0].applied(model), rows[1].applied(model):
        nested = zoo.bits(model)
    with both.applied(model):
        assert zoo.bits(model) == nested
    assert zoo.bits(model) == before


def test_edits_of_the_same_rows_do_not_add_up() -> None:
    """Each was solved alone: of eight capitals edited one by one in a layer, none holds in the sum."""
    model = zoo.fresh("llama")
    one, values, erased, tuned = edits(model)
    for first, second in ((one, tuned), (values, one), (one + erased, values), (values, values)):
        with pytest.raises(ValueError, match=r"same rows of W_out in layer 1.*kn\.emmet"):
            _ = first + second
    with pytest.raises(ValueError, match=r"in layer 1 are not independent"):  # one key, which cannot have two values
        _ = one + one
    assert (erased + values).layers == (0, 1, 2)
    with one.applied(model):  # what the error says to do
        then = kn.rome(model, PROMPT, " Paris", layer=1)
        with then.applied(model):
            paris = kn.encode(model, kn.Prompt(PROMPT.text, " Paris"))
            p = model(paris.tokens)[0, -1].detach().softmax(-1)[paris.target_ids[0]]
        assert float(p) == pytest.approx(then.after, abs=1e-6) and then.after > 1.5 * then.before


def test_scopes_closed_out_of_order() -> None:
    model = zoo.fresh("llama")
    before = zoo.bits(model)
    one, two, *_ = edits(model)
    outer, inner = one.applied(model), two.applied(model)
    outer.__enter__()
    inner.__enter__()
    edited = zoo.bits(model)
    with pytest.raises(RuntimeError, match=r"applied after this one.*undone together with it"):
        outer.__exit__(None, None, None)
    assert zoo.bits(model) == edited
    inner.__exit__(None, None, None)
    assert zoo.bits(model) == before
    with pytest.raises(RuntimeError, match="not applied"):
        one.undo(model)


def test_the_last_scope_out_restores_all_bits() -> None:
    """Whatever the order; planted facts are among the edits."""
    model = zoo.fresh("llama")
    before = zoo.bits(model)
    for order in permutations(range(3)):
        scopes = [
            kn.erase_values(model, [(1, 3), (0, 2)]).applied(model),
            planted(model, PROMPT, [(1, 3), (1, 4)], steps=2),
            kn.edit_values(model, [(1, 3), (1, 5)], " Ottawa", " Rome").applied(model),
        ]
        for scope in scopes:
            scope.__enter__()
        there = [0, 1, 2]
        for n in order:
            early = n != there[-1]
            there.remove(n)
            with pytest.raises(RuntimeError, match="applied after") if early and there else nullcontext():
                scopes[n].__exit__(None, None, None)
        assert zoo.bits(model) == before, order


def test_tasks_that_overlap_leave_the_model_as_it_was() -> None:
    model = zoo.fresh("llama")
    before, said = zoo.bits(model), list[str]()

    async def work(edit: kn.WeightEdit, seconds: float) -> None:
        try:
            with edit.applied(model):
                await asyncio.sleep(seconds)
        except RuntimeError as error:
            said.append(str(error))

    async def both() -> None:
        await asyncio.gather(work(kn.erase_values(model, [(1, 2)]), 0.01), work(kn.erase_values(model, [(2, 3)]), 0.1))

    asyncio.run(both())
    assert zoo.bits(model) == before and len(said) == 1


def test_twice_and_never(tmp_path: Path) -> None:
    model = zoo.fresh("gpt2")
    before = zoo.bits(model)
    edit, other, *_ = edits(model)
    with pytest.raises(RuntimeError, match="not applied"):
        edit.undo(model)
    with edit.applied(model):
        inside = zoo.bits(model)
        again = kn.load(edit.save(tmp_path / "edit.safetensors"))
        for twice in (edit, again):
            for act in (twice.apply, twice.hooks):  # as hooks it would be there twice
                with pytest.raises(RuntimeError, match="applied already"):
                    act(model)
        with pytest.raises(RuntimeError, match="not applied"):
            other.undo(model)
        assert zoo.bits(model) == inside
    assert zoo.bits(model) == before


def test_other_weights_are_refused(tmp_path: Path) -> None:
    model = zoo.fresh("llama")
    for number, edit in enumerate(edits(model)):
        loaded = kn.load(edit.save(tmp_path / f"{number}.safetensors"))
        assert loaded == edit and loaded.title() == edit.title()
        for other in (zoo.fresh("mistral"), zoo.fresh("llama", torch.bfloat16)):
            before = zoo.bits(other)
            for act in (loaded.apply, loaded.hooks):
                with pytest.raises(ValueError, match="made on other weights"):
                    act(other)
            assert zoo.bits(other) == before
        with loaded.applied(model):
            pass


def test_weights_that_something_else_changed_while_an_edit_was_applied() -> None:
    model = zoo.fresh("llama")
    one, other = (kn.edit_values(model, [(layer, 3)], " Ottawa", " Rome") for layer in (1, 2))
    with one.applied(model):
        with torch.no_grad():
            adapter.w_out(model, 2)[7, 5] += 1e-3
        with pytest.raises(ValueError, match="changed by something else"):
            other.apply(model)
    with pytest.raises(ValueError, match="made on other weights"):
        other.apply(model)


def test_an_edit_that_was_kept_counts_as_other_weights() -> None:
    model = zoo.fresh("llama")
    kept, other = (kn.edit_values(model, [(1, n)], " Ottawa", " Rome") for n in (3, 4))
    kept.apply(model)
    with other.applied(model):
        pass
    again = kn.edit_values(model, [(1, 4)], " Ottawa", " Rome")
    kept.undo(model)
    with pytest.raises(ValueError, match="made on other weights"):
        again.apply(model)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_changes_that_cannot_be_made(bad: float) -> None:
    model = zoo.fresh("llama")
    before = zoo.bits(model)

    def made(*changes: Change) -> LayerEdit:
        return LayerEdit(changes, "made by hand", provenance(model))

    good = Change(1, torch.ones(zoo.D_MLP, zoo.D_MODEL))
    with pytest.raises(FloatingPointError, match="untouched"):
        made(good, Change(1, torch.full((zoo.D_MLP, zoo.D_MODEL), bad))).apply(model)
    with pytest.raises(ValueError, match="its W_out"):
        made(good, Change(1, torch.ones(3, zoo.D_MODEL))).apply(model)
    with pytest.raises(IndexError, match="names rows"):
        made(good, Change(1, torch.ones(1, zoo.D_MODEL), torch.tensor([zoo.D_MLP]))).apply(model)
    assert zoo.bits(model) == before
    with made(good, good).applied(model):  # the same rows twice
        assert zoo.bits(model) != before
    assert zoo.bits(model) == before


def test_a_matrix_that_two_layers_share_is_refused() -> None:
    """Hooks would act in one of them, `applied` in both."""
    hf = zoo.hf_model("llama")
    hf.model.layers[2].mlp.down_proj.weight = hf.model.layers[1].mlp.down_proj.weight
    model = kn.load_model(hf, tokenizer=zoo.tokenizer("llama"))
    before = zoo.bits(model)
    for edit in (kn.erase_values(model, [(1, 2)]), kn.edit_values(model, [(0, 1), (2, 2)], " Ottawa", " Rome")):
        for use in (edit.hooks, edit.apply, lambda m, e=edit: e.applied(m).__enter__()):
            with pytest.raises(ValueError, match=r"layers \[1, 2\] share one W_out"):
                use(model)
    with kn.erase_values(model, [(0, 1), (3, 1)]).applied(model):
        assert zoo.bits(model) != before
    assert zoo.bits(model) == before


def test_a_file_that_is_no_edit(tmp_path: Path) -> None:
    attribution = kn.activation(zoo.tiny("llama"), PROMPT).save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="holds Attribution, not WeightEdit"):
        kn.load(attribution, kn.WeightEdit)


def test_making_edits_leaves_the_model_alone() -> None:
    model = prepared("llama", hooked=True)
    with nothing_leaks(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for edit in edits(model):
            with edit.applied(model):
                pass
        with torch.no_grad():
            kn.rome(model, PROMPT, " Rome", layer=1, settings=FEW)
        kn.second_moment(model, [1, 2], zoo.SENTENCES[:3])
        list(sample_texts(model, 20, seed=0, length=5, rows=2))
        kn.generate(model, PROMPT, max_new_tokens=3, temperature=1.0)
    with nothing_leaks(model), pytest.raises(FloatingPointError):
        kn.rome(model, PROMPT, " Rome", layer=1, settings=RomeSettings(kl_weight=1e300))


def test_a_layer_that_the_other_model_does_not_have_is_other_weights() -> None:
    """kn.load_model("tiny-bert") has four layers: what is wrong is the model, not an index."""
    edit = LayerEdit((Change(9, torch.zeros(1, 4), torch.tensor([0])),), "by hand", edit_record())
    with pytest.raises(ValueError, match="made on other weights"):
        edit.apply(zoo.tiny("llama"))


def edit_record() -> dict[str, Any]:
    return {"fingerprint": "0" * 16, "model": "another"}
