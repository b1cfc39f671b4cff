"""A loaded model gives the logits of transformers, or it is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.models import load
from kntools.models.same_logits import check_logits, plain_logits
from scripts.architectures.build import built, fresh
from tests import zoo

# transformer-lens 3.9 computes the first two otherwise than transformers.
NAMES = ["cohere", "hunyuan", "llama", "deepseek2", "bert"]


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_model_gives_the_logits_of_transformers_or_is_refused(
    name: str, in_memory: bool, tmp_path: Path
) -> None:
    case = built(name)
    source: Any = fresh(case.family, case.tokenizer)
    source.save_pretrained(tmp_path)
    case.tokenizer.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = source(case.tokens()).logits

    def load() -> Any:
        return kn.load_model(source, tokenizer=tmp_path, device="cpu") if in_memory else kn.load_model(tmp_path)

    if zoo.has_hooked_classes() and name in NAMES[:2]:
        with pytest.raises(ValueError, match=r"ForCausalLM differently from transformers.*pip install -U"):
            load()
    else:
        torch.testing.assert_close(load()(case.tokens()), expected, atol=1e-4, rtol=1e-4)


def test_an_architecture_is_loaded_or_refused_by_name(tmp_path: Path) -> None:
    """RoBERTa, which transformer-lens 3.9 does not know."""
    zoo.hf_model("roberta").save_pretrained(tmp_path)
    zoo.tokenizer("roberta").save_pretrained(tmp_path)
    if zoo.known(["roberta"]):
        assert type(kn.load_model(tmp_path).original_model).__name__ == "RobertaForMaskedLM"
    else:
        with pytest.raises(ValueError, match="TransformerLens does not know the architecture 'RobertaForMaskedLM'"):
            kn.load_model(tmp_path)


@pytest.mark.parametrize("in_memory", [False, True])
def test_every_load_is_compared(in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "plain_logits", lambda weights: -plain_logits(weights))
    zoo.hf_model("llama").save_pretrained(tmp_path)
    zoo.tokenizer("llama").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="differently from transformers"):
        kn.load_model(zoo.hf_model("llama") if in_memory else tmp_path, tokenizer=tmp_path if in_memory else None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_weights_are_seen(dtype: torch.dtype) -> None:
    model, expected = zoo.fresh("llama", dtype), plain_logits(zoo.hf_model("llama", dtype))
    check_logits(model, expected, "Llama")
    with torch.no_grad():
        zoo.weight(model, "layers.2.", "q_proj").neg_()
    with pytest.raises(ValueError, match="computes Llama differently"):
        check_logits(model, expected, "Llama")
    check_logits(model, torch.full_like(expected, torch.nan), "Llama")  # nothing to compare with
    with torch.no_grad():
        zoo.weight(model, "layers.2.", "q_proj").fill_(torch.nan)
    with pytest.raises(ValueError, match="off by nan%"):
        check_logits(model, expected, "Llama")
