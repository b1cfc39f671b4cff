"""A HookedTransformer or HookedEncoder as configuration and weights of a Hugging Face class."""

from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

_ADVICE = "load it as a TransformerBridge (kn.load_model(name)), apply the edit there and save that"


def huggingface_form(model: Any) -> tuple[type[PreTrainedModel], Any, dict[str, Tensor]]:
    """The class, its config and the weights as they are now, folded ones too.

    TransformerLens converts from Hugging Face only, and only moves numbers: a model of which every weight is its own
    index says, once converted, where each weight belongs.
    """
    from transformer_lens.pretrained import weight_conversions

    name, config = _config(model)
    # The conversion of a BERT also reads a pooler and a next-sentence head.
    indexed = getattr(transformers, name.replace("MaskedLM", "PreTraining"))(config).double()
    parameters = dict(indexed.named_parameters())
    # Index 0 is for what the conversion fills with zeros. What was folded away keeps its default, 1 or 0.
    flat = torch.cat([torch.zeros(1), *(p.detach().flatten() for p in parameters.values())]).to(model.cfg.dtype)
    last = 0
    for parameter in parameters.values():
        parameter.data = torch.arange(last + 1, last + 1 + parameter.numel()).double().view(parameter.shape)
        last += parameter.numel()
    places = {
        key: index.detach().long().cpu()
        for key, index in getattr(weight_conversions, _CONVERSIONS[name])(indexed, model.cfg).items()
    }
    own_weights = {key: weight.detach().cpu() for key, weight in model.named_parameters()}
    for key, own in own_weights.items():
        place = places.get(key, torch.zeros(own.shape, dtype=torch.long))
        if key == "unembed.b_U" and "ln_final.b" in places and "ln_final.w" not in own_weights:
            # A folded norm has mean 0: what every row of W_U has more of counts only for the norm's bias, here 1.
            unembed = flat[places["unembed.W_U"]]
            flat[places["unembed.W_U"]] = unembed + (own - unembed.sum(0)) / len(unembed)
            flat[places["ln_final.b"]] = 1
            continue
        if own[place == 0].any():
            raise ValueError(f"{name} has no place for {key}, which is not zero; {_ADVICE}")
        flat[place] = own
    weights = {key: flat[index.detach().long()] for key, index in parameters.items()}
    return getattr(transformers, name), config, weights


_CONVERSIONS = {
    "BertForMaskedLM": "convert_bert_weights",
    "GPT2LMHeadModel": "convert_gpt2_weights",
    "GPTNeoXForCausalLM": "convert_neox_weights",
    "LlamaForCausalLM": "convert_llama_weights",
}
# Settings that none of these classes has, and that the logits of a few tokens may not show.
_FOREIGN = ("use_local_attn", "use_NTK_by_parts_rope", "attn_only", "num_experts")


def _config(model: Any) -> tuple[str, Any]:
    """The name of the class with this layout, and its config. Logits decide later whether it computes the same."""
    c = model.cfg
    norm, position = str(c.normalization_type).removesuffix("Pre"), c.positional_embedding_type
    sizes = {
        "vocab_size": c.d_vocab,
        "hidden_size": c.d_model,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "intermediate_size": c.d_mlp,
        "max_position_embeddings": c.n_ctx,
        "hidden_act": c.act_fn,
        "tie_word_embeddings": False,
    }
    rotary: dict[str, Any] = {"rope_type": "default", "rope_theta": float(c.rotary_base)}
    layout = (norm, position, bool(c.gated_mlp))
    foreign = [name for name in _FOREIGN if getattr(c, name, None)]
    if not foreign and c.act_fn in transformers.activations.ACT2FN:
        if type(model).__name__ == "HookedEncoder":
            return "BertForMaskedLM", transformers.BertConfig(**sizes, layer_norm_eps=c.eps)
        if layout == ("LN", "standard", False):
            more = {"n_inner": c.d_mlp, "activation_function": c.act_fn, "layer_norm_epsilon": c.eps}
            return "GPT2LMHeadModel", transformers.GPT2Config(**sizes, **more)
        if layout == ("RMS", "rotary", True):
            more = {"num_key_value_heads": c.n_key_value_heads or c.n_heads, "head_dim": c.d_head}
            more |= {"rms_norm_eps": c.eps, "rope_parameters": rotary}
            return "LlamaForCausalLM", transformers.LlamaConfig(**sizes, **more)
        if layout == ("LN", "rotary", False):
            rotary["partial_rotary_factor"] = (c.rotary_dim or c.d_head) / c.d_head
            more = {"layer_norm_eps": c.eps, "use_parallel_residual": bool(c.parallel_attn_mlp)}
            return "GPTNeoXForCausalLM", transformers.GPTNeoXConfig(**sizes, **more, rope_parameters=rotary)
    raise ValueError(
        f"this {type(model).__name__} (norm {norm}, positions {position}, gated_mlp={bool(c.gated_mlp)}, activation "
        f"{c.act_fn}{''.join(f', {name}' for name in foreign)}) is none of {', '.join(_CONVERSIONS)}; {_ADVICE}"
    )
