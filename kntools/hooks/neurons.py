"""Interventions on neurons, as plain TransformerLens hooks: `list[(name, fn)]`.

They compose with `+`, run in `model.run_with_hooks(tokens, fwd_hooks=...)` and in `kn.sweep`. Each copies before it
writes, keeps dtype and device, and raises an error where its layer, neuron or position does not exist. Without `pos` a
hook acts at the answer, which a sweep knows of its prompt.

```python
hooks = kn.ablate_neurons(["L9.N1094"]) + kn.enhance_neurons([(10, 209)], pos=2)
logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
```
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools import randomness
from kntools.arguments import decimal, tensor
from kntools.hooks.positioned import PositionedHook
from kntools.sites import ANSWER, Hook, Neuron, NeuronsLike, Positions, as_neurons, by_layer, hook_name

_MEAN = "[layer d_mlp]: kn.activation(model, others).scores.mean(0)"


def scale_neurons(neurons: NeuronsLike, factor: float, *, pos: Positions = ANSWER) -> list[Hook]:
    """Multiply each neuron's activation by `factor` at `pos`: one hook per layer.

    ```python
    hooks = kn.scale_neurons([(9, 1094), (10, 209)], 0.5)
    ```

    Arguments:
        neurons: `Neuron`s, names such as `"L9.N1094"` or `(layer, index)` pairs, counted from zero; one or several.
        factor: 0 suppresses, 2 enhances (Dai et al. 2022, section 4.2).
        pos: token position(s); negative ones count from the end, `None` means all. Left out, it is where the answer
            is predicted: known in a sweep of prompts; the last token of a single row of a causal model.

    Raises:
        IndexError: when a hook runs, for a neuron or position that does not exist.
        ValueError: when a hook runs in a layer without neurons (a mixture of experts), or without `pos` where the
            answer's position is not known.
    """
    factor = decimal("factor", factor)
    return _on_neurons(neurons, pos, f"scale by {factor:g}", lambda x, _: x * factor)


def ablate_neurons(neurons: NeuronsLike, *, pos: Positions = ANSWER) -> list[Hook]:
    """Suppress neurons: set their activations to zero at `pos`. See `scale_neurons`.

    ```python
    model.run_with_hooks(tokens, fwd_hooks=kn.ablate_neurons(att.top(20)))
    ```
    """
    return scale_neurons(neurons, 0.0, pos=pos)


def enhance_neurons(neurons: NeuronsLike, factor: float = 2.0, *, pos: Positions = ANSWER) -> list[Hook]:
    """Enhance neurons: double their activations at `pos`. See `scale_neurons`.

    ```python
    hooks = kn.enhance_neurons(kns) + kn.ablate_neurons([(3, 7)])
    ```
    """
    return scale_neurons(neurons, factor, pos=pos)


def set_neurons(
    neurons: NeuronsLike, values: float | Sequence[float] | Tensor, *, pos: Positions = ANSWER
) -> list[Hook]:
    """Set each neuron's activation to a value: one for all, or one per neuron.

    ```python
    hooks = kn.set_neurons([(9, 1094), (10, 209)], [3.0, 0.0])
    ```

    Raises:
        ValueError: if there are not as many values as neurons.
    """
    wanted = as_neurons(neurons)
    given = tensor("values", values, "[neuron], or one number").double().flatten()
    if given.numel() not in (1, len(wanted)):
        raise ValueError(f"{given.numel()} values for {len(wanted)} neurons; give one, or one per neuron")
    value_of = dict(zip(wanted, given.expand(len(wanted)).tolist(), strict=True))
    return _on_neurons(
        wanted,
        pos,
        "set",
        lambda x, group: torch.tensor([value_of[n] for n in group], dtype=torch.float64).to(x).expand_as(x),
    )


def mean_ablate_neurons(
    neurons: NeuronsLike, mean: Float[Tensor, "layer d_mlp"], *, pos: Positions = ANSWER
) -> list[Hook]:
    """Replace each neuron's activation by its mean over other prompts.

    ```python
    hooks = kn.mean_ablate_neurons(neurons, kn.activation(model, other_prompts).scores.mean(0))
    ```
    """
    return _set_from(tensor("mean", mean, _MEAN), as_neurons(neurons), pos)


def resample_neurons(
    neurons: NeuronsLike, activations: Float[Tensor, "prompt layer d_mlp"], *, seed: int = 0, pos: Positions = ANSWER
) -> list[Hook]:
    """Replace activations by those of one other prompt, drawn at random (by `seed`) for all neurons together.

    ```python
    others = kn.activation(model, other_prompts).scores
    runs = [kn.resample_neurons(neurons, others, seed=s) for s in range(10)]
    kn.sweep(model, prompt, runs, metric=kn.probability(answer_id)).mean()
    ```
    """
    activations = tensor("activations", activations, "[prompt layer d_mlp]: kn.activation(model, others).scores")
    if activations.ndim != 3 or not len(activations):
        raise ValueError(f"activations must be [prompt layer d_mlp], not {tuple(activations.shape)}")
    drawn = torch.randint(len(activations), (), generator=randomness.generator(seed))
    return _set_from(activations[int(drawn)], as_neurons(neurons), pos)


def _set_from(values: Float[Tensor, "layer d_mlp"], neurons: Sequence[Neuron], pos: Positions) -> list[Hook]:
    if values.ndim != 2:
        raise ValueError(f"mean is {tuple(values.shape)}; give {_MEAN}")
    for n in neurons:
        if n.layer >= values.shape[0] or n.index >= values.shape[1]:
            raise IndexError(f"no value for neuron {n}: there are {values.shape[0]} layers of {values.shape[1]}")
    return set_neurons(neurons, [float(values[n.layer, n.index]) for n in neurons], pos=pos) if neurons else []


def _on_neurons(neurons: NeuronsLike, pos: Positions, what: str, change: Any) -> list[Hook]:
    """One hook per layer that applies `change(activations [batch pos chosen], neurons)` to the chosen ones."""

    def on_layer(layer: int, group: list[Neuron]) -> Hook:
        name = hook_name("mlp.hook_post", layer)
        numbers = torch.tensor([n.index for n in group])

        def edit(x: Tensor) -> Tensor:
            for n in group:
                if n.index >= x.shape[-1]:
                    raise IndexError(f"neuron {n} does not exist: layer {n.layer} has neurons 0 to {x.shape[-1] - 1}")
            at = numbers.to(x.device)
            return x.index_copy(-1, at, change(x.index_select(-1, at), group))

        return name, PositionedHook(pos, edit, f"{what} {group}", name=name)

    return [on_layer(layer, group) for layer, group in by_layer(as_neurons(neurons)).items()]
