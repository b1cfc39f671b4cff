"""What must be the same before and after anything that kntools does to a model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformer_lens.hook_points import HookPoint

import kntools as kn
from tests import zoo

PROMPTS = [
    kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada"),
    kn.Prompt("The capital of Japan is", " Tokyo", subject="Japan"),
]
NAME = "blocks.2.mlp.hook_post"


def prepared(name: str, *, hooked: bool = False, **options: Any) -> Any:
    """A model in training mode with some parameters frozen, and maybe with hooks of the user's."""
    model = zoo.fresh(name, **options)
    model.train()
    for parameter in list(model.parameters())[::3]:
        parameter.requires_grad_(False)
    for point in ("blocks.1.hook_resid_post", NAME) if hooked else ():
        model.hook_dict[point].add_hook(lambda x, hook: x * 0.5, is_permanent=True)
    model(kn.encode(model, PROMPTS[0]).tokens)  # a bridge attaches some hooks of its own in its first run
    return model


def state(model: Any) -> dict[str, Any]:
    """Everything that must not change."""
    points = {name: module for name, module in model.named_modules() if isinstance(module, HookPoint)}
    points |= {name: point for name, point in model.hook_dict.items()}
    return {
        "weights": zoo.bits(model),
        "buffers": [(n, b.clone().tolist()) for n, b in model.named_buffers()],
        "requires_grad": [(n, p.requires_grad) for n, p in model.named_parameters()],
        "grad": [n for n, p in model.named_parameters() if p.grad is not None],
        "dtype, device": [(n, p.dtype, p.device) for n, p in model.named_parameters()],
        "training": [(n, m.training) for n, m in model.named_modules()],
        "fwd_hooks": {n: [id(h) for h in p.fwd_hooks] for n, p in points.items()},
        "bwd_hooks": {n: [id(h) for h in p.bwd_hooks] for n, p in points.items()},
        "torch hooks": {
            n: (list(m._forward_hooks), list(m._forward_pre_hooks), list(m._backward_hooks))
            for n, m in model.named_modules()
        },
        "own forwards": [n for n, m in model.named_modules() if "forward" in vars(m)],
        "config": copy.deepcopy(vars(model.cfg)),
        "hf config": model.original_model.config.to_dict(),
        "tokenizer": (model.tokenizer.padding_side, model.tokenizer.pad_token, len(model.tokenizer)),
        "grad enabled": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "torch rng": torch.random.get_rng_state().tolist(),
        "numpy rng": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
    }


@contextmanager
def nothing_leaks(model: Any) -> Iterator[None]:
    before = state(model)
    yield
    after = state(model)
    for what, value in before.items():
        assert after[what] == value, f"{what} changed"
