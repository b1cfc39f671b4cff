"""Value-slot edits (Dai et al. 2022) and the fine-tuning baseline."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.editing.value_edits import relation_neurons
from kntools.engine.answers import answer_values
from kntools.models import adapter
from tests import zoo

PROMPT = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")
NEURONS = [(1, 3), (2, 5)]


def answers(name: str) -> tuple[str, str]:
    """As they are written in their place."""
    return ("Ottawa", "Rome") if name == "bert" else (" Ottawa", " Rome")


@pytest.mark.parametrize("amounts", [(1.0, 8.0), (0.5, 2.0)])
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_the_formula(name: str, amounts: tuple[float, float]) -> None:
    model = zoo.tiny(name)
    old, new = words = answers(name)
    text = "Is it [MASK]?" if name == "bert" else "Is it"
    ids = [kn.encode(model, kn.Prompt(text, word)).target_ids[0] for word in words]
    e_old, e_new = (model.W_U[:, i].detach() for i in ids)
    edit = kn.edit_values(model, NEURONS, old, new, amounts=amounts)
    assert edit.layers == (1, 2)
    expected = []
    for layer, index in NEURONS:
        v = adapter.w_out(model, layer)[index].detach().clone()
        size = v.norm()
        v = v - amounts[0] * size / e_old.norm() * e_old
        expected.append(v + amounts[1] * size / e_new.norm() * e_new)
    untouched = adapter.w_out(model, 1)[4].detach().clone()
    with edit.applied(model):
        for (layer, index), v in zip(NEURONS, expected, strict=True):
            torch.testing.assert_close(adapter.w_out(model, layer)[index].detach(), v)
        assert torch.equal(adapter.w_out(model, 1)[4], untouched)
    by_id = kn.edit_values(model, NEURONS, ids[0], ids[1], amounts=amounts)
    assert torch.equal(by_id.changes[0].update, edit.changes[0].update)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_erasing_is_ablating_everywhere(dtype: torch.dtype) -> None:
    model = zoo.fresh("llama", dtype)
    tokens = kn.encode(model, PROMPT).tokens
    ablated = model.run_with_hooks(tokens, fwd_hooks=kn.ablate_neurons(NEURONS, pos=None))
    with kn.erase_values(model, NEURONS).applied(model):
        for layer, index in NEURONS:
            assert not adapter.w_out(model, layer)[index].any()
        erased = model(tokens)
    torch.testing.assert_close(erased, ablated, atol=1e-4 if dtype == torch.float32 else 0.2, rtol=1e-3)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "gemma2", "gptj"])
def test_hooks_do_what_the_edited_weights_do(name: str) -> None:
    """Rows of one layer, of two, whole matrices, and sums of edits, read at every position."""
    model = zoo.fresh(name)
    text = "The capital of Canada is [MASK]." if name == "bert" else PROMPT.text
    old, new = answers(name)
    tokens = kn.encode(model, kn.Prompt(text, old)).tokens
    values = kn.edit_values(model, NEURONS, old, new)
    edits = [kn.erase_values(model, NEURONS), values, values + kn.erase_values(model, [(0, 1)])]
    if name != "bert":
        edits.append(kn.fine_tune(model, PROMPT, " Rome", layer=1, steps=2))
    clean = model(tokens).detach()
    for edit in edits:
        hooked = model.run_with_hooks(tokens, fwd_hooks=edit.hooks(model)).detach()
        with edit.applied(model):
            weights = model(tokens).detach()
        torch.testing.assert_close(hooked, weights, atol=1e-4, rtol=1e-3)
        assert float((weights - clean).abs().max()) > 1e-3, "the edit does nothing: the test says nothing"


def test_relation_neurons() -> None:
    facts = [[(0, 1), (0, 2)], [(0, 1), (0, 2), (3, 4)], [(0, 1)], [(0, 1), (2, 2)]]
    unrelated = [[(0, 1)], [(0, 1), (2, 2)], *[[(5, n)] for n in range(18)]]
    assert relation_neurons(facts) == tuple(map(lambda n: kn.Neuron(*n), [(0, 1), (0, 2), (2, 2), (3, 4)]))
    assert relation_neurons(facts, unrelated)[0] == kn.Neuron(0, 1)  # 2 of 20 is not over 10 %
    assert kn.Neuron(0, 1) not in relation_neurons(facts, unrelated, most_shared=0.05)
    assert len(relation_neurons(facts, count=2)) == 2
    with pytest.raises(ValueError, match="at least 1"):
        relation_neurons(facts, count=0)


def test_bad_input() -> None:
    model = zoo.fresh("llama")
    long = kn.encode(model, kn.Prompt("It is", " Ouagadougou", multi_token="sum"))
    before = zoo.bits(model)
    for error, said, call in (
        (ValueError, "no neurons", lambda: kn.edit_values(model, [], " Ottawa", " Rome")),
        (ValueError, "same token", lambda: kn.edit_values(model, NEURONS, " Rome", " Rome")),
        (ValueError, "write ' Rome'", lambda: kn.edit_values(model, NEURONS, " Ottawa", "Rome")),
        (
            ValueError,
            f"give its id.*{long.target_ids[0]}",
            lambda: kn.edit_values(model, NEURONS, " Ottawa", " Ouagadougou"),
        ),
        (IndexError, "L1.N48", lambda: kn.erase_values(model, [(1, 48)])),
        (IndexError, "layers 0 to 3", lambda: kn.erase_values(model, [(4, 0)])),
        (IndexError, "token id", lambda: kn.edit_values(model, NEURONS, 3, 10_000)),
        *(
            (error, r"amounts.*\(1.0, 8.0\)", lambda wrong=wrong: kn.edit_values(model, NEURONS, 3, 4, amounts=wrong))
            for error, wrong in ((TypeError, 5), (ValueError, (1.0,)), (ValueError, (1.0, 2.0, 3.0)))
        ),
    ):
        with pytest.raises(error, match=said):
            call()
    kn.edit_values(model, NEURONS, " Ottawa", long.target_ids[0])
    assert zoo.bits(model) == before


# --- fine-tuning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [" Rome", " Ouagadougou"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_fine_tuning_is_adam_on_the_weights(name: str, target: str) -> None:
    """Against a loop that changes the parameter itself, as released code does."""
    model, steps, lr, limit = zoo.fresh(name), 5, 5e-3, 1.2e-2
    edit = kn.fine_tune(model, PROMPT, target, layer=1, steps=steps, lr=lr, limit=limit)
    e = kn.encode(model, kn.Prompt(PROMPT.text, target, multi_token="sum"))
    w = adapter.w_out(model, 1)
    [parameter] = [p for p in model.parameters() if p.data_ptr() == w.data_ptr()]
    old = parameter.detach().clone()
    adam = torch.optim.Adam([parameter], lr=lr)
    losses: list[float] = []
    for _ in range(steps):
        log_p = model(e.tokens)[0, list(e.positions)].log_softmax(-1)
        loss = -log_p[range(len(e.target_ids)), list(e.target_ids)].sum()
        losses.append(float(loss.detach()))
        adam.zero_grad()
        loss.backward(inputs=[parameter])
        adam.step()
        with torch.no_grad():
            parameter.copy_(torch.minimum(torch.maximum(parameter, old - limit), old + limit))
    change: Tensor = adapter.w_out(model, 1).detach() - (old if old.shape == w.shape else old.T)
    assert edit.details["losses"] == pytest.approx(losses, abs=1e-3)
    assert losses[-1] < losses[0]
    # Adam moves an entry by its sign at first: where a gradient is next to nothing, rounding decides.
    assert float((edit.changes[0].update - change).abs().gt(1e-4).float().mean()) < 0.02
    assert float(edit.changes[0].update.abs().max()) <= limit + 1e-9


def test_fine_tuning_one_or_several() -> None:
    model = zoo.tiny("llama")
    prompts = [PROMPT, kn.encode(model, kn.Prompt("Is Japan near", " Tokyo"), prepend_bos=False)]
    together = kn.fine_tune(model, prompts, [" Rome", " Paris"], layer=1, steps=3)
    for prompt, target, edit in zip(prompts, [" Rome", " Paris"], together, strict=True):
        alone = kn.fine_tune(model, prompt, target, layer=1, steps=3)
        assert edit.details["losses"] == pytest.approx(alone.details["losses"], rel=1e-4)
        # Where a gradient is next to nothing, rounding decides on the sign that Adam takes.
        assert float((alone.changes[0].update - edit.changes[0].update).abs().gt(1e-4).float().mean()) < 0.02
    assert [edit.provenance["settings"]["prepend_bos"] for edit in together] == [True, False]


def test_fine_tuning_that_stops_early_is_left_as_it_is() -> None:
    model = zoo.tiny("llama")
    options: dict[str, Any] = {"layer": 1, "lr": 0.05, "limit": 1.0, "stop_loss": 2.0, "steps": 60}
    prompts, targets = [PROMPT, kn.Prompt("Is Japan near", " Tokyo")], [" Rome", " Ouagadougou"]
    together = kn.fine_tune(model, prompts, targets, **options)
    lengths = [len(edit.details["losses"]) for edit in together]
    assert lengths[0] != lengths[1] and max(lengths) < 60
    for prompt, target, edit in zip(prompts, targets, together, strict=True):
        [p] = answer_values(model, [replace(prompt, target=target, multi_token="sum")], [edit.hooks(model)])
        assert -math.log(float(p)) == pytest.approx(edit.details["losses"][-1], rel=1e-3)


def test_fine_tuning_stops_and_refuses() -> None:
    model = zoo.tiny("llama")
    edit = kn.fine_tune(model, PROMPT, " Rome", layer=1, lr=0.05, limit=1.0, stop_loss=0.5, steps=200)
    assert edit.details["losses"][-1] < 0.5 <= edit.details["losses"][-2]
    with pytest.raises(ValueError, match="above 0"):
        kn.fine_tune(model, PROMPT, " Rome", layer=1, limit=0.0)
    with pytest.raises(IndexError):
        kn.fine_tune(model, PROMPT, " Rome", layer=9)
    with pytest.raises(ValueError, match="edit_values"):
        kn.fine_tune(zoo.tiny("bert"), PROMPT, " Rome", layer=1)
