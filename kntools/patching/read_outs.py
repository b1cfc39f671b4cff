"""Does the model go on with what is at a site? Some hooks show a value that was read off and changes nothing."""

import warnings
from typing import Any

import torch
from torch import Tensor

from kntools.engine.sweep import sweep
from kntools.hooks.positioned import PositionedHook
from kntools.models.attachment import without_hooks
from kntools.models.modules import once
from kntools.prompts import Encoded
from kntools.sites import hook_name

# What is disturbed moves by so many times its own size; a read-out moves the logits by at most so many roundings.
_STRENGTH, _ROUNDINGS = 4.0, 8.0


def check_live(model: Any, encoded: Encoded, site: str, layer: int) -> None:
    """Raise an error if `site` is a read-out, which nothing that is patched into it could change.

    Asked once per model and site: it is disturbed strongly, at all positions, and the logits at the answer must move.
    """
    name = hook_name(site, layer)
    if encoded.tokens.shape[1] < 2:  # attention to one token is the same whatever its scores are
        return
    if not once(model, ("moves", site), lambda: without_hooks(model, lambda: _moves(model, encoded, name))):
        raise ValueError(
            f"{name!r} is a read-out on this model: the forward pass does not use it, so changing it has no "
            f"effect. Patch {'v or z' if 'attn' in name else 'resid_post'} instead"
            + (" (or q and k, which the pattern is made from)." if "pattern" in name or "scores" in name else ".")
        )


def _moves(model: Any, encoded: Encoded, name: str) -> bool:
    def disturb(x: Tensor) -> Tensor:
        usual = x.abs() < 1e30  # attention scores of masked positions are -inf or nearly so, and stay it
        size = _STRENGTH * (x[usual].float().abs().mean() + 1)
        # Uneven along every axis: a softmax does not see what is added to all of its inputs.
        wave = torch.arange(x.numel(), device=x.device, dtype=torch.float32).mul(1.7).sin().view(x.shape)
        return torch.where(usual, x + (size * wave).to(x), x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TransformerLens 4 itself warns about an edit of a read-out
        # The same with what changes nothing: what differs then is rounding.
        edits = disturb, lambda x: x.clone()
        hooks = [[(name, PositionedHook(None, edit, f"disturb {name}"))] for edit in edits]
        logits = sweep(model, encoded, [[], *hooks])
    clean, disturbed, rewritten = logits.float()
    rounding = _ROUNDINGS * float((clean - rewritten).abs().max())
    smallest = torch.finfo(logits.dtype).eps * float(clean.abs().max())
    return not float((clean - disturbed).abs().max()) <= max(rounding, smallest)  # nan has moved
