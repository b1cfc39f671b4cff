"""Every shortcut is the model's own: recurrent, length-dependent and bidirectional models against plain loops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.engine import capability as probing
from kntools.engine.answers import ask
from kntools.engine.capability import capability
from kntools.models.causality import is_causal, is_masked
from kntools.models.modules import answers
from tests import zoo
from tests.loop import gradient_by_loop, one_by_one, override
from tests.unusual import NAMES, unusual

LONG = torch.tensor([[5, 17, 30, 44, 8, 99, 101, 7, 50, 61, 13, 14, 15, 18]])
STRETCHED = ["dynamic", "longrope"]


def reverse(layer: int, pos: Any) -> list[kn.Hook]:
    """A change that no norm undoes."""
    return kn.add_vector("resid_post", layer, torch.linspace(-3, 3, 32), pos=pos)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [14, 6])
def test_a_sweep_equals_the_loop(name: str, length: int) -> None:
    model, tokens = unusual(name), LONG[:, :length]
    layers = range(model.cfg.n_layers)
    hooks = [reverse(layer, pos) for layer in layers for pos in (0, 1, length // 2, -1)]
    expected = one_by_one(unusual(name), tokens, hooks)
    torch.testing.assert_close(kn.sweep(model, tokens, hooks, pos=-1).softmax(-1), expected, atol=1e-5, rtol=0)
    late = [h for h in hooks if h[0][1].pos == -1]
    torch.testing.assert_close(kn.sweep(model, tokens, late, pos=-1).softmax(-1), expected[3::4], atol=1e-5, rtol=0)
    two = torch.cat([tokens, tokens.roll(1, dims=1)])
    runs = [kn.Intervention(h, prompt=1) for h in hooks] + [kn.Intervention(h, prompt=0) for h in late]
    both = torch.cat([one_by_one(unusual(name), two[1:], hooks), expected[3::4]])
    torch.testing.assert_close(kn.sweep(model, two, runs, pos=-1).softmax(-1), both, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_the_loop(name: str) -> None:
    model, site, metric = unusual(name), "blocks.0.hook_resid_post", kn.log_probability(7)
    asked = [kn.Intervention(reverse(0, pos), wrt=[(site, -1)]) for pos in (-1, -2)]
    found = kn.sweep_gradients(model, LONG, asked, metric, pos=-1)
    for inter, rows in zip(asked, found, strict=True):
        plain = gradient_by_loop(model, LONG, inter.hooks, site, metric)[:, -1:]
        torch.testing.assert_close(rows.wrt[site].gradient, plain, atol=1e-6, rtol=1e-3)


def test_which_shortcuts_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    can = {name: capability(unusual(name), LONG) for name in NAMES}
    assert all(c.fork for c in can.values()), "hybrids and state-space models share passes"
    assert {name for name, c in can.items() if c.prefix} == {"gemma3", "bert_decoder", "masked_decoder"}
    assert {name for name, c in can.items() if not c.fill} == {*STRETCHED, "bidirectional_gemma3"}
    half = {name: capability(unusual(name).to(torch.bfloat16), LONG) for name in STRETCHED}
    assert not any(c.fill or c.prefix for c in half.values()), "rounding in 16 bits hides no other tables"
    monkeypatch.setattr("kntools.engine.capability._SHORTEST", 8)
    short = {name: capability(unusual(name), LONG[:, :5]) for name in STRETCHED}
    assert all(c.prefix and c.fill for c in short.values()), "within the original length, tables are fixed"


@pytest.mark.parametrize("name", STRETCHED)
def test_nothing_depends_on_what_ran_before(name: str) -> None:
    hooks = [reverse(layer, -1) for layer in range(2)]
    model = unusual(name)
    expected = {n: one_by_one(unusual(name), LONG[:, :n], hooks) for n in (14, 11, 8, 5)}
    model(LONG.repeat(1, 4))
    for n in (8, 14, 11, 5, 14):
        found = kn.sweep(model, LONG[:, :n], hooks, pos=-1).softmax(-1)
        torch.testing.assert_close(found, expected[n], atol=1e-5, rtol=0)
        model(LONG.repeat(1, 3))


@pytest.mark.parametrize("name", [*STRETCHED, *zoo.CAUSAL])
def test_rounding_in_16_bits_and_other_tables_are_far_apart(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each side of 0.02, what counts as rounding there, with room."""
    seen: list[float] = []

    def measured(found: Tensor, expected: Tensor) -> bool:
        seen.append(probing.distance(found, expected))
        return seen[-1] <= 2e-2

    monkeypatch.setattr(probing, "close", measured)
    model = unusual(name).to(torch.bfloat16) if name in STRETCHED else zoo.fresh(name, torch.bfloat16)
    capability(model, LONG)
    assert max(seen) > 0.05 if name in STRETCHED else max(seen) < 0.01


