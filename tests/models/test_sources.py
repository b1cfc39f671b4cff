"""load_model of everything that is no name: models in memory, folders, and what is refused."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformer_lens.model_bridge import TransformerBridge

import kntools as kn
from tests import zoo

TEXT = "The capital of Canada is"


def save(name: str, folder: Path) -> Path:
    zoo.hf_model(name).save_pretrained(folder)
    zoo.tokenizer(name).save_pretrained(folder)
    return folder


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found = model(tokens)
    return getattr(found, "logits", found)


# --- models in memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "gemma2", "bert"])
def test_a_model_in_memory_is_copied(name: str) -> None:
    given, words = zoo.hf_model(name).train(), zoo.tokenizer(name)
    before, config = copy.deepcopy(given.state_dict()), given.config.to_dict()
    special = (len(words), words.bos_token, words.pad_token, words.padding_side)
    model = kn.load_model(given, tokenizer=words)
    text = "The capital of Canada is [MASK]." if name == "bert" else TEXT
    tokens = zoo.tiny(name).to_tokens(text)
    assert torch.equal(model.to_tokens(text), tokens)
    torch.testing.assert_close(model(tokens), zoo.tiny(name)(tokens))
    assert model.tokenizer.name_or_path == words.name_or_path and not model.training
    assert model.cfg.model_name == type(given).__name__
    prompt = kn.Prompt(text, "Ottawa" if name == "bert" else " Ottawa")
    hooks = [[], kn.ablate_neurons([(1, 3)])]
    torch.testing.assert_close(kn.sweep(model, prompt, hooks), kn.sweep(zoo.tiny(name), prompt, hooks))
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert given.training and given.config.to_dict() == config
    assert all(torch.equal(given.state_dict()[key], value) for key, value in before.items())
    assert (len(words), words.bos_token, words.pad_token, words.padding_side) == special


def test_its_tokenizer_is_looked_for_where_it_came_from(tmp_path: Path) -> None:
    folder = save("llama", tmp_path / "llama")
    given = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model = kn.load_model(given)
    assert model.cfg.model_name == str(folder)
    assert torch.equal(model(model.to_tokens(TEXT)), kn.load_model(folder, device="cpu")(model.to_tokens(TEXT)))
    other = kn.load_model(zoo.hf_model("llama"), tokenizer=folder)
    assert torch.equal(other.to_tokens(TEXT), model.to_tokens(TEXT))
    with pytest.raises(ValueError, match=r"tokenizer of this LlamaForCausalLM is not known .*give tokenizer="):
        kn.load_model(zoo.hf_model("llama"))


def test_another_tokenizer_than_the_folders(tmp_path: Path) -> None:
    zoo.hf_model("llama").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no tokenizer; .*save_pretrained, or give tokenizer="):
        kn.load_model(tmp_path)
    model = kn.load_model(tmp_path, tokenizer=zoo.tokenizer("llama"), device="cpu")
    tokens = model.to_tokens(TEXT)
    torch.testing.assert_close(model(tokens), zoo.tiny("llama")(tokens))
    _, cache = model.run_with_cache(tokens)
    assert cache["blocks.0.attn.hook_pattern"].shape[-1] == tokens.shape[1]


def test_dtype_and_device() -> None:
    given, words = zoo.hf_model("llama", torch.bfloat16), zoo.tokenizer("llama")
    for dtype, expected in ((None, torch.bfloat16), ("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        model = kn.load_model(given, tokenizer=words, dtype=dtype)
        assert {p.dtype for p in model.parameters()} == {expected} and model.cfg.dtype == expected
        assert model(model.to_tokens(TEXT)).isfinite().all()
    assert given.dtype == torch.bfloat16
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    for model in (kn.load_model(given, tokenizer=words, device="auto"), kn.load_model("tiny-bert", device="auto")):
        assert {p.device.type for p in model.parameters()} == {expected}
    with pytest.raises(ValueError, match="device='gpu' is not a device; use 'auto', 'cpu', 'cuda'"):
        kn.load_model("tiny-bert", device="gpu")
    if torch.version.cuda is None:
        with pytest.raises(ValueError, match="device='cuda': this machine has none"):
            kn.load_model("tiny-bert", device="cuda")
    with pytest.raises(ValueError, match="dtype='int8' is not a floating-point type"):
        kn.load_model(given, tokenizer=words, dtype="int8")


def test_weights_of_several_types_keep_them() -> None:
    given, words = zoo.hf_model("gemma2", torch.bfloat16), zoo.tokenizer("gemma2")
    for name, parameter in given.named_parameters():
        if "norm" in name:
            parameter.data = parameter.data.float() + 1e-3
    tokens = zoo.tiny("gemma2").to_tokens(TEXT)
    model = kn.load_model(given, tokenizer=words)
    assert torch.equal(model(tokens), logits(given, tokens)) and model.cfg.dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16, torch.float32}
    one = kn.load_model(given, tokenizer=words, dtype="float32")
    assert {p.dtype for p in one.parameters()} == {torch.float32}


def test_weights_that_are_not_in_memory(tmp_path: Path) -> None:
    folder = save("llama", tmp_path / "llama")
    layers = {f"model.layers.{n}": "disk" if n > 1 else "cpu" for n in range(4)}
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu", **layers}
    given = transformers.AutoModelForCausalLM.from_pretrained(
        folder, device_map=places, offload_folder=tmp_path / "offload"
    )
    assert any(p.is_meta for p in given.parameters())
    with pytest.raises(ValueError, match=r"not in memory \(offloaded to disk\); load it without device_map"):
        kn.load_model(given)
    if zoo.has_hooked_classes():
        return  # transformer-lens 3.x refuses such bridges itself
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"device_map": places, "offload_folder": str(tmp_path / "bridge")}
        model = TransformerBridge.boot_transformers(str(folder), **options).eval()
    prompt, other = (
        kn.Prompt(f"The capital of {c} is", a, subject=c) for c, a in (("Cuba", " Rome"), ("Italy", " Rome"))
    )
    hooks = kn.ablate_neurons([(3, 1)])
    torch.testing.assert_close(kn.sweep(model, prompt, [hooks]), kn.sweep(zoo.tiny("llama"), prompt, [hooks]))
    for call in (
        lambda: kn.integrated_gradients(model, prompt),
        lambda: kn.activation_patch(model, prompt, other, site="resid_pre"),
        lambda: kn.attribution_patch(model, prompt, other, site="resid_pre"),
        lambda: kn.causal_trace(model, prompt),
        lambda: kn.rome(model, prompt, " Paris", layer=1),
    ):
        with pytest.raises(ValueError, match=r"18 of 39 weights of this model are not in memory .*without device_map"):
            call()


def test_no_model_at_all() -> None:
    with pytest.raises(TypeError, match=r"Flatten is no Hugging Face model; .*Hugging Face id"):
        kn.load_model(torch.nn.Flatten())


def test_a_model_of_transformer_lens() -> None:
    with pytest.raises(TypeError, match="TransformerBridge is a model of TransformerLens already"):
        kn.load_model(zoo.tiny("llama"))


# --- weights that are not in the files ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda key: None if "layers.1.mlp.down_proj" in key else key,
            r"lack 1 of .*: model\.layers\.1\.mlp\.down_proj",
        ),
        (lambda key: None if key == "lm_head.weight" else key, r"lack 1 of .*LlamaForCausalLM: lm_head\.weight; save"),
        (lambda key: "module." + key, r"lack 39 of the 39 .*begin with 'module\.': rename them without it"),
        (lambda key: "_orig_mod." + key, r"lack 39 of the 39 .*begin with '_orig_mod\.'"),
    ],
)
def test_missing_weights_are_not_made_up(change: Any, message: str, tmp_path: Path) -> None:
    weights = load_file(save("llama", tmp_path) / "model.safetensors")
    kept = {change(key): weight for key, weight in weights.items() if change(key)}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for words in (None, zoo.tokenizer("llama")):  # read by TransformerLens, and by kntools
        with pytest.raises(ValueError, match=message):
            kn.load_model(tmp_path, tokenizer=words)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("llama", r"down_proj\.weight is \[5, 48\], not \[32, 48\].*save_pretrained"),
        ("mixtral", "cannot be read .*again"),
    ],
)
def test_weights_of_another_shape(name: str, message: str, tmp_path: Path) -> None:
    weights = load_file(save(name, tmp_path) / "model.safetensors")
    cut = {key: w[:5].contiguous() if "down_proj" in key or "experts.2.w1" in key else w for key, w in weights.items()}
    save_file(cut, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        kn.load_model(tmp_path)


# --- architectures ------------------------------------------------------------------------------------------


TINY = {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 16, "vocab_size": 40}
BART = {
    "d_model": 16,
    "vocab_size": 40,
    **{f"{part}_{n}": 2 for part in ("encoder", "decoder") for n in ("layers", "attention_heads")},
}


@pytest.mark.parametrize(
    ("config", "cls"),
    [
        (transformers.T5Config(**TINY), "T5ForConditionalGeneration"),
        (transformers.MT5Config(**TINY), "MT5ForConditionalGeneration"),
        (transformers.BartConfig(**BART), "BartForConditionalGeneration"),
        (transformers.MarianConfig(**BART, pad_token_id=1), "MarianMTModel"),
        (transformers.T5Config(**TINY), "T5Model"),
    ],
)
def test_encoder_decoders_are_refused(config: Any, cls: str, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        model = getattr(transformers, cls)(config)
    model.save_pretrained(tmp_path)
    for given in (tmp_path, model):
        with pytest.raises(ValueError, match=rf"is an encoder-decoder \({cls}\); kntools works on decoders and masked"):
            kn.load_model(given, tokenizer=zoo.tokenizer("llama"))


@pytest.mark.parametrize(
    ("architecture", "kind", "nearest"),
    [
        ("LlamaForSequenceClassification", "llama", "LlamaForCausalLM"),
        ("GPT2Model", "gpt2", "GPT2LMHeadModel"),
        ("BertForTokenClassification", "bert", "Bert"),
        ("Llama9ForCausalLM", "llama9", "LlamaForCausalLM"),
        ("XLNetLMHeadModel", "xlnet", ""),
    ],
)
def test_unknown_architectures_are_named_with_the_nearest(
    architecture: str, kind: str, nearest: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture], "model_type": kind}))
    with pytest.raises(
        ValueError, match=f"does not know the architecture '{architecture}' of .*nearest.* '{nearest}"
    ) as e:
        kn.load_model(tmp_path)
    assert len(str(e.value)) < 300


def test_a_model_in_memory_without_a_head_for_words() -> None:
    inner = zoo.hf_model("llama").model
    with pytest.raises(ValueError, match=r"does not know the architecture 'LlamaModel' .*'LlamaForCausalLM'"):
        kn.load_model(inner, tokenizer=zoo.tokenizer("llama"))


def test_models_of_images_and_of_unknown_code(tmp_path: Path) -> None:
    for config, message in (
        ({"architectures": ["ViTForImageClassification"], "model_type": "vit"}, "is not a language model"),
        ({"architectures": ["OpenELMForCausalLM"], "model_type": "openelm"}, "trust_remote_code=True"),
        ({"architectures": ["LlamaForCausalLM"]}, "does not know the model type None"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=message):
            kn.load_model(tmp_path)
