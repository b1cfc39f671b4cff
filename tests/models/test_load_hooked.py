"""`load_model(..., hooked=True)`: a folder as HookedTransformer or HookedEncoder, where transformer-lens has them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import kntools as kn
from tests.cli.test_cli import save_tiny


def test_without_the_classes_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    gone = lambda name: None if name == "transformer_lens.HookedTransformer" else find(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", gone)
    with pytest.raises(ValueError, match=r'4\.0 removed .* TransformerBridge, or pip install "transformer-lens<4"'):
        kn.load_model("tiny-bert", hooked=True)


@pytest.mark.legacy
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_folder_gives_the_logits_of_the_model_that_was_saved(name: str, tmp_path: Path) -> None:
    import transformer_lens

    folder = save_tiny(name, tmp_path / name)
    model = kn.load_model(folder, device="cpu", hooked=True)
    hooked_class, source = {
        "llama": (transformer_lens.HookedTransformer, AutoModelForCausalLM),
        "bert": (transformer_lens.HookedEncoder, AutoModelForMaskedLM),
    }[name]
    assert isinstance(model, hooked_class) and not model.training and model.cfg.model_name == str(folder)
    asked = {"llama": ("The capital of Canada is", " Ottawa"), "bert": ("The capital of Canada is [MASK].", "Ottawa")}
    encoded = kn.encode(model, kn.Prompt(*asked[name]))
    with torch.no_grad():
        expected = source.from_pretrained(folder)(encoded.tokens).logits
        torch.testing.assert_close(model(encoded.tokens).softmax(-1), expected.softmax(-1), atol=1e-5, rtol=0)
    assert kn.load_model(folder, device="cpu", dtype=torch.bfloat16, hooked=True).W_E.dtype == torch.bfloat16


@pytest.mark.legacy
def test_an_architecture_that_they_cannot_hold(tmp_path: Path) -> None:
    folder = save_tiny("gpt2", tmp_path / "gpt2")
    with pytest.raises(ValueError, match="not 'GPT2LMHeadModel'; leave it out"):
        kn.load_model(folder, hooked=True)


@pytest.mark.legacy
@pytest.mark.slow
@pytest.mark.smollm2
def test_smollm2_is_a_hooked_transformer() -> None:
    model = kn.load_model("smollm2-135m", device="cpu", hooked=True)
    encoded = kn.encode(model, kn.Prompt("The capital of Canada is", " Ottawa"))
    with torch.no_grad():
        p = model(encoded.tokens)[0, -1].softmax(-1)
    assert float(p[encoded.target_ids[0]]) == pytest.approx(0.291, abs=0.005)


def test_the_default_is_a_bridge() -> None:
    assert type(kn.load_model("tiny-bert", device="cpu")).__name__ == "TransformerBridge"
