"""Neurons, sites and positions: what exists, and an error for what does not."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import kntools as kn
from kntools.engine.plan import as_interventions
from kntools.hooks.positioned import position_axis
from kntools.sites import SITES, Neuron, as_neuron, as_neurons, hook_name, layer_of, resolve_positions
from tests import zoo
from tests.loop import sites_of, tokens_for

VECTOR, MEAN = torch.linspace(-2, 2, 32), torch.zeros(2, 48)


def test_neurons_print_sort_and_compare() -> None:
    assert repr(Neuron(9, 1094)) == "L9.N1094"
    assert sorted([Neuron(10, 0), Neuron(9, 5), Neuron(9, 4)]) == [Neuron(9, 4), Neuron(9, 5), Neuron(10, 0)]
    assert as_neurons([(1, 2), Neuron(0, 3), "L0.N3", (0, np.int64(3)), Neuron(1, 2)]) == (Neuron(1, 2), Neuron(0, 3))
    assert as_neurons("L9.N7") == as_neurons(Neuron(9, 7)) == (Neuron.parse(" L9.N7 "),)
    for wrong in ("L9", "N7.L9", "L9.N-1", ""):
        with pytest.raises(ValueError, match=r"write it as 'L24\.N1005'"):
            Neuron.parse(wrong)
    for wrong in (7, (1, 2, 3), (1, 2.5)):
        with pytest.raises(TypeError, match=r"is not a neuron|give a whole number"):
            inspect.unwrap(as_neuron)(wrong)
    for layer, index in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="at least 0"):
            Neuron(layer, index)


@pytest.mark.parametrize("name", zoo.ALL)
def test_hook_names_exist_on_the_model(name: str) -> None:
    model = zoo.tiny(name)
    for site in sites_of(name):
        for layer in (0, model.cfg.n_layers - 1):
            assert hook_name(site, layer) in model.hook_dict and layer_of(hook_name(site, layer)) == layer


def test_hook_names() -> None:
    assert hook_name("z", 3) == "blocks.3.attn.hook_z" and hook_name("mlp.hook_post", 11) == "blocks.11.mlp.hook_post"
    assert hook_name("ln1.hook_scale", 0) == "blocks.0.ln1.hook_scale"
    assert layer_of("blocks.12.hook_in") == 12
    assert layer_of("hook_embed") is None and layer_of("ln_final.hook_normalized") is None
    with pytest.raises(ValueError, match=r"unknown site 'resid'.*resid_pre") as error:
        hook_name("resid", 0)
    assert all(site in str(error.value) for site in SITES)
    with pytest.raises(ValueError, match=r"names its block; leave that out and give the layer: 'attn.hook_z'"):
        hook_name("blocks.3.attn.hook_z", 1)


def test_position_axis_is_the_one_of_the_queries() -> None:
    model = zoo.tiny("gpt2")
    _, cache = model.run_with_cache(tokens_for(model)[:, :5])  # 5 tokens, 4 heads
    for site in SITES:
        point = model.hook_dict[hook_name(site, 1)]
        assert cache[hook_name(site, 1)].shape[position_axis(point)] == 5
    assert position_axis(model.hook_dict[hook_name("pattern", 1)]) == 2


@given(st.integers(1, 8), st.data())
def test_positions_are_those_of_a_list(length: int, data: st.DataObject) -> None:
    every = list(range(length))
    index = st.integers(-length, length - 1)
    one, some = data.draw(index), data.draw(st.lists(index, min_size=1))
    assert resolve_positions(one, length) == (every[one],)
    assert resolve_positions(some, length) == tuple(every[i] for i in some)
    assert resolve_positions(None, length) == tuple(every)
    start, stop = data.draw(index), data.draw(st.one_of(st.none(), index))
    if every[start:stop]:
        assert resolve_positions(slice(start, stop), length) == tuple(every[start:stop])
    for outside in (length, -length - 1):
        for pos in (outside, [0, outside], range(outside, outside + 1)):
            with pytest.raises(IndexError, match=f"position {outside} is out of range for {length} tokens"):
                resolve_positions(pos, length)


def test_numbers_of_numpy_are_positions_too() -> None:
    model = zoo.tiny("gpt2")
    hooks = [kn.ablate_neurons([(1, 3)], pos=p) for p in (np.int64(2), [np.int64(2)], 2)]  # type: ignore
    rows = kn.sweep(model, tokens_for(model), hooks)
    assert torch.equal(rows, rows[-1:].expand_as(rows))


def test_one_list_of_hooks_is_not_a_list_of_interventions() -> None:
    model = zoo.tiny("gpt2")
    with pytest.raises(TypeError, match="interventions"):
        kn.sweep(model, tokens_for(model), kn.ablate_neurons([(0, 1)]))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"write \[hooks\], not hooks"):
        as_interventions([kn.ablate_neurons([(0, 1)])[0]], prompts=1)


# --- through a model ------------------------------------------------------------------------------------

OTHER = {hook_name("resid_post", 1): torch.zeros(1, 6, 32), hook_name("z", 1): torch.zeros(1, 6, 4, 8)}
THREE = {hook_name("resid_post", 1): torch.zeros(3, 6, 32)}
FLAT = {hook_name("resid_post", 1): torch.zeros(6, 32)}
RUNS: list[tuple[type[Exception], str, Callable[[], list[kn.Hook]]]] = [
    (IndexError, r"L1\.N48 .*neurons 0 to 47", lambda: kn.ablate_neurons([(1, 48)])),
    (KeyError, r"blocks\.9\.mlp\.hook_post", lambda: kn.ablate_neurons([(9, 0)])),
    (KeyError, r"blocks\.-1\.", lambda: kn.scale_site("z", -1, 0.0)),
    (KeyError, r"hook_posts", lambda: kn.scale_site("mlp.hook_posts", 1, 0.0)),
    (IndexError, "position 6 is out of range for 6 tokens", lambda: kn.ablate_neurons([(1, 0)], pos=6)),
    (IndexError, "position -7", lambda: kn.add_vector("resid_post", 1, VECTOR, -7)),
    ((IndexError, ValueError), "position", lambda: kn.ablate_neurons([(1, 0)], pos=slice(10, 20))),
    ((IndexError, ValueError), "position", lambda: kn.ablate_neurons([(1, 0)], pos=[])),
    (ValueError, "4 factors.* 1 row", lambda: kn.scale_site("z", 1, torch.ones(4))),
    (ValueError, "vector of 31.*width 32", lambda: kn.add_vector("resid_post", 1, VECTOR[:31])),
    (ValueError, "vector", lambda: kn.add_vector("resid_post", 1, torch.ones(3, 32))),
    (ValueError, "vector", lambda: kn.add_vector("resid_post", 1, torch.ones(4, 6, 32), None)),
    (ValueError, "noise", lambda: kn.corrupt([1, 2], torch.zeros(3, 32))),
    (ValueError, "noise", lambda: kn.corrupt([1, 2], torch.zeros(2, 31))),
    (ValueError, "3 noise samples for a batch of 1", lambda: kn.corrupt([1, 2], torch.zeros(3, 2, 32))),
    (ValueError, "noise", lambda: kn.corrupt([1, 2], torch.zeros(1, 1, 2, 32))),
    (ValueError, "nan", lambda: kn.corrupt([1], torch.full((1, 32), torch.nan))),
    (KeyError, "the cache has no 'blocks.0.attn.hook_z'", lambda: kn.patch(OTHER, "z", 0)),
    (IndexError, "head 4 does not exist", lambda: kn.patch(OTHER, "z", 1, heads=[4])),
    (IndexError, "neuron 32 does not exist", lambda: kn.patch(OTHER, "resid_post", 1, neurons=[32])),
    (ValueError, "no heads|heads", lambda: kn.patch(OTHER, "resid_post", 1, heads=[0])),
    (ValueError, "heads.*neurons|neurons.*heads", lambda: kn.patch(OTHER, "z", 1, heads=[0], neurons=[0])),
    (ValueError, "batch", lambda: kn.patch(THREE, "resid_post", 1)),
    (ValueError, "batch", lambda: kn.patch(FLAT, "resid_post", 1)),
    (ValueError, "unknown site 'resid'.*resid_pre", lambda: kn.freeze(OTHER, ["resid"], [1])),
    (ValueError, "2 values for 3 neurons", lambda: kn.set_neurons([(0, 0), (0, 1), (1, 0)], [1.0, 2.0])),
    (IndexError, "no value for neuron L2.N0", lambda: kn.mean_ablate_neurons([(2, 0)], MEAN)),
    (ValueError, "index=-1; give a whole number at least 0", lambda: kn.ablate_neurons([(0, -1)])),
]


@pytest.mark.parametrize("how", ["run_with_hooks", "sweep"])
@pytest.mark.parametrize(("error", "message", "make"), RUNS, ids=[message for _, message, _ in RUNS])
def test_what_does_not_exist_is_an_error(how: str, error: Any, message: str, make: Callable[[], Any]) -> None:
    model = zoo.tiny("gpt2")
    if how == "run_with_hooks" and error is KeyError and "cache" not in message and zoo.has_hooked_classes():
        pytest.skip("run_with_hooks of a bridge of transformer-lens 3.x ignores names that it does not know")
    with pytest.raises(error, match=message), torch.no_grad():
        if how == "sweep":
            kn.sweep(model, tokens_for(model), [make()])
        else:
            model.run_with_hooks(tokens_for(model), fwd_hooks=make())


def test_another_prompt_length_is_an_error() -> None:
    model = zoo.tiny("gpt2")
    for pos in (None, 0):
        with pytest.raises(ValueError, match=r"6 tokens, this one 5|number of tokens"):
            model.run_with_hooks(tokens_for(model)[:, :5], fwd_hooks=kn.patch(OTHER, "z", 1, pos))


# --- an edit has the effect that its name promises --------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("site", ["resid_pre", "resid_post"])  # a bridge's resid_mid is the MLP's input alone
def test_the_residual_stream_is_all_that_a_layer_hands_on(name: str, site: str) -> None:
    """Patched at every position, it makes one run the other: also with what was written before it skipped."""
    model = zoo.tiny(name)
    ours = tokens_for(model)
    others = ours[:, [0, 3, 2, 1, *range(4, ours.shape[1])]]
    logits, cache = model.run_with_cache(others)
    patched = kn.sweep(model, ours, [kn.patch(cache, site, 1)], pos=slice(None))
    torch.testing.assert_close(patched.softmax(-1), logits.softmax(-1), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:A hook on attention")
@pytest.mark.parametrize("site", ["pattern", "attn_scores"])
@pytest.mark.parametrize("name", zoo.ALL)
def test_edits_of_attention_take_effect_but_on_read_outs(name: str, site: str) -> None:
    """Three bridges show attention patterns, but discard what a hook makes of them (TransformerLens 4 warns)."""
    model = zoo.tiny(name)
    tokens = tokens_for(model)
    edited, clean = kn.sweep(model, tokens, [kn.scale_site(site, 1, 0.0, pos=None), []], pos=-1)
    moved = float((edited.softmax(-1) - clean.softmax(-1)).abs().max())
    assert moved < 1e-6 if name in ("gptj", "opt", "bert") else moved > 1e-4
