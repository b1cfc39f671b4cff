"""Figure 4: in which layers do knowledge neurons lie, those of agreement and those of facts?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools import randomness
from kntools.analyses.fig03_localisation import Localisation
from kntools.arguments import whole
from kntools.results.statistics import bootstrap_interval
from kntools.results.table import Table
from kntools.sites import NeuronLike, as_neurons


class LayerDistribution(Table):
    """One row per kind and layer: `kind, layer, neurons, share, low, high`.

    `share` is the mean over groups of the share of a group's neurons that lie in the layer, with a bootstrap interval
    over groups: a fact with five neurons counts no more than one with two. `details` has a `test` of two kinds.
    """

    def plot(self, **look: Any) -> Any:
        """Bars per layer, one colour per kind, with intervals."""
        from kntools.plots.charts import bar_chart

        labels = {"share": "share of a group's neurons"}
        options = {"color": "kind", "hover_data": ["neurons"], "labels": labels, "title": self.describe(), **look}
        return bar_chart(self.to_frame(), "layer", "share", **options)

    def describe(self) -> str:
        counts = ", ".join(f"{kind}: {n} groups" for kind, n in self.details["groups"].items())
        if (test := self.details["test"]) is None:
            return f"Layers of knowledge neurons ({counts})"
        difference = f"distance {test['distance']:.3f}, p = {test['p']:.3g}"
        means = f"mean layer {test['means'][0]:.1f} and {test['means'][1]:.1f}"
        return f"Layers of knowledge neurons ({counts}); {difference}; {means}"


def layer_distribution(
    found: Localisation | Mapping[str, Sequence[Sequence[NeuronLike]]],
    *,
    n_layers: int,
    permutations: int = 2000,
    seed: int = 0,
) -> LayerDistribution:
    """Layers of knowledge neurons (Niu et al. 2024, figure 4), and a test of two kinds.

    ```python
    layer_distribution(localisation(model, groups), n_layers=model.cfg.n_layers).plot()
    layer_distribution({"facts": [(n1, n2), (n3,)], "agreement": [...]}, n_layers=12)
    ```

    Arguments:
        found: a `Localisation`, or for each kind the neurons of every group. Groups without neurons are left out; the
            neurons of one group stay together in the test, because they are found together.
        n_layers: of the model; a neuron beyond them is an error.
        permutations: of a test of two kinds: the distance between their shares (half the sum of absolute
            differences, 0 to 1) against the same with groups given to the kinds at random.
        seed: of permutations and intervals.
    """
    n_layers, permutations = whole("n_layers", n_layers, least=1), whole("permutations", permutations, least=1)
    if isinstance(found, Localisation):
        provenance, given = found.provenance, {k: found.neurons(k) for k in ("linguistic", "factual")}
    else:
        provenance, given = {"model": "?"}, {k: tuple(map(as_neurons, groups)) for k, groups in found.items()}
    layers = {k: [[n.layer for n in own] for own in groups if own] for k, groups in given.items() if any(groups)}
    if not layers:
        raise ValueError("no neurons: no group has a knowledge neuron")
    deepest = max(layer for groups in layers.values() for own in groups for layer in own)
    if deepest >= n_layers:
        raise ValueError(f"a neuron is in layer {deepest}, but n_layers={n_layers}: these are of another model")
    rows, shares = [], {}
    for kind, groups in layers.items():
        counts = [torch.bincount(torch.tensor(own), minlength=n_layers).double() for own in groups]
        shares[kind] = torch.stack([count / count.sum() for count in counts])
        numbers = torch.stack([shares[kind].mean(0), *bootstrap_interval(shares[kind], seed=seed)]).T.tolist()
        neurons = torch.stack(counts).sum(0).int().tolist()
        rows += [
            {"kind": kind, "layer": layer, "neurons": n, "share": share, "low": low, "high": high}
            for layer, (n, (share, low, high)) in enumerate(zip(neurons, numbers, strict=True))
        ]
    test = _permutation(list(shares.values()), permutations, seed) if len(shares) == 2 else None
    sizes = {kind: len(s) for kind, s in shares.items()}
    return LayerDistribution.of(rows, provenance, groups=sizes, test=test, permutations=permutations)


def _permutation(sides: list[Float[Tensor, "_group layer"]], permutations: int, seed: int) -> dict[str, Any]:
    both, first, generator = torch.cat(sides), len(sides[0]), randomness.generator(seed)

    def distance(groups: Tensor) -> float:
        return float((groups[:first].mean(0) - groups[first:].mean(0)).abs().sum() / 2)

    # The tolerance is for ties, which are many with few groups.
    drawn = [distance(both[torch.randperm(len(both), generator=generator)]) for _ in range(permutations)]
    above = sum(value >= distance(both) - 1e-12 for value in drawn)
    means = [float(side.mean(0) @ torch.arange(side.shape[1], dtype=torch.float64)) for side in sides]
    return {"distance": distance(both), "p": (above + 1) / (permutations + 1), "means": means}
