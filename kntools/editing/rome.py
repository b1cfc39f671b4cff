"""Rank-one model editing (Meng et al. 2022, "Locating and Editing Factual Associations in GPT")."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from kntools.editing.rank_one import RankOneEdit
from kntools.editing.rome_rows import TEMPLATES, Rows, make_rows
from kntools.editing.rome_value import Found, ValueSearch, check_settings, mean_key, mlp_value
from kntools.editing.second_moment import SecondMoment
from kntools.engine.generation import sample_templates
from kntools.engine.sweep import sweep
from kntools.metrics import probability
from kntools.models import adapter
from kntools.prompts import Prompt
from kntools.results.provenance import provenance


def rome(
    model: Any,
    prompt: Prompt,
    target: str,
    *,
    layer: int,
    second_moment: SecondMoment | None = None,
    templates: Sequence[str] | int | None = None,
    key: str = "consistent",
    steps: int = 20,
    lr: float = 0.5,
    weight_decay: float = 0.5,
    clamp: float = 4.0,
    kl_weight: float = 0.0625,
    stop_loss: float = 0.05,
    seed: int = 0,
    prepend_bos: bool | None = None,
    max_rows: int | None = None,
    progress: bool = False,
) -> RankOneEdit:
    """Make the model say `target` after `prompt`, by a rank-one change of one layer's `W_out`.

    ```python
    prompt = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")
    edit = kn.rome(model, prompt, " Rome", layer=8, second_moment=C)
    with edit.applied(model):
        ...                                  # "The capital of Canada is" -> " Rome"
    ```

    The key k is the mean, over templates, of the neurons at the subject's last token; the value v is what the MLP
    gives there, plus `delta`, found by Adam on `-log P(target)` (mean over templates) `+ kl_weight * KL(edited ||
    original)` after "{subject} is a", read at the subject, `+ weight_decay * |delta| / |v0|^2` (equation 4). Then
    `u = C^-1 k` and `W_out += outer(u, v - k W_out - b_out) / (k . u)` (equation 2).

    Arguments:
        prompt: with its subject. Its own target is the answer to be replaced, and plays no part in the edit.
        target: the new answer; the pieces of a longer one are teacher-forced, their log-probabilities add up.
        layer: the layer to edit; see `kntools.analyses.layer_choice` for how to choose it.
        second_moment: C, as `kn.second_moment` returns it. `None` is C = I, and the result says so.
        templates: strings with one `{}` for the whole prompt; `None` takes the shipped `TEMPLATES` of
            `kntools.editing.rome_rows`; a number takes so many that the model itself writes, with `seed`.
        key: `"consistent"` uses the mean key throughout (r-ROME, Gupta et al. 2024). `"published"` takes the bare
            prompt's key in the divisor, as the released code does: where the two differ, that edit does damage.
        steps: forward passes; the last one only measures.
        lr: learning rate of Adam.
        weight_decay, kl_weight: weights in the loss.
        clamp: the largest |delta|, in multiples of |v0|, the norm of the MLP's output for the bare prompt.
        stop_loss: stop early below this loss.
        seed: of sampled templates; a generator of its own.
        prepend_bos: as in `encode`.
        max_rows: rows per forward pass; `None` chooses from free memory.
        progress: show a bar.

    Returns:
        `RankOneEdit`, on the CPU. The model is as it was. Diagnostics that say that the edit will hurt are warned of.

    Raises:
        ValueError: a masked model; no subject, or one that is not in the text; a target that is the current answer;
            a `second_moment` of other weights or another layer, or one that is singular.
        IndexError: no such layer.
        FloatingPointError: nan or inf in the optimisation.
    """
    [edit] = rome_each(
        model, [prompt], [target], layer=layer, second_moment=second_moment, templates=templates, key=key, steps=steps,
        lr=lr, weight_decay=weight_decay, clamp=clamp, kl_weight=kl_weight, stop_loss=stop_loss, seed=seed,
        prepend_bos=prepend_bos, max_rows=max_rows, progress=progress,
    )  # fmt: skip
    for text in edit.warnings():
        warnings.warn(f"{edit.title()}: {text}", stacklevel=2)
    return edit


def rome_each(
    model: Any,
    prompts: Sequence[Prompt],
    targets: Sequence[str],
    *,
    layer: int,
    second_moment: SecondMoment | None = None,
    templates: Sequence[str] | int | None = None,
    key: str = "consistent",
    steps: int = 20,
    lr: float = 0.5,
    weight_decay: float = 0.5,
    clamp: float = 4.0,
    kl_weight: float = 0.0625,
    stop_loss: float = 0.05,
    seed: int = 0,
    prepend_bos: bool | None = None,
    max_rows: int | None = None,
    progress: bool = False,
) -> list[RankOneEdit]:
    """The edits of several facts, each made on the unedited model as `rome` makes it; together they take half the time.

    ```python
    edits = kn.rome_each(model, prompts, new_targets, layer=3, second_moment=C)
    for edit in edits:
        with edit.applied(model): ...
    ```

    Arguments and errors are those of `rome`; warnings are left to `edit.warnings()`.
    """
    if len(prompts) != len(targets) or not prompts:
        raise ValueError(f"{len(prompts)} prompts and {len(targets)} targets; give as many, at least one")
    if adapter.is_masked(model):
        raise ValueError(
            "rome edits causal models: its value is found by what follows the subject. "
            "For a masked model use kn.edit_values or kn.erase_values"
        )
    if key not in ("consistent", "published"):
        raise ValueError(f"key={key!r} is unknown; use 'consistent' (the mean key throughout) or 'published'")
    check_settings(steps, lr, weight_decay, clamp, kl_weight)
    adapter.check_layer(model, layer)
    if second_moment is not None:
        second_moment.check(model, layer)
    if torch.is_inference_mode_enabled():
        raise RuntimeError("rome needs gradients, and torch.inference_mode() has none; call it outside")
    if isinstance(templates, int):
        used: tuple[str, ...] | None = sample_templates(model, templates, seed=seed, prepend_bos=prepend_bos)
    else:
        used = None if templates is None else tuple(templates)
    jobs = [
        make_rows(model, prompt, target, used, prepend_bos) for prompt, target in zip(prompts, targets, strict=True)
    ]
    for prompt, target, rows in zip(prompts, targets, jobs, strict=True):
        _check_new(model, prompt, target, rows)
    about = provenance(
        model,
        key=key,
        templates=TEMPLATES if used is None else used,
        second_moment=None if second_moment is None else second_moment.title(),
        steps=steps,
        lr=lr,
        weight_decay=weight_decay,
        clamp=clamp,
        kl_weight=kl_weight,
        stop_loss=stop_loss,
        seed=seed,
        prepend_bos=jobs[0].encoded[0].prepend_bos,
    )
    with adapter.frozen_parameters(model):
        search = ValueSearch(model, jobs, layer, max_rows=max_rows)
        results = search.run(
            steps=steps, lr=lr, weight_decay=weight_decay, clamp=clamp, kl_weight=kl_weight, stop_loss=stop_loss,
            progress=progress,
        )  # fmt: skip
    return [
        _edit(model, layer, second_moment, key, prompt, target, rows, found, about)
        for prompt, target, rows, found in zip(prompts, targets, jobs, results, strict=True)
    ]


def _edit(
    model: Any,
    layer: int,
    c: SecondMoment | None,
    key: str,
    prompt: Prompt,
    target: str,
    rows: Rows,
    found: Found,
    about: dict[str, Any],
) -> RankOneEdit:
    """Solve for the update, and measure what it does. It is tried out as hooks: the weights stay as they are."""
    mean, own = mean_key(found.keys, rows.weights), found.keys[0]
    u, ridge = (mean, None) if c is None else c.solve(mean)
    u = u / u.norm()
    solved = mean if key == "consistent" else own
    edit = RankOneEdit(
        left=u.cpu(),
        right=(found.delta / (solved @ u)).cpu(),
        layer=layer,
        key=mean.cpu(),
        prompt_key=own.cpu(),
        value=(mlp_value(model, layer, solved) + found.delta).cpu(),
        steps=found.steps,
        weight_norm=float(adapter.w_out(model, layer).detach().float().norm()),
        before=found.before,
        after=0.0,
        ridge=ridge,
        prompt=prompt,
        target=target,
        provenance=about,
    )
    bare = rows.encoded[0]
    metric = probability(bare.target_ids)
    after = sweep(model, bare.tokens, [edit.hooks(model)], pos=list(bare.positions), metric=metric)
    return replace(edit, after=float(after))


def _check_new(model: Any, prompt: Prompt, target: str, rows: Rows) -> None:
    """Is the target the answer already?"""
    if target.strip() == prompt.target.strip():
        raise ValueError(f"the target {target!r} is the prompt's own answer: there is nothing to edit")
    bare = rows.encoded[0]
    says = sweep(model, bare.tokens, [[]], pos=list(bare.positions))[0].argmax(-1)
    if tuple(says.tolist()) == bare.target_ids:
        raise ValueError(f"the target {target!r} is what the model answers already: there is nothing to edit")
