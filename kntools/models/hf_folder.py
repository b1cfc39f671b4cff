"""A folder as `save_pretrained` writes one, from a class, its configuration and weights by name."""

import copy
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


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
