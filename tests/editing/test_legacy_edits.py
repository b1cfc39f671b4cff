"""Edits of HookedTransformer and HookedEncoder (transformer-lens 3.x): same numbers, same bits afterwards."""

from __future__ import annotations

import pytest
import torch

import kntools as kn
from kntools.editing.rome_settings import RomeSettings
from kntools.engine.answers import ask
from kntools.models import adapter
from tests import zoo

pytestmark = [pytest.mark.legacy, pytest.mark.filterwarnings("ignore:.*in L[0-9]+. the")]
PROMPT = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")
FEW = RomeSettings(steps=6, templates=["{}", "Yes, it is. {}", "The dog and the cat are near the table. {}"])


@pytest.mark.parametrize("target", [" Rome", " Ouagadougou"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_rome_is_the_same(name: str, target: str) -> None:
    bridge, twin = zoo.tiny(name), zoo.hooked_twin(name)
    texts = [*zoo.SENTENCES, *zoo.SENTENCES]
    moments = [kn.second_moment(m, 1, texts) for m in (bridge, twin)]
    torch.testing.assert_close(moments[1].matrix, moments[0].matrix, atol=1e-3, rtol=1e-4)
    ours, theirs = (
        kn.rome(m, PROMPT, target, layer=1, second_moment=c, settings=FEW)
        for m, c in zip((twin, bridge), reversed(moments), strict=True)
    )
    assert [s.loss for s in ours.steps] == pytest.approx([s.loss for s in theirs.steps], abs=1e-4)
    assert (ours.before, ours.after) == pytest.approx((theirs.before, theirs.after), abs=1e-5)
    k, b = ours.key, adapter.b_out(twin, 1)
    with ours.applied(twin):
        value = k @ adapter.w_out(twin, 1).detach() + (0 if b is None else b.detach())
    assert float((value - ours.value).norm() / ours.value.norm()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", zoo.TWINS)
def test_same_bits_after_every_edit(name: str, dtype: torch.dtype) -> None:
    twin = zoo.hooked_twin(name)
    kept = {n: p.detach().clone() for n, p in twin.named_parameters()}
    try:
        for p in twin.parameters():
            p.data = p.data.to(dtype)
        twin.cfg.dtype = dtype  # or it cannot run
        before = zoo.bits(twin)
        old, new = ("Ottawa", "Rome") if name == "bert" else (" Ottawa", " Rome")
        edits: list[kn.WeightEdit] = [kn.edit_values(twin, [(1, n) for n in range(9)], old, new)]
        edits.append(kn.erase_values(twin, [(0, n) for n in range(9)]))
        if name != "bert" and dtype == torch.float32:
            edits.append(kn.rome(twin, PROMPT, " Rome", layer=1, settings=FEW))
            edits.append(kn.fine_tune(twin, PROMPT, " Rome", layer=1, steps=2))
        for edit in edits:
            with pytest.raises(KeyboardInterrupt), edit.applied(twin):
                assert zoo.bits(twin) != before
                raise KeyboardInterrupt
            assert zoo.bits(twin) == before
    finally:
        twin.cfg.dtype = torch.float32
        for n, p in twin.named_parameters():
            p.data = kept[n]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_generation_fine_tuning_and_answers_are_the_same(name: str) -> None:
    bridge, twin = zoo.tiny(name), zoo.hooked_twin(name)
    tokens = torch.tensor([[5, 17, 30], [9, 12, 40]])
    first, second = (kn.generate(m, tokens, max_new_tokens=8) for m in (twin, bridge))
    assert first == second and len(first) == 2
    assert kn.generate(twin, PROMPT, max_new_tokens=8) == kn.generate(bridge, PROMPT, max_new_tokens=8)
    prompts = [
        kn.Prompt(text, answer, multi_token="sum")
        for text in ("The capital of Canada is", "Is Japan near")
        for answer in (" Rome", " Ouagadougou")
    ]
    for ours, expected in zip(ask(twin, prompts), ask(bridge, prompts), strict=True):
        assert ours.probability == pytest.approx(expected.probability, abs=1e-5)
        assert (ours.first, ours.exact) == (expected.first, expected.exact)
    losses = [kn.fine_tune(m, PROMPT, " Rome", layer=1, steps=4).details["losses"] for m in (twin, bridge)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
