"""load_model of everything that is no name: models in memory, adapters, GGUF files, and what is refused."""

from __future__ import annotations

import copy
import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

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


# --- adapters -----------------------------------------------------------------------------------------------


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


# --- GGUF files ---------------------------------------------------------------------------------------------


def write_gguf(path: Path) -> None:
    """The tiny Llama as llama.cpp writes one: its names, and its order of rows in queries and keys."""
    model, words = zoo.hf_model("llama"), zoo.tokenizer("llama")
    c, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_vocab_size(c.vocab_size)
    content = json.loads(words.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(content["vocab"], key=content["vocab"].get))
    writer.add_token_merges([" ".join(pair) for pair in content["merges"]])
    writer.add_bos_token_id(words.bos_token_id)
    writer.add_eos_token_id(words.eos_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c.num_hidden_layers)
    for key, weight in model.state_dict().items():
        heads = {"q_proj": c.num_attention_heads, "k_proj": c.num_key_value_heads}.get(key.split(".")[-2])
        if heads is not None:
            weight = weight.reshape(heads, 2, -1, c.hidden_size).swapaxes(1, 2).reshape(weight.shape)
        writer.add_tensor(names.get_name(key, try_suffixes=(".weight",)), weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_or_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNTOOLS_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "gguf" / "tiny.gguf"
    file.parent.mkdir()
    write_gguf(file)
    expected = zoo.tiny("llama")
    for source in (file, str(file.parent)):
        model = kn.load_model(source, device="cpu")
        tokens = model.to_tokens(TEXT, prepend_bos=True)
        assert torch.equal(tokens, expected.to_tokens(TEXT, prepend_bos=True)) and model.cfg.model_name == str(source)
        torch.testing.assert_close(model(tokens), expected(tokens), atol=1e-4, rtol=1e-4)
    assert len([*(tmp_path / "cache" / "models").glob("*/config.json")]) == 1
    (file.parent / "second.gguf").write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"has 2 GGUF files \(second\.gguf, tiny\.gguf\); give the path of one"):
        kn.load_model(file.parent)
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(ValueError, match="is no GGUF file"):
        kn.load_model(tmp_path / "text.gguf")


@pytest.mark.slow
@pytest.mark.gemma3
def test_gemma3_is_what_it_says(gemma3: Any) -> None:
    assert (gemma3.cfg.n_layers, gemma3.cfg.d_mlp, gemma3.cfg.model_name) == (18, 2048, "gemma3-270m")
    assert gemma3.to_str_tokens("In 1984 café") == ["<bos>", "In", " ", "1", "9", "8", "4", " café"]
    encoded = kn.encode(gemma3, kn.Prompt("To treat my toothache, I should see a", " dentist"))
    with torch.no_grad():
        p = gemma3(encoded.tokens)[0, -1].softmax(-1)
    assert float(p[encoded.target_ids[0]]) == pytest.approx(0.756, abs=0.01)


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
