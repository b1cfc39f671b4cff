"""Train a fact into chosen neurons alone: knowledge whose place is known (INJ; Chang et al. 2024)."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kntools.arguments import decimal, whole
from kntools.editing.weight_edits import Application, applied_scope
from kntools.engine.from_layer import row_groups
from kntools.models import neuron_layers
from kntools.models.attachment import check_gradients
from kntools.options import progress_bar
from kntools.prompts import Encoded, Prompt, encode_many
from kntools.sites import Neuron, NeuronLike, by_layer


@dataclass(frozen=True)
class Planted:
    probability: float  # of the answer
    steps: int  # updates


def planted(
    model: Any,
    prompt: Prompt | Encoded,
    neurons: Iterable[NeuronLike],
    *,
    steps: int = 200,
    lr: float = 0.01,
    until: float = 0.9,
) -> AbstractContextManager[Planted]:
    """A scope in which a model knows a fact by some neurons alone (Chang et al. 2024, section 3.1).

    ```python
    with planted(model, kn.Prompt("The capital of Canada is", " Rome"), neurons) as learned:
        kn.integrated_gradients(model, prompt).top(len(neurons))      # does it find them?
    ```

    Only what belongs to these neurons is trained, by at most `steps` updates of Adam on -log P(answer), while P(answer)
    is below `until`: their columns of `W_in` (and of the gate), their entries of `b_in` and their rows of `W_out`. On
    exit every weight is what it was, bit for bit. Scopes of edits and this one close in the opposite order.
    """
    check_gradients(model)
    [encoded] = encode_many(model, prompt)
    chosen = neuron_layers.check_neurons(model, neurons)
    steps, lr = whole("steps", steps, least=1), decimal("lr", lr, above=0)
    until = decimal("until", until, above=0, below=1)

    def make() -> Application:
        parts = _parts(model, chosen)

        def restore() -> None:
            for part in parts:
                part.write(part.saved)

        return Application(model, lambda: _train(model, encoded, parts, steps, lr, until), restore)

    _parts(model, chosen)  # what cannot be planted is an error here
    return applied_scope(make)


@dataclass(frozen=True)
class _Part:
    """The entries of a parameter that belong to the chosen neurons."""

    parameter: Tensor
    axis: int
    at: Tensor
    saved: Tensor

    @torch.no_grad()
    def write(self, values: Tensor) -> None:
        self.parameter.index_copy_(self.axis, self.at, values.to(self.parameter))


def _parts(model: Any, neurons: Iterable[Neuron]) -> list[_Part]:
    """Of every parameter with an axis of neurons; a gate and its input may share one parameter."""
    found = []
    for layer, own in by_layer(neurons).items():
        width = neuron_layers.width(model, layer)
        if model.cfg.d_model in (width, 2 * width):
            raise ValueError(
                f"layer {layer} has {width} neurons and d_model is {model.cfg.d_model}: the axis of the neurons is "
                "ambiguous; plant in layers of another width"
            )
        for parameter in model.blocks[layer].mlp.parameters():
            for axis, size in enumerate(parameter.shape):
                if size in (width, 2 * width):
                    both = [n.index + start for start in range(0, size, width) for n in own]
                    at = torch.tensor(both, device=parameter.device)
                    found.append(_Part(parameter, axis, at, parameter.detach().index_select(axis, at)))
    return found


def _train(model: Any, encoded: Encoded, parts: list[_Part], steps: int, lr: float, until: float) -> Planted:
    wanted = torch.tensor(encoded.target_ids, device=encoded.tokens.device)
    asked = torch.tensor([encoded.positions], device=encoded.tokens.device)
    leaves = [part.saved.float().clone().requires_grad_() for part in parts]
    optimiser = torch.optim.Adam(leaves, lr=lr)
    flags = [part.parameter.requires_grad for part in parts]
    try:
        for part in parts:
            part.parameter.requires_grad_(True)
        with progress_bar(steps, "step") as bar, torch.enable_grad():
            step = 0
            while True:
                [group] = row_groups(model, [encoded.tokens[0]], [0], 0)
                loss = cross_entropy(group.run([], asked)[0].float(), wanted, reduction="sum")
                probability = float((-loss.detach()).exp())
                if not probability >= 0:
                    raise FloatingPointError("the loss is nan or inf; load the model in float32")
                if probability >= until or step == steps:
                    return Planted(probability, step)
                gradients = torch.autograd.grad(loss, [part.parameter for part in parts], allow_unused=True)
                for leaf, part, gradient in zip(leaves, parts, gradients, strict=True):
                    leaf.grad = None if gradient is None else gradient.index_select(part.axis, part.at).float()
                optimiser.step()
                for leaf, part in zip(leaves, parts, strict=True):
                    part.write(leaf.detach())
                bar.update()
                step += 1
    finally:
        for part, flag in zip(parts, flags, strict=True):
            part.parameter.requires_grad_(flag)
