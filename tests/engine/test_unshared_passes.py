"""The engine finds out which models cannot share passes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
import kntools.engine.capability as capability_of
from kntools.engine.answers import ask
from kntools.engine.capability import Capability, capability
from kntools.models.modules import wiring
from tests import zoo
from tests.engine.test_pass_counts import counted
from tests.loop import gradient_by_loop, one_by_one, override, tokens_for
from tests.unusual import unusual


def change_output(module: torch.nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    def changed(forward: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    override(module, changed)


def mix(model: Any, layer: int = 1) -> None:
    """Block `layer` moves every row of a batch towards the mean of the batch."""
    change_output(model.blocks[layer], lambda x: 0.5 * x + 0.5 * x.mean(0, keepdim=True))


def shift_by_place(model: Any) -> None:
    """A block whose output depends on how many positions there are, and on which of them each is."""
    change_output(model.blocks[1], lambda x: x + torch.linspace(0, 2, x.shape[1]).view(1, -1, 1))


def forget(model: Any) -> None:
    """The model fills the cache it is given, but ignores what is in it."""

    def without(forward: Any, *args: Any, **kwargs: Any) -> Any:
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length():
            kwargs = {**kwargs, "past_key_values": None}
        return forward(*args, **kwargs)

    override(model.original_model, without)


class Reversed(torch.nn.Module):
    """Adds what stands at the mirrored place of the text."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        x = self.inner(*args, **kwargs)
        return x + x.flip(1)


def replace_a_module(model: Any) -> None:
    out = model.blocks[1].attn.o
    out.set_original_component(Reversed(out.original_component).eval())


def hook_of_pytorch(model: Any) -> None:
    """It looks at the length of its run, which no probe need have."""
    model.blocks[1].mlp.register_forward_hook(lambda module, args, out: 2 * out if out.shape[1] == 6 else out)


def pre_hook_of_pytorch(model: Any) -> None:
    model.blocks[1].mlp.register_forward_pre_hook(lambda module, args: (args[0] + args[0][:, :1],))


def another_class(model: Any) -> None:
    out = model.blocks[1].attn.o.original_component
    out.__class__ = type("Mirrored", (type(out),), {"forward": lambda self, x: x @ self.weight.T + x.flip(1).sum()})


def first_token_of_the_embedding(model: Any) -> None:
    """A soft prompt: what is embedded first is another thing, in whatever run."""
    override(
        model.embed.original_component,
        lambda forward, ids: torch.cat([0 * forward(ids[:, :1]), forward(ids)[:, 1:]], 1),
    )


def override_the_unembedding(model: Any) -> None:
    """By the length of the text."""
    change_output(model.unembed.original_component, lambda x: x * torch.linspace(1, -1, x.shape[1]).view(1, -1, 1))


CHANGES = [mix, shift_by_place, forget, replace_a_module, hook_of_pytorch, pre_hook_of_pytorch, another_class]
CHANGES += [first_token_of_the_embedding, override_the_unembedding]


def mixing(name: str, layer: int) -> Any:
    model = zoo.fresh(name)
    mix(model, layer)
    return model


def forgetful(name: str) -> Any:
    model = zoo.fresh(name)
    forget(model)
    return model


def interventions_for(model: Any) -> list[list[kn.Hook]]:
    """In every layer, at early and late positions."""
    layers = range(model.cfg.n_layers)
    return [kn.scale_site("mlp.hook_post", layer, f, pos=p) for layer in layers for f in (0.0, 2.0) for p in (1, -1)]


