"""Activation patching against the plain loop, TransformerLens' own functions, and what must hold whatever the model."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.engine.prompt_pairs import encode_pairs
from kntools.patching.cells import check_live
from kntools.patching.patch_grid import PatchGrid
from tests import zoo
from tests.loop import ALL, sites_of

READ_OUT = ("gptj", "opt", "bert")  # their pattern is computed beside the forward pass


def pair(name: str) -> tuple[kn.Prompt, kn.Prompt]:
    end, space = (" [MASK].", "") if zoo.RECIPES[name].masked else ("", " ")
    return (
        kn.Prompt(f"The capital of Canada is{end}", f"{space}Ottawa", foil=f"{space}Paris"),
        kn.Prompt(f"The capital of France is{end}", f"{space}Paris"),
    )


def by_loop(
    model: Any, start: Tensor, source: Tensor, site: str, metric: Any, columns: int, *, axis: str, pos: int = -1
) -> Tensor:
    """The grid by `run_with_cache` and one `run_with_hooks` per cell: every third one, the others are nan.

    In each layer and in each column there is such a cell.
    """
    names = [f"blocks.{layer}.{kn.sites.SITES[site]}" for layer in range(model.cfg.n_layers)]
    query = site in ("pattern", "attn_scores")
    with torch.no_grad():
        _, cache = model.run_with_cache(source)
        grid, step = torch.full((len(names), columns), torch.nan), min(3, columns)
        for layer, name in enumerate(names):
            for column in range(-layer % step, columns, step):

                def put(x: Tensor, hook: Any, name: str = name, column: int = column) -> Tensor:
                    at: list[Any] = [slice(None)] * x.ndim
                    at[{"position": 2 if query else 1, "head": 1 if query else 2, "neuron": -1}[axis]] = column
                    # In place, as TransformerLens does it: the residual stream goes on from this very tensor.
                    x[tuple(at)] = cache[name][tuple(at)]
                    return x

                grid[layer, column] = metric(model.run_with_hooks(start, fwd_hooks=[(name, put)])[:, pos])
    return grid


def check_grid(name: str, site: str, *, axis: str = "position", noising: bool = False) -> PatchGrid:
    model, (clean, corrupted) = zoo.tiny(name), pair(name)
    [both] = encode_pairs(model, clean, corrupted)
    options: dict[str, Any] = {} if axis == "position" else {axis + "s": True}
    metric = kn.probability(both.clean.target_ids[0])
    ours = kn.activation_patch(model, clean, corrupted, site=site, metric=metric, noising=noising, **options)
    start, source = both.corrupted.tokens, both.clean.tokens
    if noising:
        start, source = source, start
    expected = by_loop(model, start, source, site, metric, len(ours.columns), axis=axis, pos=both.clean.position)
    cells = ~expected.isnan()
    assert bool(cells.any(0).all() and cells.any(1).all())
    torch.testing.assert_close(ours.values[cells], expected[cells], atol=1e-5, rtol=0)
    return ours


@pytest.mark.parametrize("name", ALL)
def test_every_site_equals_the_loop(name: str) -> None:
    sites = sites_of(name) + ([] if name in READ_OUT else ["pattern", "attn_scores"])
    moved = {site: float(check_grid(name, site).effect.abs().max()) for site in sites}
    assert sum(m > 1e-6 for m in moved.values()) > len(sites) // 2, f"patching hardly does anything: {moved}"


@pytest.mark.parametrize("name", ALL)
def test_every_head_equals_the_loop(name: str) -> None:
    model = zoo.tiny(name)
    kv = getattr(model.cfg, "n_key_value_heads", None) or zoo.N_HEADS
    for site in ["z", "q", "k", "v"] + ([] if name in READ_OUT else ["pattern"]):
        grid = check_grid(name, site, axis="head")
        assert grid.columns == tuple(range(kv if site in ("k", "v") else zoo.N_HEADS))


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "bert"])
def test_noising_and_single_neurons_equal_the_loop(name: str) -> None:
    check_grid(name, "resid_pre", noising=True)
    check_grid(name, "z", axis="head", noising=True)
    assert check_grid(name, "mlp.hook_post", axis="neuron").columns == tuple(range(zoo.D_MLP))


@pytest.mark.parametrize("name", ALL)
def test_patching_the_whole_state_gives_the_other_prompt(name: str) -> None:
    """Whichever state of the residual stream it is, the embedding included: all positions of it are all there is."""
    model = zoo.tiny(name)
    [both] = encode_pairs(model, *pair(name))
    layers = range(model.cfg.n_layers)
    for start, source in ((both.clean, both.corrupted), (both.corrupted, both.clean)):
        other = kn.sweep(model, source, [[]], pos=slice(None))
        for site in ["resid_pre", "resid_post"] + (["resid_mid"] if "resid_mid" in sites_of(name) else []):
            seen: dict[str, Tensor] = {}
            kn.sweep(model, source, [kn.capture(seen, [site], layers)])
            patched = kn.sweep(model, start, [kn.patch(seen, site, layer) for layer in layers], pos=slice(None))
            expected = other.expand_as(patched).softmax(-1)
            torch.testing.assert_close(patched.softmax(-1), expected, atol=1e-5, rtol=0)
            alone = torch.cat([model.run_with_hooks(start.tokens, fwd_hooks=kn.patch(seen, site, n)) for n in layers])
            torch.testing.assert_close(alone.softmax(-1), expected, atol=1e-5, rtol=0)


def test_identical_prompts_change_nothing() -> None:
    clean, _ = pair("llama")
    grid = kn.activation_patch(zoo.tiny("llama"), clean, clean.text, metric="probability")
    assert grid.clean == pytest.approx(grid.corrupted, rel=1e-4)
    assert float(grid.effect.abs().max()) == 0
    with pytest.raises(ValueError, match="divides by 0"):
        _ = PatchGrid(**{**grid.__dict__, "corrupted_per_pair": grid.clean_per_pair}).normalized


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_transformer_lens_patching_gives_the_same(name: str) -> None:
    theirs = pytest.importorskip("transformer_lens.patching")
    model, (clean, corrupted) = zoo.tiny(name), pair(name)
    [both] = encode_pairs(model, clean, corrupted)
    difference = kn.logit_difference(both.clean.target_ids[0], both.clean.foil_ids[0])
    functions = {
        ("resid_pre", False): theirs.get_act_patch_resid_pre,
        ("resid_mid", False): theirs.get_act_patch_resid_mid,
        ("attn_out", False): theirs.get_act_patch_attn_out,
        ("mlp_out", False): theirs.get_act_patch_mlp_out,
        ("z", True): theirs.get_act_patch_attn_head_out_all_pos,
        ("q", True): theirs.get_act_patch_attn_head_q_all_pos,
        ("k", True): theirs.get_act_patch_attn_head_k_all_pos,
        ("v", True): theirs.get_act_patch_attn_head_v_all_pos,
        ("pattern", True): theirs.get_act_patch_attn_head_pattern_all_pos,
    }
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, cache = model.run_with_cache(both.clean.tokens)
        for (site, heads), function in functions.items():
            expected = function(model, both.corrupted.tokens, cache, lambda x: difference(x[:, -1])[0])
            ours = kn.activation_patch(model, clean, corrupted, site=site, heads=heads)
            assert ours.metric == "contrast"
            torch.testing.assert_close(ours.values, expected.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_attribution_is_the_derivative_of_the_grid(name: str) -> None:
    """Its cells are directional derivatives: those of a small step towards the other activation, scaled up."""
    model, (clean, corrupted) = zoo.tiny(name), pair(name)
    [both] = encode_pairs(model, clean, corrupted)
    metric = kn.log_probability(both.clean.target_ids[0])
    e = 1e-2
    for site in ("resid_pre", "z", "mlp.hook_post"):
        grid = kn.attribution_patch(model, clean, corrupted, site=site, metric=metric)
        seen: list[dict[str, Tensor]] = [{}, {}]
        for into, encoded in zip(seen, (both.clean, both.corrupted), strict=True):
            kn.sweep(model, encoded, [kn.capture(into, [site], range(model.cfg.n_layers))])
        cell = (1, both.first_difference)
        key = f"blocks.1.{kn.sites.SITES[site]}"
        ends = []
        for step in (e, -e):
            towards = {key: torch.lerp(seen[1][key], seen[0][key], step)}
            logits = kn.sweep(model, both.corrupted, [kn.patch(towards, site, 1, cell[1])])
            ends.append(float(metric(logits)))
        slope = (ends[0] - ends[1]) / (2 * e)
        assert float(grid.effect[cell]) == pytest.approx(slope, abs=0.02, rel=0.05)


def test_attribution_agrees_where_the_model_is_linear() -> None:
    """The last state is read out linearly (but for a norm), and single neurons are small steps."""
    model, (clean, corrupted) = zoo.tiny("gpt2"), pair("gpt2")
    exact = kn.activation_patch(model, clean, corrupted, site="mlp.hook_post", neurons=True)
    fast = kn.attribution_patch(model, clean, corrupted, site="mlp.hook_post", neurons=True)
    found = exact.agreement(fast)
    assert found["pearson"] > 0.7
    assert fast.clean == pytest.approx(exact.clean, abs=1e-5)
    assert fast.corrupted == pytest.approx(exact.corrupted, abs=1e-5)
    with pytest.raises(ValueError, match="not about the same cells"):
        exact.agreement(kn.attribution_patch(model, clean, corrupted, site="mlp_out"))


def test_hand_computed_effects() -> None:
    """Effects that can be worked out: what the last block's MLP adds goes straight into the final norm."""
    model, (clean, corrupted) = zoo.tiny("llama"), pair("llama")
    [both] = encode_pairs(model, clean, corrupted)
    last = model.cfg.n_layers - 1
    with torch.no_grad():
        _, a = model.run_with_cache(both.clean.tokens)
        _, b = model.run_with_cache(both.corrupted.tokens)
        state = b[f"blocks.{last}.hook_resid_mid"] + a[f"blocks.{last}.hook_mlp_out"]
        logits = model.unembed(model.ln_final(state))[0, -1]
    expected = logits[both.clean.target_ids[0]] - logits[both.clean.foil_ids[0]]
    grid = kn.activation_patch(model, clean, corrupted, site="mlp_out")
    assert float(grid.values[last, -1]) == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("name", READ_OUT)
