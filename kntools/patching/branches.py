"""Where a layer writes into the residual stream: attention and MLP, seen at the inputs of their output matrices.

Held there, a layer lets nothing through but the residual stream itself: the direct path of path patching.
"""

from typing import Any

import torch
from torch import Tensor

from kntools.engine.sweep import Intervention, sweep
from kntools.hooks.positioned import PositionedHook
from kntools.hooks.states import capture, freeze
from kntools.models import adapter
from kntools.models.attachment import without_hooks
from kntools.models.modules import once
from kntools.models.neuron_layers import neurons_of
from kntools.prompts import Encoded
from kntools.sites import Hook, hook_name


def attention_site(model: Any) -> str:
    """The outputs of the heads; where no layer shows them, what attention adds."""
    return _seen(model, "attention", "z", "attn_out")


def mlp_site(model: Any) -> str:
    """The neurons, which no architecture shows together with the residual stream; if a layer has none, the output."""
    return "mlp.hook_post" if all(layer.width for layer in neurons_of(model)) else _seen(model, "MLP", "mlp_out")


def _seen(model: Any, what: str, *sites: str) -> str:
    names, layers = set(model.hook_dict), range(adapter.n_layers(model))
    for site in sites:
        if any(hook_name(site, layer) in names for layer in layers):
            return site
    raise ValueError(
        f"{adapter.model_name(model)} shows no {what}, which path patching and AtP* need; use kn.activation_patch on "
        "its residual stream, or another method of kn.attribution_patch"
    )


def branch_sites(model: Any, encoded: Encoded) -> dict[int, list[str]]:
    """Of each layer, the sites through which it writes."""
    names, sites = set(model.hook_dict), (attention_site(model), mlp_site(model))
    found = {n: [s for s in sites if hook_name(s, n) in names] for n in range(adapter.n_layers(model))}
    once(model, "branches", lambda: without_hooks(model, lambda: _check(model, encoded, found)))
    return found


def _check(model: Any, encoded: Encoded, sites: dict[int, list[str]]) -> None:
    """With its branches held, a block adds what the residual stream is disturbed by, and at that position alone."""
    out, base = adapter.state_site(model, "hidden"), dict[str, Tensor]()
    sweep(model, encoded, [[h for n, own in sites.items() for h in capture([*own, out, "resid_pre"], [n], base)]])
    after: list[dict[str, Tensor]] = [{} for _ in sites]
    runs, shifts = [], []
    for n, own in sites.items():
        entry = base[hook_name("resid_pre", n)][0, 0]
        shifts.append(0.1 * entry.abs().mean() * torch.arange(len(entry), device=entry.device).mul(1.7).sin().to(entry))
        disturb = PositionedHook(0, lambda x, by=shifts[-1]: x + by, "disturb the residual stream")
        hooks: list[Hook] = [(hook_name("resid_pre", n), disturb), *freeze(own, [n], base)]
        runs.append(Intervention(hooks + capture([out], [n], after[n])))
    sweep(model, encoded, runs)
    added = not adapter.declares_both_ways(model)  # BERT has a norm after each addition
    for n, shift in enumerate(shifts):
        name = hook_name(out, n)
        moved = (after[n][name] - base[name])[0]
        moved[0] -= shift if added else moved[0].clone()
        if float(moved.norm()) > 1e-2 * float(shift.norm()) + 1e-5 * float(base[name].norm()):
            raise ValueError(
                f"layer {n} of {adapter.model_name(model)} writes through more than {' and '.join(sites[n])}, which "
                "path patching and AtP* cannot fix; use kn.activation_patch, or another method of attribution_patch"
            )
