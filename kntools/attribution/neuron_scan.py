"""Ablate many neurons, one at a time: what attribution scores predict, measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.attribution.attribution_result import Attribution
from kntools.engine.sweep import Intervention, Metric, checked, sweep
from kntools.hooks.positioned import PositionedHook
from kntools.metrics import probability
from kntools.models import adapter
from kntools.prompts import MultiToken, Prompt, encode
from kntools.results import saving
from kntools.results.display import as_html
from kntools.results.saving import provenance
from kntools.results.statistics import pearson, spearman
from kntools.sites import Hook, Neuron, Positions, as_neurons, hook_name

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Neurons of a layer that share one hook; a pass holds as many such blocks as fit.
_BLOCK = 64


@dataclass(frozen=True, repr=False)
class NeuronScan:
    """The metric after scaling each of many neurons, one at a time.

    ```python
    scan.values, scan.effect              # [neuron]: with the neuron ablated; the same minus scan.clean
    scan.top(5)                           # the neurons that the answer needs most
    scan.to_frame(att)                    # with their attribution scores beside them
    scan.agreement(att)                   # correlation of scores with -effect
    ```
    """

    values: Float[Tensor, " neuron"]
    clean: float
    neurons: tuple[Neuron, ...]
    factor: float
    metric: str
    prompt: Prompt
    provenance: dict[str, Any]

    @property
    def effect(self) -> Float[Tensor, " neuron"]:
        return self.values - self.clean

    def top(self, k: int = 10) -> tuple[Neuron, ...]:
        """The `k` neurons with the largest |effect|, the largest first."""
        if not 0 <= k <= len(self.neurons):
            raise ValueError(f"k={k}; there are {len(self.neurons)} neurons")
        order = self.effect.abs().argsort(descending=True, stable=True)[:k].tolist()
        return tuple(self.neurons[i] for i in order)

    def to_frame(self, scores: Attribution | None = None) -> pd.DataFrame:
        """One row per neuron: `layer, neuron, value, effect`, and `score` with an attribution of one prompt."""
        frame = pd.DataFrame(
            {
                "layer": [n.layer for n in self.neurons],
                "neuron": [n.index for n in self.neurons],
                "value": self.values.numpy(),
                "effect": self.effect.numpy(),
            }
        )
        if scores is not None:
            frame["score"] = self._scores(scores).numpy()
        return frame

    def agreement(self, scores: Attribution) -> dict[str, float]:
        """Correlation, over the scanned neurons, of attribution scores with what ablation takes away (-effect)."""
        predicted = self._scores(scores)
        return {"pearson": pearson(predicted, -self.effect), "spearman": spearman(predicted, -self.effect)}

    def plot(self, scores: Attribution | None = None, **options: Any) -> Figure:
        """Effects against scores: `kntools.plots.scan_scatter`."""
        from kntools.plots.effects import scan_scatter

        return scan_scatter(self, scores, **options)

    def save(self, path: str | Path) -> Path:
        """Write to a `.safetensors` file with a JSON header."""
        pairs = torch.tensor([(n.layer, n.index) for n in self.neurons])
        header = {
            **self.provenance,
            **{name: getattr(self, name) for name in ("clean", "factor", "metric")},
            "prompts": saving.prompts_to_json([self.prompt]),
        }
        return saving.save(path, "neuron scan", {"values": self.values, "neurons": pairs}, header)

    @classmethod
    def load(cls, path: str | Path) -> NeuronScan:
        """Read what `save` wrote."""
        tensors, header = saving.load(path, "neuron scan")
        return cls(
            values=tensors["values"],
            neurons=tuple(Neuron(*pair) for pair in tensors["neurons"].tolist()),
            prompt=saving.prompts_from_json(header["prompts"])[0],
            provenance={k: header[k] for k in ("model", "fingerprint", "settings", "versions")},
            **{name: header[name] for name in ("clean", "factor", "metric")},
        )

    def describe(self) -> str:
        layers = sorted({n.layer for n in self.neurons})
        where = f"layer {layers[0]}" if len(layers) == 1 else f"{len(layers)} layers"
        return (
            f"Scan of {len(self.neurons):,} neurons of {where}, scaled by {self.factor:g}: {self.prompt.text!r} -> "
            f"{self.prompt.target!r} ({self.provenance['model']}, {self.metric} {self.clean:.3f})"
        )

    def _scores(self, scores: Attribution) -> Float[Tensor, " neuron"]:
        found = scores.scores.mean(0)
        return torch.stack([found[n.layer, n.index] for n in self.neurons])

    def _leading(self) -> list[tuple[str, str]]:
        value_of = dict(zip(self.neurons, self.effect.tolist(), strict=True))
        return [(repr(n), f"{value_of[n]:+.4f}") for n in self.top(min(5, len(self.neurons)))]

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *(f"  {name}: {effect}" for name, effect in self._leading())])

    def _repr_html_(self) -> str:
        return as_html(self.describe(), self._leading(), ["neuron", "effect"])


def neuron_scan(
    model: Any,
    prompt: Prompt,
    layers: int | Iterable[int | Neuron | tuple[int, int]] | None = None,
    *,
    neurons: Iterable[Neuron | tuple[int, int]] | None = None,
    factor: float = 0.0,
    pos: Positions = None,
    metric: Metric | None = None,
    multi_token: MultiToken = "error",
    prepend_bos: bool | None = None,
    max_rows: int | None = None,
    progress: bool = True,
) -> NeuronScan:
    """Scale each of many neurons alone and see what becomes of the answer: one sweep, a row per neuron.

    ```python
    scan = kn.neuron_scan(model, prompt, layers=20)                       # every neuron of layer 20
    scan = kn.neuron_scan(model, prompt, att.top(200))                    # those that attribution names
    scan.agreement(att)
    ```

    Arguments:
        layers: all neurons of this layer or these layers; single neurons may stand among them.
        neurons: these neurons (instead of `layers`).
        factor: what each is multiplied by; 0 ablates.
        pos: where; `None` is the answer position(s).
        metric: from logits `[row d_vocab]` to one value per row; `None` is the probability of the answer.
        multi_token, prepend_bos: as in `encode`.
        max_rows: rows per forward pass; `None` chooses from free memory.

    Returns:
        `NeuronScan`, on the CPU.

    Raises:
        ValueError: neither or both of `layers` and `neurons`; a metric of the wrong shape.
        IndexError: a layer or neuron that does not exist.
    """
    encoded = encode(model, prompt, prepend_bos, multi_token=multi_token)
    wanted = _wanted(model, layers, neurons)
    where = encoded.positions if pos is None else pos
    blocks = _blocks(wanted, _BLOCK if max_rows is None else min(_BLOCK, max_rows))
    runs = [Intervention(())]
    runs += [Intervention(_scale_each([n.index for n in b], b[0].layer, factor, where), rows=len(b)) for b in blocks]
    found = sweep(
        model,
        encoded.tokens,
        runs,
        pos=[list(encoded.positions)],
        metric=checked(metric or probability(encoded.target_ids)),
        max_rows=max_rows,
        progress=progress,
    )
    values = found.float().cpu()
    order = {n: i for i, n in enumerate(n for b in blocks for n in b)}
    return NeuronScan(
        values=values[1:][[order[n] for n in wanted]],
        clean=float(values[0]),
        neurons=wanted,
        factor=factor,
        metric="probability" if metric is None else getattr(metric, "__name__", type(metric).__name__),
        prompt=prompt,
        provenance=provenance(model, multi_token=multi_token, prepend_bos=encoded.prepend_bos),
    )


def _wanted(model: Any, layers: int | Iterable[Any] | None, neurons: Iterable[Any] | None) -> tuple[Neuron, ...]:
    if (layers is None) == (neurons is None):
        raise ValueError("give layers=20 for all neurons of a layer, or neurons=[(20, 7), ...]; one of the two")
    width = adapter.d_mlp(model)
    given = neurons if layers is None else [layers] if isinstance(layers, int) else layers
    found = as_neurons(n for one in given or () for n in ([one] if not isinstance(one, int) else _layer(one, width)))
    if not found:
        raise ValueError("no neurons to scan: the list is empty")
    for n in found:
        adapter.check_layer(model, n.layer)
        if n.index >= width:
            raise IndexError(f"neuron {n} does not exist: a layer has neurons 0 to {width - 1}")
    return found


def _layer(layer: int, width: int) -> list[Neuron]:
    return [Neuron(layer, i) for i in range(width)]


def _blocks(neurons: Sequence[Neuron], size: int) -> list[list[Neuron]]:
    by_layer: dict[int, list[Neuron]] = {}
    for n in neurons:
        by_layer.setdefault(n.layer, []).append(n)
    return [same[i : i + size] for same in by_layer.values() for i in range(0, len(same), size)]


def _scale_each(indices: Sequence[int], layer: int, factor: float, pos: Positions) -> list[Hook]:
    """Row r of the batch has neuron `indices[r]` scaled."""

    def edit(x: Tensor) -> Tensor:
        factors = torch.ones(len(indices), 1, x.shape[-1], device=x.device, dtype=x.dtype)
        factors[range(len(indices)), 0, list(indices)] = factor
        return x * factors

    name = hook_name("mlp.hook_post", layer)
    return [(name, PositionedHook(pos, edit, f"scale one of {len(indices)} neurons of layer {layer} per row"))]
