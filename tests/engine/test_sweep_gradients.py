"""Gradients of a sweep are those of a plain backward pass, row by row."""

from __future__ import annotations

import pytest
import torch

import kntools as kn
from tests import zoo
from tests.loop import ALL, gradient_by_loop, sites_of, tokens_for


@pytest.mark.parametrize("name", ALL)
def test_gradients_equal_loop_at_every_site(name: str) -> None:
    model = zoo.tiny(name)
    tokens = tokens_for(model)
    last = model.cfg.n_layers - 1
    metric = kn.log_probability(7)
    interventions, expected = [], []
    for site in sites_of(name):
        for layer in (0, last):
            hook = kn.sites.hook_name(site, layer)
            hooks = kn.scale_site(site, layer, 0.7, pos=1) + kn.scale_site("resid_post", last, 1.2, pos=-1)
            interventions.append(kn.Intervention(hooks, wrt=[(hook, None)]))
            expected.append(gradient_by_loop(model, tokens, hooks, hook, metric))
    found = kn.sweep_gradients(model, tokens, interventions, metric, pos=-1)
    for inter, rows, theirs in zip(interventions, found, expected, strict=True):
        ours = rows.wrt[inter.wrt[0][0]].gradient
        scale = float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, atol=1e-5 * max(scale, 1.0), rtol=1e-4, msg=inter.wrt[0][0])
    assert any(float(theirs.abs().max()) > 1e-3 for theirs in expected)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_finite_differences_in_float64(name: str) -> None:
    """A second method: the slope along a random direction, in double precision (softmax and norms stay in float32)."""
    model = zoo.fresh(name, torch.float64)
    tokens = tokens_for(model)
    hook = "blocks.1.mlp.hook_post"
    direction = torch.randn(48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    metric = kn.log_probability(7)
    [rows] = kn.sweep_gradients(model, tokens, [kn.Intervention((), wrt=[(hook, -2)])], metric, pos=-1)
    slope = float(rows.wrt[hook].gradient[0, 0] @ direction)
    h = 5e-3
    moved = [kn.add_vector("mlp.hook_post", 1, direction, -2, scale=s * h) for s in (1, -1)]
    up, down = kn.sweep(model, tokens, moved, metric=metric, pos=-1).tolist()
    assert slope == pytest.approx((up - down) / (2 * h), rel=1e-2)


@pytest.mark.parametrize("also", [[], [1], [1, 3]])
def test_infinite_gradients_at_earlier_tokens_do_not_reach_later_ones(also: list[int]) -> None:
    """BOS embedded as zero (the padding of its embedding): each norm multiplies its gradient by 1 / sqrt(eps)."""
    model = zoo.fresh("llama")
    tokens = tokens_for(model)
    model.original_model.get_input_embeddings().weight.data[tokens[0, 0]] = 0
    for module in model.original_model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 1e-30
    hook, metric = "blocks.0.mlp.hook_post", kn.log_probability(7)
    assert not gradient_by_loop(model, tokens, [], hook, metric).isfinite().all()
    runs = [kn.Intervention((), wrt=[(hook, pos)]) for pos in (-1, *also)]
    rows = kn.sweep_gradients(model, tokens, runs, metric, pos=-1)
    direction = torch.randn(48, generator=torch.Generator().manual_seed(0))
    for pos, row in zip((-1, *also), rows, strict=True):
        moved = [kn.add_vector("mlp.hook_post", 0, direction, pos, scale=h) for h in (0.01, -0.01)]
        up, down = kn.sweep(model, tokens, moved, metric=metric, pos=-1).tolist()
        assert float(row.wrt[hook].gradient[0, 0] @ direction) == pytest.approx((up - down) / 0.02, rel=2e-2)


def test_rows_do_not_touch_each_other() -> None:
    """The gradient of a row is the same, whatever else is in its pass."""
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    hook = "blocks.1.mlp.hook_post"
    one = kn.Intervention(kn.scale_site("mlp.hook_post", 1, 0.5), wrt=[(hook, -1)])
    others = [kn.Intervention(kn.scale_site("resid_pre", 0, 9.0), wrt=[("blocks.0.hook_resid_pre", None)])] * 3
    alone = kn.sweep_gradients(model, tokens, [one], kn.probability(7))[0]
    among = kn.sweep_gradients(model, tokens, [*others, one], kn.probability(7))[-1]
    torch.testing.assert_close(alone.wrt[hook].gradient, among.wrt[hook].gradient, atol=1e-7, rtol=1e-4)


def test_many_sites_of_one_run() -> None:
    """Attribution patching asks for all of them at once: lower ones see through higher ones."""
    model = zoo.tiny("gpt2")
    tokens = tokens_for(model)
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(4)]
    [rows] = kn.sweep_gradients(model, tokens, [kn.Intervention((), wrt=[(h, None) for h in hooks])], kn.probability(7))
    for hook in hooks:
        expected = gradient_by_loop(model, tokens, [], hook, kn.probability(7))
        torch.testing.assert_close(rows.wrt[hook].gradient, expected, atol=1e-6, rtol=1e-3)


