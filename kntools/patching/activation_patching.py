"""Activation patching: put one prompt's activation into the run of another, and see what becomes of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kntools.engine.sweep import Intervention, sweep, sweep_gradients
from kntools.hooks.positioned import position_axis
from kntools.models import adapter
from kntools.patching.patch_grid import PatchGrid
from kntools.patching.patch_job import Job, Request, Runs
from kntools.patching.prompt_pairs import Metrics, Prompts
from kntools.prompts import MultiToken
from kntools.sites import Positions, hook_name


def activation_patch(
    model: Any,
    clean: Prompts,
    corrupted: Prompts | str | Sequence[str],
    *,
    site: str = "resid_pre",
    metric: Metrics = None,
    layers: Sequence[int] | None = None,
    positions: Positions = None,
    heads: bool | Sequence[int] = False,
    neurons: bool | Sequence[int] = False,
    noising: bool = False,
    multi_token: MultiToken = "error",
    prepend_bos: bool | None = None,
    max_rows: int | None = None,
    progress: bool = True,
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
            name: `"logit_difference"`, `"probability"`, `"log_probability"`, `"kl_divergence"` (from the clean run).
            `None` is the logit difference where there are foils, else the probability.
        layers: which; `None` is all.
        positions: the columns of the grid; for heads and neurons, the positions that are patched together.
        heads: `True` for one column per head (of `z`, `q`, `k`, `v`, `pattern`), or which heads.
        neurons: `True` for one column per entry of the last axis (the neurons of `mlp.hook_post`), or which ones.
        noising: `False` puts clean activations into the corrupted run (what suffices to restore the answer?),
            `True` corrupted ones into the clean run (what is needed for it?).
        multi_token: what to do with an answer of several tokens, as in `encode`.
        prepend_bos: as in `encode`.
        max_rows: rows per forward pass; `None` chooses from free memory.
        progress: show a progress bar.

    Returns:
        `PatchGrid`, on the CPU.

    Raises:
        ValueError: prompts of different lengths, a site that is a read-out, a metric of the wrong shape.
        KeyError, IndexError: a site, layer, position, head or neuron that does not exist.
        FloatingPointError: activations or metrics that are nan.
    """
    request = Request(site, metric, layers, positions, heads, neurons, noising, multi_token, prepend_bos, max_rows)
    job = Job.of(model, clean, corrupted, request)

    def run(group: list[int], sources: list[dict[str, Tensor]]) -> Runs:
        cells: list[tuple[int, int, int]] = []
        interventions = [Intervention((), prompt=p) for p in range(len(group))]
        for p, n in enumerate(group):
            for i, layer in enumerate(job.layers):
                for j, column in enumerate(job.columns):
                    hooks = job.hooks(job.pairs[n], sources[p], layer, column)
                    if hooks:
                        cells.append((p, i, j))
                        interventions.append(Intervention(hooks, prompt=p))
        found = sweep(
            model,
            job.patched_tokens(group),
            interventions,
            pos=job.asked(group),
            metric=[job.metrics[n] for n in group],
            max_rows=max_rows,
        )
        own, patched = found.float().cpu().split([len(group), len(cells)])
        values = own[:, None, None].repeat(1, len(job.layers), len(job.columns))
        if cells:
            values[tuple(torch.tensor(cells).T)] = patched
        return Runs(values, own)

    return job.grid("activation", run, progress)


def attribution_patch(
    model: Any,
    clean: Prompts,
    corrupted: Prompts | str | Sequence[str],
    *,
    site: str = "resid_pre",
    metric: Metrics = None,
    layers: Sequence[int] | None = None,
    positions: Positions = None,
    heads: bool | Sequence[int] = False,
    neurons: bool | Sequence[int] = False,
    noising: bool = False,
    multi_token: MultiToken = "error",
    prepend_bos: bool | None = None,
    max_rows: int | None = None,
    progress: bool = True,
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
    request = Request(site, metric, layers, positions, heads, neurons, noising, multi_token, prepend_bos, max_rows)
    job = Job.of(model, clean, corrupted, request)

    names = [hook_name(site, layer) for layer in job.layers]

    def run(group: list[int], sources: list[dict[str, Tensor]]) -> Runs:
        found = sweep_gradients(
            model,
            job.patched_tokens(group),
            [Intervention((), prompt=p, wrt=[(name, None) for name in names]) for p in range(len(group))],
            [job.metrics[n] for n in group],
            pos=job.asked(group),
            max_rows=max_rows,
        )
        own = torch.cat([rows.values for rows in found]).float().cpu()
        values = own[:, None, None].repeat(1, len(job.layers), len(job.columns))
        for p, n in enumerate(group):
            for i, name in enumerate(names):
                here = found[p].wrt[name]
                there = sources[p][name].movedim(position_axis(adapter.hook_point(model, name)), 1).to(here.activation)
                # Masked attention scores are -inf in both runs: no difference.
                difference = torch.where(there == here.activation, 0, there - here.activation)
                values[p, i] += job.sum_per_column((difference * here.gradient)[0].float().cpu(), job.pairs[n])
        return Runs(values, own)

    return job.grid("attribution", run, progress)