# --- causality -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, *zoo.ALL])
def test_causality_is_what_a_later_token_changes(name: str) -> None:
    model = unusual(name) if name in NAMES else zoo.tiny(name)
    tokens, other = LONG[:, :6], LONG[:, :6].clone()
    other[0, -1] = 77
    with torch.no_grad():
        change = float((model(tokens) - model(other))[:, :-1].abs().max())
    assert change < 1e-5 or change > 1e-2
    assert is_causal(model) == (change < 1e-5)
    assert is_masked(model) == (name == "bert")


def mixed(forward: Any, *args: Any, **kwargs: Any) -> Any:
    x = forward(*args, **kwargs)
    return x + x.mean(1, keepdim=True)


def by_forward(model: Any) -> None:
    override(model.blocks[0].mlp.original_component, mixed)


def by_hook(model: Any) -> None:
    model.add_hook("blocks.0.hook_mlp_out", lambda x, hook: x + x.mean(1, keepdim=True), is_permanent=True)


def by_pytorch_hook(model: Any) -> None:
    model.blocks[0].mlp.register_forward_hook(lambda module, args, x: x + x.mean(1, keepdim=True))


def in_training_mode(model: Any) -> None:
    by_forward(model)
    model.train()


def nothing(model: Any) -> None:
    pass


READ_AHEAD = [by_forward, by_hook, by_pytorch_hook, in_training_mode]


@pytest.mark.parametrize("change", [nothing, *READ_AHEAD])
def test_a_model_that_reads_ahead_is_patched_and_traced_everywhere(change: Callable[[Any], None]) -> None:
    """States before the first difference are no longer equal, also of a model that became so after it was asked."""
    model = unusual("bidirectional_gemma3") if change is nothing else zoo.fresh("llama")
    assert is_causal(model) == (change is not nothing)
    change(model)
    clean = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")
    corrupted = kn.Prompt("The capital of France is", " Ottawa")
    grid = kn.activation_patch(model, clean, corrupted, site="resid_post", metric=lambda logits: logits[:, 7])
    a, b = (kn.encode(model, p) for p in (clean, corrupted))
    _, cache = model.run_with_cache(a.tokens)
    for layer in range(2):
        for pos in range(a.tokens.shape[1]):
            hooks = kn.patch(cache, "resid_post", layer, pos)
            expected = model.run_with_hooks(b.tokens, fwd_hooks=hooks)[0, -1, 7].detach()
            assert float(grid.values[layer, pos]) == pytest.approx(float(expected), abs=1e-4)
    trace = kn.causal_trace(model, clean, samples=2, noise=1.0)
    assert bool((trace.scores[:, 0] != trace.corrupted).any()), "restoring the first token has an effect"


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_causality_is_asked_in_training_mode_too(name: str) -> None:
    """Dropout drops the same of both texts, and the random state is as it was."""
    model = zoo.fresh(name)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    state = torch.random.get_rng_state()
    assert is_causal(model) == (name != "bert")
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("name", [*STRETCHED, "bidirectional_gemma3", "mamba", "lfm2"])
def test_answers_of_texts_of_different_lengths(name: str) -> None:
    model = unusual(name)
    texts = ["The capital of Canada is", "Is", "The Eiffel Tower is located in the city of", "Rome is the capital of"]
    prompts = [kn.Prompt(text, " Ottawa") for text in texts]
    for answer, prompt in zip(ask(model, prompts), prompts, strict=True):
        e = kn.encode(model, prompt)
        expected = float(unusual(name)(e.tokens).detach()[0, -1].softmax(-1)[e.target_ids[0]])
        assert answer.probability == pytest.approx(expected, rel=1e-4)


