"""Path patching: the effect of the direct path from one part of a model to another on the answer."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.engine.metric_choice import Metrics
from kntools.engine.prompt_pairs import Corrupted
from kntools.engine.sweep import Intervention, sweep
from kntools.hooks.heads import check_whole_heads
from kntools.hooks.positioned import position_axis
from kntools.hooks.states import capture, freeze, patch
from kntools.models import adapter
from kntools.patching.branches import branch_sites
from kntools.patching.pair_batches import Batch, States, patch_grid
from kntools.patching.patch_grid import PatchGrid
from kntools.patching.path_nodes import LOGITS, Node, NodeLike, check_path, receivers, senders
from kntools.prompts import Prompts
from kntools.sites import Hook, Positions, hook_name

# Runs whose receivers are kept at a time.
_ROWS = 512


def path_patch(
    model: Any,
    clean: Prompts,
    corrupted: Corrupted,
    *,
    sender: NodeLike | Sequence[NodeLike],
    receiver: NodeLike | Sequence[NodeLike],
    metric: Metrics = None,
    positions: Positions = None,
    noising: bool = False,
) -> PatchGrid:
    """Patch the direct path from each sender to the receivers (Wang et al. 2022; Goldowsky-Dill et al. 2023).

    ```python
    clean = kn.Prompt("The capital of Canada is", " Ottawa", foil=" Paris")
    grid = kn.path_patch(model, clean, "The capital of France is", sender="head", receiver="logits")
    grid.values                     # [layer head]: the metric with the direct path from that head to the logits patched
    kn.path_patch(model, clean, "The capital of France is", sender="mlp", receiver=["L3.H1.q", "L3.H2.q"])
    ```

    The sender takes its activation from the other run. All attention and MLPs above it are fixed as in the run
    that is patched: the residual stream alone carries the change to the receivers. What these read then is put into
    that run, which continues from there. Norms on the path are recomputed. A sender that stands behind all receivers
    changes nothing; if all do, that is an error.

    Arguments:
        clean, corrupted, metric, noising: as in `activation_patch`.
        sender: `"head"`, `"mlp"` or `"neuron"` for all of the model, one cell each; or some by name: `"L9.H6"`,
            `"L9.MLP"`, `"L9.N1005"` (or a `Neuron`), one or several of a kind. The grid spans their layers and columns:
            `[layer head]`, `[layer position]` (MLPs) or `[layer neuron]`.
        receiver: `"logits"`; a head `"L9.H6"`, or its query, key or value input, `"L9.H6.q"`; `"L9.MLP"`; a
            neuron. Several are patched together. Heads of `k` and `v` are counted as the model has them: with grouped
            queries, several heads of `q` share one.
        positions: columns of the grid of MLPs; where heads or neurons send, the positions that are patched together.

    Raises:
        ValueError: a name of no part, senders of several kinds, a model whose layers write through more than
            attention and MLP; see also `activation_patch`.
        IndexError: a layer, head or neuron that does not exist.
    """
    choice, ends = senders(model, sender, positions), receivers(model, receiver)
    check_path(model, choice, ends)
    compute = partial(path_cells, ends=ends)
    names = tuple(map(str, ends)) or (LOGITS,)
    return patch_grid(model, clean, corrupted, choice, metric, noising, compute, method="path", receivers=names)


def path_cells(batch: Batch, sources: States, ends: Sequence[Node]) -> tuple[Float[Tensor, " pair"], dict[str, Tensor]]:
    """The metric with each path patched. `ends` are the receivers; without any, these are the logits."""
    model, cells = batch.model, batch.cells
    held = branch_sites(model, batch.patched[0])
    read = [(end.site(model), end.layer) for end in ends]
    wanted = {layer: sorted({*sites, *(s for s, n in read if n == layer)}) for layer, sites in held.items()}
    base, own = batch.capture(batch.patched, wanted)
    for end in ends:
        _check_head(model, end, base[0][hook_name(end.site(model), end.layer)])
    last = max((end.layer for end in ends), default=adapter.n_layers(model) - 1)

    def direct(p: int, layer: int, column: int, into: dict[str, Tensor]) -> list[Hook]:
        """Change the sender, hold all that is above, and see what the receivers read."""
        sent = cells.hooks(batch.pairs[p], sources[p], [layer], column)
        at = cells.changed(batch.pairs[p])
        seen = [h for site, n in read for h in capture([site], [n], into, at)]
        # The sender is changed after the receivers of its own layer and site were seen: it is no path to itself.
        above = [(site, n) for n in range(layer, last + 1) for site in held[n] if (site, n) != (cells.site, layer)]
        return [*seen, *sent, *(h for site, n in above for h in freeze([site], [n], base[p], at))] if sent else []

    def received(p: int, seen: dict[str, Tensor]) -> list[Hook]:
        """Put into the receivers what they read."""
        at, hooks = cells.changed(batch.pairs[p]), []
        for end, (site, layer) in zip(ends, read, strict=True):
            name, index = hook_name(site, layer), None if end.index is None else [end.index]
            axis, whole = position_axis(adapter.hook_point(model, name), model), base[p][name].clone()
            whole.narrow(axis, at.start, len(at)).copy_(seen[name])
            which = {"neurons": index} if end.kind == "neuron" else {"heads": index}
            hooks += patch(site, layer, {name: whole}, at, **which)
        return hooks

    every = [place for place in cells.places(len(batch.pairs)) if cells.layers[place[1]] <= last]
    places, values = [], []
    for part in (every[first : first + _ROWS] for first in range(0, len(every), _ROWS)):
        seen: States = [{} for _ in part]
        runs = [direct(p, cells.layers[i], cells.columns[j], into) for (p, i, j), into in zip(part, seen, strict=True)]
        kept = [n for n, hooks in enumerate(runs) if hooks]
        if not kept:
            continue
        places += [part[n] for n in kept]
        first = [Intervention(runs[n], prompt=part[n][0]) for n in kept]
        found = sweep(model, batch.patched, first, metric=batch.metrics)
        if ends:
            second = [Intervention(received(part[n][0], seen[n]), prompt=part[n][0]) for n in kept]
            found = sweep(model, batch.patched, second, metric=batch.metrics)
        values.append(found.float().cpu())
    return own, {"per_pair": cells.filled(own, places, torch.cat(values) if values else own[:0])}


def _check_head(model: Any, end: Node, state: Tensor) -> None:
    if end.index is None or end.kind == "neuron":
        return
    if state.ndim != 4:
        raise ValueError(f"layer {end.layer} shows no heads on this model; {end} cannot receive")
    name = hook_name(end.site(model), end.layer)
    count = state.shape[3 - position_axis(adapter.hook_point(model, name), model)]
    check_whole_heads(model, name, count)
    if end.index >= count:
        raise IndexError(f"{end} does not exist: layer {end.layer} has {count} heads of {end.kind}")
