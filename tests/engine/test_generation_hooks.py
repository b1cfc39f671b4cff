"""Text written under hooks: token for token that of a loop of whole runs, for prompts of several lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.engine.answers import ask
from kntools.models import adapter
from kntools.models.attachment import has_hooks
from tests import zoo
from tests.loop import override
from tests.unusual import unusual

PROMPTS = ["The capital of Canada is", "The dog", "Rome is the capital of"]
NEW = 5
VECTOR = torch.linspace(-1.5, 1.5, zoo.D_MODEL)
OWN = [(0, 3), (1, 5), (1, 40)]

#: Hooks as a user writes them, and the same hooks for a whole run of `stop` tokens, `given` of which are the prompt.
Hooks = Callable[[Any], list[kn.Hook]]
Whole = Callable[[Any, int, int], list[kn.Hook]]


def own(name: str, fn: Callable[[Tensor], Tensor]) -> list[kn.Hook]:
    return [(name, lambda x, hook: fn(x))]


CASES: dict[str, tuple[Hooks, Whole]] = {
    "none": (lambda m: [], lambda m, given, stop: []),
    "without pos": (
        lambda m: kn.scale_neurons(OWN, 6.0) + kn.add_vector("resid_post", 1, VECTOR),
        lambda m, given, stop: (
            kn.scale_neurons(OWN, 6.0, pos=range(given - 1, stop))
            + kn.add_vector("resid_post", 1, VECTOR, range(given - 1, stop))
        ),
    ),
    "first token": (
        lambda m: kn.add_vector("resid_post", 0, 4 * VECTOR, 0) + kn.scale_site("z", 1, 0.0, pos=[1, 0]),
        lambda m, given, stop: kn.add_vector("resid_post", 0, 4 * VECTOR, 0) + kn.scale_site("z", 1, 0.0, pos=[1, 0]),
    ),
    "last token of the prompt": (
        lambda m: kn.add_vector("attn_out", 1, 3 * VECTOR, -1) + kn.set_neurons(OWN, 9.0, pos=slice(-2, None)),
        lambda m, given, stop: (
            kn.add_vector("attn_out", 1, 3 * VECTOR, given - 1) + kn.set_neurons(OWN, 9.0, pos=range(given - 2, given))
        ),
    ),
    "every token": (
        lambda m: kn.add_vector("resid_post", 1, VECTOR, None) + kn.scale_site("attn_out", 0, 0.3, pos=None),
        lambda m, given, stop: (
            kn.add_vector("resid_post", 1, VECTOR, None) + kn.scale_site("attn_out", 0, 0.3, pos=None)
        ),
    ),
    "keys and values": (
        lambda m: kn.scale_site("k", 1, 0.2, pos=None) + kn.scale_site("v", 0, 2.5),
        lambda m, given, stop: (
            kn.scale_site("k", 1, 0.2, pos=None) + kn.scale_site("v", 0, 2.5, pos=range(given - 1, stop))
        ),
    ),
    "a function of the user's": (
        lambda m: own("blocks.1.hook_resid_post", lambda x: x.roll(1, 1)) + kn.scale_neurons(OWN, 6.0),
        lambda m, given, stop: (
            own("blocks.1.hook_resid_post", lambda x: x.roll(1, 1))
            + kn.scale_neurons(OWN, 6.0, pos=range(given - 1, stop))
        ),
    ),
    **{  # all logits of the text, although one position is asked for
        f"a function of the user's at {name}": (
            lambda m, name=name: own(name, lambda x: x.roll(1, 1)),
            lambda m, given, stop, name=name: own(name, lambda x: x.roll(1, 1)),
        )
        for name in ("unembed.hook_in", "unembed.hook_out")
    },
}


@torch.no_grad()
def loop(model: Any, text: str, whole: Whole) -> str:
    """Each token from a whole run with hooks that name their positions."""
    tokens = kn.encode(model, kn.Prompt(text, " the")).tokens
    given = tokens.shape[1]
    for _ in range(NEW):
        logits = model.run_with_hooks(tokens, fwd_hooks=whole(model, given, tokens.shape[1]))
        tokens = torch.cat([tokens, logits[:, -1].argmax(-1)[:, None]], 1)
    ids = tokens[0, given:].tolist()
    end = model.tokenizer.eos_token_id
    return model.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", zoo.CAUSAL)
def test_text_under_hooks_is_that_of_whole_runs(name: str, case: str) -> None:
    model, (hooks, whole) = zoo.tiny(name), CASES[case]
    expected = [loop(model, text, whole) for text in PROMPTS]
    assert kn.generate(model, PROMPTS, hooks=hooks(model), max_new_tokens=NEW) == expected
    if name == "llama":
        assert kn.generate(model, PROMPTS[1], hooks=hooks(model), max_new_tokens=NEW) == expected[1]
        assert kn.generate(model, [PROMPTS[0]] * 3, hooks=hooks(model), max_new_tokens=NEW) == [expected[0]] * 3


@pytest.mark.legacy
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_text_under_hooks_on_a_hooked_transformer(name: str, case: str) -> None:
    model, (hooks, whole) = zoo.hooked_twin(name), CASES[case]
    expected = [loop(model, text, whole) for text in PROMPTS]
    assert kn.generate(model, PROMPTS, hooks=hooks(model), max_new_tokens=NEW) == expected


@pytest.mark.parametrize("name", ["native", "mamba", "lfm2", "bidirectional_gemma3", "dynamic", "longrope"])
def test_text_under_hooks_without_a_cache(name: str) -> None:
    model = unusual(name)

    def whole(m: Any, given: int, stop: int) -> list[kn.Hook]:
        late = kn.add_vector("resid_post", 0, 2 * VECTOR, range(given - 1, stop))
        return kn.add_vector("resid_post", 0, 4 * VECTOR, 1) + late

    hooks = kn.add_vector("resid_post", 0, 4 * VECTOR, 1) + kn.add_vector("resid_post", 0, 2 * VECTOR)
    expected = [loop(unusual(name), text, whole) for text in PROMPTS]
    assert kn.generate(model, PROMPTS, hooks=hooks, max_new_tokens=NEW) == expected
    assert expected != kn.generate(model, PROMPTS, max_new_tokens=NEW), "the hooks have an effect"


@pytest.mark.parametrize("name", ["llama", "native"])
def test_a_patch_of_the_prompt(name: str) -> None:
    """The other run has values for the tokens of the prompt alone."""
    model = unusual(name) if name == "native" else zoo.tiny(name)
    tokens, other = (kn.encode(model, kn.Prompt(f"The capital of {c} is", " the")).tokens for c in ("Canada", "France"))
    _, cache = model.run_with_cache(other)
    given = tokens.shape[1]

    def replace(x: Tensor) -> Tensor:
        return torch.cat([cache["blocks.1.hook_resid_post"], x[:, given:]], 1)

    expected = loop(model, "The capital of Canada is", lambda m, a, b: own("blocks.1.hook_resid_post", replace))
    hooks = kn.patch(cache, "resid_post", 1)
    assert kn.generate(model, "The capital of Canada is", hooks=hooks, max_new_tokens=NEW) == expected


def test_steps_are_taken_where_they_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = zoo.fresh("llama"), list[int]()

    class Counted(adapter.Steps):
        def __call__(self, tokens: Tensor) -> Tensor:
            seen.append(tokens.shape[1])
            return super().__call__(tokens)

    given = kn.encode(model, kn.Prompt(PROMPTS[0], " the")).tokens.shape[1]
    kn.generate(model, PROMPTS[0], max_new_tokens=4)
    monkeypatch.setattr(adapter, "Steps", Counted)
    for case, taken in (("without pos", True), ("keys and values", True), ("a function of the user's", False)):
        seen.clear()
        kn.generate(model, PROMPTS[0], hooks=CASES[case][0](model), max_new_tokens=4)
        assert seen == ([given, 1, 1, 1] if taken else [])


def test_only_the_logits_of_what_comes_next_are_made() -> None:
    model, made = zoo.fresh("llama"), list[int]()
    override(model.unembed.hook_out, lambda forward, logits: made.append(logits.shape[1]) or forward(logits))
    kn.generate(model, PROMPTS[0], max_new_tokens=4)
    made.clear()  # the probes are no part of the count
    kn.generate(model, PROMPTS[0], max_new_tokens=4)
    assert made == [1, 1, 1, 1]


def test_a_hook_of_pytorch_on_the_unembedding_sees_the_whole_text() -> None:
    """Also one that is attached when kntools has already asked what the model allows."""
    model, texts = zoo.fresh("llama"), [kn.Prompt(text, " Ottawa") for text in PROMPTS]
    hooks = own("ln_final.hook_out", lambda x: 1.0 * x)  # a function of the user's: whole runs
    kn.generate(model, PROMPTS, hooks=hooks, max_new_tokens=NEW), kn.sweep(model, texts[0], [[]]), ask(model, texts)

    def by_position(module: Any, given: Any, logits: Tensor) -> Tensor:
        return logits * torch.linspace(1, -1, logits.shape[1]).view(1, -1, 1)

    model.original_model.lm_head.register_forward_hook(by_position)
    expected = [loop(model, text, lambda m, given, stop: []) for text in PROMPTS]
    assert kn.generate(model, PROMPTS, hooks=hooks, max_new_tokens=NEW) == expected
    first = model(kn.encode(model, texts[0]).tokens)[0, -1]
    torch.testing.assert_close(kn.sweep(model, texts[0], [kn.scale_neurons(OWN, 1.0)])[0], first, atol=1e-4, rtol=1e-4)
    [answer, *_] = ask(model, texts[:1])
    assert answer.says == (int(first.argmax()),)


def test_nothing_is_left_behind_and_bad_hooks_are_refused() -> None:
    model = zoo.fresh("llama")
    before = zoo.bits(model)
    assert kn.generate(model, PROMPTS[0], hooks=kn.scale_neurons(OWN, 6.0)) != kn.generate(model, PROMPTS[0])
    assert not has_hooks(model) and zoo.bits(model) == before
    hook = kn.ablate_neurons(OWN)[0]
    cases: list[tuple[type[Exception], str, Any]] = [
        (KeyError, "did you mean", [("blocks.1.hook_resid_pst", lambda x, hook: x)]),
        (TypeError, "hook", hook),
        (TypeError, "takes one list of hooks, not a list of lists", [[hook, hook]]),
        (IndexError, "position 30", kn.add_vector("resid_post", 0, VECTOR, 30)),
        (RuntimeError, "never fired", [("blocks.1.attn.hook_result", lambda x, hook: x)]),
    ]
    for error, words, hooks in cases:
        with pytest.raises(error, match=words):
            kn.generate(model, PROMPTS[0], hooks=hooks)
    assert not has_hooks(model)
    with pytest.raises(ValueError, match=r"eval\(\)"):
        dropping = zoo.fresh("gpt2").train()
        for module in dropping.original_model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.1
        kn.generate(dropping, PROMPTS[0])
