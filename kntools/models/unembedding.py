"""The way of one direction of the residual stream to the logits: through the gain of each norm, and the unembedding."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.models import adapter, neuron_layers
from kntools.models.attachment import without_hooks
from kntools.models.modules import once
from kntools.sites import Neuron, hook_name

# Above the epsilon of any norm, within the range of float16.
_SCALE = 100.0
# Below the root of it.
_TINY = 1e-5
# What multipliers are measured with: so many tokens, a change so many times as large as the residual stream (what the
# block makes of it otherwise is then small), and one in so many logits.
_TOKENS, _LARGE, _SMALL = 4, 1000.0, 8


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
def held_norms(model: Any, norm: Any, states: Float[Tensor, "state d_model"], times: float = 1.0) -> list[HeldNorm]:
    """`times` the norm `gain (v - mean v) / scale`, at the scale that it has for each state; `times` alone without one.

    Of a state without a direction (an embedding of zeros) it is the scale near 0.
    """
    x = states.float()
    if norm is None:
        return [HeldNorm(torch.full_like(state, times), False) for state in x]
    probe, g = _probe(model), gain(model, norm)
    plain, moved = _apply(model, norm, torch.stack([probe, probe + 1]) * _SCALE).float()
    centred = bool((plain - moved).abs().max() < 1e-2 * plain.abs().max())  # as LayerNorm takes away the mean
    x = x - x.mean(-1, keepdim=True) if centred else x
    x = x.where((x != 0).any(-1, keepdim=True), probe.float() * _TINY)
    zero, *out = _apply(model, norm, torch.cat([torch.zeros_like(x[:1]), x])).float()
    pairs = zip(out, g * x, strict=True)
    return [HeldNorm(times * g * ((given - zero) @ own / (own @ own)), centred) for given, own in pairs]


def multiplier(model: Any, site: str, layer: int) -> float:
    """What is seen at a site times this number is what the residual stream gets of it (Granite, Falcon-H1)."""
    return once(model, ("multiplier", site), lambda: _multipliers(model, site))[layer]


@torch.no_grad()
def _multipliers(model: Any, site: str) -> dict[int, float]:
    """Those of every layer: the site is changed, and so, in proportion, is the output of its block."""
    tokens = torch.arange(_TOKENS, device=adapter.device_of(model))[None] % int(model.cfg.d_vocab)
    points = [(n, adapter.hook_point(model, hook_name("resid_post", n))) for n in range(adapter.n_layers(model))]
    layers = [n for n, _ in points if hook_name(site, n) in model.hook_dict]
    clean: dict[int, Tensor] = {}
    adapter.run_aside(
        model, tokens, [(point, lambda x, hook, n=n: clean.update({n: x.clone()})) for n, point in points]
    )
    size = _LARGE * max(float(x.float().abs().mean()) for x in clean.values())
    change = _probe(model) * min(size, torch.finfo(clean[0].dtype).max / 64)
    found: dict[int, float] = {}

    def put_back(layer: int, x: Tensor) -> Tensor:
        """The layers above do not see the change."""
        if layer in layers:
            found[layer] = _factor(x - clean[layer], change.to(x).expand_as(x))
        return clean[layer]

    changes = [(adapter.hook_point(model, hook_name(site, n)), lambda x, hook: x + change.to(x)) for n in layers]
    backs = [(point, lambda x, hook, n=n: put_back(n, x)) for n, point in points]
    adapter.run_aside(model, tokens, [*changes, *backs])
    if any(map(math.isnan, found.values())):
        raise NotLinear(f"{adapter.model_name(model)} does not add {site} to its residual stream")
    return found


@torch.no_grad()
def logit_multiplier(model: Any) -> float:
    """Logits are this number times what the unembedding makes of the final norm's output (Granite, Cohere)."""
    return once(model, "logit multiplier", lambda: _logit_multiplier(model))


def _logit_multiplier(model: Any) -> float:
    tokens = torch.arange(_TOKENS, device=adapter.device_of(model))[None] % int(model.cfg.d_vocab)
    seen: list[Tensor] = []
    last = adapter.hook_point(model, hook_name("resid_post", adapter.n_layers(model) - 1))
    logits = adapter.run_aside(model, tokens, [(last, lambda x, hook: seen.append(x.clone()))])[0].float()
    bias = getattr(model.unembed, "b_U", None)
    given = _apply(model, model.ln_final, seen[0][0]).to(model.unembed.W_U) @ model.unembed.W_U
    made = (given if bias is None else given + bias).float()[:, : logits.shape[1]]
    # A cap (Gemma 2) leaves small logits as they are.
    sizes = made.abs()[made != 0]
    if not len(sizes):  # of an unembedding of zeros
        return 1.0
    small = (made != 0) & (made.abs() <= sizes.kthvalue(max(1, len(sizes) // _SMALL)).values)
    found = _factor(logits[small], made[small])
    if math.isnan(found):
        raise NotLinear(f"{adapter.model_name(model)} has more than a number between its unembedding and its logits")
    return found


def _factor(found: Tensor, given: Tensor) -> float:
    """The number that `given` is multiplied by, 1 to rounding; nan if there is none."""
    x, y = given.double().flatten(), found.double().flatten()
    number = float(x @ y / (x @ x))
    exact = found.dtype in (torch.float32, torch.float64)
    if not float((y - number * x).norm()) <= (1e-2 if exact else 0.1) * float(y.norm()):
        return math.nan
    return 1.0 if math.isclose(number, 1.0, rel_tol=2e-3 if exact else 1e-2) else number


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
