"""Does a model of TransformerLens give the logits of the Hugging Face model that it was made from?

TransformerLens computes attention itself, in some versions differently from the architecture: transformer-lens 3.9
rotates the queries and keys of Cohere differently, and normalises those of HunYuan before the rotation, not after it.
"""

from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kntools.models import adapter

# Tokens of the run that is compared. Attention goes wrong from the second on.
_TOKENS = 8


@torch.no_grad()
def plain_logits(source: Any) -> Float[Tensor, "1 pos d_vocab"]:
    """Those of a Hugging Face model, before TransformerLens puts its own modules into it."""
    return source.eval()(_tokens(source.config.get_text_config().vocab_size, source.device))[0].float().cpu()


@torch.no_grad()
def check_logits(model: Any, expected: Float[Tensor, "1 pos d_vocab"], architecture: str) -> None:
    """Raise an error if the model gives others than `expected`, by more than rounding."""
    tokens = _tokens(expected.shape[-1], adapter.device_of(model))
    found = model.eval()(tokens, return_type="logits")[..., : expected.shape[-1]].float().cpu()
    off, size = (found - expected).norm(), (expected - expected.mean(-1, keepdim=True)).norm()
    exact = all(p.dtype in (torch.float32, torch.float64) for p in model.parameters() if p.is_floating_point())
    allowed = 0.01 if exact else 0.25  # rounding may send a token to another expert
    # Where transformers itself gives nan or inf, there is nothing to compare with.
    if bool(expected.isfinite().all()) and not off <= allowed * size:
        raise ValueError(
            f"transformer-lens {version('transformer-lens')} computes {architecture} differently from transformers: "
            f"its logits are off by {float(off / size):.0%}; install another version, such as the newest: "
            "pip install -U 'transformer-lens<5'"
        )


def _tokens(words: int, device: Any) -> Int[Tensor, "1 pos"]:
    return (torch.arange(_TOKENS, device=device) + words // 2)[None] % words
