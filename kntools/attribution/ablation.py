"""What takes the place of a neuron's activation when it is ablated, and the hook: for scans and for faithfulness."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kntools.arguments import tensor
from kntools.attribution.baselines import activation
from kntools.engine.inputs import check_choice
from kntools.hooks.positioned import PositionedHook
from kntools.models import neuron_layers
from kntools.prompts import Encoded
from kntools.sites import ANSWER, Hook, Positions, hook_name

#: `"zero"`; `"mean"` over the prompts; `"resample"`: the activations of the next prompt.
AblationName = Literal["zero", "mean", "resample"]
#: A name; or activations, as those of `kn.activation(model, other_prompts).scores`: of each prompt, or for all of them.
Ablation = AblationName | Float[Tensor | np.ndarray, "... layer neuron"]


def ablation_name(ablation: Ablation) -> str:
    return ablation if isinstance(ablation, str) else "given activations"


def replacements(model: Any, encoded: Sequence[Encoded], ablation: Ablation) -> Float[Tensor, "prompt layer neuron"]:
    """What replaces the activations of all neurons, for each prompt."""
    widths = neuron_layers.widths(model)
    shape = len(encoded), len(widths), max(widths)
    if not isinstance(ablation, str):
        given = tensor("ablation", ablation, "of activations [layer neuron], or 'zero', 'mean' or 'resample'")
        if given.shape not in (shape, shape[1:]):
            raise ValueError(f"ablation is {tuple(given.shape)}; give activations {shape[1:]} or {shape}")
        return given.detach().float().cpu().expand(shape)
    check_choice("ablation", ablation, get_args(AblationName))
    if ablation == "zero":
        return torch.zeros(1, *shape[1:], dtype=torch.float32).expand(shape)
    if len(encoded) < 2 or any(len(e.positions) > 1 for e in encoded):
        raise ValueError(
            f"ablation={ablation!r} takes activations of other prompts: give at least two, each with an answer of one "
            "token (multi_token='first'), or ablation='zero', or kn.activation(model, other_prompts).scores.mean(0)"
        )
    found = activation(model, encoded).scores
    return found.mean(0, keepdim=True).expand(shape) if ablation == "mean" else found.roll(-1, 0)


def keep_neurons(
    kept: Bool[Tensor, "row neuron"],
    base: Float[Tensor, " neuron"],
    layer: int,
    *,
    factor: float = 0.0,
    pos: Positions = ANSWER,
) -> Hook:
    """Row r keeps the neurons of `kept[r]`; an activation w of any other becomes `base + factor * (w - base)`."""

    def edit(x: Tensor) -> Tensor:
        put = base.to(x)
        return torch.where(kept[:, None].to(x.device), x, put + factor * (x - put))

    name = hook_name("mlp.hook_post", layer)
    return name, PositionedHook(pos, edit, f"keep some neurons of {name} per row", name=name)
