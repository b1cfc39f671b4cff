"""An intervention of your own: a function from an activation to an activation, in the same sweep as all others.

    python examples/own_intervention.py [MODEL]

Here: which layer's MLP can be left out at the last token without losing the answer?
"""

import sys

import torch

import kntools as kn


def without_mlp(activation: torch.Tensor, hook: object) -> torch.Tensor:
    """Take the whole MLP of a layer out at the last position. Clone first: the activation is shared."""
    changed = activation.clone()
    changed[:, -1] = 0
    return changed


model = kn.load_model(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m")
encoded = kn.encode(model, kn.Prompt("The capital of Canada is", " Ottawa"), prepend_bos=False)

layers = range(model.cfg.n_layers)
interventions = [[], *([(f"blocks.{layer}.hook_mlp_out", without_mlp)] for layer in layers)]
clean, *rest = kn.sweep(model, encoded.tokens, interventions, metric=kn.probability(encoded.target_ids)).tolist()

print(f"P( Ottawa) = {clean:.3f}")
for layer, value in zip(layers, rest, strict=True):
    print(f"without the MLP of layer {layer:2d}: {value:.3f}  {'#' * round(40 * value)}")
