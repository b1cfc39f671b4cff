"""A Llama of any size as the HookedTransformer of transformer-lens 3.x, with no weight processed."""

from __future__ import annotations

import warnings
from typing import Any

import torch


def as_hooked_transformer(model: Any, tokenizer: Any) -> Any:
    """`model` is a `transformers` LlamaForCausalLM; the result has copies of its weights."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_llama_weights

    c = model.config
    config = HookedTransformerConfig(
        n_layers=c.num_hidden_layers,
        d_model=c.hidden_size,
        d_mlp=c.intermediate_size,
        n_heads=c.num_attention_heads,
        d_head=c.head_dim,
        n_key_value_heads=c.num_key_value_heads,
        n_ctx=512,  # its rotary tables and masks are made for the whole context
        d_vocab=c.vocab_size,
        act_fn=c.hidden_act,
        normalization_type="RMS",
        final_rms=True,
        eps=c.rms_norm_eps,
        gated_mlp=True,
        positional_embedding_type="rotary",
        rotary_adjacent_pairs=False,
        rotary_dim=c.head_dim,
        rotary_base=c.rope_parameters["rope_theta"],
        device="cpu",
        model_name="hooked-llama",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the class announces that 4.0 removes it
        twin = HookedTransformer(config, tokenizer, move_to_device=False)
        weights = {key: weight.detach().clone() for key, weight in convert_llama_weights(model, config).items()}
        twin.load_and_process_state_dict(
            weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
        )
    return twin.eval()
