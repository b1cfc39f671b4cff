"""Estimates by gradients: against autograd written out, against the exact grid, and what they must add up to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.engine.prompt_pairs import encode_pairs
from tests import zoo
from tests.loop import gradient_by_loop
from tests.patching.test_patching import pair

Metric = Callable[[Tensor], Tensor]


def setting(name: str) -> tuple[Any, Tensor, Tensor, Metric, int]:
    """Model, tokens of the patched run and of the other, metric on `[1 d_vocab]`, and where it is read."""
    model = zoo.tiny(name)
    [both] = encode_pairs(model, *pair(name))
    metric = kn.logit_difference(both.clean.target_ids[0], both.clean.foil_ids[0])
    return model, both.corrupted.tokens, both.clean.tokens, metric, both.clean.position


def states(model: Any, tokens: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    with torch.no_grad():
        return dict(model.run_with_cache(tokens, names_filter=lambda name: name in names)[1])


def key(site: str, layer: int) -> str:
    return f"blocks.{layer}.{kn.sites.SITES[site]}"


def put(values: dict[str, Tensor]) -> list[Any]:
    """Hooks that overwrite whole activations."""
    return [(name, lambda x, hook, v=v: v) for name, v in values.items()]


def slope(model: Any, tokens: Tensor, held: dict[str, Tensor], metric: Metric, pos: int) -> dict[str, Tensor]:
    """Gradient by each of the activations that are overwritten."""
    leaves = {name: v.clone().requires_grad_() for name, v in held.items()}
    value = metric(model.run_with_hooks(tokens, fwd_hooks=put(leaves))[:, pos]).sum()
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


@pytest.mark.parametrize("site", ["z", "mlp_out", "resid_pre"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj", "bert"])
def test_windows_equal_the_loop(name: str, site: str) -> None:
    model, start, source, metric, pos = setting(name)
    layers = range(model.cfg.n_layers)
    clean, corrupted = pair(name)
    cached = states(model, source, [key(site, n) for n in layers])
    aliased = {model.hook_dict[name].name: v for name, v in cached.items()}
    for size in (2, 3):
        grid = kn.activation_patch(model, clean, corrupted, site=site, window=size)
        for layer in layers:
            window = [n for n in range(layer - size // 2, layer - size // 2 + size) if n in layers]
            for column in grid.columns[-layer % 3 :: 3]:  # in every layer and every column, some

                def write(x: Tensor, hook: Any, column: int = column) -> Tensor:
                    x = x.clone()
                    x[:, column] = aliased[hook.name][:, column]
                    return x

                with torch.no_grad():
                    hooks = [(model.hook_dict[key(site, n)].name, write) for n in window]
                    value = float(metric(model.run_with_hooks(start, fwd_hooks=hooks)[:, pos]))
                assert float(grid.values[layer, column]) == pytest.approx(value, abs=1e-4)
        assert grid.window == size and f"{size} layers together" in repr(grid)


def test_windows_are_checked() -> None:
    model, (clean, corrupted) = zoo.tiny("llama"), pair("llama")
    for window in (0, 5):
        with pytest.raises(ValueError, match=f"window={window}"):
            kn.activation_patch(model, clean, corrupted, window=window)
    with pytest.raises(ValueError, match="not about the same cells"):
        kn.activation_patch(model, clean, corrupted).agreement(kn.activation_patch(model, clean, corrupted, window=2))


def test_a_position_that_is_given_twice_counts_once() -> None:
    model, (clean, corrupted) = zoo.tiny("llama"), pair("llama")
    last = kn.encode(model, clean).tokens.shape[1] - 1
    for method in ("gradient", "integrated", "atp_star"):
        once, twice = (
            kn.attribution_patch(model, clean, corrupted, site="z", heads=True, positions=p, method=method)  # type: ignore[arg-type] # a loop
            for p in ([-1], [-1, last])
        )
        assert torch.equal(once.values, twice.values)


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("site", ["z", "mlp_out", "resid_pre"])
def test_the_gradient_of_a_window_holds_its_other_layers(site: str, window: int) -> None:
    model, start, source, metric, pos = setting("llama")
    clean, corrupted = pair("llama")
    layers = range(model.cfg.n_layers)
    names = [key(site, n) for n in layers]
    own, other = states(model, start, names), states(model, source, names)
    grid = kn.attribution_patch(model, clean, corrupted, site=site, window=window)
    for layer in layers:
        held = {key(site, n): own[key(site, n)] for n in range(max(0, layer - window // 2), layer + 1)}
        found = slope(model, start, held, metric, pos)
        expected = sum(((other[k] - own[k]) * g)[0].flatten(1).sum(1) for k, g in found.items())
        torch.testing.assert_close(grid.effect[layer], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "options", [{"site": "z", "heads": True}, {"site": "mlp_out"}, {"site": "resid_pre", "window": 2}]
)
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_integrated_gradients_sum_to_the_patch_of_the_whole_layer(name: str, options: dict[str, Any]) -> None:
    model, start, source, metric, pos = setting(name)
    clean, corrupted = pair(name)
    layers, site, size = range(model.cfg.n_layers), options["site"], options.get("window", 1)
    grid = kn.attribution_patch(model, clean, corrupted, method="integrated", steps=60, **options)
    cached = states(model, source, [key(site, n) for n in layers])
    with torch.no_grad():
        base = float(metric(model(start)[:, pos]))
        for layer in layers:
            window = [n for n in range(layer - size // 2, layer - size // 2 + size) if n in layers]
            values = {key(site, n): cached[key(site, n)] for n in window}
            exact = float(metric(model.run_with_hooks(start, fwd_hooks=put(values))[:, pos])) - base
            residual = float(grid.residual[0, layer])
            assert float(grid.effect[layer].sum()) + residual == pytest.approx(exact, abs=1e-3)
            if site != "resid_pre":  # whose way to the other run is less smooth
                assert abs(residual) < 0.02 * abs(exact) + 5e-3
    coarse = kn.attribution_patch(model, clean, corrupted, method="integrated", steps=1, **options)
    assert float(coarse.residual.abs().max()) > float(grid.residual.abs().max())
    assert "residual" in repr(grid)


def test_one_step_of_integration_by_hand() -> None:
    """One Gauss-Legendre node is the middle of the way."""
    model, start, source, metric, pos = setting("gpt2")
    names = [key("z", n) for n in range(model.cfg.n_layers)]
    own, other = states(model, start, names), states(model, source, names)
    grid = kn.attribution_patch(model, *pair("gpt2"), site="z", heads=True, method="integrated", steps=1)
    for layer, name in enumerate(names):
        [g] = slope(model, start, {name: (own[name] + other[name]) / 2}, metric, pos).values()
        expected = ((other[name] - own[name]) * g)[0].sum((0, 2))
        torch.testing.assert_close(grid.effect[layer], expected, atol=1e-3, rtol=1e-3)


# --- AtP* -------------------------------------------------------------------------------------------


def dropped(model: Any, tokens: Tensor, name: str, layer: int, metric: Metric, pos: int) -> Tensor:
    """Gradient by one activation, with none through what `layer` writes."""
    stop = [(f"blocks.{layer}.hook_{part}_out", lambda x, hook: x.detach()) for part in ("attn", "mlp")]
    return gradient_by_loop(model, tokens, stop, name, metric, pos)[0]


def combined(estimates: list[Tensor]) -> Tensor:
    each = torch.stack(estimates)
    return each.sum(0).sign() * each.abs().mean(0)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj"])
@pytest.mark.parametrize("site", ["z", "mlp.hook_post", "resid_pre"])
def test_grad_drop_by_hand(name: str, site: str) -> None:
    model, start, source, metric, pos = setting(name)
    layers = range(model.cfg.n_layers)
    names = [key(site, n) for n in layers]
    own, other = states(model, start, names), states(model, source, names)
    options: dict[str, Any] = {"site": site, "method": "atp_star", **({"heads": True} if site == "z" else {})}
    grid = kn.attribution_patch(model, *pair(name), **options)
    for layer, hook in enumerate(names):
        estimates = []
        for drop in layers:
            if drop == layer and site != "resid_pre":
                continue
            product = (other[hook] - own[hook])[0] * dropped(model, start, hook, drop, metric, pos)
            estimates.append(product.sum((0, 2)) if site == "z" else product.flatten(1).sum(1))
        torch.testing.assert_close(grid.effect[layer], combined(estimates), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("site", ["q", "k"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_the_softmax_is_computed_anew(name: str, site: str, heads: bool) -> None:
    """z of every cell's own patch, run by the model itself, times the gradient by z."""
    model, start, source, metric, pos = setting(name)
    layers = range(model.cfg.n_layers)
    cached = states(model, source, [key(site, n) for n in layers])
    own = states(model, start, [key("z", n) for n in layers])
    grid = kn.attribution_patch(model, *pair(name), site=site, heads=heads, method="atp_star")
    for layer in layers:
        changes = []
        for column in grid.columns:
            at: list[Any] = [slice(None)] * 4
            at[2 if heads else 1] = column

            def write(x: Tensor, hook: Any, at: list[Any] = at, layer: int = layer) -> Tensor:
                x = x.clone()
                x[tuple(at)] = cached[key(site, layer)][tuple(at)]
                return x

            seen: dict[str, Tensor] = {}
            hooks = [(key(site, layer), write), *kn.capture(seen, ["z"], [layer])]
            with torch.no_grad():
                model.run_with_hooks(start, fwd_hooks=hooks)
            changes.append((seen[key("z", layer)] - own[key("z", layer)])[0])
        estimates = [
            torch.stack([(c * dropped(model, start, key("z", layer), drop, metric, pos)).sum() for c in changes])
            for drop in layers
            if drop != layer
        ]
        torch.testing.assert_close(grid.effect[layer], combined(estimates), atol=1e-3, rtol=1e-3)


