"""Interventions on attention heads, as plain TransformerLens hooks: `list[(name, fn)]`."""

import re
from collections.abc import Iterable
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from kntools.arguments import decimal, several, shown, whole
from kntools.hooks.positioned import PositionedHook
from kntools.models import adapter
from kntools.sites import ANSWER, Hook, Positions, hook_name, is_one

#: `(layer, head)`, counted from zero, or `"L5.H3"`.
HeadLike = str | tuple[SupportsIndex, SupportsIndex]

#: The sites with an axis of heads: before the last, in patterns the second.
WITH_HEADS = ("hook_z", "hook_q", "hook_k", "hook_v", "hook_pattern", "hook_attn_scores", "hook_result")
_HEAD = re.compile(r"^L(\d+)\.?H(\d+)$")


def scale_heads(
    heads: HeadLike | Iterable[HeadLike], factor: float, *, site: str = "z", pos: Positions = ANSWER
) -> list[Hook]:
    """Multiply the output of each head by `factor` at `pos`: one hook per layer.

    ```python
    hooks = kn.scale_heads([(5, 3), "L6.H0"], 0.5)
    hooks = kn.scale_heads([(5, 3)], 0.0, site="pattern", pos=None)      # the whole attention pattern of the head
    ```

    Arguments:
        heads: `(layer, head)` pairs counted from zero, or names such as `"L5.H3"`.
        site: where: `z` (what the head has read), `q`, `k`, `v`, `pattern`, `attn_scores` or `attn.hook_result`. With
            grouped queries, `k` and `v` have fewer heads.
        pos: as in `scale_neurons`; `None` means all tokens.

    Raises:
        IndexError: when a hook runs, for a head or position that does not exist.
        ValueError: a site without heads; or as in `scale_neurons`.
    """
    factor, layers = decimal("factor", factor), dict[int, list[int]]()
    listed: Any = [heads] if is_one(heads) else several("heads", heads, "[(5, 3), 'L6.H0']")
    for layer, head in dict.fromkeys(map(_as_head, listed)):
        layers.setdefault(layer, []).append(head)

    def on_layer(layer: int, chosen: list[int]) -> Hook:
        name = check_heads(hook_name(site, layer))

        def edit(x: Tensor) -> Tensor:  # [batch pos head d_head]; a pattern comes as [batch query head key]
            for head in chosen:
                if x.ndim != 4 or head >= x.shape[2]:
                    raise IndexError(f"head {head} does not exist at {name}, whose shape is {tuple(x.shape)} here")
            check_whole_heads(adapter.running_model(), name, x.shape[2])
            at = torch.tensor(chosen, device=x.device)
            return x.index_copy(2, at, x.index_select(2, at) * factor)

        return name, PositionedHook(pos, edit, f"scale heads {chosen} of layer {layer} by {factor:g}", name=name)

    return [on_layer(layer, chosen) for layer, chosen in layers.items()]


def ablate_heads(heads: HeadLike | Iterable[HeadLike], *, site: str = "z", pos: Positions = ANSWER) -> list[Hook]:
    """Set the outputs of heads to zero at `pos`. See `scale_heads`.

    ```python
    kn.generate(model, prompt, hooks=kn.ablate_heads([(5, 3)], pos=None))
    ```
    """
    return scale_heads(heads, 0.0, site=site, pos=pos)


def check_heads(name: str) -> str:
    """The name of a hook point, if it has heads."""
    if not name.endswith(WITH_HEADS):
        raise ValueError(f"{name!r} has no heads; they are at z, q, k, v, pattern, attn_scores or attn.hook_result")
    return name


def check_whole_heads(model: Any, name: str, count: int) -> None:
    """With latent attention TransformerLens cuts `z` by the width of a query, which is not that of a value."""
    heads = getattr(getattr(model, "cfg", None), "n_heads", None)
    if name.endswith("hook_z") and isinstance(heads, int) and count != heads:
        raise ValueError(
            f"{name} comes in {count} parts, but the layer has {heads} heads (latent attention): its parts are no "
            "heads; use site='v' or 'pattern'"
        )


def _as_head(head: HeadLike) -> tuple[int, int]:
    named = _HEAD.match(head.strip()) if isinstance(head, str) else None
    pair: Any = map(int, named.groups()) if named else None if isinstance(head, str) else head
    try:
        layer, number = pair
    except (TypeError, ValueError):
        raise TypeError(f"{shown(head)} is not a head; give (layer, head) such as (5, 3), or 'L5.H3'") from None
    return whole("layer", layer, least=0), whole("head", number, least=0)
