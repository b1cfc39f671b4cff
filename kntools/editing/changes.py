"""What is added to `W_out` of one layer: checked, written, or acted out by hooks that leave the weights alone."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kntools.hooks.stateful import StatefulHook
from kntools.models import adapter, neuron_layers
from kntools.sites import Hook, hook_name


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