def test_an_answer_of_a_causal_model_with_a_mask_token_is_at_its_last_token() -> None:
    for ask_first in (True, False):
        model = unusual("bert_decoder")
        assert not ask_first or is_causal(model)
        tokens = LONG[:, :6]
        hooks = kn.ablate_neurons([(0, 3), (1, 5)])
        found = model.run_with_hooks(tokens, fwd_hooks=hooks)
        assert torch.equal(found, model.run_with_hooks(tokens, fwd_hooks=kn.ablate_neurons([(0, 3), (1, 5)], pos=-1)))
        assert torch.allclose(kn.sweep(model, tokens, [hooks])[0], found[0, -1], atol=1e-5)


# --- what is not remembered ------------------------------------------------------------------------------


def failing(error: BaseException) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), KeyboardInterrupt()], ids=repr
)
@pytest.mark.parametrize("where", ["ForwardPass", "run_plain"])
def test_one_failure_of_the_probe_is_not_remembered(
    error: BaseException, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, hooks = zoo.fresh("llama"), [reverse(0, -1), reverse(1, -1)]
    with monkeypatch.context() as patched:
        patched.setattr(probing, where, failing(error))
        if isinstance(error, KeyboardInterrupt):
            with pytest.raises(KeyboardInterrupt):
                kn.sweep(model, LONG, hooks)
        else:
            found = kn.sweep(model, LONG, hooks).softmax(-1)
            torch.testing.assert_close(found, one_by_one(model, LONG, hooks), atol=1e-5, rtol=0)
    assert capability(model, LONG).prefix


def test_training_mode_is_not_remembered() -> None:
    model = zoo.fresh("llama")

    def mixing(forward: Any, x: Tensor) -> Tensor:
        return forward(x) + forward(x).mean(0, keepdim=True) if model.training else forward(x)

    for module in model.original_model.modules():
        if type(module).__name__ == "LlamaMLP":
            override(module, mixing)
    model.train()
    with pytest.warns(UserWarning, match="cannot share"):
        assert not capability(model, LONG).fork
    assert capability(model.eval(), LONG).prefix
    assert not capability(model.train(), LONG).fork


def test_dropout_is_refused_by_measurements_over_texts_and_by_saving(tmp_path: Path) -> None:
    model = zoo.fresh("gpt2")
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    state = torch.random.get_rng_state()
    for call in (
        lambda: kn.second_moment(model, 1, zoo.SENTENCES),
        lambda: kn.neuron_card(model, "L1.N5", zoo.SENTENCES),
        lambda: kn.save_model(model, tmp_path / "saved"),
    ):
        with pytest.raises(ValueError, match=r"training mode, and its Dropout drops 10% .* call model.eval\(\)"):
            call()
    assert torch.equal(state, torch.random.get_rng_state()) and not (tmp_path / "saved").exists()


def test_logits_that_are_nan_say_nothing_of_the_model() -> None:
    model = zoo.fresh("llama")
    weight = next(model.parameters())
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(torch.nan)
        assert not capability(model, LONG).fork and ("causal", False) not in answers(model)
        weight.copy_(kept)
    assert capability(model, LONG).prefix


@pytest.mark.parametrize("broken", [1, 13])
def test_the_prefix_is_tried_with_long_and_with_short_windows(broken: int) -> None:
    """A model that attends to its cache in windows of one token alone, or in longer ones alone."""
    model = zoo.fresh("llama")

    def forget(forward: Any, *args: Any, **kwargs: Any) -> Any:
        cache, tokens = kwargs.get("past_key_values"), kwargs.get("input_ids", args[0] if args else None)
        assert isinstance(tokens, Tensor)
        if cache is not None and cache.get_seq_length() and (tokens.shape[1] == 1) == (broken == 1):
            kwargs = {**kwargs, "past_key_values": None}
        return forward(*args, **kwargs)

    override(model.original_model, forget)
    assert not capability(model, LONG).prefix
    hooks = [reverse(0, 1), reverse(1, -1), reverse(0, 9)]
    for each in hooks:
        found = kn.sweep(model, LONG, [each]).softmax(-1)
        torch.testing.assert_close(found, one_by_one(model, LONG, [each]), atol=1e-5, rtol=0)
