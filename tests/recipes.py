"""Sizes and configs of the tiny models of many architectures (tests/zoo.py)."""

from dataclasses import dataclass
from typing import Any

D_MODEL, D_MLP, N_HEADS, N_KV_HEADS, N_CTX = 32, 48, 4, 2, 64


@dataclass(frozen=True)
class Recipe:
    """What it takes to build one architecture: its config class, its model class and what is special."""

    config: str
    model: str
    options: dict[str, Any]
    has_bos: bool = True
    masked: bool = False


def _hf(layers: int, **more: Any) -> dict[str, Any]:
    """Sizes under the names that most configs use."""
    return {
        "hidden_size": D_MODEL,
        "num_hidden_layers": layers,
        "num_attention_heads": N_HEADS,
        "intermediate_size": D_MLP,
        "max_position_embeddings": N_CTX,
        **more,
    }


def _gpt(layers: int, **more: Any) -> dict[str, Any]:
    """Sizes under the names of the GPT-2 family."""
    sizes = {"n_embd": D_MODEL, "n_layer": layers, "n_head": N_HEADS, "n_inner": D_MLP, "n_positions": N_CTX}
    return {**sizes, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, **more}


RECIPES: dict[str, Recipe] = {
    "gpt2": Recipe("GPT2Config", "GPT2LMHeadModel", _gpt(4)),
    "llama": Recipe("LlamaConfig", "LlamaForCausalLM", _hf(4, num_key_value_heads=N_KV_HEADS)),
    "neox": Recipe("GPTNeoXConfig", "GPTNeoXForCausalLM", _hf(3, rotary_pct=0.5)),
    "gptj": Recipe("GPTJConfig", "GPTJForCausalLM", _gpt(3, rotary_dim=4)),
    "opt": Recipe(
        "OPTConfig",
        "OPTForCausalLM",
        {**_hf(3, word_embed_proj_dim=D_MODEL, dropout=0.0), "ffn_dim": D_MLP},
    ),
    # Qwen tokenizers have no beginning-of-sequence token.
    "qwen2": Recipe("Qwen2Config", "Qwen2ForCausalLM", _hf(3, num_key_value_heads=N_KV_HEADS), has_bos=False),
    "qwen3": Recipe(
        "Qwen3Config",
        "Qwen3ForCausalLM",
        _hf(3, num_key_value_heads=N_KV_HEADS, head_dim=12),
        has_bos=False,
    ),
    "gemma2": Recipe(
        "Gemma2Config",
        "Gemma2ForCausalLM",
        _hf(4, num_key_value_heads=N_KV_HEADS, head_dim=8, query_pre_attn_scalar=8, sliding_window=16),
    ),
    "phi3": Recipe("Phi3Config", "Phi3ForCausalLM", _hf(3, num_key_value_heads=N_KV_HEADS)),
    "mistral": Recipe(
        "MistralConfig", "MistralForCausalLM", _hf(3, num_key_value_heads=N_KV_HEADS, sliding_window=None)
    ),
    "bert": Recipe(
        "BertConfig",
        "BertForMaskedLM",
        _hf(3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        masked=True,
    ),
}
ALL: list[str] = list(RECIPES)

# Architectures without neurons in some layers, and such whose MLP adds the residual stream itself. They are built by
# name; the tests of all architectures leave them out.
_EXPERTS = {"num_key_value_heads": N_HEADS, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
_LATENT = {"kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
_DEEPSEEK = {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
_LINEAR_ATTENTION = {
    **{f"linear_num_{kind}_heads": count for kind, count in (("key", 2), ("value", 4))},
    **{f"linear_{kind}_head_dim": 8 for kind in ("key", "value")},
}
RECIPES |= {
    "mixtral": Recipe(
        "MixtralConfig", "MixtralForCausalLM", _hf(3, num_key_value_heads=N_KV_HEADS, num_local_experts=4)
    ),
    "deepseek2": Recipe(
        "DeepseekV2Config",
        "DeepseekV2ForCausalLM",
        _hf(3, **_EXPERTS, **_LATENT, **_DEEPSEEK, q_lora_rank=None, topk_method="greedy"),
    ),
    "deepseek3": Recipe(
        "DeepseekV3Config", "DeepseekV3ForCausalLM", _hf(3, **_EXPERTS, **_LATENT, **_DEEPSEEK, q_lora_rank=8)
    ),
    "qwen3_next": Recipe(  # every other layer is dense, all but the last have linear attention
        "Qwen3NextConfig",
        "Qwen3NextForCausalLM",
        _hf(
            4,
            **{**_EXPERTS, "num_key_value_heads": N_KV_HEADS},
            **_LINEAR_ATTENTION,
            head_dim=8,
            num_experts=4,
            shared_expert_intermediate_size=20,
            decoder_sparse_step=2,
        ),
    ),
    "mamba": Recipe("MambaConfig", "MambaForCausalLM", _hf(3, state_size=4)),
    "bloom": Recipe(
        "BloomConfig",
        "BloomForCausalLM",
        {"hidden_size": D_MODEL, "n_layer": 3, "n_head": N_HEADS, "hidden_dropout": 0.0, "attention_dropout": 0.0},
    ),
    "mpt": Recipe(
        "MptConfig",
        "MptForCausalLM",
        {"d_model": D_MODEL, "n_layers": 3, "n_heads": N_HEADS, "expansion_ratio": 2, "max_seq_len": N_CTX},
    ),
}
# Embeddings with a norm behind them, or a scale inside or outside of their module.
RECIPES |= {
    "roberta": Recipe(
        "RobertaConfig",
        "RobertaForMaskedLM",
        _hf(3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        masked=True,
    ),
    "modernbert_decoder": Recipe("ModernBertDecoderConfig", "ModernBertDecoderForCausalLM", _hf(3)),
    "granite": Recipe(
        "GraniteConfig", "GraniteForCausalLM", _hf(3, num_key_value_heads=N_KV_HEADS, embedding_multiplier=3.0)
    ),
    "xglm": Recipe(
        "XGLMConfig",
        "XGLMForCausalLM",
        {"d_model": D_MODEL, "ffn_dim": D_MLP, "num_layers": 3, "attention_heads": N_HEADS, "dropout": 0.0},
    ),
    "cohere": Recipe("CohereConfig", "CohereForCausalLM", _hf(3, num_key_value_heads=N_KV_HEADS, logit_scale=0.25)),
    "falcon_h1": Recipe(
        "FalconH1Config",
        "FalconH1ForCausalLM",
        _hf(
            3,
            num_key_value_heads=N_KV_HEADS,
            head_dim=8,
            mamba_d_ssm=D_MODEL,
            mamba_n_heads=4,
            mamba_d_head=8,
            mamba_n_groups=1,
            mamba_d_state=8,
            lm_head_multiplier=0.5,
            mlp_multipliers=[0.7, 0.6],
        ),
    ),
}
CAUSAL: list[str] = [name for name in ALL if not RECIPES[name].masked]
