"""A Hugging Face model as a HookedTransformer or HookedEncoder, the model classes of transformer-lens 3.x.

Their own `from_pretrained` knows official names only. Here it is a config of our own and the library's conversion.
"""

import importlib.util
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from transformers import AutoTokenizer

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
    if source.architecture not in _BUILDERS:
        raise ValueError(
            f"hooked=True can hold {' and '.join(_BUILDERS)}, not {source.architecture!r}; "
            "leave it out for a TransformerBridge"
        )
    build, options = _BUILDERS[source.architecture], {"device": device, "dtype": dtype or source.model.dtype}
    return build(source.read(torch.float32), AutoTokenizer.from_pretrained(source.words), options)


def _encoder(bert: Any, tokenizer: Any, options: dict[str, Any]) -> Any:
    from transformer_lens import HookedEncoder, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_bert_weights
    from transformers import BertForPreTraining

    c = bert.config
    config = HookedTransformerConfig(
        **{own: getattr(c, theirs) for own, theirs in FIELDS.items()},
        d_head=c.hidden_size // c.num_attention_heads,
        eps=c.layer_norm_eps,
        attention_dir="bidirectional",
        **options,
    )
    # The conversion also reads a pooler and a next-sentence head, which a masked LM lacks; its logits need neither.
    full = BertForPreTraining(c)
    full.load_state_dict(bert.state_dict(), strict=False)
    model = HookedEncoder(config, tokenizer)
    model.load_state_dict(convert_bert_weights(full, config), strict=False)
    return model


def _transformer(llama: Any, tokenizer: Any, options: dict[str, Any]) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_llama_weights

    c = llama.config
    config = HookedTransformerConfig(
        **{own: getattr(c, theirs) for own, theirs in FIELDS.items()}
        | {"n_ctx": min(c.max_position_embeddings, _LONGEST)},
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
        **options,
    )
    model = HookedTransformer(config, tokenizer)
    model.load_and_process_state_dict(
        convert_llama_weights(llama, config),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model


_BUILDERS: dict[str, Callable[[Any, Any, dict[str, Any]], Any]] = {
    "BertForMaskedLM": _encoder,
    "LlamaForCausalLM": _transformer,
}