def test_gradient_at_the_embedding() -> None:
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    [rows] = kn.sweep_gradients(model, tokens, [kn.Intervention((), wrt=[("hook_embed", None)])], kn.probability(7))
    expected = gradient_by_loop(model, tokens, [], "hook_embed", kn.probability(7))
    torch.testing.assert_close(rows.wrt["hook_embed"].gradient, expected, atol=1e-6, rtol=1e-3)


def test_a_later_position_has_no_gradient() -> None:
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    hook = "blocks.3.hook_resid_post"
    [rows] = kn.sweep_gradients(model, tokens, [kn.Intervention((), wrt=[(hook, -1)])], kn.probability(7), pos=2)
    assert float(rows.wrt[hook].gradient.abs().max()) == 0.0


@pytest.mark.parametrize("max_rows", [1, 4, None])
def test_one_metric_per_prompt(max_rows: int | None) -> None:
    model = zoo.tiny("gpt2")
    each = [tokens_for(model, f"The capital of {c} is") for c in ("Canada", "France")]
    hook = "blocks.2.mlp.hook_post"
    metrics = [kn.probability(7), kn.probability(9)]
    asked = [kn.Intervention((), prompt=p, wrt=[(hook, -1)]) for p in (1, 0, 1)]
    with kn.set_options(max_rows=max_rows):
        found = kn.sweep_gradients(model, torch.cat(each), asked, metrics, pos=-1)
    for inter, rows in zip(asked, found, strict=True):
        expected = gradient_by_loop(model, each[inter.prompt], [], hook, metrics[inter.prompt])[:, -1:]
        torch.testing.assert_close(rows.wrt[hook].gradient, expected, atol=1e-7, rtol=1e-3)


def test_a_name_twice_is_an_error() -> None:
    name = "blocks.1.mlp.hook_post"
    with pytest.raises(ValueError, match=r"names 'blocks.1.mlp.hook_post' twice; give its positions together"):
        kn.Intervention((), wrt=[(name, 0), (name, -1)])


def test_what_the_metric_does_not_depend_on_has_gradient_zero() -> None:
    """A pattern that the model shows and does not use, alone and beside a row with a gradient."""
    model = zoo.tiny("gptj")
    tokens, shown = tokens_for(model), "blocks.2.attn.hook_pattern"
    asked = [kn.Intervention((), wrt=[(shown, -1)]), kn.Intervention((), wrt=[("blocks.1.mlp.hook_post", -1)])]
    for runs in (asked[:1], asked):
        [first, *others] = kn.sweep_gradients(model, tokens, runs, kn.probability(5))
        assert not first.wrt[shown].gradient.any()
        assert all(bool(row.wrt["blocks.1.mlp.hook_post"].gradient.any()) for row in others)
    with pytest.raises(ValueError, match="the metric has no gradient"):
        kn.sweep_gradients(model, tokens, asked[1:], lambda logits: logits.argmax(-1).float())
