"""The only module that knows `TransformerBridge` from `HookedTransformer` and `HookedEncoder`.

Everything else in kntools asks these functions: which hook point a name means, where rows may be
added to the batch, how the keys and values of a prompt's beginning are kept, which tensor is the
writable `W_out`.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache

from kntools.arguments import whole
from kntools.models.attachment import PointHook, one_thread, points_of, with_hooks, without_hooks
from kntools.models.modules import forget_lengths, has_own_forward, once
from kntools.models.names import nearest
from kntools.models.prefix import Prefix, hooked_cache
from kntools.scopes import between
from kntools.sites import layer_of

# --- what the model is ------------------------------------------------------------------------------


def check_model(model: Any) -> None:
    """An error for what is no model at all, or one of transformers, and where tensors are made on another device."""
    if not hasattr(model, "cfg"):
        raise TypeError(
            f"{type(model).__name__} is no TransformerLens model; the first argument is the model, as "
            "kn.load_model('smollm2-135m') returns it (or kn.load_model(model) of one of transformers)"
        )
    if (default := torch.get_default_device()).type != "cpu":
        raise ValueError(
            f"the default device is {str(default)!r}, but kntools keeps results on the CPU; call "
            f"torch.set_default_device(None), and kn.load_model(..., device={str(default)!r}) for the model"
        )


def model_name(model: Any) -> str:
    check_model(model)
    return str(getattr(model.cfg, "model_name", None) or type(model).__name__)


def tokenizer_of(model: Any) -> Any:
    check_model(model)
    if model.tokenizer is None:
        raise ValueError(
            "this model has no tokenizer, which texts and prompts need; set model.tokenizer to a Hugging Face "
            "tokenizer, or pass token ids (kn.sweep, kn.sweep_gradients, kn.generate take them)"
        )
    return model.tokenizer


def is_bridge(model: Any) -> bool:
    return isinstance(model, TransformerBridge)


def declares_both_ways(model: Any) -> bool:
    """Is this the layout of an encoder? A name, which need not say how the model reads: ask `causality.is_causal`."""
    check_model(model)
    # A bridge of transformer-lens 3.x says "causal" of every model; its architecture tells.
    masked = str(getattr(model.cfg, "architecture", "")).endswith("ForMaskedLM")
    return masked or getattr(model.cfg, "attention_dir", "causal") == "bidirectional"


def n_layers(model: Any) -> int:
    check_model(model)
    if getattr(model, "blocks", None) is None:
        raise ValueError(
            f"{model_name(model)} has no single stack of layers (model.blocks): it is an encoder-decoder, or runs its "
            "layers in cycles. kntools works on decoders and masked language models, such as 'gpt2'"
        )
    return int(model.cfg.n_layers)


def context_length(model: Any) -> int:
    return int(model.cfg.n_ctx)


def device_of(model: Any) -> torch.device:
    """Where tokens must be: the device of the embedding, which is the first parameter."""
    return next(model.parameters()).device


def w_out(model: Any, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """The writable output matrix of an MLP (`model.W_out` of a bridge is a copy: editing it does nothing)."""
    check_layer(model, layer)
    return model.blocks[layer].mlp.W_out


def b_out(model: Any, layer: int) -> Float[Tensor, " d_model"] | None:
    check_layer(model, layer)
    return getattr(model.blocks[layer].mlp, "b_out", None)


def check_layer(model: Any, layer: Any) -> int:
    if not 0 <= (number := whole("layer", layer)) < n_layers(model):
        raise IndexError(f"layer {layer} does not exist: the model has layers 0 to {n_layers(model) - 1}")
    return number


# --- hook points ------------------------------------------------------------------------------------


class NoHookPoint(KeyError):
    """A hook point that this model does not have."""


def hook_point(model: Any, name: str) -> HookPoint:
    """The hook point called `name` (aliases included), or a `NoHookPoint` that offers the nearest names."""
    # A bridge builds its aliases anew on every access: keep them.
    known = once(model, "hook points", lambda: dict(model.hook_dict))
    if name not in known:
        known |= model.hook_dict  # a switch may have added some
    if name not in known:
        if (layer := layer_of(name)) is not None and layer >= n_layers(model):
            raise NoHookPoint(f"hook {name!r} does not exist on this model: it has layers 0 to {n_layers(model) - 1}")
        near = nearest(name, known)
        raise NoHookPoint(
            f"hook {name!r} does not exist on this model ({n_layers(model)} layers); "
            f"did you mean {', '.join(near) or 'one of model.hook_dict'}?"
        )
    return known[name]


def fork_point(model: Any, layer: int) -> HookPoint:
    """Where rows may be added to the batch on the way into block `layer`."""
    return hook_point(model, f"blocks.{layer}.hook_resid_pre")


def after_fork(model: Any, layer: int, rows: int, length: int) -> None:
    """Tell block `layer` its new batch size, where it noted the old one (OPT flattens `[batch, pos]` in its layers)."""
    conversions = getattr(model.blocks[layer], "_unflatten_conversions", None)
    if conversions is not None:
        for conversion in conversions():
            conversion.batch_seq = (rows, length)


def embedding_name(model: Any) -> str:
    """The hook on the token embedding, before positions are added and before any norm."""
    names = ("embed.hook_out", "embed.hook_embed", "hook_embed")  # `hook_embed` of a bridge may be behind a norm (BERT)
    return next(name for name in names if name in model.hook_dict)


@torch.no_grad()
def embedding_outputs(model: Any, tokens: Int[Tensor, "1 pos"]) -> tuple[Tensor, Tensor]:
    """What the token embedding gives, and what its hook shows: Granite's bridge shows a multiple of it."""
    own: list[Tensor] = []
    seen: list[Tensor] = []
    module = getattr(model.embed, "original_component", None)
    hooks: list[PointHook] = [(hook_point(model, embedding_name(model)), lambda x, hook: seen.append(x))]
    if module is not None:
        hooks.append((module, lambda x, hook: own.append(x)))
    without_hooks(model, lambda: run_embedding(model, tokens, hooks))
    return (own or seen)[0], seen[0]


