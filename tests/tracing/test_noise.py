"""Where noise goes: to what the token embedding itself gives, as a forward hook on the Hugging Face module sees it."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.analyses.layer_choice import propose_layer
from kntools.models import adapter
from kntools.tracing.noise import subject_sigma
from kntools.tracing.weak_corruption import WeakCorruption, warn_of_weak_corruption
from tests import zoo

pytestmark = pytest.mark.filterwarnings("ignore:the corruption does not lower", "ignore:.*cannot share a forward pass")

# A norm behind the embedding, a scale inside of its module, a scale outside of it, a position embedding, none of these.
NAMES = ["bert", "roberta", "bloom", "modernbert_decoder", "gemma2", "xglm", "granite", "opt", "llama"]


def fact(name: str) -> kn.Prompt:
    end, space = (" [MASK].", "") if zoo.RECIPES[name].masked else ("", " ")
    return kn.Prompt(f"The capital of Canada is{end}", f"{space}Ottawa", subject="of Canada")


def embeddings(source: Any, e: kn.Encoded) -> Tensor:
    with torch.no_grad():
        return source.get_input_embeddings()(e.tokens)[0, list(e.subject)]


def run(source: Any, e: kn.Encoded, noise: Tensor) -> float:
    """The answer's probability, by the Hugging Face model, with noise added to the output of its embedding module."""

    def add(module: Any, inputs: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, list(e.subject)] += noise
        return output

    handle = source.get_input_embeddings().register_forward_hook(add)
    try:
        with torch.no_grad():
            return float(source(e.tokens).logits[0, e.position].softmax(-1)[e.target_ids[0]])
    finally:
        handle.remove()


