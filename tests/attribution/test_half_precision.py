"""In half precision, refinement stops at the rounding floor and says so."""

from __future__ import annotations

import warnings

import pytest
import torch

import kntools as kn
from tests import zoo
from tests.attribution.test_attribution import prompts_for
from tests.attribution.test_attribution_metrics import pairs_for


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_refinement_ends_at_the_rounding_floor(name: str, dtype: torch.dtype) -> None:
    model, prompts = zoo.tiny(name, dtype), pairs_for(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        att = kn.integrated_gradients(model, prompts, tol=1e-3)
    exact = kn.integrated_gradients(zoo.tiny(name), prompts, tol=1e-3)
    # One first round is run twice, and what leaps is cut a few times.
    assert int(att.nodes.sum()) < 2 * int(exact.nodes.sum()) + 60 * att.nodes.numel()
    assert att.floor is not None and exact.floor is not None
    assert float(att.floor.min()) > 50 * float(exact.floor.max())
    sizes = att.gap.abs()
    asked = 1e-3 * sizes.maximum(0.02 * sizes.amax(1, keepdim=True))
    missed = int((att.residual.abs() > asked).sum())
    said = [str(w.message) for w in caught if "not complete to tol" in str(w.message)]
    assert missed and len(said) == 1
    assert said[0].startswith(f"{missed} of {att.nodes.numel()} layers") and "float32" in said[0]
    cosine = torch.nn.functional.cosine_similarity(exact.scores.flatten(1), att.scores.flatten(1))
    assert float(cosine.min()) > 0.97


def test_single_precision_reaches_its_tolerance_and_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kn.integrated_gradients(zoo.tiny("llama"), prompts_for("llama"), tol=1e-3)


def test_a_layer_without_effect_has_nothing_to_refine() -> None:
    """Gap 0 in every layer: the floor is what ends it."""
    model = zoo.fresh("gpt2")
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.W_out[:] = 0
    att = kn.integrated_gradients(model, prompts_for("gpt2"))
    assert float(att.scores.abs().max()) == 0 and int(att.nodes[:, 1:].max()) == 5
