"""Causal tracing against the plain loop, and what must hold whatever the model."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.models import adapter
from kntools.plots.tokens import trace_panels
from kntools.sites import hook_name, layer_window
from kntools.tracing.noise import make_noise, subject_embeddings, subject_sigma
from kntools.tracing.restoration import KINDS, make_restoration
from kntools.tracing.token_roles import ROLES, token_roles
from tests import zoo
from tests.loop import ALL

# What noise does to a random model's answer is as it happens.
pytestmark = pytest.mark.filterwarnings("ignore:the corruption does not lower")


def fact(name: str) -> kn.Prompt:
    """A prompt whose answer is what the model finds most probable, so that there is something to lose."""
    model = zoo.tiny(name)
    end, space = (" [MASK].", "") if zoo.RECIPES[name].masked else ("", " ")
    draft = kn.Prompt(f"The capital of Canada is{end}", f"{space}Ottawa", subject="of Canada")
    e = kn.encode(model, draft)
    with torch.no_grad():
        order = model(e.tokens)[0, e.position].argsort(descending=True).tolist()
    special = set(model.tokenizer.all_special_ids)
    for token in order:
        word = model.tokenizer.decode([token])
        if token not in special and word.strip().isalpha() and word.startswith(space):
            try:
                encoded = kn.encode(model, kn.Prompt(draft.text, word, subject=draft.subject))
            except ValueError:
                continue
            if encoded.target_ids == (token,):
                return encoded.prompt
    raise AssertionError("no word among the answers")


def by_loop(model: Any, trace: kn.Trace, *, everywhere: bool = False, prepend_bos: bool | None = None) -> Tensor:
    """Every other cell by `run_with_hooks`, one sample at a time; the others are nan."""
    e = kn.encode(model, trace.prompt, prepend_bos=prepend_bos)
    site, layers = adapter.state_site(model, trace.kind), range(adapter.n_layers(model))
    cut = [adapter.state_site(model, trace.sever)] if trace.sever else []
    out = torch.full_like(trace.per_sample, torch.nan)
    clean: dict[str, Tensor] = {}

    def shown(site: str, layers: Sequence[int]) -> list[int]:
        return [n for n in layers if hook_name(site, n) in model.hook_dict]

    with torch.no_grad():
        model.run_with_hooks(e.tokens, fwd_hooks=kn.capture(clean, [site], shown(site, layers)))
        for s, noise in enumerate(trace.noise):
            corrupt = kn.corrupt(e.subject, noise, hook=adapter.embedding_name(model))
            held: dict[str, Tensor] = {}
            model.run_with_hooks(
                e.tokens, fwd_hooks=corrupt + [h for c in cut for h in kn.capture(held, [c], shown(c, layers))]
            )
            for layer in layers:
                first = layer - trace.window // 2
                window = [n for n in range(first, first + trace.window) if n in layers]
                for token in range((s + layer) % 2, len(trace.tokens), 2):
                    at = None if everywhere else [token]
                    hooks = [
                        *corrupt,
                        *kn.freeze(clean, [site], shown(site, window), [token]),
                        *(h for c in cut for h in kn.freeze(held, [c], shown(c, layers[window[-1] + 1 :]), at)),
                    ]
                    logits = model.run_with_hooks(e.tokens, fwd_hooks=hooks)[0, e.position]
                    out[s, layer, token] = logits.softmax(-1)[e.target_ids[0]]
    return out


def assert_equal_to_loop(trace: kn.Trace, expected: Tensor) -> None:
    cells = ~expected.isnan()
    assert bool(cells.any(0).all()), "of each layer and token one sample"
    torch.testing.assert_close(trace.per_sample[cells], expected[cells], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALL)
def test_every_state_equals_the_loop(name: str, kind: Any) -> None:
    model = zoo.tiny(name)
    trace = kn.causal_trace(model, fact(name), kind=kind, window=2, noise=0.3, samples=2)
    assert_equal_to_loop(trace, by_loop(model, trace))
    assert float(trace.effect.abs().max()) > 1e-3, "restoring hardly does anything: the comparison is empty"


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "bert"])
@pytest.mark.parametrize("sever", ["mlp", "attn"])
def test_severed_paths_equal_the_loop(name: str, sever: Any) -> None:
    model = zoo.tiny(name)
    for kind in ("hidden", "attn"):
        options: dict[str, Any] = {"kind": kind, "window": 3, "noise": 0.3, "samples": 2, "sever": sever}
        cut = kn.causal_trace(model, fact(name), **options)
        whole = kn.causal_trace(model, fact(name), **{**options, "sever": None})
        assert_equal_to_loop(cut, by_loop(model, cut))
        assert float((cut.effect - whole.effect).abs().max()) > 1e-5
        everywhere = kn.causal_trace(model, fact(name), sever_at="all", **options)
        assert_equal_to_loop(everywhere, by_loop(model, cut, everywhere=True))


@pytest.mark.parametrize(
    "options", [{"kind": "attn"}, {"kind": "mlp", "sever": "attn"}, {"kind": "attn", "sever": "attn"}]
)
def test_layers_without_attention_have_none_to_restore_or_sever(options: Any) -> None:
    model = zoo.tiny("qwen3_next")
    trace = kn.causal_trace(model, fact("qwen3_next"), window=2, noise=0.3, samples=2, **options)
    assert_equal_to_loop(trace, by_loop(model, trace))
    if options["kind"] == "attn":
        having = [n for n in range(3) if f"blocks.{n}.hook_attn_out" in model.hook_dict]
        empty = [n for n in range(3) if not {n - 1, n} & set(having)]
        assert empty and trace.scores[empty].numpy() == pytest.approx(trace.corrupted)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_nothing_left_out_by_position_or_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token in a pass of its own, few rows to a pass: the same table."""
    model = zoo.tiny(name)
    usual = kn.causal_trace(model, fact(name), noise=0.3, samples=3)
    monkeypatch.setattr("kntools.engine.plan.PASS_OVERHEAD", 0)
    for rows in (None, 4):
        with kn.set_options(max_rows=rows):
            again = kn.causal_trace(model, fact(name), noise=0.3, samples=3)
        torch.testing.assert_close(again.per_sample, usual.per_sample, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_without_noise_every_cell_is_clean(name: str) -> None:
    model = zoo.tiny(name)
    for kind in KINDS:
        for noise, samples in ((0, 2), (torch.zeros(2, 2, zoo.D_MODEL), None)):
            trace = kn.causal_trace(model, fact(name), kind=kind, window=1, noise=noise, samples=samples)
            torch.testing.assert_close(trace.scores, torch.full_like(trace.scores, trace.clean), atol=1e-5, rtol=0)
            assert trace.corrupted == pytest.approx(trace.clean, abs=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_restoring_everything_is_clean_and_nothing_is_corrupted(name: str) -> None:
    model = zoo.tiny(name)
    e = kn.encode(model, fact(name))
    trace = kn.causal_trace(model, e.prompt, noise=0.3, samples=1)
    corrupt = kn.corrupt(e.subject, trace.noise[0], hook=adapter.embedding_name(model))
    seen: dict[str, Tensor] = {}
    layers = range(adapter.n_layers(model))
    site = adapter.state_site(model, "hidden")
    kn.sweep(model, e, [kn.capture(seen, [site], layers)])
    metric = kn.probability(e.target_ids[0])
    runs = [corrupt + kn.freeze(seen, [site], layers), corrupt, []]
    whole, nothing, clean = kn.sweep(model, e, runs, metric=metric).tolist()
    assert whole == pytest.approx(trace.clean, abs=1e-5)
    assert clean == pytest.approx(trace.clean, abs=1e-5)
    assert nothing == pytest.approx(trace.corrupted, abs=1e-5)
    # The answer is read from the last state at the answer position.
    assert float(trace.scores[-1, e.position]) == pytest.approx(trace.clean, abs=1e-5)
    if not zoo.RECIPES[name].masked:  # noise reaches nothing before the subject, and the last layer nothing but itself
        assert float(trace.effect[:, : e.subject[0]].abs().max()) == 0
        assert float(trace.effect[-1, : e.position].abs().max()) < 1e-5


def test_given_noise_the_table_depends_on_nothing_else() -> None:
    model, prompt = zoo.tiny("llama"), fact("llama")
    drawn = kn.causal_trace(model, prompt, samples=3, seed=5)
    given = kn.causal_trace(model, prompt, noise=drawn.noise, seed=7)
    assert torch.equal(given.per_sample, drawn.per_sample)
    assert not torch.equal(kn.causal_trace(model, prompt, samples=3, seed=6).noise, drawn.noise)
    with pytest.raises(ValueError, match="samples=99 has no effect where no noise is drawn; omit it"):
        kn.causal_trace(model, prompt, noise=drawn.noise, samples=99)
    # Samples are independent of each other.
    alone = kn.causal_trace(model, prompt, noise=drawn.noise[1:2])
    torch.testing.assert_close(alone.per_sample[0], drawn.per_sample[1], atol=1e-6, rtol=0)


def test_the_strength_of_noise() -> None:
    model, prompt = zoo.tiny("gpt2"), fact("gpt2")
    found, *_ = subject_embeddings(model, kn.encode(model, prompt))
    with torch.no_grad():
        table = model.W_E[kn.encode(model, prompt).tokens[0, kn.encode(model, prompt).subject]]
    torch.testing.assert_close(found, table)
    sigma = subject_sigma(model, prompt)
    assert sigma == pytest.approx(float(found.std()))
    by_name = kn.causal_trace(model, prompt, noise="3sigma", samples=2)
    torch.testing.assert_close(by_name.noise, kn.causal_trace(model, prompt, noise=3 * sigma, samples=2).noise)
    torch.testing.assert_close(by_name.noise / 2, kn.causal_trace(model, prompt, noise="1.5sigma", samples=2).noise)
    assert float(make_noise(found, 0.5, samples=200, seed=0).std()) == pytest.approx(0.5, rel=0.03)
    both = subject_sigma(model, [prompt, kn.Prompt("Ottawa is the capital of", " Canada", subject="Ottawa")])
    assert both != sigma


def test_hand_computed_effects_on_one_layer_of_addition() -> None:
    """In the last layer nothing comes after: restoring what the MLP added there is addition, a norm and a product."""
    model, prompt = zoo.tiny("llama"), fact("llama")
    e, last = kn.encode(model, prompt), adapter.n_layers(model) - 1
    trace = kn.causal_trace(model, prompt, kind="mlp", window=1, noise=0.3, samples=2)
    with torch.no_grad():
        _, clean = model.run_with_cache(e.tokens)
        for s in range(2):
            seen: dict[str, Tensor] = {}
            watch = kn.capture(seen, ["resid_mid"], [last])
            model.run_with_hooks(e.tokens, fwd_hooks=kn.corrupt(e.subject, trace.noise[s]) + watch)
            state = seen[f"blocks.{last}.hook_resid_mid"] + clean[f"blocks.{last}.hook_mlp_out"]
            expected = model.unembed(model.ln_final(state))[0, -1].softmax(-1)[e.target_ids[0]]
            assert float(trace.per_sample[s, last, -1]) == pytest.approx(float(expected), abs=1e-6)


def test_windows() -> None:
    for window, expected in ((10, range(10, 20)), (1, range(15, 16)), (2, range(14, 16)), (3, range(14, 17))):
        assert layer_window(15, window, 30) == expected
    assert layer_window(2, 10, 30) == range(0, 7) and layer_window(29, 10, 30) == range(24, 30)


def test_ten_layers_or_all_of_a_smaller_model() -> None:
    """... and the trace says how many."""
    model, prompt = zoo.tiny("llama"), fact("llama")
    usual = kn.causal_trace(model, prompt, kind="mlp", noise=0.3, samples=1)
    every = kn.causal_trace(model, prompt, kind="mlp", window=4, noise=0.3, samples=1)
    assert usual.window == 4 and torch.equal(usual.per_sample, every.per_sample)
    assert kn.causal_trace(model, prompt, noise=0.3, samples=1).window == 1


def test_several_prompts_are_each_alone() -> None:
    model = zoo.tiny("llama")
    prompts = [fact("llama"), kn.Prompt("Is Japan near the", " city", subject="Japan")]
    traces = kn.causal_trace(model, [*prompts, kn.encode(model, prompts[0], prepend_bos=False)], noise=0.3, samples=2)
    for prompt, trace in zip(prompts, traces, strict=False):
        alone = kn.causal_trace(model, prompt, noise=0.3, samples=2)
        assert trace.prompt == prompt and torch.equal(trace.per_sample, alone.per_sample)
    assert isinstance(kn.causal_trace(model, prompts[:1], noise=0.3, samples=1), list)
    bare = traces[2]
    assert len(bare.tokens) == len(traces[0].tokens) - 1 and bare.subject.start == traces[0].subject.start - 1
    assert_equal_to_loop(bare, by_loop(model, bare, prepend_bos=False))


def test_noise_that_does_not_lower_the_answer_is_told() -> None:
    """Of a random model, noise makes an answer more or less probable as it happens."""
    model, prompt, effects = zoo.tiny("llama"), fact("llama"), []
    for seed in range(8):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            [trace] = kn.causal_trace(model, [prompt], noise=0.3, samples=1, seed=seed)
        effects.append(trace.total_effect)
        assert [str(w.message).split(":")[0] for w in caught] == (
            [] if trace.total_effect > 0 else ["the corruption does not lower the answer in 1 of 1 traces"]
        )
    assert min(effects) < 0 < max(effects)


def test_two_way_probability() -> None:
    model = zoo.tiny("llama")
    prompt = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada", foil=" Paris")
    trace = kn.causal_trace(model, prompt, noise=0.3, samples=1, metric="two_way")
    e = kn.encode(model, prompt)
    with torch.no_grad():
        p = model(e.tokens)[0, -1].softmax(-1)
    right, wrong = p[e.target_ids[0]], p[e.foil_ids[0]]
    assert trace.clean == pytest.approx(float(right / (right + wrong)), abs=1e-5)
    with pytest.raises(ValueError, match="foil"):
        kn.causal_trace(model, fact("llama"), metric="two_way")


def test_roles() -> None:
    assert token_roles(7, range(1, 4), 6) == ROLES
    assert token_roles(4, range(1, 2), 3) == (ROLES[0], "last subject token", "first subsequent token", "last token")
    assert token_roles(3, range(1, 3), 2)[1:] == ("first subject token", "last subject token")
    masked = token_roles(7, range(1, 3), 4)
    assert masked[3:] == ("first subsequent token", "last token", "further tokens", "further tokens")
    trace = kn.causal_trace(zoo.tiny("llama"), fact("llama"), noise=0.3, samples=1)
    rows = trace.by_role()
    torch.testing.assert_close(rows[ROLES.index("last token")], trace.effect[:, -1])
    assert rows[ROLES.index("further tokens")].isnan().all()


def test_bad_input_is_told() -> None:
    model, prompt = zoo.tiny("llama"), fact("llama")

    def trace(p: kn.Prompt = prompt, **options: Any) -> Any:
        return inspect.unwrap(kn.causal_trace)(model, p, **options)  # as a user runs it: without the type checker

    with pytest.raises(ValueError, match="has no subject"):
        trace(kn.Prompt(prompt.text, prompt.target))
    with pytest.raises(ValueError, match="not in the text"):
        trace(kn.Prompt(prompt.text, prompt.target, subject="Japan"))
    for empty in ("", " "):
        with pytest.raises(ValueError, match="subject"):
            trace(kn.Prompt(prompt.text, prompt.target, subject=empty))
    for wrong in (torch.zeros(2, 3, zoo.D_MODEL), torch.zeros(2, zoo.D_MODEL), torch.zeros(0, 2, zoo.D_MODEL)):
        with pytest.raises(ValueError, match=r"must be \[sample subject d_model\] = \(samples, 2, 32\)"):
            trace(noise=wrong)
    with pytest.raises(ValueError, match="nan or inf"):
        trace(noise=torch.full((1, 2, zoo.D_MODEL), float("nan")))
    for noise in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="at least 0"):
            trace(noise=noise)
    with pytest.raises(ValueError, match="'3sigma'"):
        trace(noise="three")
    with pytest.raises(ValueError, match="samples=0"):
        trace(samples=0)
    with pytest.raises(TypeError, match=r"samples=1\.5; give a whole number"):
        trace(samples=1.5)
    for window in (0, 5):
        with pytest.raises(ValueError, match=f"window={window}"):
            trace(kind="mlp", window=window)
    with pytest.raises(ValueError, match="from 1 to 4"):
        trace(kind="mlp", window=10)
    usual = {"kind": "hidden", "window": None, "sever": None, "sever_at": "restored"}
    for option, choices in (("kind", "'hidden', 'mlp', 'attn'"), ("sever", "None, 'mlp'"), ("sever_at", "'restored'")):
        with pytest.raises(ValueError, match=f"{option}='residual' is unknown; use {choices}"):
            inspect.unwrap(make_restoration)(model, **{**usual, option: "residual"})
    with pytest.raises(ValueError, match="at least one"):
        subject_sigma(model, [])


def test_activations_that_overflow_are_an_error() -> None:
    model = zoo.fresh("llama")
    with torch.no_grad():
        model.blocks[2].mlp.W_out.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="float32"):
        kn.causal_trace(model, fact("llama"), noise=0.3, samples=1)


