"""What is added to `W_out` of one layer: checked, written, or acted out by hooks that leave the weights alone.

And how it is found where several keys are given values: solved together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from kntools.hooks.positioned import StatefulHook
from kntools.models import adapter, neuron_layers
from kntools.sites import Hook, hook_name

#: Keys cannot be given a value each if a singular value of their system is below this (its columns have length 1).
SAME_KEY = 1e-6


@dataclass(frozen=True, eq=False)
class Change:
    """What is added to `W_out` of one layer: to all of its rows, or to the rows (neurons) named."""

    layer: int
    update: Float[Tensor, "row d_model"]
    rows: Int[Tensor, " row"] | None = None

    def check(self, model: Any) -> None:
        """Does it fit this model's matrix, which is this layer's alone, and is it finite?"""
        neuron_layers.width(model, self.layer)
        w = adapter.w_out(model, self.layer)
        others = neuron_layers.layers_of(model, "mlp.hook_post")
        if len(shared := [n for n in others if adapter.w_out(model, n).data_ptr() == w.data_ptr()]) > 1:
            raise ValueError(
                f"layers {shared} share one W_out, so an edit of layer {self.layer} would change them all; give each "
                "its own before kn.load_model: module.weight = torch.nn.Parameter(module.weight.detach().clone())"
            )
        shape = (w.shape[0] if self.rows is None else len(self.rows), w.shape[1])
        if self.update.shape != shape:
            raise ValueError(
                f"the change of layer {self.layer} is {tuple(self.update.shape)}; "
                f"its W_out {tuple(w.shape)} needs {shape}"
            )
        if self.rows is not None and not bool(((self.rows >= 0) & (self.rows < w.shape[0])).all()):
            raise IndexError(f"the change of layer {self.layer} names rows {self.rows.tolist()} of {w.shape[0]}")
        if not bool(torch.isfinite(self.update).all()):
            raise FloatingPointError(f"the change of layer {self.layer} holds nan or inf; the model is untouched")

    def _at(self, device: torch.device) -> slice | Tensor:
        return slice(None) if self.rows is None else self.rows.to(device)

    def read(self, model: Any) -> Float[Tensor, "row d_model"]:
        w = adapter.w_out(model, self.layer).detach()
        return w[self._at(w.device)].clone()

    def write(self, model: Any, values: Float[Tensor, "row d_model"]) -> None:
        w = adapter.w_out(model, self.layer).detach()
        with torch.inference_mode(w.is_inference()):  # weights made there can be written there alone
            w[self._at(w.device)] = values.to(w.device)

    def add(self, model: Any) -> None:
        """Add the update to the rows, in float32 at least: a model in half precision is rounded once, not twice."""
        old = self.read(model)
        self.write(model, (old + self.update.to(old.device).float()).to(old.dtype))

    def rounded(self, model: Any) -> Float[Tensor, "row d_model"]:
        """By how much the weights would change: in half precision, rounding takes a part of the update."""
        w = adapter.w_out(model, self.layer).detach()
        update = self.update.to(w.device).float()
        if w.dtype in (torch.float32, torch.float64):
            return update
        old = self.read(model).float()
        rounded = (old + update.detach()).to(w.dtype).float() - old
        return rounded + (update - update.detach())  # the gradient by it is not rounded: float16 would lose most of it

    def shares_rows(self, other: "Change") -> bool:
        if self.layer != other.layer:
            return False
        if self.rows is None or other.rows is None:
            return True
        return not set(self.rows.tolist()).isdisjoint(other.rows.tolist())

    def hooks(self, model: Any) -> list[Hook]:
        """What the changed rows would add, added to the MLP's output at every position."""
        own = replace(self, update=self.update.to(adapter.w_out(model, self.layer).device))  # moved once
        state: dict[str, Any] = {}

        def note(x: Tensor, state: dict[str, Any]) -> None:
            state["neurons"] = x

        def add(x: Tensor, state: dict[str, Any]) -> Tensor:
            read = state["neurons"][..., own._at(x.device)].float()
            return x + (read @ own.rounded(model)).to(x.dtype)

        return [
            (hook_name("mlp.hook_post", self.layer), StatefulHook(note, state)),
            (hook_name(neuron_layers.output_site(model, self.layer), self.layer), StatefulHook(add, state)),
        ]


def as_hooks(model: Any, changes: Iterable[Change]) -> list[Hook]:
    """Changes as hooks, which leave the weights alone."""
    return [hook for change in changes for hook in change.hooks(model)]


@dataclass(frozen=True, eq=False)
class Constraints:
    """What an edit wants of one layer: `keys[n] @ W_out` changes by `wanted[n]`.

    `directions` are `C^-1 k` (or `P k`): the update consists of outer products with them, which leaves other keys
    alone as far as C knows them.
    """

    layer: int
    keys: Float[Tensor, "edit d_mlp"]
    directions: Float[Tensor, "edit d_mlp"]
    wanted: Float[Tensor, "edit d_model"]
    labels: tuple[str, ...]  # what each key belongs to

    def solve(self, ridge: float = 0.0) -> Float[Tensor, "d_mlp d_model"]:
        """`M K^T (K M K^T + ridge I)^-1 D` with M K^T the directions, in float64.

        M = C^-1 and no ridge: EMMET's equality (Gupta et al. 2024), for one key ROME's update. M = C^-1 and ridge
        lambda: MEMIT's `(lambda C + K^T K)^-1 K^T D` (Meng et al. 2023, equation 14). M = P, the projector on the null
        space of C, and ridge l2: AlphaEdit (Fang et al. 2025).
        """
        keys, directions = self.keys.double(), self.directions.double()
        # Not symmetric where a direction is that of another key (ROME's published one).
        system = keys @ directions.T + ridge * torch.eye(len(keys), dtype=torch.float64)
        # Scaled: the sizes of keys may differ by orders of magnitude.
        row = system.norm(dim=1, keepdim=True).clamp(min=1e-300)
        column = (system / row).norm(dim=0).clamp(min=1e-300)
        scaled = system / row / column
        if ridge == 0 and len(keys) > 1:
            self._check_independent(scaled)
        solved = torch.linalg.solve(scaled, self.wanted.double() / row)
        return (directions.T @ (solved / column[:, None])).float()

    def _check_independent(self, scaled: Float[Tensor, "edit edit"]) -> None:
        if float(torch.linalg.svdvals(scaled)[-1]) > SAME_KEY:
            return
        rows, columns = normalize(scaled, dim=1), normalize(scaled, dim=0)
        cosine = torch.maximum((rows @ rows.T).abs(), (columns.T @ columns).abs()).fill_diagonal_(-1)
        first, second = divmod(int(cosine.argmax()), len(cosine))
        raise ValueError(
            f"the keys in layer {self.layer} are not independent, and cannot have a value each: the closest are those "
            f"of {self.labels[first]} and {self.labels[second]} (cosine {float(cosine[first, second]):.6f}); leave one "
            "of them out, or use kn.memit, which weighs them"
        )


def joined(sets: Sequence[Constraints]) -> Constraints:
    return Constraints(
        sets[0].layer,
        keys=torch.cat([s.keys for s in sets]),
        directions=torch.cat([s.directions for s in sets]),
        wanted=torch.cat([s.wanted for s in sets]),
        labels=tuple(label for s in sets for label in s.labels),
    )
