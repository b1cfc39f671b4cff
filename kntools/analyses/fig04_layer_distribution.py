"""Figure 4: in which layers do knowledge neurons lie, those of agreement and those of facts?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.analyses.fig03_localisation import Localisation
from kntools.results.statistics import bootstrap_interval
from kntools.results.table import Table
from kntools.sites import Neuron, NeuronLike, as_neurons


class LayerDistribution(Table):
    """One row per kind and layer: `kind, layer, neurons, share, low, high`.

    `share` is the mean over groups of the share of a group's neurons that lie in the layer, with a bootstrap interval
    over groups: a fact with five neurons counts no more than one with two. The header's `test` compares two kinds.
    """

    def plot(self, **look: Any) -> Any:
        """Bars per layer, one colour per kind, with intervals."""
        from kntools.plots.charts import bar_chart

        labels = {"share": "share of a group's neurons"}
        options = {"color": "kind", "hover_data": ["neurons"], "labels": labels, "title": self.describe(), **look}
        return bar_chart(self.to_frame(), "layer", "share", **options)

    def describe(self) -> str:
        counts = ", ".join(f"{kind}: {n} groups" for kind, n in self.header["groups"].items())
        test = self.header["test"]
        if test is None:
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
    """Where knowledge neurons lie (Niu et al. 2024, figure 4), and whether two kinds differ.

    ```python
    layer_distribution(localisation(model, groups), n_layers=model.cfg.n_layers).plot()
    layer_distribution({"facts": [(n1, n2), (n3,)], "agreement": [...]}, n_layers=12)
    ```

    Arguments:
        found: a `Localisation`, or for each kind the neurons of every group. Groups without neurons are left out.
        n_layers: of the model.
        permutations: of a test of two kinds: the distance between their shares (half the sum of absolute
            differences, 0 to 1) against the same with groups given to the kinds at random.
        seed: of permutations and intervals.

    Returns:
        `LayerDistribution`. The neurons of one group are never taken apart: they are found together.

    Raises:
        ValueError: no neurons, or one beyond `n_layers` (neurons of another model).
    """
    if isinstance(found, Localisation):
        header = dict(found.header)
        kinds = {k: found.neurons(k) for k in ("linguistic", "factual") if found.neurons(k)}
    else:
        header, kinds = {"model": "?"}, {k: tuple(as_neurons(one) for one in v) for k, v in found.items()}
    kinds = {kind: tuple(one for one in groups if one) for kind, groups in kinds.items()}
    if not any(kinds.values()):
        raise ValueError("no neurons: no group has a knowledge neuron")
    deepest = max((n.layer for groups in kinds.values() for one in groups for n in one), default=0)
    if deepest >= n_layers:
        raise ValueError(f"a neuron lies in layer {deepest}, but n_layers={n_layers}: these are of another model")
    rows, shares = [], {}
    for kind, groups in kinds.items():
        if not groups:
            continue
        per_group = shares[kind] = _shares(groups, n_layers)
        low, high = bootstrap_interval(per_group, seed=seed)
        for layer in range(n_layers):
            count = sum(n.layer == layer for one in groups for n in one)
            share = {"share": float(per_group[:, layer].mean()), "low": float(low[layer]), "high": float(high[layer])}
            rows.append({"kind": kind, "layer": layer, "neurons": count, **share})
    test = None
    if len(shares) == 2:
        one, other = shares.values()
        test = _permutation(one, other, permutations, seed)
    header |= {"groups": {kind: len(s) for kind, s in shares.items()}, "test": test, "permutations": permutations}
    return LayerDistribution.of(rows, header)


def _shares(groups: Sequence[Sequence[Neuron]], n_layers: int) -> Float[Tensor, "group layer"]:
    table = torch.zeros(len(groups), n_layers, dtype=torch.float64)
    for number, one in enumerate(groups):
        for n in one:
            table[number, n.layer] += 1 / len(one)
    return table


def _permutation(
    a: Float[Tensor, "group layer"], b: Float[Tensor, "other layer"], permutations: int, seed: int
) -> dict[str, Any]:
    both, first = torch.cat([a, b]), len(a)
    distance = _distance(a, b)
    generator = torch.Generator().manual_seed(seed)
    above = 0
    for _ in range(permutations):
        order = torch.randperm(len(both), generator=generator)
        # The tolerance is for ties, which are many with few groups.
        above += _distance(both[order[:first]], both[order[first:]]) >= distance - 1e-12
    layers = torch.arange(a.shape[1], dtype=torch.float64)
    return {
        "distance": distance,
        "p": (above + 1) / (permutations + 1),
        "means": [float((side.mean(0) * layers).sum()) for side in (a, b)],
    }


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.mean(0) - b.mean(0)).abs().sum() / 2)
