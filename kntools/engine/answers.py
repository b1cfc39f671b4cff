"""Answers under interventions, and the control that every neuron intervention needs: random neurons instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from kntools.engine.sweep import Intervention, sweep
from kntools.metrics import probability
from kntools.prompts import MultiToken, Prompt, by_length, encode
from kntools.sites import Hook, Neuron, as_neurons

#: An intervention that is told the answer's position(s): `functools.partial(kn.ablate_neurons, neurons)`.
Edit = Callable[..., list[Hook]]


def untouched(*, pos: Any) -> list[Hook]:
    """The edit that changes nothing."""
    return []


def answer_probabilities(
    model: Any,
    prompts: Prompt | Sequence[Prompt],
    edits: Sequence[Edit] = (untouched,),
    *,
    prepend_bos: bool | None = None,
    multi_token: MultiToken = "error",
    max_rows: int | None = None,
    progress: bool = False,
) -> Float[Tensor, "edit prompt"]:
    """The probability of every prompt's answer under every edit, at the answer position.

    ```python
    off = functools.partial(kn.ablate_neurons, neurons)
    before, after = answer_probabilities(model, prompts, [untouched, off])      # [prompt] each
    ```

    Arguments:
        edits: functions that make hooks when called with `pos=`, the position(s) that predict the answer.

    Raises:
        ValueError: no prompts or no edits, or a prompt that cannot be encoded.
    """
    asked = [prompts] if isinstance(prompts, Prompt) else list(prompts)
    if not asked or not edits:
        raise ValueError(f"{len(asked)} prompts and {len(edits)} edits were given; at least one of each is needed")
    encoded = [encode(model, p, prepend_bos, multi_token=multi_token) for p in asked]
    found = torch.empty(len(edits), len(asked))
    for group in by_length(encoded):
        part = [encoded[i] for i in group]
        runs = [Intervention(tuple(edit(pos=e.positions)), prompt=p) for edit in edits for p, e in enumerate(part)]
        values = sweep(
            model,
            torch.cat([e.tokens for e in part]),
            runs,
            pos=[list(e.positions) for e in part],
            metric=[probability(e.target_ids) for e in part],
            max_rows=max_rows,
            progress=progress,
        )
        found[:, group] = rearrange(values, "(edit prompt) -> edit prompt", edit=len(edits)).float().cpu()
    return found


def random_like(
    neurons: Iterable[Neuron | tuple[int, int]], width: int, generator: torch.Generator
) -> tuple[Neuron, ...]:
    """As many random neurons of the same layers, none of them among the given ones.

    ```python
    random_like(att.top(20), att.scores.shape[-1], torch.Generator().manual_seed(0))
    ```

    Arguments:
        width: neurons per layer.
        generator: where the randomness comes from.

    Raises:
        ValueError: a layer with fewer than twice as many neurons as were given of it.
    """
    given = as_neurons(neurons)
    drawn = []
    for layer in sorted({n.layer for n in given}):
        taken = {n.index for n in given if n.layer == layer}
        free = [i for i in range(width) if i not in taken]
        if len(free) < len(taken):
            raise ValueError(
                f"layer {layer} has {len(free)} other neurons, {len(taken)} are needed; give fewer neurons"
            )
        order = torch.randperm(len(free), generator=generator)[: len(taken)]
        drawn += [Neuron(layer, free[i]) for i in order.tolist()]
    return tuple(drawn)
