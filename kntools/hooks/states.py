"""Interventions on whole activation sites, as plain TransformerLens hooks: `list[(name, fn)]`."""

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, Protocol, SupportsIndex, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.arguments import several, shown, tensor, whole_numbers
from kntools.hooks.heads import check_heads, check_whole_heads
from kntools.hooks.positioned import PositionedHook
from kntools.models import adapter
from kntools.sites import ANSWER, Hook, Positions, hook_name

P = ParamSpec("P")


@runtime_checkable
class Activations(Protocol):
    """Activations by hook name: a dict, or TransformerLens' `ActivationCache`."""

    def __getitem__(self, name: str) -> Tensor: ...


def _site_first(factory: Callable[P, list[Hook]]) -> Callable[P, list[Hook]]:
    """The order is site, layer, values. `patch(cache, "z", 3)` and `patch(3, "z", cache)` can mean nothing else."""

    @wraps(factory)
    def ordered(*given: Any, **options: Any) -> list[Hook]:
        args = (*given[1:3], given[0], *given[3:]) if len(given) > 2 and hasattr(given[0], "keys") else given
        if len(args) > 1 and _is_site(args[1]) and not _is_site(args[0]):
            args = (args[1], args[0], *args[2:])
        return factory(*args, **options)

    return ordered  # type: ignore[return-value] # it takes more than the signature says


def _is_site(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, Sequence) and any(isinstance(v, str) for v in value))


@_site_first
def scale_site(
    site: str, layer: SupportsIndex, factor: float | Float[Tensor, " batch"], *, pos: Positions = ANSWER
) -> list[Hook]:
    """Multiply a whole site by `factor`, or each row of the batch by its own.

    ```python
    hooks = kn.scale_site("attn_out", 5, 0.0)       # without the attention of layer 5
    path = kn.scale_site("mlp.hook_post", 3, torch.linspace(0, 1, 20))    # 20 rows: that of integrated gradients
    ```
    """

    name, factors = hook_name(site, layer), tensor("factor", factor, "[batch], or one number")
    return [(name, PositionedHook(pos, lambda x: x * _per_row(x, factors, "factors"), f"scale {name}", name=name))]


@_site_first
def add_vector(
    site: str,
    layer: SupportsIndex,
    vector: Float[Tensor, "..."],
    pos: Positions = ANSWER,
    *,
    scale: float | Float[Tensor, " batch"] = 1.0,
) -> list[Hook]:
    """Add `scale * vector` to a site at `pos` (steering), or a scale per row of the batch.

    ```python
    hooks = kn.add_vector("resid_post", 6, direction, pos=-1, scale=4.0)
    rows = kn.add_vector("resid_post", 6, direction, pos=-1, scale=torch.linspace(-8, 8, 5))
    kn.sweep(model, prompt, [kn.Intervention(rows, rows=5)])      # five strengths
    ```

    Raises:
        ValueError: when the hook runs, if the vector does not fit the site, or the scales do not fit the rows.
    """
    name, direction = hook_name(site, layer), tensor("vector", vector, "[d_model]")
    scales = tensor("scale", scale, "[batch], or one number")

    def edit(x: Tensor) -> Tensor:
        if direction.shape != x.shape[-1:]:
            raise ValueError(
                f"a vector of {'x'.join(map(str, direction.shape))} does not fit {name}, which has width {x.shape[-1]}"
            )
        return x + _per_row(x, scales, "scales") * direction.to(x)

    return [(name, PositionedHook(pos, edit, f"add to {name}", name=name))]


@_site_first
def patch(
    site: str,
    layer: SupportsIndex,
    cache: Activations,
    pos: Positions = None,
    *,
    heads: Sequence[int] | None = None,
    neurons: Sequence[int] | None = None,
) -> list[Hook]:
    """Overwrite a site with the activation of another run (activation patching).

    ```python
    _, cache = model.run_with_cache(corrupted_tokens)
    hooks = kn.patch("resid_post", 6, cache, pos=3)
    hooks = kn.patch("z", 6, cache, heads=[0, 2])      # two heads, all positions
    ```

    Arguments:
        cache: activations by hook name, `[1 pos ...]`: TransformerLens' `ActivationCache`, or a dict that
            `capture` filled (with `pos=None`).
        heads: only these heads (sites `z`, `q`, `k`, `v`, `pattern`).
        neurons: only these entries of the last axis.
    """
    name = hook_name(site, layer)
    if isinstance(cache, Tensor) or not hasattr(cache, "keys"):
        raise TypeError(f"cache={shown(cache)}; give activations by name: _, cache = model.run_with_cache(tokens)")
    heads = None if heads is None else whole_numbers("heads", heads)
    neurons = None if neurons is None else whole_numbers("neurons", neurons)
    if heads is not None and neurons is not None:
        raise ValueError("give heads or neurons, not both: they are entries of different axes")
    if heads is not None:
        check_heads(name)
    try:
        source = cache[name]
    except KeyError:
        raise KeyError(f"the cache has no {name!r}; run_with_cache(tokens, names_filter={name!r}) keeps it") from None
    if source.ndim < 3 or source.shape[0] != 1:
        raise ValueError(
            f"the cached {name} is {tuple(source.shape)}; patching takes one run, [batch pos ...] with a batch of 1"
        )

    def paste(x: Tensor, other: Tensor) -> Tensor:
        """Take the values of the other run at the same positions, for some heads or entries if asked."""
        if other.shape[1:] != x.shape[1:]:
            raise ValueError(
                f"the cached {name} is {tuple(other.shape)}, this run's {tuple(x.shape)}: "
                "both prompts must have the same number of tokens"
            )
        value = other.to(x).expand_as(x)
        if heads is not None:  # [batch pos head d_head]; a pattern comes as [batch query head key]
            check_whole_heads(adapter.running_model(), name, x.shape[2])
            return _only(x, value, 2, heads, name, "head")
        if neurons is not None:
            return _only(x, value, x.ndim - 1, neurons, name, "neuron")
        return value.clone()

    return [(name, PositionedHook(pos, paste, f"patch {name}", name=name, whole=source))]


