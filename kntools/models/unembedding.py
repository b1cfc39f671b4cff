"""The way of one direction of the residual stream to the logits: through the gain of each norm, and the unembedding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.models import adapter, neuron_layers
from kntools.models.attachment import without_hooks
from kntools.sites import Neuron

# Above the epsilon of any norm, within the range of float16.
_SCALE = 100.0


class NotLinear(ValueError):
    """Between the residual stream and the logits there is more than a norm and a matrix."""


def norm_behind(model: Any, layer: int) -> Any:
    """The norm between the MLP of a layer and the residual stream, if there is one."""
    name = neuron_layers.neurons_of(model)[layer].norm
    return None if name is None else getattr(model.blocks[layer], name)


@torch.no_grad()
def gain(model: Any, norm: Any) -> Float[Tensor, " d_model"]:
    """What a norm multiplies a normalised direction by, whatever its parameters are called (Gemma adds 1 to them)."""
    probe = _probe(model)
    plus, minus = _apply(model, norm, torch.stack([probe, -probe]) * _SCALE).float()
    return (plus - minus) / (2 * probe.float())


def unembedding(model: Any) -> Float[Tensor, "d_model d_vocab"]:
    """`W_U` of a model whose logits are linear in what its final norm gives."""
    if adapter.declares_both_ways(model):
        raise NotLinear(
            "the head of a masked model is not linear: between its last block and the unembedding are a layer, an "
            "activation function and a norm, so that no row of W_out promotes tokens by itself"
        )
    if "ln_final" not in dict(model.named_children()):
        raise NotLinear(f"{adapter.model_name(model)} has no final norm called ln_final")
    matrix = model.unembed.W_U.detach()
    if matrix.shape[0] != model.cfg.d_model:
        raise NotLinear(f"{adapter.model_name(model)} has a projection between its final norm and the unembedding")
    return matrix


@torch.no_grad()
def value_rows(model: Any, neurons: Sequence[Neuron]) -> Float[Tensor, "neuron d_model"]:
    """Rows of `W_out`, times the gain of the norm behind the MLP (Gemma 2) and that of the final norm."""
    last = gain(model, model.ln_final)
    behind = {layer: norm_behind(model, layer) for layer in {n.layer for n in neurons}}
    gains = {n: last if norm is None else last * gain(model, norm).to(last.device) for n, norm in behind.items()}
    rows = [adapter.w_out(model, n.layer)[n.index].detach().float().to(last.device) * gains[n.layer] for n in neurons]
    return torch.stack(rows)


@dataclass(frozen=True)
class HeldNorm:
    """A norm at one state, its scale held, times a number, or that number alone: a linear map."""

    factor: Float[Tensor, " d_model"]  # times * gain / scale
    centred: bool

    def forward(self, rows: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """What it makes of directions."""
        return self.factor * (rows - rows.mean(-1, keepdim=True) if self.centred else rows)

    def back(self, functional: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
        """What reads the norm's input as `functional` reads its output (the transpose)."""
        pulled = self.factor * functional
        return pulled - pulled.mean() if self.centred else pulled


@torch.no_grad()
def held_norm(model: Any, norm: Any, state: Float[Tensor, " d_model"], times: float = 1.0) -> HeldNorm:
    """`times` the norm `gain (v - mean v) / scale`, at the scale that it has for `state`; `times` alone without one."""
    if norm is None:
        return HeldNorm(torch.full_like(state, times, dtype=torch.float32), False)
    probe, g, x = _probe(model), gain(model, norm), state.float()
    plain, moved = _apply(model, norm, torch.stack([probe, probe + 1]) * _SCALE).float()
    centred = bool((plain - moved).abs().max() < 1e-2 * plain.abs().max())  # as LayerNorm takes away the mean
    zero, out = _apply(model, norm, torch.stack([torch.zeros_like(state), state])).float()
    expected = g * (x - x.mean() if centred else x)
    return HeldNorm(times * g * ((out - zero) @ expected / (expected @ expected)), centred)


def multipliers(model: Any) -> tuple[float, float]:
    """What a block's output is multiplied by when it is added to the residual stream, and what logits are (Granite)."""
    inside, outside = (getattr(model.cfg, name, None) for name in ("residual_multiplier", "logits_scaling"))
    return float(inside or 1.0), 1.0 / float(outside or 1.0)


def _probe(model: Any) -> Tensor:
    """A vector of mean 0 and mean square 1, without zeros."""
    probe = torch.ones(model.cfg.d_model, dtype=torch.float64)
    probe[1::2] = -1
    if len(probe) % 2:
        probe[-3:] = torch.tensor([1.0, 1.0, -2.0])
    unembed = model.unembed.W_U
    return (probe / probe.square().mean().sqrt()).to(unembed)


def _apply(model: Any, norm: Any, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    given = rows[:, None].to(next(iter(norm.parameters()), rows))
    return without_hooks(model, lambda: norm(given))[:, 0].to(rows.device)