@pytest.mark.parametrize("name", zoo.known(NAMES))
def test_noise_is_added_to_the_output_of_the_embedding(name: str) -> None:
    model, source, prompt = zoo.tiny(name), zoo.hf_model(name), fact(name)
    e = kn.encode(model, prompt)
    sigma = float(embeddings(source, e).double().std())
    assert subject_sigma(model, prompt) == pytest.approx(sigma, rel=1e-5)
    for noise, level in (("3sigma", 3 * sigma), (0.4, 0.4)):
        trace = kn.causal_trace(model, prompt, noise=noise, samples=2, seed=3)
        drawn = level * torch.randn(2, *trace.noise.shape[1:], generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(trace.noise, drawn)
        expected = [run(source, e, sample) for sample in trace.noise]
        assert trace.corrupted_per_sample.tolist() == pytest.approx(expected, rel=2e-3)
        assert abs(trace.corrupted / trace.clean - 1) > 4e-3
        # The bridge of Granite shows a multiple of the embedding in transformer-lens 4.x, and in 3.x the embedding.
        shown = model.run_with_cache(e.tokens)[1]["embed.hook_out"][0, list(e.subject)]
        times = round(float((shown / embeddings(source, e)).mean()))
        assert times == 1 or (name, times) == ("granite", 3)
        assert trace.noise_at == "embed.hook_out" + ("" if times == 1 else f" ({times} x the embedding)")


def test_the_shipped_masked_model() -> None:
    model = kn.load_model("tiny-bert")
    prompt = kn.Prompt("The capital of Canada is [MASK].", "Ottawa", subject="Canada")
    e = kn.encode(model, prompt)
    table = model.embed.W_E[e.tokens[0, list(e.subject)]].detach()
    assert subject_sigma(model, prompt) == pytest.approx(float(table.double().std()), rel=1e-5)
    assert subject_sigma(model, prompt) < 0.4  # behind the norm it is about 1


@pytest.mark.legacy
@pytest.mark.skipif(not zoo.has_hooked_classes(), reason="transformer-lens 4.0 removed HookedTransformer")
@pytest.mark.parametrize("name", zoo.TWINS)
def test_the_same_noise_on_a_bridge_and_on_the_old_classes(name: str) -> None:
    prompt = fact(name)
    bridge, old = (kn.causal_trace(m, prompt, samples=2) for m in (zoo.tiny(name), zoo.hooked_twin(name)))
    torch.testing.assert_close(bridge.noise, old.noise)
    torch.testing.assert_close(bridge.per_sample, old.per_sample, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llama", "bert"])
@pytest.mark.parametrize("site", ["hook_resid_pre", "hook_resid_post", "hook_mlp_out"])
def test_a_hook_of_the_user_acts_on_the_restored_state(name: str, site: str) -> None:
    """As in a plain run: restored is what block 1 gives, and what the user's hook does comes after it."""
    model, prompt = zoo.fresh(name), fact(name)
    e = kn.encode(model, prompt)
    direction = torch.randn(zoo.D_MODEL, generator=torch.Generator().manual_seed(1))
    model.add_hook(f"blocks.2.{site}", lambda x, hook: 0.5 * x + 3 * direction)
    trace = kn.causal_trace(model, prompt, noise=0.3, samples=1)
    clean: dict[str, Tensor] = {}
    with torch.no_grad():
        model.run_with_hooks(e.tokens, fwd_hooks=kn.capture(clean, ["resid_post"], range(3)))
        for layer in range(3):
            for token in range(len(trace.tokens)):
                hooks = kn.corrupt(e.subject, trace.noise[0], hook="embed.hook_out")
                hooks += kn.patch(clean, "resid_post", layer, token)
                logits = model.run_with_hooks(e.tokens, fwd_hooks=hooks)[0, e.position]
                expected = float(logits.softmax(-1)[e.target_ids[0]])
                assert float(trace.scores[layer, token]) == pytest.approx(expected, rel=2e-3)
    model.reset_hooks()


def test_a_subject_that_stands_twice_is_corrupted_once_and_warned_of() -> None:
    """... wherever noise takes nothing away: once per call, with a count."""
    model = zoo.tiny("llama")
    text = "Canada is near France. The capital of Canada is"
    with pytest.raises(ValueError, match="occurrence"):
        kn.causal_trace(model, kn.Prompt(text, " Ottawa", subject="Canada"), samples=1)
    for occurrence in (0, -1):
        prompt = kn.Prompt(text, " Ottawa", subject="Canada", occurrence=occurrence)
        trace = kn.causal_trace(model, prompt, samples=1)
        assert (trace.subject[0] < 3) == (occurrence == 0)
    prompts = [fact("llama"), kn.Prompt("The capital of Japan is", " Tokyo", subject="Japan")]
    calls = (
        lambda: kn.causal_trace(model, prompts, noise=0, samples=1),
        lambda: kn.analyses.tracing_profile(model, prompts, noise=0.0, samples=1, known_only=False),
    )
    for call in calls:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        [warning] = [w for w in caught if issubclass(w.category, WeakCorruption)]
        assert "2 of 2" in str(warning.message)


def test_what_differs_by_rounding_is_no_corruption() -> None:
    def warned(*values: tuple[float, float], rising: bool = True) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_of_weak_corruption([("text", clean, corrupted) for clean, corrupted in values], rising=rising)
        return [str(w.message) for w in caught]

    for same in ((0.5, 0.5), (1e-6, 1e-6 * (1 - 1e-6)), (-3.0, -3.0 * (1 + 1e-6)), (0.0, 0.0)):
        assert "1 of 2" in warned(same, (0.5, 0.4))[0] and warned(same, rising=False)
    assert warned((0.4, 0.5)) and not warned((0.4, 0.5), rising=False)
    assert not warned((0.5, 0.499), (1e-6, 9.9e-7), (-3.0, -3.01))


def test_proposing_a_layer_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    none = "kntools.tracing.causal_tracing.make_noise", lambda like, noise, samples, seed: torch.zeros(1, *like.shape)
    monkeypatch.setattr(*none)
    prompts = [fact("llama"), kn.Prompt("The capital of Japan is", " Tokyo", subject="Japan")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        propose_layer(zoo.tiny("llama"), prompts, samples=1)
    assert [w.category for w in caught] == [WeakCorruption]


def test_noise_needs_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(model: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.randn(1, tokens.shape[1], zoo.D_MODEL, generator=torch.Generator().manual_seed(0))
        return x, x.tanh()

    monkeypatch.setattr(adapter, "embedding_outputs", other)
    with pytest.raises(ValueError, match="not a multiple of the output of its token embedding"):
        kn.causal_trace(zoo.tiny("llama"), fact("llama"))