def test_the_result(tmp_path: Path) -> None:
    model, prompt = zoo.tiny("llama"), kn.Prompt("The capital of the Canada is", " Ottawa", subject="Canada")
    traces = [kn.causal_trace(model, prompt, kind=k, window=2, noise=0.3, samples=2) for k in KINDS]
    trace = traces[1]
    assert trace.scores.shape == (4, len(trace.tokens))
    torch.testing.assert_close(trace.effect, trace.scores - trace.corrupted)
    assert trace.total_effect == pytest.approx(trace.clean - trace.corrupted)
    again = kn.load(trace.save(tmp_path / "trace.safetensors"))
    assert again == trace and repr(again) == repr(trace) and again.subject == trace.subject
    frame = trace.to_frame()
    assert len(frame) == trace.scores.numel() and set(frame["role"]) <= set(ROLES)
    row = frame[(frame["layer"] == 2) & (frame["position"] == 5)].iloc[0]
    assert row["score"] == pytest.approx(float(trace.scores[2, 5])) and row["token"] == trace.tokens[5]
    assert "last subject token" in repr(trace) and "</table>" in trace._repr_html_()
    figure = trace_panels(traces)
    assert [len(h.y) for h in figure.data] == [len(trace.tokens)] * 3
    ticks = figure.layout.yaxis.ticktext
    assert sum(t.startswith("<b>") for t in ticks) == len(trace.subject)
    assert "capital" in trace.plot().layout.title.text
    other = kn.causal_trace(model, fact("llama"), noise=0.3, samples=1)
    with pytest.raises(ValueError, match="the same prompt and metric"):
        trace_panels([trace, other])


def test_no_state_is_left_behind() -> None:
    model = zoo.tiny("llama")
    state = torch.random.get_rng_state()
    kn.causal_trace(model, fact("llama"), samples=2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(not point.fwd_hooks for point in model.hook_dict.values())
