"""Edits of weights and the second moment: kntools and plain loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import kntools as kn
from kntools.editing.rome_settings import RomeSettings
from scripts.architectures import plain
from scripts.architectures.build import ANSWER, SUBJECT, Case
from scripts.architectures.changes import added
from scripts.architectures.plain import Change, Place
from scripts.architectures.primitives import (
    BEFORE,
    CHANGED_TO,
    Compared,
    primitive,
    prompt,
    without_neurons,
)


@dataclass(frozen=True)
class Edited:
    """An edit, what the model answered under it, and whether all of its bits came back."""

    edit: Any
    probabilities: Tensor
    restored: Tensor


def _layer(case: Case) -> int:
    """The first that has neurons: the last layer's subject would say nothing to the answer."""
    return next(iter(plain.neuron_layers(case)), 0)


def _try(case: Case, make: Callable[[], Any]) -> Edited:
    def bits() -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in case.model.named_parameters()}

    before, edit = bits(), make()
    with edit.applied(case.model), torch.no_grad():
        tokens = case.tokens()
        plain.forget_lengths(case)
        answer = case.model(tokens)[0, case.position(tokens)].softmax(-1)
    after = bits()
    return Edited(edit, answer, torch.tensor([torch.equal(before[name], after[name]) for name in before]))


def _effect(case: Case, layer: int, rows: list[int] | slice, update: Tensor) -> Tensor:
    """Probabilities with `update` added to rows of `W_out`, acted out by hooks."""
    tokens = case.tokens()
    read: list[Tensor] = []

    def note(x: Tensor) -> Tensor:
        read.append(x[..., rows])
        return x

    changes: list[tuple[Place, Change]] = [
        (plain.neurons(case, layer), note),
        (plain.written(case, layer), lambda x: x + read[-1] @ update),
    ]
    with torch.no_grad():
        return plain.logits_at_answer(case, tokens, changes).softmax(-1)


def _edits_elsewhere(make: Callable[[Case, int], Any]) -> Callable[[Case], list[Callable[[], Any]]]:
    return lambda case: [lambda n=n: make(case, n) for n in without_neurons(case)]


_ROME = RomeSettings(steps=3, templates=["{}", BEFORE + "{}"], stop_loss=0.0)


def _rome(case: Case, layer: int) -> Any:
    return kn.rome(case.model, prompt(case), case.answer(CHANGED_TO), layer=layer, settings=_ROME)


@primitive(
    "rome", lambda case: _try(case, lambda: _rome(case, _layer(case))), of_neurons=True, refused=_edits_elsewhere(_rome)
)
def _(case: Case, found: Edited) -> list[Compared]:
    key, delta = _value(case, _layer(case))
    update = torch.outer(key, delta) / key.square().sum()
    return [
        ("update", found.edit.delta, update),
        ("effect", found.probabilities, _effect(case, _layer(case), slice(None), found.edit.delta)),
        ("undone", found.restored.float(), torch.ones(len(found.restored))),
    ]


def _value(case: Case, layer: int) -> tuple[Tensor, Tensor]:
    """The mean key and equation 4 of Meng et al. 2022, by Adam: one run per text and step."""
    texts = [case.tokens(), case.tokens(before=BEFORE)]
    essence = torch.tensor([case.ids(f"{SUBJECT} is a")])
    ends = [int((tokens[0] == case.token(SUBJECT)).nonzero()[-1]) for tokens in texts]
    last = len(case.ids(SUBJECT)) - 1
    out, wanted = plain.written(case, layer), case.token(CHANGED_TO)
    keys = [plain.seen(case, t, [plain.neurons(case, layer)])[0][0, at] for t, at in zip(texts, ends, strict=True)]
    size = plain.seen(case, texts[0], [out])[0][0, ends[0]].norm()
    with torch.no_grad():
        original = plain.run(case, essence)[last].log_softmax(-1)
    delta = torch.zeros(keys[0].new_zeros(()).expand(case.model.cfg.d_model).shape, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=_ROME.lr)
    for _ in range(_ROME.steps - 1):
        optimiser.zero_grad()
        loss = _ROME.weight_decay * delta.norm() / size**2
        for tokens, at in zip(texts, ends, strict=True):
            logits = plain.logits_at_answer(case, tokens, [(out, added(delta, at))])
            loss = loss - logits.log_softmax(-1)[wanted] / len(texts)
        now = plain.run(case, essence, [(out, added(delta, last))])[last].log_softmax(-1)
        loss = loss + _ROME.kl_weight * (now.exp() * (now - original)).sum()
        loss.backward(inputs=[delta])
        optimiser.step()
        with torch.no_grad():
            delta *= (_ROME.clamp * size / delta.norm()).clamp(max=1)
    return torch.stack(keys).mean(0), delta.detach()


