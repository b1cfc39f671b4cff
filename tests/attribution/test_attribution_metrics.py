"""Attribution in any metric: complete, equal to a plain loop, in the metric's own unit; and what a contrast finds."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.sites import Neuron
from tests import planted, zoo
from tests.attribution.test_attribution import dense_near_zero, prompts_for, reference
from tests.loop import ALL

NOUN = Neuron(planted.LAYER, 11)


def pairs_for(name: str) -> list[kn.Prompt]:
    """Each capital against the next."""
    prompts = prompts_for(name)
    others = prompts[1:] + prompts[:1]
    return [replace(a, foil=b.target) for a, b in zip(prompts, others, strict=True)]


def by_hand(model: Any, prompt: kn.Prompt) -> dict[str, Callable[[Tensor], Tensor]]:
    """Metrics on the logits `[... d_vocab]` of the answer's position, written out."""
    e = kn.encode(model, prompt)
    right, wrong = e.target_ids[0], e.foil_ids[0] if e.foil_ids else 0
    return {
        "probability": lambda x: x.softmax(-1)[..., right],
        "log_probability": lambda x: x.log_softmax(-1)[..., right],
        "contrast": lambda x: x[..., right] - x[..., wrong],
    }


@pytest.mark.parametrize("name", ALL)
def test_contrasts_are_complete(name: str) -> None:
    model, prompts = zoo.tiny(name), pairs_for(name)
    att = kn.integrated_gradients(model, prompts)
    assert att.metric == "contrast" and att.value is not None
    for n, prompt in enumerate(prompts):
        e = kn.encode(model, prompt)
        assert e.foil_ids is not None
        metric = kn.logit_difference(e.target_ids[0], e.foil_ids[0])
        zero = [kn.scale_site("mlp.hook_post", layer, 0.0, pos=e.position) for layer in range(model.cfg.n_layers)]
        clean, *without = kn.sweep(model, e, [[], *zero], metric=metric).tolist()
        gap = clean - torch.tensor(without)
        assert float(att.value[n]) == pytest.approx(clean, abs=1e-4)
        torch.testing.assert_close(att.gap[n], gap, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(att.residual[n], att.scores[n].sum(-1) - att.gap[n], atol=1e-4, rtol=1e-3)
        assert bool((att.residual[n].abs() <= 0.01 * gap.abs().maximum(0.02 * gap.abs().max())).all())


@pytest.mark.parametrize("metric", ["probability", "log_probability", "contrast"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "bert"])
def test_every_metric_equals_a_plain_loop_of_64_nodes(name: str, metric: Any) -> None:
    model, prompt = zoo.tiny(name), pairs_for(name)[0]
    att = kn.integrated_gradients(model, prompt, metric=metric, tol=0.001)
    assert att.metric == metric
    e, value = kn.encode(model, prompt), by_hand(model, prompt)[metric]
    for layer in (0, model.cfg.n_layers - 1):
        expected = reference(model, prompt, layer, *dense_near_zero(64), value=value)
        assert float((att.scores[0, layer].double() - expected).norm() / expected.norm()) < 0.01
        runs = [[], kn.scale_site("mlp.hook_post", layer, 0.0, pos=e.position)]
        one, zero = (value(model.run_with_hooks(e.tokens, fwd_hooks=hooks)[0, e.position]) for hooks in runs)
        assert float(att.gap[0, layer]) == pytest.approx(float(one - zero), rel=1e-3, abs=1e-6)


def test_the_rule_knows_no_unit() -> None:
    """A metric in other units, and from another zero, is integrated at the same nodes."""
    model, prompts = zoo.tiny("llama"), pairs_for("llama")
    [e, *_] = [kn.encode(model, p) for p in prompts]
    metric = kn.log_probability(e.target_ids)
    first = kn.integrated_gradients(model, prompts[:1], metric=metric)
    for scale, zero in ((1000.0, 0.0), (1e-3, 0.0), (1.0, 3.0)):
        other = kn.integrated_gradients(model, prompts[:1], metric=lambda x, k=scale, c=zero: k * metric(x) + c)
        assert torch.equal(other.nodes, first.nodes)
        torch.testing.assert_close(other.scores, scale * first.scores, rtol=1e-3, atol=1e-4 * scale)
    assert first.metric == "metric" and "metric" in repr(first).splitlines()[0]


def test_the_default_is_the_contrast_where_every_prompt_has_a_foil() -> None:
    model, prompts = zoo.tiny("llama"), pairs_for("llama")
    mixed = [prompts[0], replace(prompts[1], foil=None)]
    assert kn.integrated_gradients(model, mixed, rule="midpoint", steps=2).metric == "probability"
    for run in (kn.integrated_gradients, kn.activation_x_gradient):
        att = run(model, prompts)
        assert att.metric == "contrast" and "contrast" in repr(att)
        assert set(att.to_frame(top=2)["metric"]) == {"contrast"}
        assert "logit" in att.plot().layout.coloraxis.colorbar.title.text
        kns = kn.knowledge_neurons(att)
        assert kns.metric == "contrast" and "contrast" in repr(kns)
    scan = kn.neuron_scan(model, prompts, att.top(4))
    assert scan.metric == "contrast"
    for n, prompt in enumerate(prompts):
        e = kn.encode(model, prompt)
        assert e.foil_ids is not None
        metric = kn.logit_difference(e.target_ids[0], e.foil_ids[0])
        expected = kn.sweep(model, e, [kn.ablate_neurons([neuron]) for neuron in scan.neurons], metric=metric)
        torch.testing.assert_close(scan.values[n], expected, atol=1e-4, rtol=1e-4)
    assert kn.activation(model, prompts).metric == "activation"


@pytest.mark.parametrize("metric", ["log_probability", "contrast"])
def test_activation_x_gradient_is_its_formula_in_every_metric(metric: Any) -> None:
    model, prompt = zoo.tiny("gpt2"), pairs_for("gpt2")[0]
    att = kn.activation_x_gradient(model, prompt, metric=metric)
    expected = reference(model, prompt, 1, value=by_hand(model, prompt)[metric])
    torch.testing.assert_close(att.scores[0, 1].double(), expected, atol=1e-5, rtol=1e-3)


def test_answers_of_several_tokens() -> None:
    """Log-probabilities of the pieces add up; a contrast needs one token each, and says what to type."""
    model = zoo.tiny("llama")
    prompt = kn.Prompt("The capital of Canada is", " Ottawa is", foil=" Paris the", multi_token="sum")
    att = kn.integrated_gradients(model, prompt)
    assert att.metric == "probability"
    log_p = kn.integrated_gradients(model, prompt, metric="log_probability", tol=0.001)
    e = kn.encode(model, prompt)
    hooks = [kn.scale_site("mlp.hook_post", 1, g, pos=e.positions) for g in (0.0, 1.0)]
    zero, own = kn.sweep(model, e, hooks, metric=kn.log_probability(e.target_ids)).tolist()
    assert float(log_p.scores[0, 1].sum()) == pytest.approx(own - zero, rel=2e-3)
    assert log_p.value is not None and float(log_p.value) == pytest.approx(own, rel=1e-5)
    with pytest.raises(ValueError, match=r"foil of one token.*multi_token='first'"):
        kn.integrated_gradients(model, prompt, metric="contrast")
    assert kn.integrated_gradients(model, replace(prompt, multi_token="first"), rule="midpoint").metric == "contrast"


def test_what_cannot_be_asked_says_what_to_type() -> None:
    model, prompt = zoo.tiny("llama"), prompts_for("llama")[0]
    ask = inspect.unwrap(kn.integrated_gradients)
    for words, options in (
        (r"needs a foil of one token: kn.Prompt\('The capital of Canada is', ' Ottawa', foil=", {"metric": "contrast"}),
        ("unknown metric 'logits'; use one of 'probability'", {"metric": "logits"}),
        ("2 metrics for 1 prompts", {"metric": [kn.probability(1)] * 2}),
        ("one value per row", {"metric": lambda x: x.mean()}),
        ("post_norm='cold' is unknown; use", {"post_norm": "cold"}),
        ("no neurons; use 'mlp.hook_post'", {"site": "z"}),
    ):
        with pytest.raises(ValueError, match=words):
            ask(model, prompt, **options)
    with pytest.raises(TypeError):
        ask(model, "The capital of Canada is")


# --- number neurons beside a noun ---------------------------------------------------------------------------


def with_noun(effect: float) -> Any:
    """`planted.build`, with one more neuron that fires after every determiner and raises both forms of each noun."""
    model = planted.build(push=0.25)
    weight = partial(zoo.weight, model)
    at = f"layers.{planted.LAYER}."
    with torch.no_grad():
        weight(at, "gate_proj")[NOUN.index, 1:3] = weight(at, "up_proj")[NOUN.index, 1:3] = 1.0
        weight(at, "down_proj")[13, NOUN.index] = 1.0
        for word in planted.NOUNS:
            [token] = model.tokenizer.encode(f" {word}", add_special_tokens=False)
            weight("lm_head")[token, 13] = effect
    return model


@pytest.mark.parametrize("effect", [0.0, 0.5, 1.0, 2.0, 4.0, 16.0])
def test_number_neurons_are_found_in_the_contrast_whatever_the_noun_does(effect: float) -> None:
    """P of a noun is about the noun: where that signal is large, the neuron of its number is lost beside it.

    (Where it is so large that the four nouns share all probability, P is about number again.)
    """
    model = with_noun(effect)
    for determiner, good, bad in planted.PAIRS[::2]:
        prompts = [kn.Prompt(f"{frame} {determiner}", f" {good}", foil=f" {bad}") for frame in planted.FRAMES[:2]]
        number = planted.DETERMINERS[determiner]
        att = kn.integrated_gradients(model, prompts)
        assert kn.knowledge_neurons(att, target_count=(1, 5)).neurons == (number,)
        if effect in (0.0, 1.0):
            in_p = kn.integrated_gradients(model, prompts, metric="probability")
            found = kn.knowledge_neurons(in_p, target_count=(1, 5)).neurons
            assert found == ((number,) if effect == 0 else (NOUN,))


def test_a_probability_below_float32_is_warned_of() -> None:
    """Its gradient is 0: the leading neurons are no neurons of the answer."""
    model = zoo.tiny("gpt2")
    far = kn.Prompt("The capital of Canada is", " Ouagadougou Ouagadougou", multi_token="sum")
    near = kn.Prompt("The capital of Canada is", " Ottawa")
    for score in (kn.integrated_gradients, kn.activation_x_gradient):
        with pytest.warns(UserWarning, match="of 1 of 2 prompts is too small .* metric='log_probability'"):
            score(model, [near, far])
        assert bool(score(model, far, metric="log_probability").scores.any())