def test_a_read_out_is_an_error_and_not_a_grid_of_zeros(name: str) -> None:
    model, (clean, corrupted) = zoo.tiny(name), pair(name)
    for patching in (kn.activation_patch, kn.attribution_patch):
        for site in ("pattern", "attn_scores"):
            with pytest.raises(ValueError, match="read-out on this model"):
                patching(model, clean, corrupted, site=site)


@pytest.mark.parametrize("name", ALL)
def test_other_sites_are_live(name: str) -> None:
    model = zoo.tiny(name)
    [both] = encode_pairs(model, *pair(name))
    for site in sites_of(name) + ([] if name in READ_OUT else ["pattern", "attn_scores"]):
        check_live(model, both.clean, site, 0)


def test_what_somebodys_hooks_hide_is_no_read_out() -> None:
    """A model whose attention is switched off by a hook: patches there do nothing, and are not remembered as such."""
    model, (clean, corrupted) = zoo.fresh("llama"), pair("llama")
    model.add_hook("blocks.0.hook_attn_out", lambda x, hook: x * 0, is_permanent=True)
    grid = kn.activation_patch(model, clean, corrupted, site="z", layers=[0])
    assert bool((grid.values == grid.corrupted).all())
    model.reset_hooks(including_permanent=True)
    assert not bool((kn.activation_patch(model, clean, corrupted, site="z", layers=[0]).values == grid.corrupted).all())


@pytest.mark.parametrize("heads", [True, False])
def test_queries_whose_heads_stand_before_their_positions(heads: bool) -> None:
    """[batch head pos d_head], as multi-head latent attention has them: by head and by position."""
    model, (clean, corrupted) = zoo.tiny("deepseek2"), pair("deepseek2")
    [both] = encode_pairs(model, clean, corrupted)
    metric = kn.probability(both.clean.target_ids[0])
    grid = kn.activation_patch(model, clean, corrupted, site="q", heads=heads, metric=metric)
    with torch.no_grad():
        _, cache = model.run_with_cache(both.clean.tokens)
        for layer in grid.layers:
            for column in grid.columns:

                def put(x: Tensor, hook: Any, column: int = column) -> Tensor:
                    x, source = x.clone(), cache[hook.name]
                    assert x.shape[1:3] == (zoo.N_HEADS, both.length)
                    x.select(1 if heads else 2, column).copy_(source.select(1 if heads else 2, column))
                    return x

                logits = model.run_with_hooks(both.corrupted.tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_q", put)])
                value = float(metric(logits[:, -1]))
                assert float(grid.values[layer, column]) == pytest.approx(value, rel=1e-3)
    assert float(grid.effect.abs().max()) > 1e-2 * grid.corrupted
