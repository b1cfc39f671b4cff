"""Which layers have neurons: those where `mlp.hook_post @ W_out + b_out` is what `W_out` gives.

Every model is asked once: a few tokens are run, and both sides are compared in each layer. A mixture of experts has
many output matrices and no neurons (its bridge calls the block's output `mlp.hook_post`); nor has a layer without an
MLP. The layers that have neurons may differ in how many.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from kntools.models import adapter
from kntools.models.attachment import PointHook
from kntools.models.modules import once
from kntools.sites import SITES, Neuron, NeuronsLike, as_neurons, hook_name, layer_of

# Where what `W_out` gives may be seen, the first choice first. `mlp.hook_out` of BLOOM and MPT holds the residual
# stream too, and that of Falcon-H1 is multiplied by a number.
_OUTPUTS = ("mlp.hook_out", "mlp.out.hook_out", "mlp.dense_out.hook_out", "hook_mlp_out")
# A HookedTransformer with a norm behind its MLP (Gemma 2) shows it at no hook point; its module does.
_MODULE = "mlp"
_INPUTS = (SITES["mlp.hook_post"], SITES["mlp.hook_pre"])
# Norms that may follow the MLP. The first always does (Gemma 2); the second may (OLMo 2 in transformer-lens 3.x).
_NORMS = ("ln2_post", "ln2")
# How many positions of the run are compared.
_POSITIONS = 4


@dataclass(frozen=True)
class LayerNeurons:
    width: int = 0  # how many
    output: str | None = None  # the site of what `W_out` gives, before any norm behind it
    reason: str = ""  # why there are none
    norm: str | None = None  # the norm that takes what `W_out` gives, before it is added to the residual stream


class NoNeurons(ValueError):
    """Neurons were asked for, of a model or a layer that has none."""


def neurons_of(model: Any, shape: Sequence[int] = (1, _POSITIONS)) -> tuple[LayerNeurons, ...]:
    """The neurons of every layer. `shape` is that of the token ids which are run to find out, `[batch pos]`."""
    return once(model, "neurons", partial(_ask, model, shape))


def widths(model: Any) -> tuple[int, ...]:
    """Neurons per layer, 0 where there are none; an error if there are none at all."""
    found = tuple(layer.width for layer in neurons_of(model))
    if not any(found):
        raise _no_neurons(model, 0)
    return found


def width(model: Any, layer: SupportsIndex) -> int:
    """How many neurons a layer has; an error that says why if it has none."""
    number = adapter.check_layer(model, layer)
    found = neurons_of(model)[number].width
    if not found:
        raise _no_neurons(model, number)
    return found


def is_of_neurons(name: str) -> bool:
    """Is this hook (or site) one of those that show the neurons?"""
    return SITES.get(name, name).endswith(_INPUTS)


def layers_of(model: Any, site: str) -> tuple[int, ...]:
    """The layers that have `site`: for neurons those with any; some layers of a hybrid model have no attention."""
    hook_name(site, 0)  # anything else is an error
    if is_of_neurons(site):
        return tuple(layer for layer, count in enumerate(widths(model)) if count)
    names, layers = set(model.hook_dict), range(adapter.n_layers(model))
    # A site that no layer has is an error of whoever looks it up.
    return tuple(layer for layer in layers if hook_name(site, layer) in names) or tuple(layers)


def output_site(model: Any, layer: int) -> str:
    """The site of what `W_out` gives: `mlp.hook_post @ W_out + b_out`, before any norm behind it (Gemma 2 has one)."""
    width(model, layer)
    site = neurons_of(model)[layer].output
    if site is None:
        raise ValueError(
            f"{adapter.model_name(model)} has a norm behind the MLP and no hook point before it, where an edit of "
            "W_out could be tried out; load the model as a TransformerBridge"
        )
    return site


def norms_behind(model: Any, site: str, *, held: bool) -> dict[int, str]:
    """For each layer with a norm between its MLP and the residual stream: the site of that norm's scale."""
    if ".mlp." not in hook_name(site, 0):
        return {}
    found = {layer: f"{own.norm}.hook_scale" for layer, own in enumerate(neurons_of(model)) if own.norm}
    missing = [layer for layer, scale in found.items() if hook_name(scale, layer) not in model.hook_dict]
    if held and missing:
        raise ValueError(
            f"{adapter.model_name(model)} has a norm behind the MLP of layer {missing[0]} whose scale is at no hook "
            "point and cannot be held; use post_norm='live', whose scores measure that norm's epsilon too"
        )
    return found


