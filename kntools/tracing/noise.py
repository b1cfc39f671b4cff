"""Noise for the embeddings of a subject: how strong, and which."""

from __future__ import annotations

import re
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.hooks.positioned import PositionedHook
from kntools.hooks.states import corrupt
from kntools.models import adapter
from kntools.prompts import Encoded, Prompts, encode_many
from kntools.sites import Hook

#: `"3sigma"`, a standard deviation, or the noise itself.
Noise = str | float | int | Tensor

_SIGMAS = re.compile(r"^(\d+(?:\.\d+)?)\s*sigma$")


def subject_sigma(model: Any, prompts: Prompts) -> float:
    """Standard deviation of the token embeddings of all subjects, over tokens and dimensions.

    ```python
    sigma = subject_sigma(model, prompts)
    trace = kn.causal_trace(model, prompts[0], noise=3 * sigma)
    ```

    This is the sigma of Meng et al. 2022 (appendix B): of the subjects of the data, not of the whole vocabulary.
    """
    found = [subject_embeddings(model, e) for e in encode_many(model, prompts)]
    return float(torch.cat(found).double().std())


def subject_of(encoded: Encoded) -> range:
    """The subject's tokens, or an error that says what to give."""
    if encoded.subject is None:
        raise ValueError(
            f"the prompt {encoded.prompt.text!r} has no subject; tracing corrupts one: Prompt(..., subject='...')"
        )
    return encoded.subject


def subject_embeddings(model: Any, encoded: Encoded) -> Float[Tensor, "subject d_model"]:
    """Token embeddings of the subject, as the model's embedding hook sees them, in float32 on the CPU."""
    found: list[Tensor] = []
    hook = PositionedHook(subject_of(encoded), lambda x: found.append(x[0].detach()), "look at the subject")
    point = adapter.hook_point(model, adapter.embedding_name(model))
    with torch.no_grad():
        adapter.run_embedding(model, encoded.tokens, [(point, hook)])
    return found[0].float().cpu()


def make_noise(
    model: Any, encoded: Encoded, noise: Noise, samples: int, seed: int
) -> Float[Tensor, "sample subject d_model"]:
    """The noise to add to the subject's embeddings, on the CPU: drawn by a generator of its own, or as given."""
    subject, like = subject_of(encoded), subject_embeddings(model, encoded)
    if isinstance(noise, Tensor):
        if noise.ndim != 3 or noise.shape[0] < 1 or noise.shape[1:] != like.shape:
            raise ValueError(
                f"the noise is {tuple(noise.shape)}; for this prompt it must be [sample subject d_model] = "
                f"(samples, {len(subject)}, {like.shape[1]})"
            )
        if not bool(torch.isfinite(noise).all()):
            raise ValueError("the noise holds nan or inf")
        return noise.detach().float().cpu()
    level = _level(noise, like)
    generator = torch.Generator().manual_seed(seed)
    return level * torch.randn(samples, *like.shape, generator=generator)


def _level(noise: str | float | int, like: Tensor) -> float:
    """The standard deviation that is meant."""
    if isinstance(noise, str):
        match = _SIGMAS.match(noise)
        if not match:
            raise ValueError(f"noise={noise!r} is unknown; write '3sigma', a standard deviation, or give a tensor")
        return float(match.group(1)) * float(like.double().std())
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise={noise}; a standard deviation is at least 0")
    return float(noise)


def corruptions(model: Any, encoded: Encoded, noise: Float[Tensor, "sample subject d_model"]) -> list[list[Hook]]:
    """For each sample, the hooks that add it to the subject's embeddings."""
    name = adapter.embedding_name(model)
    return [corrupt(subject_of(encoded), sample, hook=name) for sample in noise]
