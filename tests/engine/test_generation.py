"""Text that the model writes: against loops of whole runs, one or many, and models whose cache misleads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

import kntools as kn
from kntools.engine.generation import sample_templates, sample_texts
from kntools.engine.writing import Drawing, continue_tokens
from kntools.models import adapter
from tests import zoo
from tests.data_tokenizers import llama_like
from tests.loop import override
from tests.unusual import NAMES, unusual

PROMPT = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")


def plain(model: Any, tokens: Tensor, count: int) -> Tensor:
    """The most probable tokens, each from a run of the whole text."""
    found = tokens
    for _ in range(count):
        found = torch.cat([found, model(found)[:, -1].argmax(-1)[:, None]], 1)
    return found[:, tokens.shape[1] :]


def written(model: Any, tokens: Tensor, count: int, **drawing: Any) -> Tensor:
    """Token ids `[row new]`, past the model's end token."""
    return torch.stack(continue_tokens(model, list(tokens), count, Drawing(**drawing)))


@pytest.mark.parametrize("name", zoo.CAUSAL)
def test_most_probable_tokens_are_those_of_whole_runs(name: str) -> None:
    model = zoo.tiny(name)
    tokens = torch.tensor([[5, 17, 30], [9, 12, 40]])
    assert torch.equal(written(model, tokens, 8), plain(model, tokens, 8))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "masked_decoder"])
def test_models_with_a_cache_that_misleads_or_without_one(name: str) -> None:
    model = unusual(name)
    tokens = torch.tensor([[5, 17, 30, 8, 9], [9, 12, 40, 7, 61]])
    assert torch.equal(written(model, tokens, 14), plain(unusual(name), tokens, 14))
    assert torch.equal(written(model, tokens[:, :1], 5), plain(unusual(name), tokens[:, :1], 5))
    if name == "longrope":  # the original length is between the prompt's and the text's
        assert torch.equal(written(model, tokens[:, :4], 6), plain(model, tokens[:, :4], 6))