def check_neurons(model: Any, neurons: NeuronsLike) -> tuple[Neuron, ...]:
    """Neurons that are there in the model, at least one."""
    found = as_neurons(neurons)
    if not found:
        raise ValueError("no neurons given: the list is empty; give 'L24.N1005', or several such as att.top(20)")
    for n in found:
        count = width(model, n.layer)
        if n.index >= count:
            raise IndexError(f"neuron {n} does not exist: layer {n.layer} has neurons 0 to {count - 1}")
    return found


def check_hook(model: Any, name: str, shape: Sequence[int] = (1, _POSITIONS)) -> None:
    """An error if `name` is a hook on the neurons of a layer that has none."""
    layer = layer_of(name)
    if layer is not None and is_of_neurons(name) and layer < adapter.n_layers(model):
        neurons_of(model, shape)
        width(model, layer)


def _no_neurons(model: Any, layer: int) -> NoNeurons:
    found = neurons_of(model)
    others = [str(n) for n, own in enumerate(found) if own.width]
    where = f"neurons are in layer {', '.join(others)}" if others else "no layer of this model has neurons"
    return NoNeurons(
        f"layer {layer} of {adapter.model_name(model)} has no neurons: {found[layer].reason}; {where}. "
        "Other sites can be patched, traced and scaled in every layer: resid_pre, attn_out, mlp_out, ..."
    )


@torch.no_grad()
def _ask(model: Any, shape: Sequence[int]) -> tuple[LayerNeurons, ...]:
    """Run some tokens; compare, in each layer, what `W_out` should give with what is seen."""
    names, layers = set(model.hook_dict), range(adapter.n_layers(model))
    seen: list[dict[str, Tensor]] = [{} for _ in layers]

    def note(layer: int, site: str, x: Any, hook: Any) -> None:
        if isinstance(x, Tensor):
            seen[layer][site] = x.flatten(0, -2)[:_POSITIONS].clone()

    points: list[PointHook] = [
        (adapter.hook_point(model, f"blocks.{layer}.{site}"), partial(note, layer, site))
        for layer in layers
        for site in (_INPUTS[0], *_OUTPUTS, f"{_NORMS[1]}.hook_in")
        if f"blocks.{layer}.{site}" in names
    ]
    if not adapter.is_bridge(model):
        modules = [(n, getattr(model.blocks[n], "mlp", None)) for n in layers]
        points += [(mlp, partial(note, n, _MODULE)) for n, mlp in modules if mlp is not None]
    device = adapter.device_of(model)
    tokens = torch.arange(shape[1], device=device) % int(model.cfg.d_vocab)
    adapter.run_aside(model, tokens.expand(shape[0], -1), points)
    return tuple(_compare(model, layer, seen[layer]) for layer in layers)


def _compare(model: Any, layer: int, seen: dict[str, Tensor]) -> LayerNeurons:
    post, mlp = seen.get(_INPUTS[0]), getattr(model.blocks[layer], "mlp", None)
    if mlp is None:
        return LayerNeurons(reason="it has no MLP")
    try:
        w = mlp.W_out
    except AttributeError:
        return LayerNeurons(reason="its MLP has no single output matrix W_out (a mixture of experts has many)")
    except NotImplementedError:  # quantised weights, which TransformerLens refuses to read; whoever needs them says so
        return LayerNeurons(0 if post is None else post.shape[-1], _OUTPUTS[0], "its W_out cannot be read")
    if post is None or w.ndim != 2 or post.shape[-1] != w.shape[0]:
        return LayerNeurons(reason="its mlp.hook_post is not the input of its W_out")
    b = adapter.b_out(model, layer)
    expected = post @ w.detach().to(post) + (0 if b is None else b.detach().to(post))
    for site in (*_OUTPUTS, _MODULE):
        if site in seen and _same(seen[site], expected):
            return LayerNeurons(w.shape[0], None if site == _MODULE else site, norm=_norm(model, layer, seen, expected))
    return LayerNeurons(reason="its mlp.hook_post @ W_out + b_out is not what its MLP gives")


def _norm(model: Any, layer: int, seen: dict[str, Tensor], expected: Tensor) -> str | None:
    first, second = _NORMS
    if hasattr(model.blocks[layer], first):
        return first
    return second if f"{second}.hook_in" in seen and _same(seen[f"{second}.hook_in"], expected) else None


def _same(found: Tensor, expected: Tensor) -> bool:
    """To rounding. What is nan agrees: whoever reads it says so."""
    if found.shape != expected.shape:
        return False
    loose = max(2e-3, 8 * torch.finfo(expected.dtype).eps)
    return not float((found.to(expected) - expected).float().norm()) > loose * float(expected.float().norm())
