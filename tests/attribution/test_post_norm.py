"""A norm behind the MLP (Gemma 2 and 3, OLMo 2): held at its scale by default, live by name."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.models.neuron_layers import norms_behind
from tests import zoo
from tests.attribution.test_attribution import dense_near_zero, prompts_for, reference
from tests.attribution.test_attribution_metrics import by_hand

_GQA = {"num_key_value_heads": zoo.N_KV_HEADS}
_HEADS = {**_GQA, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16}
MORE = {
    "gemma3": zoo.Recipe("Gemma3TextConfig", "Gemma3ForCausalLM", zoo._hf(3, **_HEADS)),
    "olmo2": zoo.Recipe("Olmo2Config", "Olmo2ForCausalLM", zoo._hf(3, **_GQA)),
}
NAMES = ["gemma2", *MORE]


@functools.cache
def model_of(name: str, compatibility: bool = False) -> Any:
    zoo.RECIPES.update(MORE)
    try:
        model = zoo.fresh(name)
    finally:
        for added in MORE:
            zoo.RECIPES.pop(added)
    if compatibility:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.enable_compatibility_mode()
    return model


@pytest.mark.parametrize("compatibility", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_held_norm_is_complete_and_equals_a_plain_loop(name: str, compatibility: bool) -> None:
    model, prompts = model_of(name, compatibility), prompts_for("gemma2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # neither the path nor its bridge has anything to say
        att = kn.integrated_gradients(model, prompts)
    assert att.post_norm == "frozen" and "post norm frozen" in repr(att)
    assert int(att.nodes[:, 1:].max()) <= 13, "the path is smooth"
    allowed = 0.01 * att.gap.abs().maximum(0.02 * att.gap.abs().amax(1, keepdim=True))
    assert bool((att.residual.abs() <= allowed).all())
    for n, prompt in enumerate(prompts[:1]):
        e = kn.encode(model, prompt)
        for layer in range(model.cfg.n_layers):
            off = kn.scale_site("mlp.hook_post", layer, 0.0, pos=e.position)
            clean, without = kn.sweep(model, e, [[], off], metric=kn.probability(e.target_ids)).tolist()
            assert float(att.gap[n, layer]) == pytest.approx(clean - without, rel=1e-3, abs=1e-8)
            expected = reference(model, prompt, layer, *dense_near_zero(32))
            assert float((att.scores[n, layer].double() - expected).norm() / expected.norm()) < 0.01


@pytest.mark.parametrize("name", NAMES)
def test_the_live_path_is_there_by_name_and_warns(name: str) -> None:
    """The same ends, and scores that measure the norm's epsilon."""
    model, prompt = model_of(name), prompts_for("gemma2")[0]
    frozen = kn.integrated_gradients(model, prompt)
    with pytest.warns(UserWarning, match="post_norm='frozen' fixes"):
        live = kn.integrated_gradients(model, prompt, post_norm="live")
    assert live.post_norm == "live"
    torch.testing.assert_close(live.gap, frozen.gap, rtol=1e-4, atol=1e-8)
    assert int(live.nodes[:, 1:].min()) > 3 * int(frozen.nodes[:, 1:].max())
    with pytest.warns(UserWarning, match="post_norm='frozen' fixes"):
        live = kn.activation_x_gradient(model, prompt, post_norm="live")
    sizes = live.scores.abs().sum(-1)
    assert bool((live.scores.sum(-1).abs() < 0.05 * sizes).all()), "the norm does not see the size of its input"


@pytest.mark.parametrize("metric", ["probability", "log_probability"])
@pytest.mark.parametrize("name", NAMES)
def test_activation_x_gradient_is_the_slope_at_the_end_of_the_held_path(name: str, metric: Any) -> None:
    model, prompts = model_of(name), prompts_for("gemma2")[:2]
    att = kn.activation_x_gradient(model, prompts, metric=metric)
    assert att.post_norm == "frozen"
    for n, prompt in enumerate(prompts):
        for layer in range(model.cfg.n_layers):
            expected = reference(model, prompt, layer, value=by_hand(model, prompt)[metric])
            torch.testing.assert_close(att.scores[n, layer].double(), expected, rtol=1e-3, atol=2e-7)


def test_where_no_norm_follows_there_is_nothing_to_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("llama", "bert"):
            for post_norm in ("frozen", "live"):
                att = kn.activation_x_gradient(zoo.tiny(name), prompts_for(name)[0], post_norm=post_norm)  # type: ignore[arg-type] # a loop
                assert att.post_norm is None and "norm" not in repr(att)
    assert kn.activation(model_of("gemma2"), prompts_for("gemma2")[0]).post_norm is None
    model = model_of("gemma2")
    assert norms_behind(model, "mlp_out", held=True) == norms_behind(model, "resid_mid", held=True) == {}


def test_a_norm_without_a_hook_on_its_scale_is_an_error() -> None:
    """As on Gemma 3n, whose bridge wraps that norm as a plain module."""
    model = zoo.fresh("gemma2")
    kn.activation(model, prompts_for("gemma2")[0])
    known = dict(model.hook_dict)
    bare = {n: p for n, p in known.items() if not n.endswith("ln2_post.hook_scale")}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(model), "hook_dict", property(lambda self: bare))
        with pytest.raises(ValueError, match="use post_norm='live'"):
            kn.integrated_gradients(model, prompts_for("gemma2")[0])
        with pytest.warns(UserWarning, match="post_norm='live'"):
            kn.integrated_gradients(model, prompts_for("gemma2")[0], rule="midpoint", steps=2, post_norm="live")