@pytest.mark.parametrize("name", ["mamba", "native", "dynamic"])
def test_sampled_texts_are_drawn_from_whole_runs(name: str) -> None:
    model, generator = unusual(name), torch.Generator().manual_seed(3)
    text = torch.full((2, 1), model.tokenizer.bos_token_id)
    for _ in range(12):
        p = model(text)[:, -1].detach().softmax(-1)
        text = torch.cat([text, torch.multinomial(p, 1, generator=generator)], 1)
    ends = {model.tokenizer.eos_token_id, model.tokenizer.bos_token_id}
    rows = [next((r[:n] for n, t in enumerate(r) if n and t in ends), r) for r in text[:, 1:].tolist()]
    expected = [model.tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    stream = sample_texts(unusual(name), 10_000, seed=3, length=12, rows=2)
    assert [next(stream), next(stream)] == expected
    assert sample_templates(model, 3, seed=0) == sample_templates(unusual(name), 3, seed=0)


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


def test_token_ids_give_texts_too() -> None:
    model = zoo.tiny("llama")
    rows = [[5, 17, 30], [9, 12, 40, 8]]
    expected = [model.tokenizer.decode(plain(model, torch.tensor([row]), 6)[0]) for row in rows]
    for given in (rows, [torch.tensor(row) for row in rows], [np.array(rows[0]), rows[1]]):
        assert kn.generate(model, given, max_new_tokens=6) == expected
    for given in (rows[0], torch.tensor(rows[0]), torch.tensor(rows[:1]), np.array(rows[:1])):
        assert kn.generate(model, given, max_new_tokens=6) == expected[0]
    two = torch.tensor([rows[0], rows[1][:3]])
    assert len(kn.generate(model, two, max_new_tokens=2)) == 2


def test_a_model_without_a_tokenizer_gives_token_ids() -> None:
    model, tokens = unusual("native"), torch.tensor([[5, 17, 30], [9, 12, 40]])
    model.tokenizer = None
    assert torch.equal(kn.generate(model, tokens, max_new_tokens=6), plain(model, tokens, 6))
    for options in ({"prompts": "text"}, {"prompts": tokens, "stop": "."}):
        with pytest.raises(ValueError, match=r"model\.tokenizer"):
            kn.generate(model, **options)


def test_a_text_ends_where_the_model_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.fresh("llama")
    e = kn.encode(model, PROMPT)
    ids = plain(model, e.tokens, 6)[0].tolist()
    assert ids.index(ids[3]) == 3
    model.original_model.generation_config.eos_token_id = [ids[3], ids[1]]
    assert kn.generate(model, PROMPT, max_new_tokens=6) == model.tokenizer.decode(ids), "neither is a special token"
    model.tokenizer.add_special_tokens({"additional_special_tokens": [model.tokenizer.decode([ids[3]])]})
    assert kn.generate(model, PROMPT, max_new_tokens=6) == model.tokenizer.decode(ids[:3])
    monkeypatch.setattr(type(model.tokenizer), "eos_token_id", ids[2], raising=False)
    assert kn.generate(model, PROMPT, max_new_tokens=6) == model.tokenizer.decode(ids[:2])


def test_a_text_ends_before_a_stop_string() -> None:
    model = zoo.tiny("llama")
    prompts = [PROMPT, "The dog", "Is Japan near", "Rome"]
    whole = kn.generate(model, prompts, max_new_tokens=12)
    stop = [whole[0][5:8], whole[2][9:11]]  # strings that may begin within a token, and span several
    for strings in (stop, stop[0], tuple(stop[:1])):
        listed = [strings] if isinstance(strings, str) else strings
        expected = [min((t[: t.find(s)] for s in listed if s in t), key=len, default=t) for t in whole]
        assert kn.generate(model, prompts, max_new_tokens=12, stop=strings) == expected != whole
    assert kn.generate(model, prompts, max_new_tokens=12, stop="\u2603") == whole


def test_what_has_ended_is_not_written_further(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.fresh("llama")
    whole = kn.generate(model, "The dog", max_new_tokens=12)
    calls: list[int] = []
    override(model.original_model, lambda forward, *args, **kwargs: calls.append(1) or forward(*args, **kwargs))
    for _ in range(2):  # the first time, the model is asked what it allows
        calls.clear()
        kn.generate(model, "The dog", max_new_tokens=12, stop=whole[2:5])
    assert len(calls) < 6


def test_chats() -> None:
    model = zoo.fresh("llama")
    with pytest.raises(ValueError, match="chat_template"):
        kn.generate(model, [{"role": "user", "content": "Is Japan near Cuba?"}])
    model.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    user, own = {"role": "user", "content": "Is Japan near Cuba?"}, {"role": "assistant", "content": "Yes, it"}

    def loop(text: str) -> str:
        ids = [model.tokenizer.bos_token_id, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]
        return model.tokenizer.decode(plain(model, torch.tensor([ids]), 5)[0])

    asked, begun = loop("user: Is Japan near Cuba?\nassistant:"), loop("user: Is Japan near Cuba?\nassistant: Yes, it")
    assert kn.generate(model, [user], max_new_tokens=5) == asked
    assert kn.generate(model, [user, own], max_new_tokens=5) == begun
    assert kn.generate(model, [[user], [user, own], "The dog"], max_new_tokens=5)[:2] == [asked, begun]
    for wrong in (user, [{"role": "user"}], [[user, "text"]], 5, [[]]):
        with pytest.raises((TypeError, ValueError)):
            kn.generate(model, wrong)


def test_drawn_tokens_have_their_probabilities() -> None:
    model = zoo.tiny("llama")
    tokens = torch.tensor([[5, 17, 30]]).expand(2000, -1)
    p = model(tokens[:1])[0, -1].detach().softmax(-1)
    for temperature in (1.0, 0.5):
        drawn = written(model, tokens, 1, temperature=temperature)[:, 0]
        expected = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
        frequency = torch.bincount(drawn, minlength=len(p)) / len(drawn)
        assert float((frequency - expected).abs().max()) < 4 * 0.5 / 2000**0.5
    coldest = written(model, tokens[:20], 1, temperature=1e-40)
    assert coldest.tolist() == written(model, tokens[:20], 1).tolist(), "as at 0, where no logits are the same"
    few = written(model, tokens[:500], 1, temperature=1.0, top_k=3)
    assert set(few.flatten().tolist()) == set(p.topk(3).indices.tolist())


def test_draws_depend_on_the_seed_and_the_row_alone() -> None:
    model, state = zoo.tiny("llama"), torch.random.get_rng_state()
    texts = ["The dog", "Is Japan near", "The dog", "The dog"]
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 1.0}
    drawn = kn.generate(model, texts, seed=3, **options)
    assert len(set(drawn)) == 4
    assert kn.generate(model, texts[:2], seed=3, **options) == drawn[:2]
    assert kn.generate(model, texts[2], seed=5, **options) == drawn[2]
    with kn.set_options(max_rows=2):
        assert kn.generate(model, texts, seed=3, **options) == drawn
    assert torch.equal(torch.random.get_rng_state(), state)


# --- models without a cache that can be used ------------------------------------------------------------


class Forgetful(adapter.Steps):
    """Each step sees its own token alone."""

    def __call__(self, tokens: Tensor) -> Tensor:
        return self.model(tokens, return_type="logits")


@contextmanager
def counted_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many tokens go into each step."""
    found: list[int] = []

    class Counted(adapter.Steps):
        def __call__(self, tokens: Tensor) -> Tensor:
            found.append(tokens.shape[1])
            return super().__call__(tokens)

    with monkeypatch.context() as patched:
        patched.setattr(adapter, "Steps", Counted)
        yield found


class Failing(adapter.Steps):
    def __call__(self, tokens: Tensor) -> Tensor:
        raise TypeError("no past_key_values here")


@pytest.mark.parametrize("steps", [Forgetful, Failing])
def test_a_cache_that_misleads_is_not_used(steps: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.fresh("llama")
    tokens = torch.tensor([[5, 17, 30], [9, 12, 40]])
    monkeypatch.setattr(adapter, "Steps", steps)
    assert torch.equal(written(model, tokens, 6), plain(model, tokens, 6))
    assert torch.equal(written(model, tokens[:, :1], 6), plain(model, tokens[:, :1], 6))


def test_a_failure_that_says_nothing_of_the_model_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.fresh("llama")

    class Full(adapter.Steps):
        def __call__(self, tokens: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patched, pytest.raises(torch.OutOfMemoryError):
        patched.setattr(adapter, "Steps", Full)
        kn.generate(model, PROMPT, max_new_tokens=2)
    with counted_steps(monkeypatch) as steps:
        kn.generate(model, PROMPT, max_new_tokens=2)
    assert steps, "asked again, and found right"


def test_hooks_of_the_users_see_whole_texts() -> None:
    model = zoo.fresh("llama")
    seen: list[int] = []
    model.hook_dict["blocks.1.hook_resid_post"].add_hook(lambda x, hook: seen.append(x.shape[1]), is_permanent=True)
    written(model, torch.tensor([[5, 17, 30]]), 3)
    assert seen == [3, 4, 5]


# --- text to measure on ----------------------------------------------------------------------------------


def test_sampled_texts_depend_on_the_seed_alone() -> None:
    model = zoo.tiny("gpt2")
    texts, same, other = (list(sample_texts(model, 60, seed=s, length=10, rows=3)) for s in (0, 0, 1))
    assert texts == same != other
    with kn.set_options(max_rows=2):
        assert list(sample_texts(model, 60, seed=0, length=10, rows=3)) == texts
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
        ("max_new_tokens=0", lambda: kn.generate(model, tokens, max_new_tokens=0)),
        ("at least 0", lambda: kn.generate(model, tokens, temperature=-1.0)),
        ("top_k=0", lambda: kn.generate(model, tokens, top_k=0)),
        ("no prompts", lambda: kn.generate(model, [])),
        ("padding tokens", lambda: kn.generate(model, torch.tensor([[0, 0, 5], [0, 7, 5]]))),
        ("padding tokens", lambda: kn.generate(model, torch.tensor([[5, 0], [7, 5]]))),
        ("not empty", lambda: kn.generate(model, "The dog", stop="")),
        ("not empty", lambda: kn.generate(model, "The dog", stop=["a", ""])),
        ("empty", lambda: kn.generate(model, "")),
        ("above 0", lambda: next(iter(sample_texts(model, 10, seed=0, temperature=0.0)))),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    sick = zoo.fresh("gpt2")
    with torch.no_grad():
        next(sick.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="float32"):
        kn.generate(sick, tokens, max_new_tokens=2)


def test_a_continuation_keeps_its_first_space() -> None:
    """Tokenizers like those of Llama 2 and Mistral drop it from the beginning of what they decode."""
    tokenizer = llama_like(zoo.SENTENCES)
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), **zoo.RECIPES["llama"].options)
    with torch.random.fork_rng(devices=[]):
        model = kn.load_model(transformers.LlamaForCausalLM(config), tokenizer=tokenizer)
    encoded = kn.encode(model, PROMPT)
    assert "".join(encoded.str_tokens).removeprefix("<s>") == f" {PROMPT.text}"
    said = [tokenizer.convert_tokens_to_ids(piece) for piece in ("▁Ottawa", "▁is", "▁the")]
    given = encoded.tokens.shape[1]

    def say(x: Tensor, hook: Any) -> Tensor:
        wanted = torch.nn.functional.one_hot(torch.tensor(said[(x.shape[1] - given) % 3]), x.shape[-1])
        return x + 1000 * wanted

    hooks = [("unembed.hook_out", say)]
    assert kn.generate(model, PROMPT.text, hooks=hooks, max_new_tokens=3) == " Ottawa is the"
    assert kn.generate(model, PROMPT.text, hooks=hooks, max_new_tokens=3, stop=" is") == " Ottawa"
