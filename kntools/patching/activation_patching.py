"""Activation patching: put one prompt's activation into the run of another, and see what becomes of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.engine.inputs import batches, bos_of, in_order
from kntools.engine.metric_choice import Metrics, choose_metrics
from kntools.engine.prompt_pairs import Corrupted, Pair, encode_pairs
from kntools.engine.sweep import Intervention, Metric, sweep, sweep_gradients
from kntools.hooks.positioned import position_axis
from kntools.hooks.states import capture
from kntools.models import adapter
from kntools.options import progress_bar
from kntools.patching.cells import CellChoice, Cells, make_cells
from kntools.patching.patch_grid import PatchGrid
from kntools.prompts import Encoded, Prompts
from kntools.results.provenance import provenance
from kntools.sites import Positions, hook_name

Method = Literal["activation", "attribution"]


def activation_patch(
    model: Any,
    clean: Prompts,
    corrupted: Corrupted,
    *,
    site: str = "resid_pre",
    metric: Metrics = None,
    layers: Sequence[int] | None = None,
    positions: Positions = None,
    heads: bool | Sequence[int] = False,
    neurons: bool | Sequence[int] = False,
    noising: bool = False,
) -> PatchGrid:
    """Patch a site in every layer and at every position (or head, or neuron), one at a time.

    ```python
    clean = kn.Prompt("The capital of Canada is", " Ottawa", foil=" Paris")
    grid = kn.activation_patch(model, clean, "The capital of France is", site="resid_pre")
    grid.values            # [layer position]: logit of Ottawa minus logit of Paris
    kn.activation_patch(model, clean, "The capital of France is", site="z", heads=True).values     # [layer head]
    ```

    Arguments:
        clean: the prompt whose activations answer right, or several prompts.
        corrupted: as many prompts (or texts) of the same number of tokens. They are asked for the clean answer.
        site: any of `kntools.sites.SITES`: `resid_pre`, `resid_mid`, `resid_post`, `attn_out`, `mlp_out`, `z`, `q`,
            `k`, `v`, `pattern`, `mlp.hook_post`, ...
        metric: from logits `[row d_vocab]` at the answer position to one value per row; a list of one per pair; or a
            name: `"contrast"` (logit of the target minus that of the foil; also `"logit_difference"`),
            `"probability"`, `"log_probability"`, `"kl_divergence"` (from the clean run). `None` is the contrast where
            there are foils, else the probability.
        layers: which; `None` is all that have the site (neurons are missing in layers that are mixtures of experts).
        positions: the columns of the grid; for heads and neurons, the positions that are patched together.
        heads: `True` for one column per head (of `z`, `q`, `k`, `v`, `pattern`), or which heads.
        neurons: `True` for one column per entry of the last axis (the neurons of `mlp.hook_post`), or which ones.
        noising: `False` puts clean activations into the corrupted run (what suffices to restore the answer?),
            `True` corrupted ones into the clean run (what is needed for it?).

    Returns:
        `PatchGrid`, on the CPU.

    Raises:
        TypeError: a clean text without an answer.
        ValueError: prompts of different lengths, a site that is a read-out, a metric of the wrong shape.
        KeyError, IndexError: a site, layer, position, head or neuron that does not exist.
        FloatingPointError: activations or metrics that are nan.
    """
    choice = CellChoice(site, layers, positions, heads, neurons)
    return _grid(model, encode_pairs(model, clean, corrupted), choice, metric, noising, "activation")


def attribution_patch(
    model: Any,
    clean: Prompts,
    corrupted: Corrupted,
    *,
    site: str = "resid_pre",
    metric: Metrics = None,
    layers: Sequence[int] | None = None,
    positions: Positions = None,
    heads: bool | Sequence[int] = False,
    neurons: bool | Sequence[int] = False,
    noising: bool = False,
) -> PatchGrid:
    """`activation_patch` to first order, from two forward passes and one backward pass (Nanda 2023).

    ```python
    fast = kn.attribution_patch(model, clean, corrupted, site="z", heads=True)
    exact = kn.activation_patch(model, clean, corrupted, site="z", heads=True)
    exact.agreement(fast)          # {"pearson": ..., "spearman": ..., "largest_difference": ...}
    ```

    Each cell is `metric + (other activation - own activation) . d metric / d activation` of the run that is patched.

    Arguments, result and errors are those of `activation_patch`.
    """
    choice = CellChoice(site, layers, positions, heads, neurons)
    return _grid(model, encode_pairs(model, clean, corrupted), choice, metric, noising, "attribution")


@dataclass(frozen=True)
class Batch:
    """Pairs of equal length. One run of each is patched with activations of the other."""

    pairs: list[Pair]
    metrics: list[Metric]
    noising: bool

    @property
    def patched(self) -> list[Encoded]:
        return [p.clean if self.noising else p.corrupted for p in self.pairs]

    @property
    def other(self) -> list[Encoded]:
        return [p.corrupted if self.noising else p.clean for p in self.pairs]


#: Activations of the other run of each pair, by hook name.
Sources = list[dict[str, Tensor]]


def _grid(
    model: Any, pairs: list[Pair], choice: CellChoice, metric: Metrics | str, noising: bool, method: Method
) -> PatchGrid:
    metrics, metric_name = choose_metrics(model, [p.clean for p in pairs], metric)
    cells = make_cells(model, pairs, choice)
    about = provenance(model, prepend_bos=bos_of([p.clean for p in pairs]))
    compute = _patched if method == "activation" else _first_order
    groups, parts = batches([p.clean for p in pairs]), []
    with progress_bar(len(groups), "batch") as bar:
        for group in groups:
            batch = Batch([pairs[n] for n in group], [metrics[n] for n in group], noising)
            sources, other = _captured(model, batch, cells)
            own, values = compute(model, batch, cells, sources)
            clean, corrupted = (own, other) if noising else (other, own)
            parts.append({"per_pair": values, "clean_per_pair": clean, "corrupted_per_pair": corrupted})
            bar.update()
    return PatchGrid(
        **in_order(groups, parts),
        layers=cells.layers,
        columns=cells.columns,
        axis=cells.axis,
        site=cells.site,
        method=method,
        metric=metric_name,
        noising=noising,
        tokens=tuple(p.labels for p in pairs),
        pairs=tuple((p.clean.prompt, p.corrupted.prompt) for p in pairs),
        provenance=about,
    )


def _captured(model: Any, batch: Batch, cells: Cells) -> tuple[Sources, Float[Tensor, " pair"]]:
    """What is put in, and the metric of the runs that it comes from."""
    sources: Sources = [{} for _ in batch.pairs]
    runs = [Intervention(capture([cells.site], cells.layers, into), prompt=p) for p, into in enumerate(sources)]
    values = sweep(model, batch.other, runs, metric=batch.metrics)
    for name, x in (item for source in sources for item in source.items()):
        if bool(x.isnan().any()):
            raise FloatingPointError(f"{name} holds nan: activations overflow; load the model in float32")
    return sources, values.float().cpu()


def _patched(
    model: Any, batch: Batch, cells: Cells, sources: Sources
) -> tuple[Float[Tensor, " pair"], Float[Tensor, "pair layer column"]]:
    """The metric of the runs as they are, and with each cell patched: a row of one sweep per cell."""
    runs = [Intervention((), prompt=p) for p in range(len(batch.pairs))]
    places: list[tuple[int, int, int]] = []
    for p, (pair, source) in enumerate(zip(batch.pairs, sources, strict=True)):
        for i, layer in enumerate(cells.layers):
            for j, column in enumerate(cells.columns):
                hooks = cells.hooks(pair, source, layer, column)
                if hooks:
                    places.append((p, i, j))
                    runs.append(Intervention(hooks, prompt=p))
    found = sweep(model, batch.patched, runs, metric=batch.metrics).float().cpu()
    own, patched = found.split([len(batch.pairs), len(places)])
    values = own[:, None, None].repeat(1, len(cells.layers), len(cells.columns))
    if places:
        values[tuple(torch.tensor(places).T)] = patched
    return own, values


def _first_order(
    model: Any, batch: Batch, cells: Cells, sources: Sources
) -> tuple[Float[Tensor, " pair"], Float[Tensor, "pair layer column"]]:
    """The same by the gradient of the metric: one row per pair, whatever the number of cells."""
    names = [hook_name(cells.site, layer) for layer in cells.layers]
    runs = [Intervention((), prompt=p, wrt=[(name, None) for name in names]) for p in range(len(batch.pairs))]
    found = sweep_gradients(model, batch.patched, runs, batch.metrics)
    own = torch.cat([rows.values for rows in found]).float().cpu()
    values = own[:, None, None].repeat(1, len(cells.layers), len(cells.columns))
    for p, (pair, source, rows) in enumerate(zip(batch.pairs, sources, found, strict=True)):
        for i, name in enumerate(names):
            here = rows.wrt[name]
            there = source[name].movedim(position_axis(adapter.hook_point(model, name)), 1).to(here.activation)
            # Masked attention scores are -inf in both runs: no difference.
            difference = torch.where(there == here.activation, 0, there - here.activation)
            values[p, i] += cells.sum_per_column((difference * here.gradient)[0].float().cpu(), pair)
    return own, values
