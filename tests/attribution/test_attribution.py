"""Integrated gradients: completeness, a float64 reference, two rules that agree, and what interventions say."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.sites import hook_name
from tests import zoo
from tests.loop import ALL, gradient_by_loop


def prompts_for(name: str) -> list[kn.Prompt]:
    end, space = (" [MASK].", "") if name == "bert" else ("", " ")
    places = (("Canada", "Ottawa"), ("France", "Paris"), ("Japan", "Tokyo"))
    return [kn.Prompt(f"The capital of {a} is{end}", space + b, subject=a) for a, b in places]


def scale_behind(model: Any, layer: int) -> str:
    """The hook on the scale of the norm behind an MLP. That of OLMo 2 is `ln2` in transformer-lens 3.x."""
    norms = {name: str(getattr(getattr(model.blocks[layer], name, None), "name", "")) for name in ("ln2_post", "ln2")}
    behind = [name for name, wrapped in norms.items() if wrapped.startswith("post_feedforward")]
    return f"blocks.{layer}.{(behind or ['ln2_post'])[0]}.hook_scale"


def reference(
    model: Any,
    prompt: kn.Prompt,
    layer: int,
    nodes: Iterable[float] = (1.0,),
    weights: Iterable[float] = (1.0,),
    *,
    site: str = "mlp.hook_post",
    value: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """One layer's scores by a plain backward pass, a row per node; a norm behind the MLP keeps its scale.

    `value` is a metric of the logits `[1 pos d_vocab]` at the answer; left out, P of all tokens of the answer.
    """
    e = kn.encode(model, prompt)
    name, scale, at = hook_name(site, layer), scale_behind(model, layer), list(e.positions)
    _, cache = model.run_with_cache(e.tokens)
    held = [(scale, lambda x, hook: cache[scale].expand_as(x))] if scale in cache else []
    factors, shares = (torch.tensor([*map(float, numbers)], dtype=torch.float64) for numbers in (nodes, weights))

    def p(logits: Tensor) -> Tensor:
        return logits[0].softmax(-1)[range(len(at)), list(e.target_ids)].prod()

    def scaled(x: Tensor, hook: Any) -> Tensor:
        out = x.clone()
        out[:, at] *= factors[:, None, None].to(x)
        return out

    def metric(logits: Tensor) -> Tensor:
        return torch.stack([(value or p)(row[None]) for row in logits])

    rows = e.tokens.expand(len(factors), -1)
    gradients = gradient_by_loop(model, rows, [(name, scaled), *held], name, metric, at)[:, at].double()
    return (cache[name][0, at].detach().double() * torch.einsum("n,npd->pd", shares, gradients)).sum(0)


def dense_near_zero(n: int) -> tuple[Any, Any]:
    """Gauss nodes and weights in t, where g = t^4: tiny random models leap near zero."""
    x, w = np.polynomial.legendre.leggauss(n)
    t = (x + 1) / 2
    return t**4, w / 2 * 4 * t**3


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "neox", "bert"])
def test_adaptive_equals_a_fine_plain_loop(name: str) -> None:
    model = zoo.tiny(name)
    prompt = prompts_for(name)[0]
    att = kn.integrated_gradients(model, prompt, tol=0.001)
    for layer in (0, model.cfg.n_layers - 1):
        expected = reference(model, prompt, layer, *dense_near_zero(128))
        error = (att.scores[0, layer].double() - expected).norm() / expected.norm()
        assert float(error) < 0.01, layer


@pytest.mark.parametrize("name", ALL)
def test_scores_are_complete(name: str) -> None:
    model = zoo.tiny(name)
    prompts = prompts_for(name)
    att = kn.integrated_gradients(model, prompts)
    for number, prompt in enumerate(prompts):
        e = kn.encode(model, prompt)
        p = kn.probability(e.target_ids)
        zero = [kn.scale_site("mlp.hook_post", layer, 0.0, pos=e.position) for layer in range(model.cfg.n_layers)]
        clean, *without = kn.sweep(model, e, [[], *zero], metric=p).tolist()
        gap = clean - torch.tensor(without)
        assert float(att.probability[number]) == pytest.approx(clean, abs=1e-6)
        torch.testing.assert_close(att.gap[number], gap, atol=1e-6, rtol=1e-3)
        torch.testing.assert_close(att.residual[number], att.scores[number].sum(-1) - gap, atol=1e-6, rtol=1e-2)
        assert bool((att.residual[number].abs() <= 0.01 * gap.abs().clamp(min=0.05)).all())


@pytest.mark.parametrize("rule", ["midpoint", "gauss_legendre", "dai", "kn_thesis"])
def test_fixed_rules_are_their_formula(rule: str) -> None:
    from kntools.attribution.quadrature import fixed_rule

    model = zoo.tiny("llama")
    prompt = prompts_for("llama")[0]
    att = kn.integrated_gradients(model, prompt, rule=rule, steps=5)
    nodes = fixed_rule(rule, 5)
    expected = reference(model, prompt, 1, nodes.nodes, nodes.weights)
    torch.testing.assert_close(att.scores[0, 1].double(), expected, atol=1e-8, rtol=1e-3)
    assert att.nodes.unique().tolist() == [5]


def test_baselines_are_their_formula() -> None:
    model = zoo.tiny("gpt2")
    prompt = prompts_for("gpt2")[0]
    name = hook_name("mlp.hook_post", 2)
    once = reference(model, prompt, 2)
    att = kn.activation_x_gradient(model, prompt)
    torch.testing.assert_close(att.scores[0, 2].double(), once, atol=1e-9, rtol=1e-3)
    e = kn.encode(model, prompt)
    _, cache = model.run_with_cache(e.tokens, names_filter=name)
    plain = kn.activation(model, prompt)
    torch.testing.assert_close(plain.scores[0, 2], cache[name][0, -1], atol=1e-6, rtol=1e-5)


def test_prompts_together_are_prompts_alone() -> None:
    """Different lengths, in one call, in any order; and packed into small passes."""
    model = zoo.tiny("llama")
    prompts = [*prompts_for("llama"), kn.Prompt("Ottawa is the capital of", " Canada"), kn.Prompt("Paris is", " the")]
    together = kn.integrated_gradients(model, prompts)
    with kn.set_options(max_rows=9):
        small = kn.integrated_gradients(model, prompts[::-1])
    torch.testing.assert_close(small.scores.flip(0), together.scores, atol=1e-6, rtol=1e-3)
    for number in (0, 3):
        alone = kn.integrated_gradients(model, prompts[number])
        torch.testing.assert_close(alone.scores[0], together.scores[number], atol=1e-6, rtol=1e-3)


def likely_answer(model: Any, text: str) -> str:
    """Two tokens, each the model's own first choice among whole words, so that P is not lost in rounding."""
    answer = ""
    for _ in range(2):
        ids = kn.encode(model, kn.Prompt(text + answer, " is")).tokens
        words = [
            i for i in range(model.cfg.d_vocab) if (w := model.tokenizer.decode([i]))[:1] == " " and w[1:].isalpha()
        ]
        with torch.no_grad():
            best = model(ids)[0, -1, words].argmax()
        answer += model.tokenizer.decode([words[int(best)]])
    return answer


