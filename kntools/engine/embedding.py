"""Prompts whose embedding is changed in every run: the corrupted prompts of causal tracing.

What enters block 0 is computed once per prompt; clean rows, kept prefixes and forked rows all come from there.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kntools.engine.plain import noting
from kntools.engine.plan import Embedding, stage_of
from kntools.models import adapter


@torch.no_grad()
def embed(model: Any, tokens: Int[Tensor, "prompt pos"], embedding: Embedding) -> Float[Tensor, "prompt pos d_model"]:
    """The residual stream that enters block 0, for each prompt with its own hooks."""
    layers = adapter.n_layers(model)
    rows = []
    for number, hooks in enumerate(embedding):
        for name, _ in hooks:
            if stage_of(name, layers) != -1:
                raise ValueError(f"{name!r} is not on the embedding; put such hooks into the interventions")
        fired: set[str] = set()
        points = [(adapter.hook_point(model, name), noting(fn, name, fired)) for name, fn in hooks]
        rows.append(adapter.run_embedding(model, tokens[number : number + 1], points))
        for name, _ in hooks:
            if name not in fired:
                raise RuntimeError(f"the hook on {name!r} never fired before block 0 of this model")
    return torch.cat(rows)
