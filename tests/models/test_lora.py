"""LoRA folders and adapters: merged, or an error that says why not."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

import kntools as kn
from tests import zoo
from tests.models.test_sources import TEXT, logits, save


def adapted(model: PreTrainedModel) -> Any:
    """A LoRA on projections of attention and MLP, with weights that change the output."""
    peft = pytest.importorskip("peft")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        return peft.get_peft_model(model, config).eval()


def test_a_lora_folder_is_merged(tmp_path: Path) -> None:
    base = save("llama", tmp_path / "base")
    lora = adapted(transformers.AutoModelForCausalLM.from_pretrained(base))
    lora.save_pretrained(tmp_path / "lora")
    model = kn.load_model(tmp_path / "lora", device="cpu")
    tokens = zoo.tiny("llama").to_tokens(TEXT)
    expected = logits(lora, tokens)
    assert torch.equal(model.to_tokens(TEXT), tokens) and model.cfg.model_name == str(tmp_path / "lora")
    torch.testing.assert_close(model(tokens), expected, atol=1e-4, rtol=1e-4)
    assert float((expected - logits(zoo.tiny("llama"), tokens)).abs().max()) > 0.1
    layer = lora.base_model.model.model.layers[1].mlp.down_proj
    change = 4 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight  # alpha / r
    torch.testing.assert_close(model.blocks[1].mlp.W_out, (layer.base_layer.weight + change).T)
    # The same in memory: as peft wraps it, and as transformers holds it.
    before = copy.deepcopy(lora.state_dict())
    torch.testing.assert_close(kn.load_model(lora)(tokens), expected, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in lora.state_dict().items())
    inside = transformers.AutoModelForCausalLM.from_pretrained(base)
    with torch.random.fork_rng(devices=[]):
        inside.load_adapter(str(tmp_path / "lora"))
    found = kn.load_model(inside)
    torch.testing.assert_close(found(tokens), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.blocks[1].mlp.W_out, model.blocks[1].mlp.W_out)


@pytest.mark.parametrize("more", [{}, {"modules_to_save": ["lm_head"]}, {"trainable_token_indices": [3, 4]}])
def test_adapters_that_are_switched_off(more: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    tokens = torch.tensor([[3, 7, 4, 9]])
    plain = logits(zoo.tiny("llama"), tokens)

    def check(given: Any, on: bool) -> None:
        model = kn.load_model(given, tokenizer=zoo.tokenizer("llama"))
        torch.testing.assert_close(model(tokens), logits(given, tokens), atol=1e-3, rtol=1e-3)
        assert torch.allclose(model(tokens), plain, atol=1e-3) is not on

    with torch.random.fork_rng(devices=[]):
        config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False, **more)
        wrapped, inside = peft.get_peft_model(zoo.hf_model("llama"), config).eval(), zoo.hf_model("llama")
        inside.add_adapter(config, "a")
    check(wrapped, on=True)
    with wrapped.disable_adapter():
        check(wrapped, on=False)
    wrapped.merge_adapter()
    check(wrapped, on=True)
    with wrapped.disable_adapter():
        check(wrapped, on=False)
    check(inside.eval(), on=True)
    inside.disable_adapters()
    check(inside, on=False)


def test_a_lora_that_does_not_fit_its_base_model(tmp_path: Path) -> None:
    base = save("llama", tmp_path / "base")
    adapted(transformers.AutoModelForCausalLM.from_pretrained(base)).save_pretrained(tmp_path / "lora")
    file = tmp_path / "lora" / "adapter_model.safetensors"
    weights = load_file(file)
    for changed, message in (
        (
            {key.replace(".model.", "._orig_mod.", 1): w for key, w in weights.items()},
            r"no place for .*_orig_mod.*q_proj",
        ),
        (
            {key: w for key, w in weights.items() if ".2.mlp" not in key},
            r"no value for .*layers\.2\.mlp\.down_proj\.lora_A",
        ),
        ({key.replace(".layers.2.", ".layers.9."): w for key, w in weights.items()}, r"no place for .*layers\.9\."),
        ({key: w[..., :5].contiguous() for key, w in weights.items()}, "size mismatch"),
    ):
        save_file(changed, file)
        with pytest.raises(ValueError, match=f"do(es)? not fit its base model .*({message})"):
            kn.load_model(tmp_path / "lora")


@pytest.mark.parametrize("more", [3, -2])
def test_a_lora_with_a_vocabulary_of_its_own(more: int, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    given, words = (
        transformers.AutoModelForCausalLM.from_pretrained(save("llama", tmp_path / "base")),
        zoo.tokenizer("llama"),
    )
    count = len(words) + more
    words.add_tokens([f"<{n}>" for n in range(more)])
    config = peft.LoraConfig(
        target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], init_lora_weights=False
    )
    with torch.random.fork_rng(devices=[]):
        given.resize_token_embeddings(count, mean_resizing=False)
        lora = peft.get_peft_model(given, config).eval()
    with torch.no_grad():
        lora.base_model.model.lm_head.modules_to_save["default"].weight.add_(0.1)
    lora.save_pretrained(tmp_path / "runs" / "lora")
    words.save_pretrained(tmp_path / "runs" / "lora")
    file = tmp_path / "runs" / "lora" / "adapter_config.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": "../base"})
    )  # from its place
    model = kn.load_model(tmp_path / "runs" / "lora")
    tokens = torch.tensor([[5, 9, count - 1]])
    assert model.cfg.d_vocab == count
    assert model.tokenizer.convert_tokens_to_ids("<2>") == (count - 1 if more > 0 else None)
    torch.testing.assert_close(model(tokens), logits(lora, tokens), atol=1e-4, rtol=1e-4)
    weights = file.with_name("adapter_model.safetensors")
    save_file({key: w for key, w in load_file(weights).items() if "lm_head" not in key}, weights)
    with pytest.raises(ValueError, match="lacks lm_head for the new ones" if more > 0 else "lm_head"):
        kn.load_model(tmp_path / "runs" / "lora")


def test_lora_folders_that_cannot_be_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peft = pytest.importorskip("peft")
    base = save("llama", tmp_path / "base")
    prompts = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with torch.random.fork_rng(devices=[]):
        tuned = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), prompts)
        tuned.save_pretrained(tmp_path / "prompts")
    with pytest.raises(ValueError, match="PROMPT_TUNING, which is not a change of weights"):
        kn.load_model(tmp_path / "prompts", device="cpu")
    file = tmp_path / "prompts" / "adapter_config.json"
    for name, message in (
        ("no-such/base", "unknown model 'no-such/base'"),
        (None, "does not name its base model"),
    ):
        file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": name}))
        with pytest.raises(ValueError, match=message):
            kn.load_model(tmp_path / "prompts")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "peft" else find(name, *more))
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": str(base)}))
    with pytest.raises(ModuleNotFoundError, match=r"pip install kntools\[lora\]"):
        kn.load_model(tmp_path / "prompts")