def state_site(model: Any, kind: str) -> str:
    """The site of what causal tracing restores: a block's output (`hidden`), or what its `mlp` or `attn` adds to it.

    BERT normalises after adding: its bridge shows attention's own output inside the attention, a HookedEncoder
    the block's output after the last norm.
    """
    post_norm = declares_both_ways(model)
    if kind == "hidden":
        return "hook_normalized_resid_post" if post_norm and not is_bridge(model) else "resid_post"
    if kind == "attn":
        return "attn.o.hook_out" if post_norm and is_bridge(model) else "attn_out"
    return "mlp_out"


def position_axes(model: Any) -> dict[str, int]:
    """For each hook point of a bridge, the axis of positions: the first behind the batch that grows with the text."""
    return once(model, "position axes", lambda: _position_axes(model)) if is_bridge(model) else {}


@torch.no_grad()
def _position_axes(model: Any) -> dict[str, int]:
    shapes: list[dict[str, torch.Size]] = [{}, {}]
    for seen, length in zip(shapes, (2, 3), strict=True):

        def note(x: Any, hook: Any, seen: dict[str, torch.Size] = seen) -> None:
            if isinstance(x, Tensor):
                seen[hook.name] = x.shape

        tokens = torch.arange(length, device=device_of(model))[None] % int(model.cfg.d_vocab)
        run_aside(model, tokens, [(point, note) for point in points_of(model)])
    short, long = shapes
    grown = {name: [n for n, size in enumerate(short[name]) if n and size != long[name][n]] for name in short}
    return {name: axes[0] for name, axes in grown.items() if axes}


def running_model() -> Any:
    """The model whose forward pass has called the hook function that asks; `None` if it was called by hand."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, torch.nn.Module) and hasattr(type(owner), "run_with_hooks"):
            return owner
        frame = frame.f_back
    return None


# --- running ----------------------------------------------------------------------------------------


def run(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    prefix: Prefix | None = None,
    hooks: Sequence[PointHook] = (),
    vocab_ids: Sequence[int] | None = None,
) -> Tensor:
    """Logits of `tokens`, which follow `prefix` if there is one, with `hooks` attached; where `vocab_ids` are given, of
    these alone if the model allows it.
    """
    n_layers(model)
    matrix = None if vocab_ids is None else getattr(model.unembed, "original_component", None)
    if type(matrix) is not torch.nn.Linear or is_watched(model):
        return with_hooks(model, hooks, lambda: _forward(model, tokens, prefix))

    def few(x: Tensor) -> Tensor:
        bias = None if matrix.bias is None else matrix.bias[vocab_ids]
        return torch.nn.functional.linear(x, matrix.weight[vocab_ids], bias)

    # From the way into the unembedding on: hooks before it may use the matrix themselves.
    begin = (hook_point(model, "unembed.hook_in"), lambda x, hook: setattr(matrix, "forward", few))
    return with_hooks(
        model,
        [*hooks, begin],
        lambda: between(
            lambda: None, lambda: _forward(model, tokens, prefix), lambda: vars(matrix).pop("forward", None)
        ),
    )


def run_aside(model: Any, tokens: Int[Tensor, "batch pos"], hooks: Sequence[PointHook] = ()) -> Tensor:
    """A run of our own, perhaps within somebody's: without their hooks, and with the random state left as it was."""
    device = device_of(model)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        return without_hooks(model, lambda: run(model, tokens, hooks=hooks))


