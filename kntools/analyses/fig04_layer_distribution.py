"""Figure 4: in which layers do knowledge neurons lie, those of agreement and those of facts?"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools import randomness
from kntools.analyses.fig03_localisation import Localisation
from kntools.arguments import whole
from kntools.results.statistics import SHARE, bootstrap_interval
from kntools.results.table import Table
from kntools.sites import NeuronLike, as_neurons


class LayerDistribution(Table):
    """One row per kind and layer: `kind, layer, neurons, share, low, high`.

    `share` is the mean over groups of the share of a group's neurons that lie in the layer, with a 95 % interval
    over groups. `details` has a `test` of two kinds.
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
        difference = f"distance {test['distance']:.3f}, p = {test['p']:.3g} (permutations of {test['permuted']})"
        means = f"mean layer {test['means'][0]:.1f} and {test['means'][1]:.1f}"
        return f"Layers of knowledge neurons ({counts}); {difference}; {means}"


def layer_distribution(
    found: Localisation | Mapping[str, Sequence[Sequence[NeuronLike]]],
    *,
    n_layers: int | None = None,
    permutations: int = 2000,
    seed: int = 0,
) -> LayerDistribution:
    """Layers of knowledge neurons (Niu et al. 2024, figure 4), and a test of two kinds.

    ```python
    layer_distribution(localisation(model, groups)).plot()
    layer_distribution({"facts": [(n1, n2), (n3,)], "agreement": [...]}, n_layers=12)
    ```

    Arguments:
        found: a `Localisation`, or for each kind the neurons of every group. Groups without neurons are left out.
        n_layers: of the model, where it is not in `found`, as in a `Localisation`; a neuron beyond them is an error.
        permutations: of a test of two kinds: the distance between their shares (half the sum of absolute
            differences, 0 to 1) against the same with kinds assigned at random, to the paradigms and relations of a
            `Localisation`, whose groups are not independent, or else to groups.
        seed: of permutations and intervals.
    """
    widths = found.details.get("widths") if isinstance(found, Localisation) else None
    given_layers = len(widths) if n_layers is None and widths else n_layers
    n_layers, permutations = whole("n_layers", given_layers, least=1), whole("permutations", permutations, least=1)
    if widths and len(widths) != n_layers:
        raise ValueError(f"n_layers={n_layers}, but the model has {len(widths)} layers")
    if isinstance(found, Localisation):
        provenance, given = found.provenance, {k: found.neurons(k) for k in ("linguistic", "factual")}
        units = {k: [row["source"] for row in found.rows if row["kind"] == k] for k in given}
        what = "paradigms and relations"
    else:
        provenance, given = {"model": "?"}, {k: tuple(map(as_neurons, groups)) for k, groups in found.items()}
        units = {k: [f"{k} {n}" for n in range(len(groups))] for k, groups in given.items()}
        what = "groups"
    layers = {k: [[n.layer for n in own] for own in groups if own] for k, groups in given.items() if any(groups)}
    kept = [u for k, groups in given.items() for u, own in zip(units[k], groups, strict=True) if own]
    if not layers:
        raise ValueError("no neurons: no group has a knowledge neuron")
    deepest = max(layer for groups in layers.values() for own in groups for layer in own)
    if deepest >= n_layers:
        raise ValueError(f"a neuron is in layer {deepest}, but n_layers={n_layers}: these are of another model")
    rows, shares = [], {}
    for kind, groups in layers.items():
        counts = [torch.bincount(torch.tensor(own), minlength=n_layers).double() for own in groups]
        shares[kind] = torch.stack([count / count.sum() for count in counts])
        ends = bootstrap_interval(shares[kind], bounds=SHARE, seed=seed)
        numbers = torch.stack([shares[kind].mean(0), *ends]).T.tolist()
        neurons = torch.stack(counts).sum(0).int().tolist()
        rows += [
            {"kind": kind, "layer": layer, "neurons": n, "share": share, "low": low, "high": high}
            for layer, (n, (share, low, high)) in enumerate(zip(neurons, numbers, strict=True))
        ]
    test = None
    if len(shares) == 2:
        test = _permutation(list(shares.values()), kept, permutations, seed)
        test["permuted"] = f"{len(set(kept))} {what}"
    sizes = {kind: len(s) for kind, s in shares.items()}
    return LayerDistribution.of(rows, provenance, groups=sizes, test=test, permutations=permutations)


def _permutation(
    sides: list[Float[Tensor, "_group layer"]], units: list[str], permutations: int, seed: int
) -> dict[str, Any]:
    """`units` says what each group belongs to; whole units change sides."""
    both, generator, names = torch.cat(sides), randomness.generator(seed), list(dict.fromkeys(units))
    unit, first = torch.tensor([names.index(name) for name in units]), len(set(units[: len(sides[0])]))

    def distance(order: Tensor) -> float:
        here = order[unit] < first
        return float((both[here].mean(0) - both[~here].mean(0)).abs().sum() / 2)

    found = distance(torch.arange(len(names)))
    # The tolerance is for ties, which are many with few units.
    above = sum(distance(torch.randperm(len(names), generator=generator)) >= found - 1e-12 for _ in range(permutations))
    means = [float(side.mean(0) @ torch.arange(side.shape[1], dtype=torch.float64)) for side in sides]
    # Of all ways to choose the first side, one is as found; where both have as many units, its mirror image is too.
    least = (2 if 2 * first == len(names) else 1) / math.comb(len(names), first)
    p = max(least, (above + 1) / (permutations + 1))  # drawn, it may fall below what is possible
    return {"distance": found, "p": p, "least": least, "means": means}
