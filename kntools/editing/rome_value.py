"""The value of a rank-one edit: what the MLP should give at the subject so that the model says the target.

Adam on `delta`, which is added to the MLP's output at the subject's last token in every row (Meng et al. 2022,
equation 4). Everything below the layer, and before that token, is the same in every step and is run once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from kntools.editing.rank_one import Step
from kntools.editing.rome_rows import Rows
from kntools.engine.from_layer import Group, Upper, WindowHook
from kntools.models import adapter
from kntools.sites import hook_name


@dataclass(frozen=True)
class Found:
    """What the optimisation of one edit knows in the end."""

    delta: Float[Tensor, " d_model"]
    keys: Float[Tensor, "row d_mlp"]  # of the rows' subjects, unedited
    values: Float[Tensor, "row d_model"]  # the MLP's output there
    steps: tuple[Step, ...]
    before: float  # probability of the target after the bare prompt


class ValueSearch:
    """One or several edits, each with a `delta` of its own; their rows share passes."""

    def __init__(self, model: Any, edits: Sequence[Rows], layer: int, *, max_rows: int | None) -> None:
        self.model, self.edits, self.layer = model, edits, layer
        device = adapter.device_of(model)
        self.owner = torch.tensor([n for n, rows in enumerate(edits) for _ in rows.encoded], device=device)
        self.weights = torch.tensor([w for rows in edits for w in rows.weights], device=device)
        self.lookups = torch.tensor([p for rows in edits for p in rows.lookups], device=device)
        self.asked, self.targets = _filled_up(edits, device)
        tokens = [t for rows in edits for t in rows.tokens]
        self.upper = Upper(model, tokens, self.lookups.tolist(), layer, max_rows=max_rows)
        ends = torch.tensor([len(rows.encoded) for rows in edits]).cumsum(0).tolist()
        self.first = [0, *ends[:-1]]  # the row of each edit's bare prompt
        self.last = [end - 1 for end in ends]  # ... and of its essence
        self.essence: dict[int, Tensor] = {}  # its log-probabilities in the untouched model

    def run(
        self, *, steps: int, lr: float, weight_decay: float, clamp: float, kl_weight: float, stop_loss: float,
        progress: bool,
    ) -> list[Found]:  # fmt: skip
        """N steps are N forward passes and N - 1 updates. An edit that stops early is left as it is."""
        keys, values, before = self._untouched()
        size = values[self.first].norm(dim=1)  # |v0|
        delta = torch.zeros_like(values[self.first], requires_grad=True)
        optimiser = torch.optim.Adam([delta], lr=lr)
        curves: list[list[Step]] = [[] for _ in self.edits]
        active = torch.ones(len(self.edits), dtype=torch.bool, device=delta.device)
        with tqdm(total=steps, disable=not progress, unit="step", leave=False) as bar:
            for number in range(steps):
                target, kl, gradient = self._losses(delta, kl_weight, backward=number < steps - 1)
                decay = weight_decay * delta.norm(dim=1) / size**2
                for n in active.nonzero().flatten().tolist():
                    curves[n].append(self._step(number, n, float(target[n]), float(kl[n]), float(decay[n].detach())))
                    active[n] = curves[n][-1].loss >= stop_loss
                bar.update()
                if number == steps - 1 or not bool(active.any()):
                    break
                if number:  # at zero the norm has no slope
                    gradient = gradient + torch.autograd.grad(decay.sum(), delta)[0]
                self._check_finite(number, gradient[active])
                delta.grad, old = gradient, delta.detach().clone()
                optimiser.step()
                with torch.no_grad():
                    delta.mul_((clamp * size / delta.norm(dim=1)).clamp(max=1)[:, None])
                    delta[~active] = old[~active]
        cuts = list(zip(self.first, [*self.first[1:], len(keys)], strict=True))
        return [
            Found(delta[n].detach(), keys[a:b], values[a:b], tuple(curves[n]), before[n])
            for n, (a, b) in enumerate(cuts)
        ]

    def _untouched(self) -> tuple[Tensor, Tensor, list[float]]:
        """Keys and values at the subjects, and the targets' probabilities, with nothing changed."""
        keys: dict[int, Tensor] = {}
        values: dict[int, Tensor] = {}
        before: dict[int, float] = {}
        with torch.no_grad():
            for group in self.upper.groups:
                hooks = [
                    self._note("mlp.hook_post", group, keys),
                    self._note(adapter.output_site(self.model), group, values),
                ]
                logits = group.run(hooks, self.asked[group.numbers])
                p = self._log_p(logits, group.numbers).exp().tolist()
                for row, number in enumerate(group.numbers):
                    before[number] = p[row]
                    if number in self.last:
                        self.essence[number] = logits[row, 0].float().log_softmax(-1)
        rows = range(len(self.owner))
        found = [torch.stack([kept[n] for n in rows]).float() for kept in (keys, values)]
        return found[0], found[1], [before[n] for n in self.first]

    def _losses(self, delta: Tensor, kl_weight: float, *, backward: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Of each edit `target` and `kl`, and their gradient by its delta.

        Each group's backward pass follows its forward pass: there is memory for one.
        """
        target, kl = (torch.zeros(len(self.edits), device=delta.device) for _ in range(2))
        gradient = torch.zeros_like(delta)
        with torch.set_grad_enabled(backward):
            for group in self.upper.groups:
                hooks = [(hook_name(adapter.output_site(self.model), self.layer), self._add(group, delta))]
                logits = group.run(hooks, self.asked[group.numbers])
                owner = self.owner[group.numbers]
                # A row of weight zero (the essence) counts nothing, whatever its log-probability is.
                weights = self.weights[group.numbers]
                nll = torch.where(weights > 0, -self._log_p(logits, group.numbers) * weights, 0.0)
                essences = [(row, n) for row, n in enumerate(group.numbers) if n in self.essence]
                divergence = nll.new_zeros(len(group.numbers))
                if essences:
                    at = [row for row, _ in essences]
                    ours = logits[at, 0].float().log_softmax(-1)
                    untouched = torch.stack([self.essence[n] for _, n in essences])
                    terms = kl_weight * (ours.exp() * (ours - untouched)).sum(-1)
                    divergence = divergence.index_add(0, torch.tensor(at, device=terms.device), terms)
                target.index_add_(0, owner, nll.detach())
                kl.index_add_(0, owner, divergence.detach())
                if backward:
                    gradient += torch.autograd.grad((nll + divergence).sum(), delta)[0]
        return target, kl, gradient

    def _log_p(self, logits: Float[Tensor, "row piece d_vocab"], numbers: Sequence[int]) -> Float[Tensor, " row"]:
        wanted = self.targets[list(numbers)]
        losses = cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), reduction="none", ignore_index=_NONE)
        return -losses.view(wanted.shape).sum(-1)

    def _places(self, group: Group) -> tuple[Tensor, Tensor]:
        """Row and window position of each subject's last token."""
        at = self.lookups[group.numbers] - group.start
        return torch.arange(len(at), device=at.device), at

    def _add(self, group: Group, delta: Tensor) -> Callable[..., Tensor]:
        rows, at = self._places(group)
        owner = self.owner[group.numbers]

        def add(x: Tensor, hook: Any) -> Tensor:
            return x.index_put((rows, at), (x[rows, at].float() + delta[owner]).to(x.dtype))

        return add

    def _note(self, site: str, group: Group, into: dict[int, Tensor]) -> WindowHook:
        rows, at = self._places(group)

        def note(x: Tensor, hook: Any) -> None:
            into.update(zip(group.numbers, x[rows, at].detach(), strict=True))

        return hook_name(site, self.layer), note

    def _step(self, number: int, edit: int, target: float, kl: float, decay: float) -> Step:
        step = Step(target + kl + decay, target, kl, decay)
        if not isfinite(step.loss):
            text = self.edits[edit].encoded[0].prompt.text
            raise FloatingPointError(_NOT_FINITE.format(what=f"loss of {text!r}", step=number))
        return step

    def _check_finite(self, number: int, gradient: Tensor) -> None:
        if not bool(torch.isfinite(gradient).all()):
            raise FloatingPointError(_NOT_FINITE.format(what="gradient", step=number))


#: A place where a shorter target has no piece.
_NONE = -100


def _filled_up(edits: Sequence[Rows], device: torch.device) -> tuple[Tensor, Tensor]:
    """Asked positions and wanted ids `[row piece]`, as many for every row as the longest target has pieces."""
    pieces = max(len(rows.target_ids) for rows in edits)
    asked, targets = [], []
    for rows in edits:
        more = pieces - len(rows.target_ids)
        asked += [[*at, *[at[-1]] * more] for at in rows.asked.tolist()]
        targets += [[*rows.target_ids, *[_NONE] * more]] * len(rows.encoded)
    return torch.tensor(asked, device=device), torch.tensor(targets, device=device)


_NOT_FINITE = (
    "the {what} is nan or inf in step {step} of the optimisation; the model is untouched. Load the model in float32, "
    "or use a smaller lr or clamp"
)


def check_settings(steps: int, lr: float, weight_decay: float, clamp: float, kl_weight: float) -> None:
    if steps < 2:
        raise ValueError(f"steps={steps}; the last step only measures, so at least 2 are needed (20)")
    if lr <= 0 or clamp <= 0 or weight_decay < 0 or kl_weight < 0:
        raise ValueError(
            f"lr={lr}, clamp={clamp}, weight_decay={weight_decay}, kl_weight={kl_weight}; "
            "lr and clamp must be above 0, the weights at least 0"
        )


def mean_key(keys: Float[Tensor, "row d_mlp"], weights: Sequence[float]) -> Float[Tensor, " d_mlp"]:
    """The mean over templates: rows count as in the loss."""
    return torch.tensor(weights, device=keys.device, dtype=keys.dtype) @ keys


def mlp_value(model: Any, layer: int, key: Float[Tensor, " d_mlp"]) -> Float[Tensor, " d_model"]:
    """What the MLP gives for a key."""
    w, b = adapter.w_out(model, layer).detach().float(), adapter.b_out(model, layer)
    return key @ w if b is None else key @ w + b.detach().float()
