"""`save_model`: transformers and kntools read the folder, and the logits are those of the edited model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

import kntools as kn
from kntools.editing import export
from kntools.models import adapter
from kntools.models.quiet import without_trace
from tests import zoo

TOKENS = torch.randint(5, 200, (2, 11), generator=torch.Generator().manual_seed(1))
MIXED = [
    "bloom",
    "deepseek2",
    "granite",
    "mixtral",
    "mamba",
    "modernbert_decoder",
    "mpt",
    "qwen3_next",
    "roberta",
    "xglm",
]


def read_logits(folder: Path, masked: bool = False, **options: Any) -> torch.Tensor:
    auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    model = without_trace(lambda: auto.from_pretrained(folder, attn_implementation="eager", **options).eval())
    with torch.no_grad():
        return model(TOKENS).logits


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return adapter.run(model, TOKENS)


def edit_of(model: Any) -> kn.WeightEdit:
    return kn.erase_values(model, [(1, n) for n in range(0, 40, 2)])


@pytest.mark.parametrize("name", zoo.ALL)
def test_edited_models(name: str, tmp_path: Path) -> None:
    model, masked = zoo.tiny(name), zoo.RECIPES[name].masked
    before, plain = zoo.bits(model), logits_of(model)
    with edit_of(model).applied(model):
        expected = logits_of(model)
        assert kn.save_model(model, tmp_path / "new" / "edited") == tmp_path / "new" / "edited"
    assert zoo.bits(model) == before
    assert float((expected - plain).abs().max()) > 1e-2
    torch.testing.assert_close(read_logits(tmp_path / "new" / "edited", masked), expected, atol=1e-4, rtol=1e-4)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["edited"]
    again = kn.load_model(tmp_path / "new" / "edited")
    torch.testing.assert_close(logits_of(again), expected, atol=1e-4, rtol=1e-4)
    text = "The capital of Canada is Ottawa."
    assert AutoTokenizer.from_pretrained(tmp_path / "new" / "edited")(text) == zoo.tokenizer(name)(text)
    assert again.to_tokens(text).tolist() == model.to_tokens(text).tolist()


@pytest.mark.parametrize("name", zoo.known(MIXED))
def test_other_architectures(name: str, tmp_path: Path) -> None:
    kn.save_model(zoo.tiny(name), tmp_path / "it")
    actual = read_logits(tmp_path / "it", zoo.RECIPES[name].masked)
    torch.testing.assert_close(actual, logits_of(zoo.tiny(name)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("end", ["embed", "unembed"])
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "bloom"])
def test_an_embedding_that_is_tied_no_more(name: str, end: str, tmp_path: Path) -> None:
    model = zoo.fresh(name)
    kn.save_model(model, tmp_path / "tied")
    # A new tensor: the other end stays as it was.
    wrapped = getattr(model, end).original_component
    wrapped.weight = torch.nn.Parameter(wrapped.weight.detach() * 1.2 + 0.1)
    kn.save_model(model, tmp_path / "untied")
    torch.testing.assert_close(read_logits(tmp_path / "untied"), logits_of(model), atol=1e-4, rtol=1e-4)
    ties = [
        json.loads((tmp_path / kind / "config.json").read_text())["tie_word_embeddings"] for kind in ("tied", "untied")
    ]
    assert ties == [True, False], "other programs go by the config"
    sizes = [(tmp_path / kind / "model.safetensors").stat().st_size for kind in ("tied", "untied")]
    assert sizes[1] - sizes[0] >= 4 * wrapped.weight.numel()


def test_bfloat16(tmp_path: Path) -> None:
    model = zoo.tiny("llama", torch.bfloat16)
    kn.save_model(model, tmp_path / "it")
    actual = read_logits(tmp_path / "it", dtype="auto")
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual, logits_of(model))


@pytest.mark.parametrize("end", ["q", "k", "v"])
@pytest.mark.parametrize("name", ["neox", "bloom", "mpt", "gpt2", "phi3"])
def test_a_small_change_of_one_part_of_a_fused_matrix(name: str, end: str, tmp_path: Path) -> None:
    model = zoo.fresh(name)
    linear = getattr(model.blocks[1].attn, end).original_component
    for key, weight in list(linear.named_parameters()):
        setattr(linear, key, torch.nn.Parameter(weight.detach() * (1 + 3e-5)))
    kn.save_model(model, tmp_path / "it")
    again = kn.load_model(tmp_path / "it")
    read = getattr(again.blocks[1].attn, end).original_component.state_dict()
    assert all(torch.equal(read[key], weight) for key, weight in linear.named_parameters())
    assert torch.equal(logits_of(again), logits_of(model))


def test_a_weight_without_a_place(tmp_path: Path) -> None:
    model = zoo.fresh("llama")
    model.blocks[1].attn.o.original_component.bias = torch.nn.Parameter(torch.full((zoo.D_MODEL,), 1e-6))
    with pytest.raises(
        ValueError, match=r"LlamaForCausalLM has no place for .*layers\.1\.self_attn\.\w+\.bias.*edit\.save"
    ):
        kn.save_model(model, tmp_path / "it")
    assert not list(tmp_path.iterdir())


def test_weights_of_several_types(tmp_path: Path) -> None:
    given = zoo.hf_model("gemma2", torch.bfloat16)
    for name, parameter in given.named_parameters():
        if "norm" in name:
            parameter.data = parameter.data.float() + 1e-3
    model = kn.load_model(given, tokenizer=zoo.tokenizer("gemma2"))
    kn.save_model(model, tmp_path / "it")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "it")
    assert all(torch.equal(weight, given.state_dict()[name].float()) for name, weight in read.state_dict().items())


def test_half_precision_with_logits_in_float32(tmp_path: Path) -> None:
    model = zoo.tiny("mamba", torch.bfloat16)
    assert logits_of(model).dtype == torch.float32
    kn.save_model(model, tmp_path / "it")
    again = kn.load_model(tmp_path / "it", dtype=torch.bfloat16)
    assert zoo.bits(again) == zoo.bits(model) and torch.equal(logits_of(again), logits_of(model))


def test_a_generation_config_that_transformers_warns_of(tmp_path: Path) -> None:
    given = zoo.hf_model("llama")
    given.generation_config.temperature = 0.6  # without do_sample, as Llama 2 has it
    kn.save_model(kn.load_model(given, tokenizer=zoo.tokenizer("llama")), tmp_path / "it")
    assert json.loads((tmp_path / "it" / "generation_config.json").read_text())["temperature"] == 0.6


def test_tokenizer_is_that_of_the_files(tmp_path: Path) -> None:
    zoo.hf_model("gpt2").save_pretrained(tmp_path / "source")
    words = zoo.tokenizer("gpt2")
    words.add_bos_token = False
    words.save_pretrained(tmp_path / "source")
    plain = AutoTokenizer.from_pretrained(tmp_path / "source")("Canada")["input_ids"]
    model = kn.load_model(tmp_path / "source")
    assert model.tokenizer("Canada")["input_ids"] != plain  # TransformerLens adds a BOS token
    kn.save_model(model, tmp_path / "it")
    assert AutoTokenizer.from_pretrained(tmp_path / "it")("Canada")["input_ids"] == plain
    assert kn.load_model(tmp_path / "it").to_tokens("Canada").tolist() == model.to_tokens("Canada").tolist()


@pytest.mark.parametrize("add_bos", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen2", "bert"])
def test_a_tokenizer_with_further_tokens(name: str, add_bos: bool, tmp_path: Path) -> None:
    given, words = zoo.hf_model(name), zoo.tokenizer(name)
    if not add_bos and words.bos_token is not None:
        words.add_bos_token = False
    words.save_pretrained(tmp_path / "source")
    words = AutoTokenizer.from_pretrained(tmp_path / "source")
    words.add_tokens(["<new>", "<end>"])
    words.eos_token, words.chat_template = "<end>", "{{ messages }}"
    with torch.random.fork_rng(devices=[]):
        given.resize_token_embeddings(len(words), mean_resizing=False)
    kn.save_model(kn.load_model(given, tokenizer=words), tmp_path / "it")
    read = AutoTokenizer.from_pretrained(tmp_path / "it")
    assert read.get_vocab() == words.get_vocab() and read.chat_template == words.chat_template
    assert (read.bos_token, read.eos_token, read.pad_token) == (words.bos_token, "<end>", words.pad_token)
    assert read("<new> Canada")["input_ids"] == words("<new> Canada")["input_ids"]


def test_hooks_and_random_state_play_no_part(tmp_path: Path) -> None:
    model, state = zoo.fresh("gpt2"), torch.get_rng_state()
    expected = logits_of(model)
    model.add_hook("blocks.1.hook_resid_pre", lambda x, hook: x * 0)
    kn.save_model(model, tmp_path / "it")
    torch.testing.assert_close(read_logits(tmp_path / "it"), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    for taken in ("full", "full/mine.txt"):
        with pytest.raises(FileExistsError, match="give a new folder"):
            kn.save_model(zoo.tiny("llama"), tmp_path / taken)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]
    kn.save_model(zoo.tiny("llama"), tmp_path / "empty")
    assert (tmp_path / "empty" / "config.json").is_file()


@pytest.mark.parametrize("name", ["gpt2", "bloom"])
def test_folded_weights_leave_no_folder(name: str, tmp_path: Path) -> None:
    model = zoo.fresh(name)
    model.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(ValueError, match="no_processing=True"):
        kn.save_model(model, tmp_path / "it")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "options"), [("llama", {}), ("gemma2", {}), ("gpt2", {"no_processing": True})])
def test_compatibility_mode(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = zoo.fresh(name)
    model.enable_compatibility_mode(disable_warnings=True, **options)
    with edit_of(model).applied(model):
        kn.save_model(model, tmp_path / "it")
        torch.testing.assert_close(read_logits(tmp_path / "it"), logits_of(model), atol=1e-4, rtol=1e-4)


def test_a_model_that_computes_something_else(tmp_path: Path) -> None:
    model = zoo.fresh("llama")
    mlp = model.blocks[0].mlp.original_component
    mlp.act_fn = torch.nn.GELU()
    with pytest.raises(ValueError, match=r"edit\.save"):
        kn.save_model(model, tmp_path / "it")
    assert not list(tmp_path.iterdir())


def test_error_in_the_middle_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(export, "_check", fail)
    with pytest.raises(OSError, match="disk full"):
        kn.save_model(zoo.tiny("llama"), tmp_path / "it")
    assert not list(tmp_path.iterdir())
