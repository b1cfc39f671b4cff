"""Which layers of a HookedTransformer have neurons."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import kntools as kn
from kntools.models import neuron_layers
from tests.loop import one_by_one

pytestmark = pytest.mark.legacy
TOKENS = torch.tensor([[1, 2, 3]])


def hooked(**options: Any) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_head": 8, "n_ctx": 32, "d_vocab": 50, "d_mlp": 24}
    with torch.random.fork_rng(devices=[]):
        model = HookedTransformer(HookedTransformerConfig(**{**sizes, "act_fn": "gelu", "device": "cpu", **options}))
        for name, parameter in model.named_parameters():
            if name.endswith((".w", ".b")):  # norms are not the identity
                parameter.data += 0.5 * torch.rand_like(parameter)
    return model


MODELS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "plain": ({}, (24, 24)),
    "gated": ({"gated_mlp": True}, (24, 24)),
    "solu": ({"act_fn": "solu_ln"}, (24, 24)),
    "norm behind": ({"use_normalization_before_and_after": True, "normalization_type": "RMS"}, (24, 24)),
    "attention": ({"attn_only": True}, (0, 0)),
    "experts": ({"num_experts": 4, "experts_per_token": 2, "gated_mlp": True}, (0, 0)),
}


@pytest.mark.parametrize("name", MODELS)
def test_widths_and_what_still_works(name: str) -> None:
    options, widths = MODELS[name]
    model = hooked(**options)
    assert tuple(layer.width for layer in neuron_layers.neurons_of(model)) == widths
    neurons = kn.ablate_neurons([(1, 3)])
    runs = [kn.scale_site("resid_pre", 1, 0.5), kn.scale_site("attn_out", 0, 0.0), *([neurons] if widths[1] else [])]
    found = kn.sweep(model, TOKENS, runs).softmax(-1)
    torch.testing.assert_close(found, one_by_one(model, TOKENS, runs), atol=1e-6, rtol=1e-4)
    if not widths[1]:
        with pytest.raises(ValueError, match=r"layer 1 .* no neurons"):
            kn.sweep(model, TOKENS, [neurons])


def test_edits_cannot_be_tried_out_behind_a_norm() -> None:
    model = hooked(**MODELS["norm behind"][0])
    with pytest.raises(ValueError, match="load the model as a TransformerBridge"):
        neuron_layers.output_site(model, 1)