def assert_equal_to_loop(model: Any, tokens: Tensor) -> None:
    """Probabilities and gradients, one prompt and two."""
    hooks = interventions_for(model)
    expected = one_by_one(model, tokens, hooks)
    torch.testing.assert_close(kn.sweep(model, tokens, hooks, pos=-1).softmax(-1), expected, atol=1e-5, rtol=0)
    two = torch.cat([tokens, tokens.roll(1, dims=1)])
    runs = [kn.Intervention(h, prompt=p) for p in (1, 0) for h in hooks[::3]]
    both = torch.cat([one_by_one(model, two[p : p + 1], hooks[::3]) for p in (1, 0)])
    torch.testing.assert_close(kn.sweep(model, two, runs, pos=-1).softmax(-1), both, atol=1e-5, rtol=0)
    site, metric = "blocks.1.mlp.hook_post", kn.log_probability(7)
    asked = [kn.Intervention(h, wrt=[(site, -1)]) for h in hooks[:3]]
    for h, rows in zip(hooks, kn.sweep_gradients(model, tokens, asked, metric, pos=-1), strict=False):
        plain = gradient_by_loop(model, tokens, h, site, metric)[:, -1:]
        torch.testing.assert_close(rows.wrt[site].gradient, plain, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("layer", [0, -1])
def test_a_model_that_mixes_its_rows_runs_the_plain_loop(name: str, layer: int) -> None:
    model = mixing(name, layer % zoo.fresh(name).cfg.n_layers)
    tokens = tokens_for(model)
    with pytest.warns(UserWarning, match="cannot share"):
        assert capability(model, tokens) == Capability(fork=False, prefix=False)
    assert_equal_to_loop(model, tokens)
    with counted(model, tokens) as shapes:
        kn.sweep(model, tokens, interventions_for(model), pos=-1)
    assert shapes == [(1, tokens.shape[1])] * len(interventions_for(model))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_model_that_ignores_its_cache_runs_whole_prompts(name: str) -> None:
    model = forgetful(name)
    tokens = tokens_for(model)
    assert capability(model, tokens) == Capability(fork=True, fill=True)
    assert_equal_to_loop(model, tokens)
    late = [kn.scale_site("mlp.hook_post", 1, f) for f in (0.0, 0.5, 2.0)]
    with counted(model, tokens) as shapes:
        kn.sweep(model, tokens, late)
    assert shapes == [(4, tokens.shape[1])], "rows are shared all the same, from the first token on"


@pytest.mark.parametrize("late", CHANGES)
def test_what_comes_to_a_model_later_is_seen(late: Callable[[Any], None]) -> None:
    """A model that could share passes is asked again when it has changed."""
    model, prompt = zoo.fresh("llama"), kn.Prompt("The capital of Canada is", " Ottawa")
    tokens = tokens_for(model)
    assert_equal_to_loop(model, tokens)
    counts = (40, 4)  # what holds for the longer text is taken for the shorter one
    for count in counts:
        kn.generate(model, prompt.text, max_new_tokens=count)
    late(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that passes cannot be shared now
        assert_equal_to_loop(model, tokens)
        [answer] = ask(model, prompt)
        written = [kn.generate(model, prompt.text, max_new_tokens=count) for count in counts]
    given, text = tokens.shape[1], tokens
    for _ in range(max(counts)):
        text = torch.cat([text, model(text)[:, -1:].argmax(-1)], 1)
    assert answer.says == (int(text[0, given]),)
    assert written == [model.tokenizer.decode(text[0, given : given + count]) for count in counts]


def test_hooks_on_all_modules_of_pytorch_and_on_gradients_are_seen() -> None:
    model = zoo.fresh("llama")
    tokens = tokens_for(model)
    assert_equal_to_loop(model, tokens)
    mlp = model.blocks[1].mlp.original_component

    def mixed(module: Any, args: Any, output: Any) -> Any:
        return output + output.mean(0, keepdim=True) * output.shape[1] if module is mlp else None

    handle = torch.nn.modules.module.register_module_forward_hook(mixed)
    try:
        assert_equal_to_loop(model, tokens)
    finally:
        handle.remove()
    behind = model.blocks[2].mlp.original_component
    behind.register_full_backward_hook(lambda module, inner, outer: (inner[0] / inner[0].norm(),))
    assert_equal_to_loop(model, tokens)


def test_another_function_at_the_same_address_is_another_one() -> None:
    """A cell of a notebook that defines and sets a forward is run again."""
    model = zoo.fresh("llama")
    tokens, module = tokens_for(model), model.blocks[1].attn.o.original_component
    numbers = set[int]()
    for count in range(6):
        override(module, lambda forward, x, count=count: forward(x) + (count % 2) * forward(x).mean(0, keepdim=True))
        numbers.add(wiring(model))
        hooks = interventions_for(model)
        found = kn.sweep(model, tokens, hooks, pos=-1).softmax(-1)
        torch.testing.assert_close(found, one_by_one(model, tokens, hooks), atol=1e-5, rtol=0)
        del vars(module)["forward"]
    assert len(numbers) == 6


def test_neurons_are_asked_for_again_where_the_output_of_an_mlp_is_another() -> None:
    model = zoo.fresh("llama")
    tokens, hooks = tokens_for(model), interventions_for(model)
    kn.sweep(model, tokens, hooks)
    change_output(model.blocks[1].mlp.out.original_component, lambda x: 2 * x)
    with pytest.raises(ValueError, match=r"layer 1 of tiny-llama has no neurons: .* is not what its MLP gives"):
        kn.sweep(model, tokens, hooks)


def test_every_change_but_that_of_weights_gives_another_number(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = zoo.fresh("llama"), set[int]()

    def assert_new() -> None:
        assert wiring(model) == wiring(model) not in seen
        seen.add(wiring(model))

    class Other(torch.nn.Linear):
        pass

    assert_new()
    for block in model.blocks[:2]:
        block.mlp.out.original_component.__class__ = Other
        assert_new()
    for _ in range(3):
        monkeypatch.setattr(Other, "forward", lambda self, x: x)
        assert_new()
    mlp = model.original_model.model.layers[0].mlp
    for _ in range(6):  # each where the one before it was
        mlp._modules["act_fn"] = None
        mlp._modules["act_fn"] = torch.nn.SiLU().eval()
        assert_new()
    model.original_model.config.sliding_window = 3
    assert_new()
    layers = model.original_model.model.layers
    layers[0], layers[1] = layers[1], layers[0]
    assert_new()
    model.to(torch.float64)
    assert_new()
    model.cfg.use_attn_result = True
    assert_new()
    model.blocks[1].mlp.train()
    assert_new()
    next(model.parameters()).data.add_(1)
    assert wiring(model) in seen


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
@pytest.mark.parametrize("bias", [-1e4, -1e9])
def test_one_large_logit_excuses_no_others(name: str, bias: float) -> None:
    model = unusual(name)
    matrix = model.unembed.original_component
    matrix.bias = torch.nn.Parameter(torch.zeros(len(matrix.weight)))
    matrix.bias.data[-1] = bias
    assert not capability(model, tokens_for(model)).fill


def test_a_model_that_looks_ahead_within_a_span_is_not_filled_up() -> None:
    def ahead(forward: Any, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        if attention_mask is not None and attention_mask.shape[-1] == attention_mask.shape[-2] > 20:
            attention_mask = attention_mask.clone()
            attention_mask[..., 10:20, 10:20] = 0
        return forward(*args, attention_mask=attention_mask, **kwargs)

    model = zoo.fresh("llama")
    for layer in model.original_model.model.layers:
        override(layer, ahead)
    can = capability(model, tokens_for(model))
    assert can.fork and not can.fill and not can.prefix


def test_a_model_that_allows_everything_is_asked_once_for_all_shorter_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = zoo.fresh("llama"), list[int]()
    tokens, compare = tokens_for(model), capability_of._compare

    def counted(model: Any, probe: Tensor) -> Any:
        asked.append(probe.shape[1])
        return compare(model, probe)

    monkeypatch.setattr(capability_of, "_compare", counted)
    for length in (40, 3, 33, 64, 5):
        assert capability(model, tokens, length) == Capability(True, True, True, True)
    assert asked == [64]
    model = zoo.fresh("llama")
    for length in (3, 5, 32, 33, 5):
        capability(model, tokens, length)
    assert asked == [64, 32, 64]
    forget(model)
    for length in (33, 5):  # of what is not allowed for long prompts, some may be for short ones
        assert not capability(model, tokens, length).prefix
    assert asked == [64, 32, 64, 64, 32]


def test_a_prompt_of_one_token_does_not_vouch_for_the_cache() -> None:
    model = forgetful("llama")
    tokens = tokens_for(model)
    kn.sweep(model, tokens[:, :1], [[]])
    assert_equal_to_loop(model, tokens)
