"""Tiny random models that break an assumption: no key-value cache, positions that depend on the length, causality.

model = unusual("mamba")       # a new one on every call, in evaluation mode
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import transformers
from transformer_lens.model_bridge import TransformerBridge

from tests import zoo

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2}
_ATTENTION = {**_SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
_DENSE = {**_ATTENTION, "intermediate_size": 48}
_MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}
_LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 6.0]}

#: Name -> (config class, model class, options).
RECIPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mamba": ("MambaConfig", "MambaForCausalLM", {**_SIZES, "state_size": 8}),
    "falcon_mamba": ("FalconMambaConfig", "FalconMambaForCausalLM", {**_SIZES, "state_size": 8}),
    "rwkv": ("RwkvConfig", "RwkvForCausalLM", {**_SIZES, "attention_hidden_size": 32, "context_length": 64}),
    "recurrent_gemma": (
        "RecurrentGemmaConfig",
        "RecurrentGemmaForCausalLM",
        {
            **_DENSE,
            "num_hidden_layers": 3,
            "lru_width": 32,
            "attention_window_size": 16,
            "block_types": ["recurrent", "recurrent", "attention"],
        },
    ),
    "bamba": ("BambaConfig", "BambaForCausalLM", {**_DENSE, **_MAMBA2, "attn_layer_indices": [1]}),
    "jamba": (
        "JambaConfig",
        "JambaForCausalLM",
        {
            **_DENSE,
            "num_hidden_layers": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
    ),
    "lfm2": ("Lfm2Config", "Lfm2ForCausalLM", {**_DENSE, "layer_types": ["conv", "full_attention"]}),
    "longrope": (
        "Phi3Config",
        "Phi3ForCausalLM",
        {**_DENSE, "original_max_position_embeddings": 8, "rope_parameters": {**_LONG, "rope_theta": 100.0}},
    ),
    "dynamic": (
        "LlamaConfig",
        "LlamaForCausalLM",
        {
            **_DENSE,
            "max_position_embeddings": 8,
            "rope_parameters": {"rope_type": "dynamic", "factor": 8.0, "rope_theta": 100.0},
        },
    ),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", {**_DENSE, "head_dim": 8, "sliding_window": 16}),
    "bidirectional_gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {**_DENSE, "head_dim": 8, "sliding_window": 16, "use_bidirectional_attention": True},
    ),
    "bert_decoder": ("BertConfig", "BertLMHeadModel", {**zoo.RECIPES["bert"].options, "is_decoder": True}),
    "masked_decoder": ("BertConfig", "BertForMaskedLM", {**zoo.RECIPES["bert"].options, "is_decoder": True}),
}
NAMES = [*RECIPES, "native"]


def unusual(name: str) -> Any:
    """A new model of one of `NAMES`."""
    words = zoo.tokenizer("bert" if name.startswith(("bert", "masked")) else "llama")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        if name == "native":
            from transformer_lens.config import TransformerBridgeConfig

            sizes = {
                "n_layers": 2,
                "d_model": 32,
                "d_mlp": 48,
                "n_heads": 4,
                "d_head": 8,
                "n_ctx": 64,
                "act_fn": "gelu",
            }
            config = TransformerBridgeConfig(**sizes, d_vocab=len(words), normalization_type="LN")
            model = TransformerBridge.boot_native(config, tokenizer=words)
            source = model
        else:
            config_class, model_class, options = RECIPES[name]
            ids = {
                "bos_token_id": words.bos_token_id,
                "eos_token_id": words.eos_token_id,
                "pad_token_id": words.pad_token_id,
            }
            config = getattr(transformers, config_class)(vocab_size=len(words), **ids, **options)
            config.architectures, config._attn_implementation = [model_class], "eager"
            source = getattr(transformers, model_class)(config).eval()
        for parameter in source.parameters():
            if parameter.dim() > 1:
                parameter.data = parameter.data + 0.3 * torch.randn(parameter.shape)
        if name == "native":
            return model.eval()
        model = TransformerBridge.boot_transformers(
            f"tiny-{name}", hf_model=source, tokenizer=words, dtype=torch.float32, device="cpu"
        ).eval()
        model.cfg.n_ctx = zoo.N_CTX  # beyond the original length of rotary tables that stretch
        return model
