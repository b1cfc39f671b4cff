"""The oracle of the sweep: TransformerLens itself, one intervention at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from kntools.hooks.positioned import shares_memory
from kntools.sites import Hook
from tests import zoo

TEXT = "The capital of Canada is"


def tokens_for(model: Any, text: str = TEXT) -> Tensor:
    """Token ids `[1 pos]`, with what the model's tokenizer puts around them."""
    if model.tokenizer.mask_token is not None:
        text += f" {model.tokenizer.mask_token}."
        return torch.tensor([model.tokenizer(text)["input_ids"]])
    return torch.tensor(
        [[model.tokenizer.bos_token_id or 0, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]]
    )


def override(module: torch.nn.Module, forward: Callable[..., Any]) -> None:
    """The module calls `forward(its own, ...)`: code of somebody's that is no hook, and part of the model."""
    own = module.forward  # set in its dictionary: components of a bridge hand attributes on
    vars(module)["forward"] = lambda *args, **kwargs: forward(own, *args, **kwargs)


@contextmanager
def overridden(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    override(module, forward)
    try:
        yield
    finally:
        del vars(module)["forward"]


def one_by_one(model: Any, tokens: Tensor, interventions: Sequence[Sequence[Hook]], pos: int = -1) -> Tensor:
    """Probabilities `[intervention d_vocab]`."""
    with torch.no_grad():
        rows = [model.run_with_hooks(tokens, fwd_hooks=list(hooks))[0, pos] for hooks in interventions]
    return torch.stack(rows).softmax(-1)


def gradient_by_loop(
    model: Any, tokens: Tensor, hooks: Sequence[Hook], name: str, metric: Any, pos: int = -1
) -> Tensor:
    """Gradient of the metric by the activation at `name`, after `hooks`, by a plain backward pass."""
    kept: list[Tensor] = []

    def keep(activation: Tensor, hook: Any) -> Tensor:
        kept.append(activation.clone() if activation.requires_grad else activation.detach().clone().requires_grad_())
        # The residual stream goes on from the very tensor that such a hook sees.
        return activation.copy_(kept[-1]) if shares_memory(name) else kept[-1]

    with torch.enable_grad():
        logits = model.run_with_hooks(tokens, fwd_hooks=[*hooks, (name, keep)])
        [gradient] = torch.autograd.grad(metric(logits[:, pos]).sum(), kept)
    return gradient


def sites_of(name: str) -> list[str]:
    """The sites where an intervention has an effect in this architecture (see tests/zoo.py)."""
    sites = [
        "resid_pre",
        "resid_post",
        "attn_out",
        "mlp_out",
        "z",
        "q",
        "k",
        "v",
        "mlp.hook_pre",
        "mlp.hook_post",
    ]
    if name not in ("neox", "gptj"):  # attention and MLP in parallel: there is no state between them
        sites.append("resid_mid")
    return sites


ALL, CAUSAL = zoo.ALL, zoo.CAUSAL