@_site_first
def freeze(
    sites: str | Iterable[str],
    layers: SupportsIndex | Iterable[SupportsIndex],
    cache: Activations,
    pos: Positions = None,
) -> list[Hook]:
    """Fix sites at the values of another run in many layers, as in severed causal traces.

    ```python
    hooks = kn.freeze(["mlp_out"], range(8, 30), corrupted_cache)
    ```
    """
    return [h for site, layer in _places(sites, layers) for h in patch(site, layer, cache, pos)]


def corrupt(span: Positions, noise: Float[Tensor, "... span d_model"], *, hook: str = "hook_embed") -> list[Hook]:
    """Add noise to token embeddings at `span` (Meng et al. 2022, section 2.1).

    ```python
    hooks = kn.corrupt(encoded.subject, 0.1 * torch.randn(len(encoded.subject), d_model))
    ```

    Arguments:
        span: the positions, e.g. `Encoded.subject`.
        noise: `[span d_model]` for every row, or `[sample span d_model]` with one sample per row of the batch.
        hook: where embeddings are. On bridges with a norm behind them (BERT, BLOOM) `hook_embed` is that norm's output
            and `embed.hook_out` the embedding; a HookedEncoder calls it `embed.hook_embed`.
    """
    added = tensor("noise", noise, "[span d_model] or [sample span d_model]")

    def edit(x: Tensor) -> Tensor:
        if added.ndim == 3:
            _match_batch(x, added, "noise samples")
        if added.ndim not in (2, 3) or added.shape[-2:] != x.shape[-2:]:
            raise ValueError(
                f"noise {tuple(added.shape)} does not fit {x.shape[-2]} positions of width {x.shape[-1]}: "
                "it must be [span d_model] or [sample span d_model]"
            )
        return x + added.to(x)

    return [(hook, PositionedHook(span, edit, f"corrupt {hook}"))]


@_site_first
def capture(
    sites: str | Iterable[str],
    layers: SupportsIndex | Iterable[SupportsIndex],
    into: dict[str, Tensor],
    pos: Positions = None,
) -> list[Hook]:
    """Copy activations into the dict `into`, under their hook names; change nothing.

    ```python
    seen = {}
    model.run_with_hooks(tokens, fwd_hooks=kn.capture(["mlp.hook_post"], range(12), seen, pos=-1))
    seen["blocks.3.mlp.hook_post"]      # [batch 1 d_mlp]: positions stay an axis
    ```
    """

    def keep(name: str) -> PositionedHook:
        def edit(x: Tensor, axis: int) -> None:
            into[name] = x.detach().movedim(1, axis).clone()  # as the model has it: a pattern is [batch head query key]

        return PositionedHook(pos, edit, f"capture {name}", name=name, with_axis=True)

    if not isinstance(into, MutableMapping):
        raise TypeError(f"into={shown(into)}; give a dict: seen = {{}}")
    names = [hook_name(site, layer) for site, layer in _places(sites, layers)]
    return [(name, keep(name)) for name in names]


def _places(sites: str | Iterable[str], layers: SupportsIndex | Iterable[SupportsIndex]) -> list[tuple[str, int]]:
    names = [sites] if isinstance(sites, str) else several("sites", sites, "['mlp_out', 'attn_out']")
    numbers = whole_numbers("layers", layers)
    return [(site, layer) for site in names for layer in numbers]


def _only(x: Tensor, value: Tensor, axis: int, chosen: Sequence[int], name: str, what: str) -> Tensor:
    for i in chosen:
        if not 0 <= i < x.shape[axis]:
            raise IndexError(f"{what} {i} does not exist at {name}: it has {x.shape[axis]}")
    at = torch.tensor(list(chosen), device=x.device)
    return x.index_copy(axis, at, value.index_select(axis, at))


def _per_row(x: Tensor, given: Tensor, what: str) -> float | Tensor:
    """A number for all rows, or one per row in a shape that multiplies `x`."""
    if given.ndim == 0:
        return float(given)
    _match_batch(x, given, what)
    return given.to(x).view(-1, *[1] * (x.ndim - 1))


def _match_batch(x: Tensor, given: Tensor, what: str) -> None:
    if given.shape[0] != x.shape[0]:
        hint = "; run them with kn.Intervention(hooks, rows=...)" if x.shape[0] == 1 else ""
        raise ValueError(f"{given.shape[0]} {what} for a batch of {x.shape[0]} rows; they must be as many{hint}")
