"""A model small enough to work out on paper: what tracing and patching must find in it, cell by cell.

No MLP adds anything, and only layer 2 attends: evenly, to all tokens up to its own. The last token learns of another
one there and nowhere else. So a state of the subject counts up to the input of layer 2, and a state of the last token
from its output on.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from tests import zoo

MIXING = 2
CLEAN = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada", foil=" Paris")
OTHER = "The capital of France is"
SUBJECT, LAST, LAYERS = 4, 5, 4


@pytest.fixture(scope="module")
def model() -> Any:
    model = zoo.fresh("llama")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            silent = ("down_proj",) if f"layers.{MIXING}." in name else ("down_proj", "o_proj")
            if any(part in name for part in silent):
                weight.zero_()
            if "o_proj" in name:
                weight.mul_(20)  # so that the subject matters
            if f"layers.{MIXING}." in name and "q_proj" in name:
                weight.zero_()  # all tokens are attended to alike
    return model


def by_hand(model: Any, text: str, noise: Tensor | None = None) -> Tensor:
    """Logits at the last token, from the weights alone."""
    weight = partial(zoo.weight, model)

    def norm(x: Tensor, scale: Tensor) -> Tensor:
        return scale * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + model.cfg.eps)

    layer = f"layers.{MIXING}."
    with torch.no_grad():
        x = weight("embed_tokens")[kn.encode(model, kn.Prompt(text, " Ottawa")).tokens[0]].clone()
        if noise is not None:
            x[SUBJECT] += noise[0]
        read = norm(x, weight(layer, "input_layernorm")) @ weight(layer, "v_proj").T
        heads = read.mean(0).view(-1, model.cfg.d_head)
        heads = heads.repeat_interleave(model.cfg.n_heads // len(heads), 0)
        state = x[LAST] + weight(layer, "o_proj") @ heads.flatten()
        return weight("lm_head") @ norm(state, weight("model.norm"))


def target(model: Any) -> tuple[int, int]:
    e = kn.encode(model, CLEAN)
    assert e.subject == range(SUBJECT, SUBJECT + 1) and e.position == LAST and e.foil_ids is not None
    return e.target_ids[0], e.foil_ids[0]


def table(*cells: tuple[range, int]) -> Tensor:
    """`[layer token]`: 1 where the state decides, 0 everywhere else."""
    found = torch.zeros(LAYERS, LAST + 1)
    for layers, token in cells:
        found[list(layers), token] = 1
    return found


EARLY, LATE = (range(MIXING), SUBJECT), (range(MIXING, LAYERS), LAST)
TABLES: list[tuple[dict[str, Any], Tensor]] = [
    ({"kind": "hidden"}, table(EARLY, LATE)),
    ({"kind": "attn", "window": 1}, table((range(MIXING, MIXING + 1), LAST))),
    ({"kind": "attn", "window": 2}, table((range(MIXING, MIXING + 2), LAST))),  # layers 1 and 2, or 2 and 3
    ({"kind": "attn", "window": 4}, table((range(1, LAYERS), LAST))),
    ({"kind": "mlp", "window": 4}, table()),
    ({"kind": "hidden", "sever": "mlp"}, table(EARLY, LATE)),
    ({"kind": "hidden", "sever": "attn"}, table(EARLY, LATE)),  # at the subject's token it carries nothing ...
    ({"kind": "hidden", "sever": "attn", "sever_at": "all"}, table(LATE)),  # ... at the last one everything
]


@pytest.mark.filterwarnings("ignore:the corruption does not lower")
@pytest.mark.parametrize(("options", "expected"), TABLES)
def test_traces(model: Any, options: dict[str, Any], expected: Tensor) -> None:
    noise = torch.randn(3, 1, zoo.D_MODEL, generator=torch.Generator().manual_seed(0))
    trace = kn.causal_trace(model, CLEAN, noise=noise, **options)
    answer = target(model)[0]
    clean = by_hand(model, CLEAN.text).softmax(-1)[answer]
    corrupted = torch.stack([by_hand(model, CLEAN.text, one).softmax(-1)[answer] for one in noise])
    assert trace.clean == pytest.approx(float(clean), abs=1e-6)
    torch.testing.assert_close(trace.corrupted_per_sample, corrupted, atol=1e-6, rtol=0)
    assert float((clean - corrupted).abs().min()) > 1e-4, "the noise changes nothing: the table would be empty"
    scores = corrupted[:, None, None] + (clean - corrupted)[:, None, None] * expected
    torch.testing.assert_close(trace.per_sample, scores, atol=1e-6, rtol=0)


PATCHES: list[tuple[str, Tensor]] = [
    ("resid_pre", table((range(MIXING + 1), SUBJECT), (range(MIXING + 1, LAYERS), LAST))),
    ("resid_post", table(EARLY, LATE)),
    ("attn_out", table((range(MIXING, MIXING + 1), LAST))),
    ("mlp_out", table()),
]


@pytest.mark.parametrize("noising", [False, True])
@pytest.mark.parametrize(("site", "expected"), PATCHES, ids=[site for site, _ in PATCHES])
def test_patches(model: Any, site: str, expected: Tensor, noising: bool) -> None:
    right, wrong = target(model)
    clean, corrupted = (by_hand(model, text)[right] - by_hand(model, text)[wrong] for text in (CLEAN.text, OTHER))
    assert float((clean - corrupted).abs()) > 1e-2
    grid = kn.activation_patch(model, CLEAN, OTHER, site=site, noising=noising)
    assert grid.clean == pytest.approx(float(clean), abs=1e-5)
    assert grid.corrupted == pytest.approx(float(corrupted), abs=1e-5)
    start, other = (clean, corrupted) if noising else (corrupted, clean)
    torch.testing.assert_close(grid.values, start + (other - start) * expected, atol=1e-5, rtol=0)


def test_heads_and_values(model: Any) -> None:
    """Every head of layer 2 matters, and its values matter; but attention is even whatever the keys are."""
    here: dict[str, Any] = {"layers": [MIXING], "heads": True}
    for site in ("z", "v"):
        assert float(kn.activation_patch(model, CLEAN, OTHER, site=site, **here).effect.abs().min()) > 1e-3
    assert float(kn.activation_patch(model, CLEAN, OTHER, site="pattern", **here).effect.abs().max()) < 1e-5
