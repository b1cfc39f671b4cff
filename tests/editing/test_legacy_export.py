"""`save_model` of HookedTransformer and HookedEncoder (transformer-lens 3.x)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn
from tests import zoo
from tests.editing.test_export import edit_of, logits_of, read_logits

pytestmark = pytest.mark.legacy
SMALL = {"n_layers": 2, "d_model": 24, "d_mlp": 48, "n_heads": 4, "d_head": 6, "n_ctx": 24, "d_vocab": 300}
LLAMA = {"act_fn": "silu", "gated_mlp": True, "positional_embedding_type": "rotary", "rotary_dim": 6, "final_rms": True}
LAYOUTS: dict[str, dict[str, Any]] = {
    "gpt2": {"act_fn": "gelu_new", "normalization_type": "LN"},
    "relu": {"act_fn": "relu", "normalization_type": "LN"},
    "llama": {**LLAMA, "normalization_type": "RMS"},
    "neox": {"act_fn": "gelu", "normalization_type": "LN"} | {"positional_embedding_type": "rotary", "rotary_dim": 4},
}


def hooked(options: dict[str, Any], seed: int = 0) -> Any:
    """A model of its own, every parameter random."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = HookedTransformer(HookedTransformerConfig(**SMALL, **options, device="cpu"), move_to_device=False)
        for name, parameter in model.named_parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape) + ("ln" in name and name.endswith(".w"))
        if options["normalization_type"] == "RMS":  # a Llama has no biases
            for name, parameter in model.named_parameters():
                parameter.data *= "b_" not in name
        model.unembed.b_U.data *= 0
    return model.eval()


@pytest.mark.parametrize("name", zoo.TWINS)
def test_edited_twins(name: str, tmp_path: Path) -> None:
    model = zoo.hooked_twin(name)
    before = zoo.bits(model)
    with edit_of(model).applied(model):
        expected = logits_of(model)
        kn.save_model(model, tmp_path / "it")
    assert zoo.bits(model) == before
    torch.testing.assert_close(read_logits(tmp_path / "it", name == "bert"), expected, atol=1e-4, rtol=1e-4)
    again = kn.load_model(tmp_path / "it")
    torch.testing.assert_close(logits_of(again), expected, atol=1e-4, rtol=1e-4)
    prompt = kn.Prompt("The capital of Canada is" + " [MASK]" * (name == "bert"), "Rome" if name == "bert" else " Rome")
    assert torch.equal(kn.encode(again, prompt).tokens, kn.encode(model, prompt).tokens)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, parallel: bool, folded: bool, tmp_path: Path) -> None:
    if parallel and layout != "neox":
        pytest.skip("no class of that layout")
    model = hooked({**LAYOUTS[layout], "parallel_attn_mlp": parallel})
    if folded:
        model.process_weights_()
    kn.save_model(model, tmp_path / "it")
    torch.testing.assert_close(read_logits(tmp_path / "it"), logits_of(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"act_fn": "solu_ln", "normalization_type": "LN"},
        {"act_fn": "gelu", "normalization_type": None},
        LAYOUTS["gpt2"] | {"use_local_attn": True, "attn_types": ["local"] * 2, "window_size": 9},
        LAYOUTS["gpt2"] | {"attn_only": True},
        LAYOUTS["gpt2"] | {"parallel_attn_mlp": True},
        LAYOUTS["gpt2"] | {"use_attn_scale": False},
        LAYOUTS["gpt2"] | {"output_logits_soft_cap": 3.0},
    ],
)
def test_layouts_that_no_class_has(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"apply the edit"):
        kn.save_model(hooked(options), tmp_path / "it")
    assert not list(tmp_path.iterdir())


def test_a_bias_that_a_llama_lacks(tmp_path: Path) -> None:
    model = hooked(LAYOUTS["llama"] | {"normalization_type": "RMS"})
    model.blocks[1].mlp.b_out.data += 1
    with pytest.raises(ValueError, match=r"no place for blocks\.1\.mlp\.b_out"):
        kn.save_model(model, tmp_path / "it")
    assert not list(tmp_path.iterdir())
