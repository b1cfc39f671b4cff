"""The weights that a TransformerBridge runs with, by the names of its Hugging Face class."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

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
    """The weights of an attention layer or MLP, with the copies in the fused matrix.

    A split moves numbers only: of a matrix in which every weight is its own index, it says where each copy belongs.
    """
    indexed, last = copy.deepcopy(original).to_empty(device="cpu"), 0
    for parameter in indexed.parameters():
        parameter.data = torch.arange(last, last + parameter.numel()).double().view(parameter.shape)
        last += parameter.numel()
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
