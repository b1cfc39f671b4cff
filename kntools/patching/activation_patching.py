"""Activation patching: put one prompt's activation into the run of another, and see what becomes of the answer."""

from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import Any, get_args

from kntools.arguments import whole, without_effect
from kntools.engine.inputs import check_choice
from kntools.engine.metric_choice import Metrics
from kntools.engine.prompt_pairs import Corrupted
from kntools.patching.atp_star import atp_star_cells
from kntools.patching.cells import CellChoice
from kntools.patching.first_order import Method, gradient_cells, integrated_cells
from kntools.patching.pair_batches import Compute, patch_grid, patched_cells
from kntools.patching.patch_grid import PatchGrid
from kntools.prompts import Prompts
from kntools.sites import Positions


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
    window: int = 1,
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
        corrupted: as many prompts (or texts) of the same number of tokens. The answer is the clean one.
        site: any of `kntools.sites.SITES`: `resid_pre`, `attn_out`, `mlp_out`, `z`, `pattern`, `mlp.hook_post`, ...
        metric: as in `integrated_gradients`; also `"kl_divergence"` (from the clean run).
        layers: which; `None` is all that have the site (neurons are missing in layers that are mixtures of experts).
        positions: the columns of the grid; for heads and neurons, the positions that are patched together.
        heads: `True` for one column per head (of `z`, `q`, `k`, `v`, `pattern`), or which heads.
        neurons: `True` for one column per entry of the last axis (the neurons of `mlp.hook_post`), or which ones.
        window: how many layers are patched together: `[l - window // 2, l - window // 2 + window)`, clipped to the
            model. A window looks stronger than any of its layers (Zhang & Nanda 2024).
        noising: `False` puts clean activations into the corrupted run (what suffices to restore the answer?),
            `True` corrupted ones into the clean run (what is needed for it?).

    Raises:
        TypeError: a clean text without an answer.
        ValueError: prompts of different lengths, a site that is a read-out, a metric of the wrong shape.
        KeyError, IndexError: a site, layer, position, head or neuron that does not exist.
        FloatingPointError: activations or metrics that are nan.
    """
    choice = CellChoice(site, layers, positions, heads, neurons, window)
    return patch_grid(model, clean, corrupted, choice, metric, noising, patched_cells, method="activation")


def attribution_patch(
    model: Any,
    clean: Prompts,
    corrupted: Corrupted,
    *,
    method: Method = "gradient",
    steps: int | None = None,
    metric: Metrics = None,
    noising: bool = False,
    **cells: Any,
) -> PatchGrid:
    """Estimate the grid of `activation_patch` from gradients: few passes for any number of cells.

    ```python
    fast = kn.attribution_patch(model, clean, corrupted, site="z", heads=True)
    exact = kn.activation_patch(model, clean, corrupted, site="z", heads=True)
    exact.agreement(fast)          # {"pearson": ..., "spearman": ..., "largest_difference": ...}
    ```

    Each cell is the metric plus (other activation - own activation) . d metric / d activation. In a window, each layer
    counts with the others held at all positions. The exact patch holds them at the patched ones alone: what passes
    through the window's layers at other positions (or heads) is not in the estimate of a cell.

    Arguments:
        method: `"gradient"` takes it in the run that is patched (Nanda 2023): two forward passes and one backward.
            `"integrated"` averages it along the straight line between both runs, all positions of a layer together:
            a layer sums to what patching it whole does, up to `PatchGrid.residual`; `steps` passes per layer.
            `"atp_star"` (Kramar et al. 2024) recomputes the softmax for patched queries and keys, and averages the
            size of the estimate over backward passes that each omit one layer (paths do not cancel); the
            sign is that of the sum. One pass per layer, and no window.
        steps: Gauss-Legendre nodes of `"integrated"` (20).
        metric, noising: as in `activation_patch`.
        cells: `site`, `layers`, `positions`, `heads`, `neurons` and `window` of `activation_patch`.

    Raises:
        ValueError: an unknown method; see also `activation_patch`.
    """
    check_choice("method", method, get_args(Method))
    if method != "integrated":
        without_effect(f"with method={method!r}", steps=steps)
    ways: dict[str, Compute] = {
        "gradient": gradient_cells,
        "integrated": partial(integrated_cells, steps=whole("steps", 20 if steps is None else steps, least=1)),
        "atp_star": atp_star_cells,
    }
    names = [field.name for field in fields(CellChoice)]
    if unknown := sorted(cells.keys() - names):
        raise TypeError(f"unknown argument {unknown[0]!r}; the arguments of cells are {', '.join(names)}")
    choice = CellChoice(**cells)
    if method == "atp_star" and choice.window != 1:
        raise ValueError(f"method='atp_star' supports single layers only, but window={choice.window}; use 'integrated'")
    return patch_grid(model, clean, corrupted, choice, metric, noising, ways[method], method=method)
