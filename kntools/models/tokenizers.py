"""The tokenizer of a model, where text is to be read or written."""

from typing import Any

from kntools.models import adapter


def tokenizer_of(model: Any) -> Any:
    adapter.check_model(model)
    if model.tokenizer is None:
        raise ValueError(
            "this model has no tokenizer, which texts and prompts need; set model.tokenizer to a Hugging Face "
            "tokenizer, or pass token ids (kn.sweep, kn.sweep_gradients, kn.generate take them)"
        )
    return model.tokenizer