def test_methods_against_the_exact_grid() -> None:
    """Where softmaxes are saturated the gradient by keys says little, AtP* much."""
    model = zoo.tiny("llama")
    exact = kn.activation_patch(model, *pair("llama"), site="k")
    found = {
        m: exact.agreement(kn.attribution_patch(model, *pair("llama"), site="k", method=m))
        for m in ("gradient", "atp_star")
    }
    assert found["atp_star"]["largest_difference"] != found["gradient"]["largest_difference"]
    last = kn.activation_patch(model, *pair("llama"), site="mlp.hook_post", neurons=True, layers=[3], positions=[-1])
    for method in ("gradient", "integrated", "atp_star"):
        options: dict[str, Any] = {"site": "mlp.hook_post", "neurons": True, "layers": [3], "positions": [-1]}
        fast = kn.attribution_patch(model, *pair("llama"), method=method, **options)
        assert fast.method == method and last.agreement(fast)["pearson"] > 0.95


def test_errors() -> None:
    model, (clean, corrupted) = zoo.tiny("llama"), pair("llama")
    attribute = inspect.unwrap(kn.attribution_patch)
    with pytest.raises(ValueError, match="method='exact' is unknown; use 'gradient', 'integrated', 'atp_star'"):
        attribute(model, clean, corrupted, method="exact")
    with pytest.raises(ValueError, match="steps=0"):
        attribute(model, clean, corrupted, method="integrated", steps=0)
    with pytest.raises(ValueError, match="single layers"):
        attribute(model, clean, corrupted, method="atp_star", window=2)
    with pytest.raises(TypeError, match="sites"):
        attribute(model, clean, corrupted, sites="z")