def test_one_of_several_prompts() -> None:
    model, prompts = zoo.tiny("llama"), prompts_for("llama")
    att = kn.integrated_gradients(model, prompts)
    count = len(prompts)
    for which, own in ((1, [1]), (-1, [count - 1]), (slice(1, None), list(range(1, count)))):
        part = att[which]
        assert part.prompts == tuple(prompts[n] for n in own) and part.metric == att.metric
        for name in ("scores", "residual", "gap", "nodes", "value", "probability", "floor"):
            assert torch.equal(getattr(part, name), getattr(att, name)[own])
    assert [len(one.prompts) for one in att] == [1] * count
    with pytest.raises(IndexError, match=f"prompt {count} does not exist: the attribution has {count}"):
        att[count]


def test_answers_of_several_tokens() -> None:
    """Teacher forcing: P is the product over pieces, and scores add up to its change."""
    model = zoo.tiny("llama")
    # Two likely pieces: " Ottawa" after the text, then whatever the model itself prefers after it.
    prompt = kn.Prompt("The capital of Canada is", likely_answer(model, "The capital of Canada is"))
    with pytest.raises(ValueError, match=r"multi_token='first'\) or 'sum'"):
        kn.integrated_gradients(model, prompt)
    first = kn.integrated_gradients(model, replace(prompt, multi_token="first"))
    att = kn.integrated_gradients(model, replace(prompt, multi_token="sum"))
    assert float(att.probability) < float(first.probability)
    assert att.prompts[0].multi_token == "sum"
    e = kn.encode(model, replace(prompt, multi_token="sum"))
    metric = kn.probability(e.target_ids)
    hooks = [kn.scale_site("mlp.hook_post", 1, g, pos=e.positions) for g in (0.0, 1.0)]
    zero, one = kn.sweep(model, e, hooks, metric=metric).tolist()
    assert float(att.gap[0, 1]) == pytest.approx(one - zero, rel=1e-3)
    assert float(att.scores[0, 1].sum()) == pytest.approx(one - zero, abs=0.02 * max(one, zero))


@pytest.mark.parametrize(("name", "width"), [("bert", zoo.D_MLP), ("modernbert_decoder", 2 * zoo.D_MLP)])
def test_pre_activation_site_is_complete_too(name: str, width: int) -> None:
    """As wide as the site is: a gate that is made by the same matrix belongs to it."""
    att = kn.integrated_gradients(zoo.tiny(name), prompts_for(name), site="mlp.hook_pre")
    assert att.site == "mlp.hook_pre" and set(att.widths) == {width}
    assert float(att.residual.abs().max()) < 5e-4


