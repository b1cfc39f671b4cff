"""Ablate many neurons, one at a time: what attribution scores predict, measured."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.arguments import decimal, instance, whole, whole_numbers
from kntools.attribution.ablation import Ablation, ablation_name, keep_neurons, replacements
from kntools.attribution.attribution_result import Attribution, of_prompt
from kntools.engine.inputs import bos_of, in_batches
from kntools.engine.metric_choice import Metrics, choose_metrics
from kntools.engine.sweep import Intervention, sweep
from kntools.models import neuron_layers
from kntools.options import options
from kntools.prompts import Prompt, Prompts, encode_many
from kntools.results.display import excerpt, number
from kntools.results.provenance import provenance
from kntools.results.result import Figure, Result
from kntools.results.statistics import pearson, spearman
from kntools.sites import ANSWER, Neuron, NeuronLike, Positions, by_layer

# Neurons of a layer that share one hook; a pass holds as many such blocks as fit.
_BLOCK = 64


@dataclass(frozen=True, eq=False, repr=False)
class NeuronScan(Result):
    """The metric after ablating (or scaling) each of many neurons, one at a time.

    ```python
    scan.values, scan.effect              # [prompt neuron]: with the neuron ablated; the same minus scan.clean
    scan.top(5)                           # the neurons that the answer needs most
    scan.to_frame(att)                    # with their attribution scores
    scan.agreement(att)                   # correlation of scores with -effect
    ```
    """

    values: Float[Tensor, "prompt neuron"]
    clean: Float[Tensor, " prompt"]
    neurons: tuple[Neuron, ...]
    factor: float
    metric: str
    prompts: tuple[Prompt, ...]
    provenance: dict[str, Any]
    ablation: str = "zero"

    @property
    def effect(self) -> Float[Tensor, "prompt neuron"]:
        return self.values - self.clean[:, None]

    def top(self, k: int = 10, *, prompt: int | None = None) -> tuple[Neuron, ...]:
        """The `k` neurons with the largest |effect|, the largest first: of one prompt, or of the mean over prompts."""
        k = whole("k", k, 0, len(self.neurons))
        order = of_prompt(self.effect, prompt).abs().argsort(descending=True, stable=True)[:k].tolist()
        return tuple(self.neurons[i] for i in order)

    def to_frame(self, scores: Attribution | None = None) -> pd.DataFrame:
        """One row per prompt and neuron: `prompt, layer, neuron, value, effect`, and `score` with an attribution."""
        prompts, neurons = self.values.shape
        frame = pd.DataFrame(
            {
                "prompt": torch.arange(prompts).repeat_interleave(neurons).numpy(),
                "layer": [n.layer for n in self.neurons] * prompts,
                "neuron": [n.index for n in self.neurons] * prompts,
                "value": self.values.flatten().numpy(),
                "effect": self.effect.flatten().numpy(),
            }
        )
        if scores is not None:
            frame["score"] = self._scores(scores).flatten().numpy()
        return frame

    def agreement(self, scores: Attribution) -> dict[str, float]:
        """Correlation of attribution scores with -effect, over all neurons and prompts.

        Raises:
            ValueError: an attribution of other prompts.
        """
        predicted, lost = self._scores(scores).flatten(), -self.effect.flatten()
        return {"pearson": pearson(predicted, lost), "spearman": spearman(predicted, lost)}

    def plot(self, scores: Attribution | None = None, **options: Any) -> Figure:
        """Effects against scores: `kntools.plots.scan_scatter`."""
        from kntools.plots.scatters import scan_scatter

        return scan_scatter(self, scores, **options)

    def describe(self) -> str:
        layers = sorted({n.layer for n in self.neurons})
        where = f"layer {layers[0]}" if len(layers) == 1 else f"{len(layers)} layers"
        first, count = self.prompts[0], len(self.prompts)
        what = f"{excerpt(first.text)!r} -> {first.target!r}" if count == 1 else f"{count} prompts"
        kept = f", factor {self.factor:g}" if self.factor else ""
        how = f"scaled by {self.factor:g}" if self.ablation == "zero" else f"ablated by {self.ablation}{kept}"
        return (
            f"Scan of {len(self.neurons):,} neurons of {where}, {how}: {what} "
            f"({self.provenance['model']}, {self.metric} {number(float(self.clean.mean()))})"
        )

    def _scores(self, scores: Attribution) -> Float[Tensor, "prompt neuron"]:
        instance("scores", scores, Attribution, "kn.integrated_gradients(model, prompts)")
        if scores.prompts != self.prompts:
            raise ValueError(
                f"the attribution is of other prompts than this scan: it is of "
                f"{[p.text for p in scores.prompts]}, the scan of {[p.text for p in self.prompts]}"
            )
        layers, indices = torch.tensor([(n.layer, n.index) for n in self.neurons]).T
        return scores.scores[:, layers, indices]

    def preview(self) -> pd.DataFrame:
        """The neurons with the largest effects."""
        value_of = dict(zip(self.neurons, self.effect.mean(0).tolist(), strict=True))
        leading = self.top(min(5, len(self.neurons)))
        return pd.DataFrame({"neuron": [repr(n) for n in leading], "effect": [value_of[n] for n in leading]})


def neuron_scan(
    model: Any,
    prompts: Prompts,
    neurons: Iterable[NeuronLike] | None = None,
    *,
    layers: int | Iterable[int] | None = None,
    ablation: Ablation = "zero",
    factor: float = 0.0,
    pos: Positions = ANSWER,
    metric: Metrics = None,
) -> NeuronScan:
    """Ablate each of many neurons alone and measure the answer: one sweep, a row per prompt and neuron.

    ```python
    scan = kn.neuron_scan(model, prompt, att.top(200))         # those that attribution names
    scan = kn.neuron_scan(model, prompt, layers=20)            # every neuron of layer 20
    scan.agreement(att)
    kn.neuron_scan(model, prompts, att.top(200), ablation="mean")
    ```

    Neuron i gets `r_i + factor * (w_i - r_i)`, w its activation and r what the ablation puts in its place.

    Arguments:
        neurons: which: `Neuron`s, names such as `"L24.N1005"` or `(layer, index)` pairs.
        layers: all neurons of this layer or these layers instead.
        ablation: what replaces an activation, as in `faithfulness`.
        factor: 0 ablates, 1 changes nothing; with `"zero"` it is what each activation is multiplied by.
        pos: where; left out, at each prompt's own answer.
        metric: as in `integrated_gradients`.

    Raises:
        ValueError: neither or both of `neurons` and `layers`; a layer without neurons; a metric of the wrong shape;
            `"mean"` or `"resample"` of a single prompt, of answers of several tokens, or with `pos`.
        IndexError: a layer or neuron that does not exist.
    """
    encoded, scanned = encode_many(model, prompts), _scanned(model, neurons, layers)
    factor = decimal("factor", factor)
    size = min(_BLOCK, options().max_rows or _BLOCK)
    blocks = [same[i : i + size] for same in by_layer(scanned).values() for i in range(0, len(same), size)]
    column = {n: i for i, n in enumerate(n for block in blocks for n in block)}
    metrics, metric_name = choose_metrics(model, encoded, metric)
    if pos is not ANSWER and isinstance(ablation, str) and ablation != "zero":
        raise ValueError(f"ablation={ablation!r} takes activations at the answers: leave pos out, or use 'zero'")
    base = replacements(model, encoded, ablation)
    about = provenance(model, prepend_bos=bos_of(encoded))

    def moved(block: list[Neuron], base: Float[Tensor, "layer neuron"], prompt: int) -> Intervention:
        """Row r has `block[r]` moved to its `base`."""
        layer, width = block[0].layer, neuron_layers.width(model, block[0].layer)
        kept = torch.ones(len(block), width, dtype=torch.bool)
        kept[range(len(block)), [n.index for n in block]] = False
        hook = keep_neurons(kept, base[layer, :width], layer, factor=factor, pos=pos)
        return Intervention([hook], prompt=prompt, rows=len(block))

    def measured(group: list[int]) -> dict[str, Tensor]:
        runs = []
        for p, i in enumerate(group):
            runs += [Intervention((), prompt=p), *(moved(block, base[i], p) for block in blocks)]
        found = sweep(model, [encoded[i] for i in group], runs, metric=[metrics[i] for i in group])
        each = found.float().cpu().view(len(group), -1)
        return {"clean": each[:, 0], "values": each[:, 1:][:, [column[n] for n in scanned]]}

    return NeuronScan(
        **in_batches(encoded, measured),
        neurons=scanned,
        factor=factor,
        metric=metric_name,
        prompts=tuple(e.prompt for e in encoded),
        provenance=about,
        ablation=ablation_name(ablation),
    )


def _scanned(
    model: Any, neurons: Iterable[NeuronLike] | None, layers: int | Iterable[int] | None
) -> tuple[Neuron, ...]:
    if (layers is None) == (neurons is None):
        raise ValueError("give neurons=['L20.N7', ...], or layers=20 for all neurons of a layer; one of the two")
    if neurons is not None:
        return neuron_layers.check_neurons(model, neurons)
    wanted = dict.fromkeys(whole_numbers("layers", layers))
    if not wanted:
        raise ValueError("no neurons to scan: layers is empty")
    every = (Neuron(layer, i) for layer in wanted for i in range(neuron_layers.width(model, layer)))
    return neuron_layers.check_neurons(model, every)
