"""How much of what a model does is left when only the leading neurons work."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools import randomness
from kntools.prompts import Prompt
from kntools.results.display import number
from kntools.results.result import Figure, Result

_RESAMPLES = 2000


@dataclass(frozen=True, eq=False, repr=False)
class FaithfulnessCurve(Result):
    """Result of `faithfulness`: the metric of each prompt with a share of the neurons kept, and its curves.

    ```python
    curve.shares, curve.values, curve.random      # [share]: f, and f of random neurons of the same layers
    curve.cpr, curve.cmd                          # areas under f and under |1 - f|
    curve.interval("values"), curve.interval("cpr")
    curve.plot()
    ```
    """

    shares: tuple[float, ...]
    counts: tuple[int, ...]  # neurons kept
    clean: Float[Tensor, " prompt"]  # the metric with every neuron
    ablated: Float[Tensor, " prompt"]  # ... with none
    kept: Float[Tensor, "prompt share"]  # ... with the leading neurons alone
    removed: Float[Tensor, "prompt share"]  # ... with all but the leading ones
    at_random: Float[Tensor, "prompt draw share"]  # ... with as many random neurons of each layer alone
    rule: str  # of the scores
    ablation: str
    metric: str
    prompts: tuple[Prompt, ...]
    provenance: dict[str, Any]

    @property
    def values(self) -> Float[Tensor, " share"]:
        """f, of the means over prompts: 1 with all neurons, 0 with none."""
        return self._faithfulness(self.kept)

    @property
    def reverse(self) -> Float[Tensor, " share"]:
        """The same with the leading neurons ablated and the rest kept."""
        return self._faithfulness(self.removed)

    @property
    def random(self) -> Float[Tensor, " share"]:
        """f of random neurons, the mean over draws."""
        return self._faithfulness(self.at_random.mean(1))

    @property
    def cpr(self) -> float:
        """Area under f over the logarithm of the share, divided by its range: 1 is best."""
        return float(self._area(self.values))

    @property
    def cmd(self) -> float:
        """Area under |1 - f|, likewise: 0 is best."""
        return float(self._area((1 - self.values).abs()))

    @property
    def random_cpr(self) -> float:
        return float(self._area(self.random))

    @property
    def random_cmd(self) -> float:
        return float(self._area((1 - self.random).abs()))

    def interval(self, name: str = "values", *, confidence: float = 0.95, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Percentile bootstrap over prompts, of `values`, `reverse`, `random` `[share]`, `cpr` or `cmd`; nan of one.

        Raises:
            KeyError: another name.
        """
        areas: dict[str, Callable[[Tensor], Tensor]] = {"cpr": lambda f: f, "cmd": lambda f: (1 - f).abs()}
        curves = {"values": self.kept, "reverse": self.removed, "random": self.at_random.mean(1)}
        if name not in curves | areas:
            raise KeyError(f"no interval of {name!r}; there is one of {', '.join(curves | areas)}")
        of = curves.get(name, self.kept)
        drawn = torch.randint(len(of), (_RESAMPLES, len(of)), generator=randomness.generator(seed))
        found = self._faithfulness(of, drawn)
        if name in areas:
            found = self._area(areas[name](found))
        if len(of) < 2:
            found = found * torch.nan
        tail = (1 - confidence) / 2
        low, high = (found.nanquantile(q, dim=0) for q in (tail, 1 - tail))
        return low, high

    def to_frame(self) -> pd.DataFrame:
        """One row per curve and share: `neurons` (kept, removed, random), `share, count, value, low, high`."""
        parts = []
        for label, name in (("leading kept", "values"), ("leading removed", "reverse"), ("random kept", "random")):
            low, high = self.interval(name)
            columns = {"value": getattr(self, name), "low": low, "high": high}
            facts = {"neurons": label, "share": self.shares, "count": self.counts}
            parts.append(pd.DataFrame(facts | {column: values.numpy() for column, values in columns.items()}))
        return pd.concat(parts, ignore_index=True)

    def plot(self, **options: Any) -> Figure:
        """f over the share of neurons: `kntools.plots.line_chart`. A share of 0 is not drawn."""
        from kntools.plots import line_chart

        frame = self.to_frame().query("share > 0")
        labels = {"value": f"faithfulness ({self.metric})", "share": "share of neurons"}
        look = {"color": "neurons", "title": self.describe(), "labels": labels, **options}
        return line_chart(frame, "share", "value", **look).update_xaxes(type="log")

    def describe(self) -> str:
        return (
            f"Faithfulness of {self.rule} over {len(self.prompts)} prompts ({self.provenance['model']}, ablation by "
            f"{self.ablation}): CPR {number(self.cpr)}, CMD {number(self.cmd)}, random {number(self.random_cpr)}"
        )

    def _faithfulness(self, values: Float[Tensor, "prompt share"], drawn: Tensor | None = None) -> Tensor:
        """`(m - m(none)) / (m(all) - m(none))` of the means over prompts, or of prompts drawn anew."""
        rows = torch.arange(len(values))[None] if drawn is None else drawn
        least, most = self.ablated.double()[rows].mean(1)[:, None], self.clean.double()[rows].mean(1)[:, None]
        found = (values.double()[rows].mean(1) - least) / (most - least)
        return found[0] if drawn is None else found

    def _area(self, values: Float[Tensor, "... share"]) -> Float[Tensor, "..."]:
        shares = torch.tensor(self.shares, dtype=torch.float64)
        at = shares[shares > 0].log()
        return torch.trapezoid(values[..., shares > 0], at) / (at[-1] - at[0])
