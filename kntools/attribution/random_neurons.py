"""The control that every intervention on neurons needs: as many random neurons of the same layers."""

from collections.abc import Iterable, Sequence

import torch

from kntools.sites import Neuron, NeuronLike, as_neurons, by_layer


def random_like(
    neurons: Iterable[NeuronLike], width: int | Sequence[int], generator: torch.Generator
) -> tuple[Neuron, ...]:
    """As many random neurons of the same layers, none of them among the given ones.

    ```python
    random_like(att.top(20), att.widths, torch.Generator().manual_seed(0))
    ```

    `width`: neurons per layer, one number or that of each layer.
    """
    drawn = []
    for layer, own in sorted(by_layer(as_neurons(neurons)).items()):
        taken = {n.index for n in own}
        free = [i for i in range(width if isinstance(width, int) else width[layer]) if i not in taken]
        if len(free) < len(taken):
            raise ValueError(
                f"layer {layer} has {len(free)} other neurons, {len(taken)} are needed; give fewer neurons"
            )
        order = torch.randperm(len(free), generator=generator)[: len(taken)]
        drawn += [Neuron(layer, free[i]) for i in order.tolist()]
    return tuple(drawn)
