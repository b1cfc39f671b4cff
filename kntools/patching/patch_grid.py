"""What patching returns."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from kntools.arguments import whole
from kntools.metrics import PROBABILITIES, alike
from kntools.prompts import Prompt
from kntools.results.display import number
from kntools.results.result import Figure, Result
from kntools.results.statistics import CHANGE_OF_SHARE, UNBOUNDED, Interval, bootstrap_interval, pearson, spearman


@dataclass(frozen=True, eq=False, repr=False)
class PatchGrid(Result):
    """The metric after patching a site in each layer and column, for one or several pairs of prompts.

    ```python
    grid.values                       # [layer position], [layer head] or [layer neuron]; mean over pairs
    grid.clean, grid.corrupted        # the metric of the two prompts without a patch
    grid.effect                       # what the patch changed
    grid.normalized                   # 0: as corrupted, 1: as clean
    low, high = grid.interval()       # of the mean over pairs
    grid.to_frame(); grid.plot(); grid.save("grid.safetensors"); kn.load("grid.safetensors")
    ```
    """

    per_pair: Float[Tensor, "pair layer column"]
    clean_per_pair: Float[Tensor, " pair"]
    corrupted_per_pair: Float[Tensor, " pair"]
    layers: tuple[int, ...]
    columns: tuple[int, ...]  # which positions, heads or neurons
    axis: str  # "position", "head" or "neuron"
    site: str
    method: str  # "activation" (exact), "path", or an estimate: "gradient", "integrated", "atp_star"
    metric: str
    noising: bool  # False: clean activations in the corrupted run; True: corrupted ones in the clean run
    tokens: tuple[tuple[str, ...], ...]  # of each pair, `clean/corrupted` where they differ
    pairs: tuple[tuple[Prompt, Prompt], ...]
    provenance: dict[str, Any]
    window: int = 1  # layers that are patched together
    residual: Float[Tensor, "pair layer"] | None = None  # what "integrated" leaves open of each whole layer's effect
    receivers: tuple[str, ...] = ()  # of "path"

    @property
    def values(self) -> Float[Tensor, "layer column"]:
        return self.per_pair.mean(0)

    @property
    def clean(self) -> float:
        return float(self.clean_per_pair.mean())

    @property
    def corrupted(self) -> float:
        return float(self.corrupted_per_pair.mean())

    @property
    def effect_per_pair(self) -> Float[Tensor, "pair layer column"]:
        """The metric with the patch minus the metric of the run that was patched."""
        start = self.clean_per_pair if self.noising else self.corrupted_per_pair
        return self.per_pair - start[:, None, None]

    @property
    def effect(self) -> Float[Tensor, "layer column"]:
        return self.effect_per_pair.mean(0)

    @property
    def normalized(self) -> Float[Tensor, "layer column"]:
        """The metric on a scale from the corrupted prompt (0) to the clean one (1), of the means over pairs."""
        if alike(self.clean, self.corrupted):
            raise ValueError("the metric is the same for both prompts, so .normalized divides by 0; use .effect")
        return (self.values - self.corrupted) / (self.clean - self.corrupted)

    def interval(self, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
        """Interval of the mean effect over pairs, `(low, high)`, `[layer column]` each: `bootstrap_interval`."""
        bounds = CHANGE_OF_SHARE if self.metric in PROBABILITIES else UNBOUNDED
        values = self.effect_per_pair
        return bootstrap_interval(values, bounds=bounds, confidence=confidence, resamples=resamples, seed=seed)

    def agreement(self, other: "PatchGrid") -> dict[str, float]:
        """Agreement with another grid's effects, e.g. of an attribution grid with the exact ones.

        Returns:
            `pearson` and `spearman` correlation over all cells of all pairs, and `largest_difference` in units of
            the metric.

        Raises:
            ValueError: a grid of other pairs, sites, layers or columns, or in another metric.
        """
        cells, others = (
            (g.site, g.axis, g.layers, g.columns, g.window, g.receivers, g.pairs, g.noising, g.metric)
            for g in (self, other)
        )
        if cells != others:
            raise ValueError(f"the grids are not about the same cells:\n  {self!r}\n  {other!r}")
        a, b = self.effect_per_pair, other.effect_per_pair
        return {"pearson": pearson(a, b), "spearman": spearman(a, b), "largest_difference": float((a - b).abs().max())}

    def top(self, k: int = 10) -> tuple[tuple[int, int], ...]:
        """The `k` cells `(layer, column)` with the largest |effect|, the largest first."""
        k = whole("k", k, 0, self.effect.numel())
        order = self.effect.abs().flatten().argsort(descending=True, stable=True)[:k].tolist()
        return tuple((self.layers[i // len(self.columns)], self.columns[i % len(self.columns)]) for i in order)

    def to_frame(self) -> pd.DataFrame:
        """One row per pair and cell: `pair, layer, <axis>, token, value, effect, clean, corrupted`."""
        axes = [range(len(self.pairs)), self.layers, self.columns]
        frame = pd.MultiIndex.from_product(axes, names=["pair", "layer", self.axis]).to_frame(index=False)
        if self.axis == "position":
            frame["token"] = [self.tokens[p][c] for p, c in zip(frame["pair"], frame["position"], strict=True)]
        return frame.assign(
            value=self.per_pair.flatten().numpy(),
            effect=self.effect_per_pair.flatten().numpy(),
            clean=self.clean_per_pair.numpy()[frame["pair"]],
            corrupted=self.corrupted_per_pair.numpy()[frame["pair"]],
        )

    def plot(self, **options: Any) -> Figure:
        """Heatmap of the effect: `kntools.plots.patch_heatmap`."""
        from kntools.plots.tokens import patch_heatmap

        return patch_heatmap(self, **options)

    def describe(self) -> str:
        n = len(self.pairs)
        left = "" if self.residual is None else f", largest residual {float(self.residual.abs().max()):.2g}"
        return (
            f"{self.title}: {len(self.layers)} layers x {len(self.columns)} {self.axis}s, {n} pair"
            f"{'s' if n != 1 else ''} ({self.provenance['model']}, {self.metric} {number(self.corrupted)} corrupted, "
            f"{number(self.clean)} clean{left})"
        )

    @property
    def title(self) -> str:
        kinds = {"activation": "Activation patching", "path": "Path patching", "atp_star": "Attribution patching, AtP*"}
        kind = kinds.get(self.method, f"Attribution patching, {self.method}")
        to = f" to {' and '.join(self.receivers)}" if self.receivers else ""
        together = f", {self.window} layers together" if self.window > 1 else ""
        return f"{kind} of {self.site}{to}{together}, {'noising' if self.noising else 'denoising'}"

    def preview(self, k: int = 5, interval: Interval | None = None) -> pd.DataFrame:
        """The `k` cells with the largest effects; of one pair with their tokens, and with the ends of an `interval`."""
        ends = {} if interval is None else {"effect_low": interval.low, "effect_high": interval.high}
        values = {"value": self.values, "effect": self.effect, **ends}  # the metric's name may be that of a column
        rows = []
        for layer, column in self.top(min(k, self.effect.numel())):
            cell = self.layers.index(layer), self.columns.index(column)
            token = f" {self.tokens[0][column]!r}" if self.axis == "position" and len(self.pairs) == 1 else ""
            numbers = {name: float(value[cell]) for name, value in values.items()}
            rows.append({self.axis: f"{column}{token}", "layer": layer, **numbers})
        return pd.DataFrame(rows)
