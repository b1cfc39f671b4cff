"""Causality, measured on the model: does a later token change an earlier position?"""

from typing import Any

import torch

from kntools.models import adapter
from kntools.models.attachment import has_hooks
from kntools.models.modules import answers, has_pytorch_hooks, look

# Tokens of the question. A model that reads both ways does so over more of them.
_LENGTH = 6


def is_masked(model: Any) -> bool:
    """Does the model fill a mask (BERT) rather than continue a text? It has a mask token, and reads both sides of it.

    Where the tokenizer is not known, reading both ways is enough: the answer need not be at the last token.
    """
    adapter.check_model(model)
    tokenizer = model.tokenizer
    without = tokenizer is not None and getattr(tokenizer, "mask_token", None) is None
    return not without and not is_causal(model)


def is_causal(model: Any) -> bool:
    """Is every position independent of what follows it? The model is asked, and again when it is wired otherwise.

    What it declares counts where it cannot be asked: a tokenizer without a model, logits that are nan.
    """
    found: bool | None = None
    if isinstance(model, torch.nn.Module):
        look(model)
        known, key = answers(model), ("causal", has_pytorch_hooks(model))
        if known.get(key) is None:
            known[key] = _answer(model)
        found = known[key]
    return not adapter.declares_both_ways(model) if found is None else found


def is_causal_with_hooks(model: Any) -> bool:
    """The same of the model under the hooks that somebody attached, which may read ahead."""
    return not has_hooks(model) and is_causal(model)


@torch.no_grad()
def _answer(model: Any) -> bool | None:
    """`None` if that cannot be seen."""
    words = int(model.cfg.d_vocab)
    length = min(_LENGTH, adapter.context_length(model))
    tokens = (torch.arange(length, device=adapter.device_of(model)) + words // 2)[None] % words
    other = tokens.clone()
    other[0, -1] = tokens[0, 0]
    # If anything is drawn at random, as by dropout, it is the same in both.
    first, second = (adapter.run_aside(model, row)[0, :-1].float() for row in (tokens, other))
    if length < 2 or not bool(torch.isfinite(first).all()):
        return None
    # In a causal model the difference is zero; experts that get other rows may round otherwise.
    loose = 1e-4 if next(model.parameters()).dtype in (torch.float32, torch.float64) else 2e-2
    return bool((first - second).abs().max() <= loose * (first.amax() - first.amin()))
