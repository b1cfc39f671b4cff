"""A Hugging Face model as a HookedTransformer or HookedEncoder, the model classes of transformer-lens 3.x.

Their own `from_pretrained` knows official names only. Here it is a config of our own and the library's conversion.
"""

import importlib.util
from importlib.metadata import version
from typing import Any

import torch
from transformers import AutoTokenizer

from kntools.models.same_logits import check_logits, plain_logits
from kntools.models.sources import Source

#: Sizes of a TransformerLens config, by their names in one of Hugging Face.
FIELDS = {
    "n_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "d_mlp": "intermediate_size",
    "n_heads": "num_attention_heads",
    "n_ctx": "max_position_embeddings",
    "d_vocab": "vocab_size",
    "act_fn": "hidden_act",
}
# Rotary tables and masks are made for the whole context, in every layer.
_LONGEST = 2048


def load_hooked(source: Source, device: str, dtype: torch.dtype | None) -> Any:
    """The weights as they are: nothing folded, nothing centred. They have one type: `None` is a model's main one."""
    if importlib.util.find_spec("transformer_lens.HookedTransformer") is None:
        raise ValueError(
            f"hooked=True needs HookedTransformer and HookedEncoder, which transformer-lens 4.0 removed (installed: "
            f'{version("transformer-lens")}); leave it out for a TransformerBridge, or pip install "transformer-lens<4"'
        )
    if source.architecture not in ("BertForMaskedLM", "LlamaForCausalLM"):
        raise ValueError(
            f"hooked=True can hold BertForMaskedLM and LlamaForCausalLM, not {source.architecture!r}; "
            "leave it out for a TransformerBridge"
        )
    # Here, not above: the first are of transformer-lens 3 alone, and BERT's class replaces the module `transformers`.
    from transformer_lens import HookedEncoder, HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_bert_weights, convert_llama_weights
    from transformers import BertForPreTraining

    weights, tokenizer = source.read(torch.float32), AutoTokenizer.from_pretrained(source.words)
    c, expected = weights.config, plain_logits(weights)
    options = {own: getattr(c, theirs) for own, theirs in FIELDS.items()}
    options |= {"device": device, "dtype": dtype or source.model.dtype}
    if source.architecture == "BertForMaskedLM":
        config = HookedTransformerConfig(
            **options,
            d_head=c.hidden_size // c.num_attention_heads,
            eps=c.layer_norm_eps,
            attention_dir="bidirectional",
        )
        # The conversion also reads a pooler and a next-sentence head, which a masked LM lacks; its logits need neither.
        full = BertForPreTraining(c)
        full.load_state_dict(weights.state_dict(), strict=False)
        model, converted = HookedEncoder(config, tokenizer), convert_bert_weights(full, config)
    else:
        options["n_ctx"] = min(c.max_position_embeddings, _LONGEST)
        config = HookedTransformerConfig(
            **options,
            d_head=c.head_dim,
            n_key_value_heads=c.num_key_value_heads,
            normalization_type="RMS",
            final_rms=True,
            eps=c.rms_norm_eps,
            gated_mlp=True,
            positional_embedding_type="rotary",
            rotary_adjacent_pairs=False,
            rotary_dim=c.head_dim,
            rotary_base=c.rope_parameters["rope_theta"],
        )
        model, converted = HookedTransformer(config, tokenizer), convert_llama_weights(weights, config)
    model.load_state_dict(converted, strict=False)
    check_logits(model, expected, source.architecture)
    return model
