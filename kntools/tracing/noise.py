"""Noise for the embeddings of a subject: how strong, and which."""

import re
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools import randomness
from kntools.arguments import decimal
from kntools.models import adapter
from kntools.prompts import Encoded, Prompts, encode_many

#: `"3sigma"`, a standard deviation, or the noise itself.
Noise = str | float | int | Tensor

_SIGMAS = re.compile(r"^(\d+(?:\.\d+)?)\s*sigma$")


def subject_sigma(model: Any, prompts: Prompts) -> float:
    """Standard deviation of the token embeddings of all subjects, over tokens and dimensions.

    ```python
    trace = kn.causal_trace(model, prompts[0], noise=3 * subject_sigma(model, prompts))
    ```

    This is the sigma of Meng et al. 2022 (appendix B): of what the token embedding itself gives, before positions are
    added, before any scale and any norm.
    """
    found = [subject_embeddings(model, e)[0] for e in encode_many(model, prompts)]
    return float(torch.cat(found).double().std())


def subject_embeddings(model: Any, encoded: Encoded) -> tuple[Float[Tensor, "subject d_model"], str, float]:
    """What the token embedding gives for a subject, in float32 on the CPU.

    Also the hook where noise is added to it, and how many times the embedding is seen there (Granite).
    """
    if encoded.subject is None:
        raise ValueError(
            f"the prompt {encoded.prompt.text!r} has no subject; tracing corrupts one: Prompt(..., subject='...')"
        )
    hook = adapter.embedding_name(model)
    own, seen = (x[0].detach().double().cpu() for x in adapter.embedding_outputs(model, encoded.tokens))
    scale = 1.0
    if own.shape != seen.shape or not torch.equal(own, seen):
        scale = float((own * seen).sum() / (own * own).sum()) if own.shape == seen.shape else 0.0
        if not torch.allclose(scale * own, seen, rtol=1e-2, atol=1e-3 * float(seen.abs().max())) or not scale:
            raise ValueError(
                f"{hook} of {adapter.model_name(model)} is not a multiple of the output of its token embedding: "
                "noise cannot be added; give causal_trace(..., corrupted=...), another prompt"
            )
    return own[list(encoded.subject)].float(), hook, scale


def noise_level(noise: str | float, sigma: Callable[[], float]) -> float:
    """The standard deviation that `"3sigma"` or a number says; `sigma` computes that of the embeddings."""
    if not isinstance(noise, str):
        return decimal("noise", noise, least=0)
    match = _SIGMAS.match(noise)
    if not match:
        raise ValueError(f"noise={noise!r} is unknown; write '3sigma', or give a standard deviation, e.g. 0.1")
    return float(match.group(1)) * sigma()


def make_noise(
    like: Float[Tensor, "subject d_model"], noise: Noise, samples: int, seed: int
) -> Float[Tensor, "sample subject d_model"]:
    """The noise to add to the subject's embeddings, on the CPU: drawn by a generator of its own, or as given."""
    if isinstance(noise, Tensor):
        if noise.ndim != 3 or noise.shape[0] < 1 or noise.shape[1:] != like.shape:
            raise ValueError(
                f"the noise is {tuple(noise.shape)}; for this prompt it must be [sample subject d_model] = "
                f"(samples, {', '.join(map(str, like.shape))})"
            )
        if not bool(torch.isfinite(noise).all()):
            raise ValueError("the noise holds nan or inf")
        return noise.detach().float().cpu()
    level = noise_level(noise, lambda: float(like.double().std()))
    return level * torch.randn(samples, *like.shape, generator=randomness.generator(seed), dtype=torch.float32)