def is_watched(model: Any) -> bool:
    """Does somebody's code look at all that the unembedding takes or gives: a hook of PyTorch, or another forward?"""
    seen = (model, getattr(model, "original_model", None), model.unembed)
    modules = [m for m in (*seen, getattr(model.unembed, "original_component", None)) if m is not None]
    return any(m._forward_hooks or m._forward_pre_hooks or has_own_forward(m) for m in modules)


@one_thread
def _forward(model: Any, tokens: Tensor, cache: Any = None, return_type: str | None = "logits", **options: Any) -> Any:
    """The model's own run, after the keys and values in `cache` if it is given."""
    forget_lengths(model)
    if is_bridge(model):
        options |= {} if cache is None else {"past_key_values": cache}
    elif not declares_both_ways(model):
        # Without a mask, a HookedTransformer may take a first token for padding.
        options |= {"past_kv_cache": cache, "attention_mask": torch.ones_like(tokens)}
    return model(tokens, return_type=return_type, **options)


@torch.no_grad()
def build_prefix(
    model: Any,
    tokens: Int[Tensor, "prompt pos"],
    residual: Float[Tensor, "prompt pos d_model"] | None = None,
    *,
    rows: int | None = None,
) -> Prefix:
    """Run these tokens of each prompt once, `rows` at a time (all), and keep their keys and values.

    Prompts with the same tokens share a row. With `residual`, that is what enters block 0, not the tokens' embeddings.
    """
    of_prompt = torch.arange(len(tokens), device=tokens.device)
    if residual is None:
        distinct, of_prompt = tokens.cpu().unique(dim=0, return_inverse=True)  # not every device can
        tokens, of_prompt = distinct.to(tokens.device), of_prompt.to(tokens.device)
    size = rows or len(tokens)
    parts = [slice(first, first + size) for first in range(0, len(tokens), size)]
    kept = [_keys_and_values(model, tokens[part], None if residual is None else residual[part]) for part in parts]
    return Prefix.of(kept, of_prompt, axis=-2 if is_bridge(model) else 1)


def _keys_and_values(
    model: Any, tokens: Int[Tensor, "prompt pos"], residual: Tensor | None
) -> list[tuple[Tensor, Tensor]]:
    """Those of each layer, from the model's own kind of cache, after a run of the tokens."""
    hooks: list[PointHook] = []
    if residual is not None:
        hooks.append((fork_point(model, 0), lambda x, hook: residual))
    if not is_bridge(model):
        kept = hooked_cache(model, tokens.device, tokens.shape[0])
        with_hooks(model, hooks, lambda: _forward(model, tokens, kept, return_type=None))
        return [(entry.past_keys, entry.past_values) for entry in kept.entries]
    # Nobody asks for these logits; those of one position are the least that it gives.
    hooks.append((hook_point(model, "unembed.hook_in"), lambda x, hook: x[:, -1:]))
    # A cache of our own: the one that a model makes forgets what is outside of a sliding window, while the masks
    # of a longer prompt count every position.
    cache = DynamicCache()
    with_hooks(model, hooks, lambda: _forward(model, tokens, cache, use_cache=True))
    return [(layer.keys, layer.values) for layer in cache.layers]


class Steps:
    """One step after the other; each adds to the kept keys and values."""

    def __init__(self, model: Any, rows: int) -> None:
        self.model = model
        self.cache = None if is_bridge(model) else hooked_cache(model, device_of(model), rows)

    def __call__(self, tokens: Tensor) -> Tensor:
        if not is_bridge(self.model):
            return _forward(self.model, tokens, self.cache)
        logits, self.cache = _forward(self.model, tokens, self.cache, "logits_and_cache", use_cache=True)
        return logits


class StopRun(Exception):
    """What a hook raises to end a forward pass of which no more is needed. Whoever attached the hook catches it."""


def run_until(point: HookPoint, call: Callable[[PointHook], Any]) -> Tensor:
    """What a forward pass brings to a hook point, where it ends; `call` runs it with the hook that it is given."""
    found: list[Tensor] = []

    def keep(activation: Tensor, hook: HookPoint) -> None:
        found.append(activation)
        raise StopRun

    with suppress(StopRun):
        call((point, keep))
    return found[0]


def run_embedding(
    model: Any, tokens: Int[Tensor, "batch pos"], hooks: Sequence[PointHook]
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream that enters block 0, with `hooks` attached."""
    return run_until(fork_point(model, 0), lambda stop: run(model, tokens, hooks=[*hooks, stop]))