def test_bad_input_says_what_to_type() -> None:
    model = zoo.tiny("llama")
    prompt = prompts_for("llama")[0]
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ValueError, "'adaptive', 'midpoint'", {"rule": "simpson"}),
        (ValueError, "steps=0; give a whole number at least 1", {"rule": "midpoint", "steps": 0}),
        (TypeError, "steps=2.5; give a whole number", {"rule": "midpoint", "steps": 2.5}),
        (ValueError, "above 0 and below 1", {"tol": 0.0}),
        (ValueError, "above 0 and below 1", {"tol": float("nan")}),
        (ValueError, "unknown site", {"site": "neurons"}),
        (KeyError, "does not exist", {"site": "mlp.hook_nothing"}),
    ]
    for kind, text, options in cases:
        # As a user runs it: without the type checker of the tests.
        with pytest.raises(kind, match=text):
            inspect.unwrap(kn.integrated_gradients)(model, prompt, **options)
    with pytest.raises(ValueError, match="no prompts"):
        kn.integrated_gradients(model, [])


def test_an_encoded_prompt_keeps_its_own_beginning() -> None:
    """With and without BOS, in one call: other lengths, other scores."""
    model = zoo.tiny("llama")
    prompt = prompts_for("llama")[0]
    both = [kn.encode(model, prompt, prepend_bos=bos) for bos in (True, False)]
    att = kn.integrated_gradients(model, both)
    assert att.prompts == (prompt, prompt) and att.provenance["settings"]["prepend_bos"] is None
    for number, e in enumerate(both):
        with torch.no_grad():
            p = model(e.tokens)[0, -1].softmax(-1)[e.target_ids[0]]
        assert float(att.probability[number]) == pytest.approx(float(p), abs=1e-6)
    assert float((att.scores[0] - att.scores[1]).abs().max()) > 1e-4


def test_dropout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs of such a model differ: no score of it means anything."""
    for name, rate in (("llama", "attention_dropout"), ("gpt2", "embd_pdrop"), ("bert", "hidden_dropout_prob")):
        recipe = zoo.RECIPES[name]
        monkeypatch.setitem(zoo.RECIPES, name, replace(recipe, options={**recipe.options, rate: 0.5}))
        model = zoo.fresh(name)
        kn.integrated_gradients(model, prompts_for(name)[0], rule="midpoint", steps=1)
        model.train()
        for run in (kn.integrated_gradients, kn.activation, lambda m, p: kn.sweep(m, p, [[]])):
            with pytest.raises(ValueError, match=r"50%.*call model\.eval\(\)"):
                run(model, prompts_for(name)[0])


def test_overflowing_activations_are_an_error() -> None:
    model = zoo.fresh("llama")
    with torch.no_grad():
        model.blocks[1].mlp.W_out[:] = float("inf")
    with pytest.raises(FloatingPointError, match="float32"):
        kn.integrated_gradients(model, prompts_for("llama")[0])


def test_bfloat16_weights_are_scored_in_float32() -> None:
    exact = kn.integrated_gradients(zoo.fresh("gpt2"), prompts_for("gpt2"), rule="midpoint")
    rough = kn.integrated_gradients(zoo.fresh("gpt2", torch.bfloat16), prompts_for("gpt2"), rule="midpoint")
    assert rough.scores.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(exact.scores.flatten(1), rough.scores.flatten(1))
    assert float(cosine.min()) > 0.97


def test_result_reads_well() -> None:
    model = zoo.tiny("llama")
    att = kn.integrated_gradients(model, prompts_for("llama"))
    frame = att.to_frame(top=3)
    assert list(frame.columns) == ["prompt", "text", "target", "layer", "neuron", "score", "rank", "metric"]
    best = att.top(1, prompt=1)[0]
    row = frame[(frame["prompt"] == 1) & (frame["rank"] == 1)].iloc[0]
    assert (row["layer"], row["neuron"]) == (best.layer, best.index)
    assert att.score_of(best, prompt=1) == pytest.approx(float(att.scores[1].max()))
    assert "The capital of France is" in repr(att) and "</table>" in att._repr_html_()
    with pytest.raises(IndexError, match="there are 3"):
        att.top(1, prompt=3)


def test_a_site_without_neurons_is_an_error() -> None:
    model, prompt = zoo.tiny("gpt2"), kn.Prompt("The capital of Canada is", " Ottawa", multi_token="first")
    for function in (kn.integrated_gradients, kn.activation_x_gradient, kn.activation):
        with pytest.raises(ValueError, match=r"no neurons; use 'mlp.hook_post'"):
            function(model, prompt, site="z")


@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "mlp_out", "attn_out", "z", "blocks.0.hook_resid_mid"])
@pytest.mark.parametrize("attribute", [kn.integrated_gradients, kn.activation, kn.activation_x_gradient])
def test_entries_of_other_sites_are_no_neurons(attribute: Any, site: str) -> None:
    with pytest.raises((ValueError, KeyError), match=r"no neurons|unknown site|hook"):
        attribute(zoo.tiny("llama"), kn.Prompt("The capital of Canada is", " Ottawa"), site=site)
