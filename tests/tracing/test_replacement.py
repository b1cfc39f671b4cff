"""Traces with the tokens of another prompt in place of noise, and in other metrics: against the plain loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.models import adapter
from kntools.tracing.weak_corruption import WeakCorruption
from tests import zoo

pytestmark = pytest.mark.filterwarnings("ignore:the corruption does not lower")

Value = Callable[[Tensor], float]


def pair(name: str) -> tuple[kn.Prompt, str]:
    end, space = (" [MASK].", "") if zoo.RECIPES[name].masked else ("", " ")
    clean = kn.Prompt(f"The capital of Canada is{end}", f"{space}Ottawa", subject="Canada", foil=f"{space}Rome")
    return clean, f"The capital of Italy is{end}"


def values(e: kn.Encoded, clean: Tensor) -> dict[str, Value]:
    """Metrics of logits `[d_vocab]`, written out."""
    assert e.foil_ids is not None
    right, wrong, base = e.target_ids[0], e.foil_ids[0], clean.log_softmax(-1)
    return {
        "probability": lambda x: float(x.softmax(-1)[right]),
        "log_probability": lambda x: float(x.log_softmax(-1)[right]),
        "contrast": lambda x: float(x[right] - x[wrong]),
        "two_way": lambda x: 1 / (1 + math.exp(float(x[wrong] - x[right]))),
        "kl_divergence": lambda x: float((base.exp() * (base - x.log_softmax(-1))).sum()),
        "closure": lambda x: float(x[right] - x.mean()),
    }


def by_loop(model: Any, clean: kn.Encoded, other: kn.Encoded, trace: kn.Trace, value: Value) -> Tensor:
    """Every cell by `run_with_hooks` on the corrupted prompt."""
    layers = range(adapter.n_layers(model))
    site = adapter.state_site(model, trace.kind)
    cut = [adapter.state_site(model, trace.sever)] if trace.sever else []
    states: dict[str, Tensor] = {}
    held: dict[str, Tensor] = {}
    out = torch.zeros_like(trace.scores)
    with torch.no_grad():
        model.run_with_hooks(clean.tokens, fwd_hooks=kn.capture(states, [site], layers))
        model.run_with_hooks(other.tokens, fwd_hooks=kn.capture(held, cut, layers))
        for layer in layers:
            window = [
                n for n in range(layer - trace.window // 2, layer - trace.window // 2 + trace.window) if n in layers
            ]
            for token in range(len(trace.tokens)):
                hooks = kn.freeze(states, [site], window, [token])
                hooks += kn.freeze(held, cut, range(window[-1] + 1, len(layers)), [token])
                out[layer, token] = value(model.run_with_hooks(other.tokens, fwd_hooks=hooks)[0, clean.position])
    return out


@pytest.mark.parametrize("options", [{}, {"kind": "mlp", "window": 2}, {"kind": "attn", "window": 2, "sever": "mlp"}])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "bert"])
def test_another_prompt_in_place_of_noise(name: str, options: dict[str, Any]) -> None:
    model, (prompt, text) = zoo.tiny(name), pair(name)
    clean, other = kn.encode(model, prompt), kn.encode(model, kn.Prompt(text, prompt.target))
    with torch.no_grad():
        logits = [model(e.tokens)[0, clean.position] for e in (clean, other)]
    expected = values(clean, logits[0])
    for metric in ("log_probability", "contrast"):
        trace = kn.causal_trace(model, prompt, corrupted=text, metric=metric, **options)
        assert trace.metric == metric
        assert trace.clean == pytest.approx(expected[metric](logits[0]), abs=1e-4)
        assert trace.corrupted == pytest.approx(expected[metric](logits[1]), abs=1e-4)
        torch.testing.assert_close(
            trace.scores, by_loop(model, clean, other, trace, expected[metric]), atol=1e-3, rtol=0
        )
        assert float(trace.effect.abs().max()) > 1e-2
    assert trace.noise is None and trace.noise_at is None and trace.corrupted_prompt.text == text
    assert trace.subject == clean.subject and trace.per_sample.shape[0] == 1


def test_all_metrics_with_noise() -> None:
    model, (prompt, _) = zoo.tiny("llama"), pair("llama")
    e = kn.encode(model, prompt)
    noise = 0.3 * torch.randn(2, 1, zoo.D_MODEL, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        clean = model(e.tokens)[0, -1]
        corrupted = [
            model.run_with_hooks(e.tokens, fwd_hooks=kn.corrupt(e.subject, n, hook="embed.hook_out"))[0, -1]
            for n in noise
        ]
    for name, value in values(e, clean).items():
        right = e.target_ids[0]
        metric: Any = (lambda x, right=right: x[:, right] - x.mean(-1)) if name == "closure" else name
        trace = kn.causal_trace(model, prompt, noise=noise, metric=metric)
        assert trace.metric == ("metric" if name == "closure" else name)
        assert trace.clean == pytest.approx(value(clean), abs=1e-4)
        assert trace.corrupted_per_sample.tolist() == pytest.approx([value(x) for x in corrupted], rel=1e-3)
    assert kn.causal_trace(model, prompt, noise=noise).metric == "probability"


def test_several_prompts_and_no_subject(tmp_path: Path) -> None:
    model = zoo.tiny("llama")
    clean = [kn.Prompt("The capital of Canada is", " Ottawa"), kn.Prompt("Is Japan near France? Yes, it is", " Paris")]
    other = ["The capital of Italy is", kn.Prompt("Is Japan near Italy? Yes, it is", " Rome")]
    traces = kn.causal_trace(model, clean, corrupted=other, metric="log_probability")
    assert [[t.tokens[p] for p in t.subject] for t in traces] == [[" Canada"], [" France"]]
    for prompt, text, trace in zip(clean, other, traces, strict=True):
        alone = kn.causal_trace(model, prompt, corrupted=text, metric="log_probability")
        torch.testing.assert_close(trace.scores, alone.scores, atol=1e-5, rtol=1e-5)
    [first, _] = traces
    assert kn.load(first.save(tmp_path / "trace.safetensors")) == first
    assert "Italy" in repr(first) and "log_probability" in repr(first)
    assert "log probability" in str(first.plot().layout.coloraxis.colorbar.title.text or first.plot().to_dict())


def test_errors_and_warnings() -> None:
    model, (prompt, text) = zoo.tiny("llama"), pair("llama")
    with pytest.raises(ValueError, match="has the tokens of the clean prompt"):
        kn.causal_trace(model, prompt, corrupted=prompt.text)
    with pytest.raises(ValueError, match="must have as many"):
        kn.causal_trace(model, prompt, corrupted="The capital of lazy dog is")
    for noise in (0.3, torch.zeros(1, 1, zoo.D_MODEL)):
        with pytest.raises(ValueError, match="give one of them"):
            kn.causal_trace(model, prompt, corrupted=text, noise=noise)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kn.causal_trace(model, prompt, corrupted=text, metric="kl_divergence")
        kn.causal_trace(model, prompt, corrupted=text, metric=lambda x: -x[:, 0])
    assert not [w for w in caught if issubclass(w.category, WeakCorruption)], "which way is better is not known"
