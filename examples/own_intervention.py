"""Interventions of your own, in the same sweep as all others: a plain function, and a factory.

    python examples/own_intervention.py [MODEL]

Which layer's MLP can be left out at the last token without losing the answer? And at which other tokens does the most
needed one matter?
"""

import sys
from typing import Any

import torch

import kntools as kn
from kntools.hooks.positioned import PositionedHook
from kntools.sites import ANSWER, Positions, hook_name


def without_mlp(activation: torch.Tensor, hook: Any) -> torch.Tensor:
    """A plain hook: the MLP's output at the last position becomes zero. Clone first: the activation is shared."""
    changed = activation.clone()
    changed[:, -1] = 0
    return changed


def ablate_mlp(layer: int, *, pos: Positions = ANSWER) -> list[kn.Hook]:
    """A factory, as in `kntools/hooks/`: it says at which positions it acts, so that a sweep can skip the others."""
    name = hook_name("mlp_out", layer)
    return [(name, PositionedHook(pos, torch.zeros_like, f"ablate {name}"))]


model = kn.load_model(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m", prepend_bos=False)
encoded = kn.encode(model, kn.Prompt("The capital of Canada is", " Ottawa"))
answer = kn.probability(encoded.target_ids)

layers = range(model.cfg.n_layers)
interventions = [[], *([(hook_name("mlp_out", layer), without_mlp)] for layer in layers)]
clean, *rest = kn.sweep(model, encoded, interventions, metric=answer).tolist()
print(f"P( Ottawa) = {clean:.3f}")
for layer, value in zip(layers, rest, strict=True):
    print(f"without the MLP of layer {layer:2d}: {value:.3f}  {'#' * round(40 * value)}")

needed = min(layers[1:-1], key=rest.__getitem__)  # every token needs the first layer, and the last
each = [ablate_mlp(needed, pos=pos) for pos in range(len(encoded.str_tokens))]
by_token = kn.sweep(model, encoded, each, metric=answer).tolist()
for token, value in zip(encoded.str_tokens, by_token, strict=True):
    print(f"without that of layer {needed} at {token!r}: {value:.3f}")
