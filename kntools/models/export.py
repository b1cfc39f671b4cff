"""The weights of a model as it is now, by the names of its Hugging Face class.

What TransformerLens makes of Hugging Face weights, it makes by moving numbers only: of a model in which every weight
is its own index, it says where each weight belongs.
"""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from kntools.models.hooked import FIELDS

_HOOKED_ADVICE = "load it as a TransformerBridge (kn.load_model(name)), apply the edit there and save that"
# Components that run copies of the parts of a fused matrix: the function that splits it, and the copies.
_SPLITS = {"split_qkv_matrix": ("q", "k", "v"), "split_gate_up_matrix": ("gate", "in")}


def advice(model: Any) -> str:
    """What to do with a model that no Hugging Face class holds."""
    folded = getattr(model, "compatibility_mode", False)
    return (
        "load the model again without changes to its architecture"
        + (" (or with enable_compatibility_mode(no_processing=True))" if folded else "")
        + ", apply the edit and save that, or save the edit itself (edit.save)"
    )


def bridge_weights(model: Any) -> dict[str, Tensor]:
    """Those of the Hugging Face model inside a bridge; one that its class has no place for is an error."""
    inner = model.original_model
    with torch.device("meta"):
        blank = type(inner)(inner.config)
    own = {_clean(name): weight for name, weight in inner.state_dict().items()}
    weights = {name: own[name] for name in blank.state_dict() if name in own}
    placed = {_storage(weight) for weight in weights.values()}
    originals = dict(blank.named_modules())
    for name, component in inner.named_modules(remove_duplicate=False):
        for function, copies in _SPLITS.items():
            if hasattr(component, function) and (original := originals.get(place := _clean(name))):
                parts = [getattr(component, each).original_component for each in copies]
                placed |= {_storage(weight) for part in parts for weight in part.parameters()}
                stale = {key: weights[f"{place}.{key}"] for key, _ in original.named_parameters()}
                fused = _fuse(original, getattr(component, function), parts, stale)
                weights |= {f"{place}.{key}": weight for key, weight in fused.items()}
    for name, weight in own.items():
        if name not in weights and _storage(weight) not in placed and weight.any():
            raise ValueError(f"{type(inner).__name__} has no place for {name}, which is not zero; {advice(model)}")
    return weights


def _fuse(
    original: Any, split: Callable[[Any], Sequence[Any]], parts: Sequence[Any], stale: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The weights of an attention layer or MLP, with the copies in the fused matrix."""
    indexed = _indexed(copy.deepcopy(original).to_empty(device="cpu"), 0)
    types = {weight.dtype for weight in (*stale.values(), *(w for part in parts for w in part.parameters()))}
    flat = torch.cat([weight.flatten() for weight in stale.values()]).to(functools.reduce(torch.promote_types, types))
    for part, indices in zip(parts, split(indexed), strict=True):
        for key, index in indices.named_parameters():
            flat[index.long().to(flat.device)] = part.get_parameter(key).detach().to(flat)
    pieces = flat.split([weight.numel() for weight in stale.values()])
    return {key: piece.view_as(weight) for (key, weight), piece in zip(stale.items(), pieces, strict=True)}


def _clean(name: str) -> str:
    return name.replace("._original_component", "")


def _storage(weight: Tensor) -> int:
    return weight.untyped_storage().data_ptr()


def huggingface_form(model: Any) -> tuple[type[PreTrainedModel], Any, dict[str, Tensor]]:
    """The class of a HookedTransformer or HookedEncoder, its config and the weights, folded ones too."""
    from transformer_lens.pretrained import weight_conversions

    name, config = _config(model)
    # The conversion of a BERT also reads a pooler and a next-sentence head.
    indexed = getattr(transformers, name.replace("MaskedLM", "PreTraining"))(config).double()
    parameters = dict(indexed.named_parameters())
    # Index 0 is for what the conversion fills with zeros. What was folded away keeps its default, 1 or 0.
    flat = torch.cat([torch.zeros(1), *(p.detach().flatten() for p in parameters.values())]).to(model.cfg.dtype)
    _indexed(indexed, 1)
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
            raise ValueError(f"{name} has no place for {key}, which is not zero; {_HOOKED_ADVICE}")
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
    sizes = {theirs: getattr(c, own) for own, theirs in FIELDS.items()} | {"tie_word_embeddings": False}
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
        f"{c.act_fn}{''.join(f', {name}' for name in foreign)}) is none of {', '.join(_CONVERSIONS)}; {_HOOKED_ADVICE}"
    )


def _indexed(module: Any, first: int) -> Any:
    """The module with weights that count up from `first`."""
    for parameter in module.parameters():
        parameter.data = torch.arange(first, first + parameter.numel()).double().view(parameter.shape)
        first += parameter.numel()
    return module
