"""GGUF files: converted once, and what the wheels hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

import kntools as kn
from tests import zoo
from tests.models.test_sources import TEXT


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
