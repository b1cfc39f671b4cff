"""Activation patching and attribution patching: kntools and plain loops."""

from __future__ import annotations

from typing import Any

import torch

import kntools as kn
from scripts.architectures import plain
from scripts.architectures.build import FOIL, OTHER_SUBJECT, Case
from scripts.architectures.changes import put
from scripts.architectures.plain import Place
from scripts.architectures.primitives import (
    Compared,
    contrast,
    primitive,
    prompt,
    shown,
)


def _patch(case: Case, site: str, function: Any = None, **options: Any) -> kn.PatchGrid:
    patch = function or kn.activation_patch
    return patch(case.model, prompt(case, foil=FOIL), case.text(OTHER_SUBJECT), site=site, **options)


def _patched(case: Case, found: kn.PatchGrid, places: dict[int, Place], cells: list[dict[str, int]]) -> list[Compared]:
    """The contrast of the corrupted run with each cell of some columns patched, a run per cell."""
    columns = [found.columns.index(next(iter(cell.values()))) for cell in cells]
    clean, other, value = case.tokens(), case.tokens(OTHER_SUBJECT), contrast(case)
    source = dict(zip(places, plain.seen(case, clean, list(places.values())), strict=True))
    with torch.no_grad():
        rows = [
            [value(plain.logits_at_answer(case, other, [(place, put(source[layer], **cell))])) for cell in cells]
            for layer, place in places.items()
        ]
        ends = [value(plain.logits_at_answer(case, tokens)) for tokens in (clean, other)]
    return [
        ("layers", torch.tensor(found.layers), torch.tensor(list(places))),
        ("values", found.values[:, columns], torch.tensor(rows)),
        ("ends", torch.tensor([found.clean, found.corrupted]), torch.stack(ends)),
    ]


def _by_position(case: Case) -> list[dict[str, int]]:
    return [{"pos": pos} for pos in shown(case)]


@primitive("patch resid_pre", lambda case: _patch(case, "resid_pre"))
def _(case: Case, found: kn.PatchGrid) -> list[Compared]:
    return _patched(case, found, plain.named(case, "hook_resid_pre"), _by_position(case))


@primitive("patch mlp_out", lambda case: _patch(case, "mlp_out"))
def _(case: Case, found: kn.PatchGrid) -> list[Compared]:
    return _patched(case, found, plain.named(case, "hook_mlp_out"), _by_position(case))


@primitive("patch z", lambda case: _patch(case, "z", heads=True))
def _(case: Case, found: kn.PatchGrid) -> list[Compared]:
    places = plain.named(case, "attn.hook_z")
    [z] = plain.seen(case, case.tokens(), list(places.values())[:1])
    return _patched(case, found, places, [{"head": head} for head in range(z.shape[2])])


@primitive("patch neurons", lambda case: _patch(case, "mlp.hook_post", neurons=[0, 7, 23]), of_neurons=True)
def _(case: Case, found: kn.PatchGrid) -> list[Compared]:
    places = {layer: plain.neurons(case, layer) for layer in plain.neuron_layers(case)}
    return _patched(case, found, places, [{"entry": n} for n in (0, 7, 23)])


def _first_order(case: Case, found: kn.PatchGrid, tail: str, axis: int) -> list[Compared]:
    """`own + (clean activation - own activation) . gradient`, summed over all axes but one."""
    clean, other, places = case.tokens(), case.tokens(OTHER_SUBJECT), plain.named(case, tail)
    source = plain.seen(case, clean, list(places.values()))
    rows = []
    for place, there in zip(places.values(), source, strict=True):
        here, slope, own = plain.gradient(case, other, place, contrast(case))
        terms = ((there - here) * slope)[0].movedim(axis, 0)
        rows.append(own + terms.flatten(1).sum(1))
    return [("values", found.values, torch.stack(rows))]


@primitive("attribution_patch resid_pre", lambda case: _patch(case, "resid_pre", kn.attribution_patch))
def _(case: Case, found: kn.PatchGrid) -> list[Compared]:
    return _first_order(case, found, "hook_resid_pre", 0)


@primitive("attribution_patch z", lambda case: _patch(case, "z", kn.attribution_patch, heads=True))
def _(case: Case, found: kn.PatchGrid) -> list[Compared]:
    return _first_order(case, found, "attn.hook_z", 1)
