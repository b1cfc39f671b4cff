"""Text that the model writes: against loops of whole runs, one or many, and models whose cache misleads."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

import kntools as kn
from kntools.engine import generation
from kntools.engine.generation import sample_templates, sample_texts
from kntools.models import adapter
from tests import zoo

PROMPT = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")


def plain(model: Any, tokens: Tensor, count: int) -> Tensor:
    """The most probable tokens, each from a run of the whole text."""
    found = tokens
    for _ in range(count):
        found = torch.cat([found, model(found)[:, -1].argmax(-1)[:, None]], 1)
    return found[:, tokens.shape[1] :]


@pytest.mark.parametrize("name", zoo.CAUSAL)
def test_most_probable_tokens_are_those_of_whole_runs(name: str) -> None:
    model = zoo.tiny(name)
    tokens = torch.tensor([[5, 17, 30], [9, 12, 40]])
    assert torch.equal(kn.generate(model, tokens, max_new_tokens=8), plain(model, tokens, 8))


def test_texts_and_prompts_of_any_lengths() -> None:
    model = zoo.tiny("llama")
    long = kn.Prompt("Is Japan near", " Ouagadougou", multi_token="sum")  # its own answer is not read
    other = kn.encode(model, kn.Prompt("The dog", " and"), prepend_bos=False)
    prompts = [PROMPT, long, PROMPT.text, other]
    found = kn.generate(model, prompts, max_new_tokens=6)
    for prompt, text in zip(prompts, found, strict=True):
        asked = kn.Prompt(prompt, " the") if isinstance(prompt, str) else prompt
        e = kn.encode(model, asked)
        ids = plain(model, e.tokens[:, : e.position + 1], 6)[0].tolist()
        assert model.tokenizer.eos_token_id not in ids
        assert text == model.tokenizer.decode(ids) == kn.generate(model, prompt, max_new_tokens=6)


def test_a_text_ends_where_the_model_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.fresh("llama")
    e = kn.encode(model, PROMPT)
    ids = plain(model, e.tokens, 6)[0].tolist()
    monkeypatch.setattr(type(model.tokenizer), "eos_token_id", ids[3], raising=False)
    assert ids.index(ids[3]) == 3
    assert kn.generate(model, PROMPT, max_new_tokens=6) == model.tokenizer.decode(ids[:3])
    assert kn.generate(model, e.tokens, max_new_tokens=6)[0].tolist() == ids


def test_drawn_tokens_have_their_probabilities() -> None:
    model = zoo.tiny("llama")
    tokens = torch.tensor([[5, 17, 30]]).expand(2000, -1)
    p = model(tokens[:1])[0, -1].detach().softmax(-1)
    for temperature in (1.0, 0.5):
        drawn = kn.generate(model, tokens, max_new_tokens=1, temperature=temperature)[:, 0]
        expected = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
        frequency = torch.bincount(drawn, minlength=len(p)) / len(drawn)
        assert float((frequency - expected).abs().max()) < 4 * 0.5 / 2000**0.5
    few = kn.generate(model, tokens[:500], max_new_tokens=1, temperature=1.0, top_k=3)
    assert set(few.flatten().tolist()) == set(p.topk(3).indices.tolist())


def test_draws_depend_on_the_seed_and_the_row_alone() -> None:
    model = zoo.tiny("llama")
    tokens = torch.tensor([[5, 17, 30]]).expand(4, -1)
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 1.0}
    drawn = kn.generate(model, tokens, seed=3, **options)
    assert len({tuple(row) for row in drawn.tolist()}) == 4
    assert torch.equal(kn.generate(model, tokens[:2], seed=3, **options), drawn[:2])
    assert torch.equal(kn.generate(model, tokens[:1], seed=5, **options), drawn[2:3])
    with kn.set_options(max_rows=3):
        assert torch.equal(kn.generate(model, tokens, seed=3, **options), drawn)


# --- models without a cache that can be used ------------------------------------------------------------


class Forgetful(adapter.Steps):
    """Each step sees its own token alone."""

    def __call__(self, tokens: Tensor) -> Tensor:
        return self.model(tokens, return_type="logits")


class Failing(adapter.Steps):
    def __call__(self, tokens: Tensor) -> Tensor:
        raise TypeError("no past_key_values here")


@pytest.mark.parametrize("steps", [Forgetful, Failing])
def test_a_cache_that_misleads_is_not_used(steps: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.fresh("llama")
    tokens = torch.tensor([[5, 17, 30], [9, 12, 40]])
    monkeypatch.setattr(adapter, "Steps", steps)
    assert torch.equal(kn.generate(model, tokens, max_new_tokens=6), plain(model, tokens, 6))
    assert torch.equal(kn.generate(model, tokens[:, :1], max_new_tokens=6), plain(model, tokens[:, :1], 6))


def test_a_state_space_model_is_run_whole() -> None:
    """The cache of its bridge is left out of account: a step would see its own token alone."""
    words = zoo.tokenizer("llama")
    config = transformers.MambaConfig(vocab_size=len(words), hidden_size=32, num_hidden_layers=2, state_size=8)
    config.architectures = ["MambaForCausalLM"]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = transformers.MambaForCausalLM(config).eval()
        generator = torch.Generator().manual_seed(0)
        for parameter in source.parameters():
            parameter.data = parameter.data + 0.3 * torch.randn(parameter.shape, generator=generator)
        model = TransformerBridge.boot_transformers(
            "tiny-mamba", hf_model=source, tokenizer=words, dtype=torch.float32, device="cpu"
        )
    tokens = torch.tensor([[5, 17, 30], [9, 12, 40]])
    assert torch.equal(kn.generate(model, tokens, max_new_tokens=6), plain(model, tokens, 6))


def test_a_failure_that_says_nothing_of_the_model_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.fresh("llama")

    class Full(adapter.Steps):
        def __call__(self, tokens: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patched, pytest.raises(torch.OutOfMemoryError):
        patched.setattr(adapter, "Steps", Full)
        kn.generate(model, PROMPT, max_new_tokens=2)
    assert model not in generation._steps
    kn.generate(model, PROMPT, max_new_tokens=2)
    assert generation._steps[model]


def test_hooks_of_the_users_see_whole_texts() -> None:
    model = zoo.fresh("llama")
    seen: list[int] = []
    model.hook_dict["blocks.1.hook_resid_post"].add_hook(lambda x, hook: seen.append(x.shape[1]), is_permanent=True)
    kn.generate(model, torch.tensor([[5, 17, 30]]), max_new_tokens=3)
    assert seen == [3, 4, 5]


# --- text to measure on ----------------------------------------------------------------------------------


def test_sampled_texts_depend_on_the_seed_alone() -> None:
    model = zoo.tiny("gpt2")
    texts, same, other = (list(sample_texts(model, 60, seed=s, length=10, rows=3)) for s in (0, 0, 1))
    assert texts == same != other
    assert list(sample_texts(model, 30, seed=0, length=10, rows=3)) == texts[: len(texts) // 2 + len(texts) % 2][:3]
    begun = list(sample_texts(model, 20, seed=0, length=5, rows=2, start="The cat"))
    assert all(text.startswith("The cat") for text in begun)
    assert (
        sample_templates(model, 3, seed=0) == sample_templates(model, 3, seed=0) != sample_templates(model, 3, seed=1)
    )
    nameless = zoo.fresh("gpt2")
    nameless.tokenizer.bos_token = None
    with pytest.raises(ValueError, match="give start="):
        list(sample_texts(nameless, 10, seed=0))


def test_bad_input() -> None:
    model, tokens = zoo.tiny("gpt2"), torch.tensor([[1, 2]])
    for said, call in (
        ("masked", lambda: kn.generate(zoo.tiny("bert"), tokens)),
        ("context holds", lambda: kn.generate(model, tokens, max_new_tokens=100)),
        ("at least 1 token", lambda: kn.generate(model, tokens, max_new_tokens=0)),
        ("at least 0", lambda: kn.generate(model, tokens, temperature=-1.0)),
        ("top_k of at least", lambda: kn.generate(model, tokens, top_k=0)),
        ("no prompts", lambda: kn.generate(model, [])),
        ("above 0", lambda: next(iter(sample_texts(model, 10, seed=0, temperature=0.0)))),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    sick = zoo.fresh("gpt2")
    with torch.no_grad():
        next(sick.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="float32"):
        kn.generate(sick, tokens, max_new_tokens=2)
