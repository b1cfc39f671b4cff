"""AtP* (Kramar et al. 2024): gradients with two repairs, of softmaxes that are saturated and of paths that cancel."""

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.engine.sweep import Intervention, sweep, sweep_gradients
from kntools.hooks.positioned import PositionedHook
from kntools.hooks.states import capture, patch
from kntools.models import adapter
from kntools.patching.branches import branch_sites
from kntools.patching.cells import Cells
from kntools.patching.first_order import shift
from kntools.patching.pair_batches import Batch, States
from kntools.sites import hook_name


def atp_star_cells(batch: Batch, sources: States) -> tuple[Float[Tensor, " pair"], dict[str, Tensor]]:
    """GradDrop (equation 11): the mean, over layers, of |what is estimated without that layer's own writing|.

    Its sign, which the paper leaves out, is that of the sum. Queries and keys are followed through their softmax: what
    the patch makes of the heads' outputs is computed, and only from there on estimated.
    """
    model, cells, layers = batch.model, batch.cells, adapter.n_layers(batch.model)
    branches = branch_sites(model, batch.patched[0])
    inside = not cells.site.removeprefix("hook_").startswith("resid")  # what a layer writes from: dropped with it
    queries = cells.site in ("q", "k")
    read = [hook_name("z" if queries else cells.site, layer) for layer in cells.layers]
    states, own = batch.capture(batch.patched, {layer: [cells.site, *["z"] * queries] for layer in cells.layers})
    if queries:
        heads = shift(model, hook_name(cells.site, cells.layers[0]), states[0], sources[0]).shape[1]
        changes = [_through_the_softmax(batch, sources, states, layer) for layer in cells.layers]
    else:
        pairs = list(zip(states, sources, strict=True))
        changes = [[shift(model, name, a, b)[None] for a, b in pairs] for name in read]
    # The only layer of a model leaves nothing to average over.
    dropped: list[int | None] = [*range(layers)] if layers > 1 else [None]
    total = torch.zeros(len(batch.pairs), len(cells.layers), len(cells.columns), dtype=torch.float32)
    size, counted = total.clone(), total.new_zeros(len(cells.layers), 1)
    cut = PositionedHook(None, lambda x: x.detach(), "let no gradient through")
    for drop in dropped:
        hooks = [] if drop is None else [(hook_name(site, drop), cut) for site in branches[drop]]
        runs = [Intervention(hooks, prompt=p, wrt=[(name, None) for name in read]) for p in range(len(batch.pairs))]
        found = sweep_gradients(model, batch.patched, runs, batch.metrics)
        for i, layer in enumerate(cells.layers):
            if inside and layer == drop:
                continue
            counted[i] += 1
            for p, (pair, slopes) in enumerate(zip(batch.pairs, found, strict=True)):
                slope = slopes.wrt[read[i]].gradient
                products = (changes[i][p].to(slope) * slope).float().cpu()
                effect = _by_column(products, cells, heads) if queries else cells.sum_per_column(products[0], pair)
                total[p, i] += effect
                size[p, i] += effect.abs()
    return own, {"per_pair": own[:, None, None] + total.sign() * size / counted}


def _through_the_softmax(
    batch: Batch, sources: States, states: States, layer: int
) -> list[Float[Tensor, "run pos head d_head"]]:
    """What patched queries or keys make of the heads' outputs, for each pair, in one run: heads do not see each other.

    All queries behind a key see it: with positions as columns, each key has a run of its own.
    """
    cells, found = batch.cells, []
    together = cells.columns if cells.axis == "position" else cells.positions
    alone = cells.site == "k" and cells.axis == "position"
    wanted = [[c] for c in cells.columns] if alone else [together]
    for p, (source, own) in enumerate(zip(sources, states, strict=True)):
        seen: States = [{} for _ in wanted]
        runs = [
            Intervention(patch(cells.site, layer, source, at) + capture(["z"], [layer], into), prompt=p)
            for at, into in zip(wanted, seen, strict=True)
        ]
        sweep(batch.model, batch.patched, runs, metric=batch.metrics)
        z = hook_name("z", layer)
        found.append(torch.cat([into[z] for into in seen]) - own[z])
    return found


def _by_column(products: Float[Tensor, "run pos head d_head"], cells: Cells, heads: int) -> Float[Tensor, " column"]:
    """Changes of the heads' outputs times gradients, summed over what each cell of a site with `heads` changes."""
    each = products.sum(-1)
    if cells.axis == "position":
        return each.sum((1, 2)) if cells.site == "k" else each[0].sum(1)[list(cells.columns)]
    per_head = each[0].sum(0)
    return per_head.view(heads, -1).sum(1)[list(cells.columns)]  # several heads may share a key
