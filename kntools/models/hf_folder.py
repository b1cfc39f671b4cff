"""Hugging Face folders: written from weights by name, and read so that a missing weight is an error.

transformers makes up random weights for those that files lack, and warns.
"""

import copy
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge.sources import transformers as boot
from transformers import AutoConfig, PreTrainedModel

_ADVICE = "save the whole model there again with save_pretrained"


@dataclass(frozen=True)
class StrictLoader:
    """A Hugging Face class, the `from_pretrained` of which raises a ValueError where files lack weights."""

    model_class: Any
    then: Callable[[Any], None] = lambda model: None  # called with the model

    def from_pretrained(self, files: str | Path, **options: Any) -> Any:
        options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # the report names those
        try:
            model, report = self.model_class.from_pretrained(files, **options)
        except RuntimeError as error:  # experts that transformers joins: one is missing, or has another shape
            raise ValueError(f"the weights in {str(files)!r} cannot be read ({error}); {_ADVICE}") from error
        kind, missing, mismatched = type(model).__name__, report["missing_keys"], sorted(report["mismatched_keys"])
        if mismatched:
            shapes = some(f"{key} is {[*found]}, not {[*expected]}" for key, found, expected in mismatched)
            raise ValueError(
                f"weights in {str(files)!r} have other shapes than {kind} with its config.json: {shapes}; {_ADVICE}"
            )
        if missing:
            unknown = report["unexpected_keys"]
            ends = [key.removesuffix(lost) for key in unknown for lost in missing if key.endswith(lost)]
            advice = f"the names there begin with {min(ends)!r}: rename them without it" if ends else _ADVICE
            raise ValueError(
                f"the weights in {str(files)!r} lack {len(missing)} of the {len(model.state_dict())} of {kind}: "
                f"{some(sorted(missing))}; {advice}"
            )
        self.then(model)
        return model


def strict_loader(files: str | Path) -> StrictLoader:
    """The one with the class that a TransformerBridge takes for these files."""
    architecture = boot.determine_architecture_from_hf_config(AutoConfig.from_pretrained(files))
    return StrictLoader(boot.get_hf_model_class_for_architecture(architecture))


def some(names: Iterable[str]) -> str:
    """Three of them."""
    listed = list(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")


def write_folder(
    folder: Path, model_class: type[PreTrainedModel], config: Any, weights: Mapping[str, Tensor], tokenizer: Any
) -> None:
    """Configuration, weights and tokenizer. Embeddings are tied if the config says so and their values are equal."""
    config = copy.deepcopy(config)
    config.architectures = [model_class.__name__]
    config.output_attentions = False  # which TransformerLens switches on
    if hasattr(config, "quantization_config"):  # the weights are plain tensors
        del config.quantization_config
    with torch.device("meta"):
        model = model_class(config)
    missing, _ = model.load_state_dict(dict(weights), strict=False, assign=True)
    if missing:
        raise ValueError(f"{model_class.__name__} has weights that this model lacks: {', '.join(missing[:3])}")
    ends = [end.weight for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None]
    if getattr(config, "tie_word_embeddings", False) and not torch.equal(ends[0], ends[-1]):
        config.tie_word_embeddings = False
    # The config names one type, in which all are read: the widest holds every value. Buffers keep theirs.
    floats = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    dtype = functools.reduce(torch.promote_types, {parameter.dtype for parameter in floats})
    for parameter in floats:
        parameter.data = parameter.data.to(dtype)
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