ROWS = [0, 7, 23]


def _edit_values(case: Case, layer: int) -> Any:
    return kn.edit_values(case.model, [(layer, n) for n in ROWS], case.answer(), case.answer(CHANGED_TO))


@primitive(
    "edit_values",
    lambda case: _try(case, lambda: _edit_values(case, _layer(case))),
    of_neurons=True,
    refused=_edits_elsewhere(_edit_values),
)
def _(case: Case, found: Edited) -> list[Compared]:
    layer = _layer(case)
    rows = case.model.blocks[layer].mlp.W_out[ROWS].detach()
    old, new = (_output_embedding(case, case.token(word)) for word in (ANSWER, CHANGED_TO))
    update = rows.norm(dim=1, keepdim=True) * (8 * new / new.norm() - old / old.norm())
    return [
        ("effect", found.probabilities, _effect(case, layer, ROWS, update)),
        ("undone", found.restored.float(), torch.ones(len(found.restored))),
    ]


def _output_embedding(case: Case, token: int) -> Tensor:
    if (
        case.source is case.model or case.family.compatibility != "off"
    ):  # there are no others, or those of the folded model
        return case.model.W_U[:, token].detach()
    return case.source.get_output_embeddings().weight[token].detach()


def _fine_tune(case: Case, layer: int) -> Any:
    return kn.fine_tune(
        case.model, prompt(case), case.answer(CHANGED_TO), layer=layer, steps=2, lr=0.02, limit=0.03, stop_loss=0.0
    )


@primitive(
    "fine_tune",
    lambda case: _try(case, lambda: _fine_tune(case, _layer(case))),
    of_neurons=True,
    refused=_edits_elsewhere(_fine_tune),
)
def _(case: Case, found: Edited) -> list[Compared]:
    layer, wanted, tokens = _layer(case), case.token(CHANGED_TO), case.tokens()
    update = torch.zeros_like(case.model.blocks[layer].mlp.W_out, requires_grad=True)
    optimiser = torch.optim.Adam([update], lr=0.02)
    read: list[Tensor] = []

    def note(x: Tensor) -> Tensor:
        read.append(x)
        return x

    changes: list[tuple[Place, Change]] = [
        (plain.neurons(case, layer), note),
        (plain.written(case, layer), lambda x: x + read[-1] @ update),
    ]
    for _ in range(2):
        loss = -plain.logits_at_answer(case, tokens, changes).log_softmax(-1)[wanted]
        [update.grad] = torch.autograd.grad(loss, [update])
        optimiser.step()
        with torch.no_grad():
            update.clamp_(-0.03, 0.03)
    return [
        ("effect", found.probabilities, _effect(case, layer, slice(None), update.detach())),
        ("undone", found.restored.float(), torch.ones(len(found.restored))),
    ]


TEXTS = ["The capital of France is Paris.", "Is Italy near Japan? Yes, it is.", "Oslo is the capital of Norway."]


def _second_moment(case: Case, layer: int) -> Any:
    return kn.second_moment(case.model, layer, TEXTS)


@primitive(
    "second_moment",
    lambda case: _second_moment(case, _layer(case)),
    of_neurons=True,
    refused=_edits_elsewhere(_second_moment),
)
def _(case: Case, found: kn.SecondMoment) -> list[Compared]:
    texts = [torch.tensor([case.ids(text)]) for text in TEXTS]
    keys = torch.cat([plain.seen(case, t, [plain.neurons(case, _layer(case))])[0][0] for t in texts]).double()
    return [
        ("matrix", found.matrix, (keys.T @ keys / len(keys)).float()),
        ("tokens", torch.tensor(found.count), torch.tensor(len(keys))),
    ]
