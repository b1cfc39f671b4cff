"""Prompts of different lengths in one sweep, and token ids that are filled up: each row against a run of its text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from tests import zoo
from tests.loop import gradient_by_loop, one_by_one

TEXTS = ["The capital of Canada is", "Is Japan near", "Rome is the capital of", "The dog"]
PROMPTS = [kn.Prompt(text, " Ottawa") for text in TEXTS]
CHANGES: list[Callable[[], list[kn.Hook]]] = [
    lambda: kn.scale_site("mlp_out", 1, 0.5),
    lambda: kn.scale_site("resid_post", 0, 2.0, pos=0),
    lambda: kn.add_vector("resid_post", 1, torch.linspace(-2, 2, zoo.D_MODEL), pos=[0, -1]),
    list,
]


def bridge(name: str) -> Any:
    return zoo.tiny(name)


def twin(name: str) -> Any:
    return zoo.hooked_twin(name)


MODELS = [
    *(pytest.param(bridge, name, id=name) for name in ("gpt2", "llama", "gemma2", "opt")),
    *(pytest.param(twin, name, id=f"hooked-{name}", marks=pytest.mark.legacy) for name in ("gpt2", "llama")),
]


def alone(model: Any, tokens: Tensor, hooks: list[kn.Hook]) -> Tensor:
    """Probabilities after the last token."""
    return one_by_one(model, tokens, [hooks])[0]


def filled(model: Any, side: str) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Token ids `[prompt pos]`, their mask, and the rows without padding."""
    rows = [kn.encode(model, p).tokens[0] for p in PROMPTS]
    length = max(map(len, rows))
    tokens, mask = torch.full((len(rows), length), model.tokenizer.pad_token_id), torch.zeros(len(rows), length)
    for n, row in enumerate(rows):
        place = slice(length - len(row), None) if side == "left" else slice(len(row))
        tokens[n, place], mask[n, place] = row, 1
    return tokens, mask.long(), rows


@pytest.mark.parametrize(("load", "name"), MODELS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_filled_token_ids_with_a_mask(load: Any, name: str, side: str) -> None:
    model = load(name)
    tokens, mask, rows = filled(model, side)
    runs = [(kn.Intervention(change(), prompt=n), n, change) for change in CHANGES for n in (2, 0, 3, 1)]
    found = kn.sweep(model, tokens, [run for run, _, _ in runs], attention_mask=mask)
    for logits, (_, n, change) in zip(found, runs, strict=True):
        hooks = [(key, fn.at(-1) if fn.pos is kn.sites.ANSWER else fn) for key, fn in change()]
        torch.testing.assert_close(logits.softmax(-1), alone(model, rows[n][None], hooks), atol=1e-5, rtol=0)
    metrics = [lambda x: x[:, 7], lambda x: x[:, 8], lambda x: x[:, 9], lambda x: x[:, 10]]
    values = kn.sweep(model, tokens, [run for run, _, _ in runs], metric=metrics, attention_mask=mask)
    expected = torch.stack([logits[7 + n] for logits, (_, n, _) in zip(found, runs, strict=True)])
    torch.testing.assert_close(values, expected)


@pytest.mark.parametrize(("load", "name"), MODELS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_filled_token_ids_without_a_mask_are_refused(load: Any, name: str, side: str, padding_side: str) -> None:
    model = load(name)
    tokens, _, rows = filled(model, side)
    before = model.tokenizer.padding_side
    model.tokenizer.padding_side = padding_side
    runs = [kn.Intervention((), prompt=n) for n in range(len(tokens))]
    try:
        for given, own in ((tokens, runs), (tokens[[1, 3]], runs[:2]), (tokens[3:], runs[:1])):
            with pytest.raises(ValueError, match="attention_mask="):
                kn.sweep(model, given, own, pos=-1)
        whole = torch.ones_like(tokens)  # padding tokens that belong to the text
        found = kn.sweep(model, tokens, runs, attention_mask=whole, pos=-1)
        one = kn.sweep(model, rows[0], [[]])
    finally:
        model.tokenizer.padding_side = before
    mask = {} if load is bridge else {"attention_mask": whole}
    torch.testing.assert_close(found, model(tokens, **mask)[:, -1].detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one[0].softmax(-1), alone(model, rows[0][None], []), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_prompts_of_different_lengths(name: str) -> None:
    model = zoo.tiny(name)
    encoded = [kn.encode(model, p) for p in PROMPTS]
    runs = [kn.Intervention(change(), prompt=n) for change in CHANGES for n in (3, 1, 0, 2)]
    found = kn.sweep(model, PROMPTS, runs)
    for logits, run in zip(found, runs, strict=True):
        torch.testing.assert_close(logits, kn.sweep(model, encoded[run.prompt], [run.hooks])[0], atol=1e-4, rtol=1e-4)
    site, metric = "blocks.1.mlp.hook_post", kn.log_probability(7)
    asked = [kn.Intervention(kn.scale_site("mlp_out", 0, 0.5, pos=-1), prompt=n, wrt=[(site, -1)]) for n in range(4)]
    for e, run, rows in zip(encoded, asked, kn.sweep_gradients(model, PROMPTS, asked, metric), strict=True):
        plain = gradient_by_loop(model, e.tokens, run.hooks, site, metric)[:, -1:]
        torch.testing.assert_close(rows.wrt[site].gradient, plain, atol=1e-6, rtol=1e-3)
    pairs = kn.sweep(model, PROMPTS, [kn.Intervention((), prompt=n) for n in range(4)], pos=[[0, -1]] * 4)
    for e, two in zip(encoded, pairs, strict=True):
        torch.testing.assert_close(two, model(e.tokens)[0, [0, -1]].detach(), atol=1e-4, rtol=1e-4)


def test_noise_on_the_embeddings_of_different_lengths() -> None:
    model = zoo.tiny("llama")
    vectors = [torch.linspace(-1, n + 1, zoo.D_MODEL)[None] for n in range(4)]
    noise = [kn.corrupt([1], v) for v in vectors]
    runs = [kn.Intervention(kn.scale_site("mlp_out", 1, 0.5, pos=-1), prompt=n) for n in (2, 0, 1, 3)]
    found = kn.sweep(model, PROMPTS, runs, embedding=noise)
    for logits, run in zip(found, runs, strict=True):
        hooks = [*noise[run.prompt], *run.hooks]
        tokens = kn.encode(model, PROMPTS[run.prompt]).tokens
        torch.testing.assert_close(logits.softmax(-1), alone(model, tokens, hooks), atol=1e-5, rtol=0)


def test_bad_masks_and_lengths() -> None:
    model = zoo.tiny("llama")
    tokens, two = torch.tensor([[5, 17, 30], [9, 12, 40]]), [kn.Intervention((), prompt=n) for n in (0, 1)]
    cases: list[tuple[str, Any]] = [
        ("one stretch", {"attention_mask": torch.tensor([[1, 0, 1], [1, 1, 1]])}),
        ("one stretch", {"attention_mask": torch.tensor([[0, 0, 0], [1, 1, 1]])}),
        ("attention_mask is", {"attention_mask": torch.ones(2, 2)}),
        ("different numbers", {"attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]), "pos": slice(None)}),
        ("positions for 1 prompts", {"pos": [[0]]}),
        ("of 2 rows", {}),
    ]
    for words, options in cases:
        with pytest.raises(ValueError, match=words):
            kn.sweep(model, tokens, two, **options)
    with pytest.raises(ValueError, match="omit it"):
        kn.sweep(model, PROMPTS[0], [[]], attention_mask=torch.ones(1, 6))
    with pytest.raises(ValueError, match="does not name its prompt"):
        kn.sweep(model, tokens, [[]], pos=-1)
    with pytest.raises(IndexError, match="starts from prompt 4"):
        kn.sweep(model, PROMPTS, [kn.Intervention((), prompt=4)])
    masked = zoo.tiny("bert")
    with pytest.raises(ValueError, match="masked"):
        kn.sweep(masked, tokens, two, attention_mask=torch.tensor([[1, 1, 0], [1, 1, 1]]))


@pytest.mark.parametrize("value", [2.5, "4", True, 0, -1])
def test_max_rows_is_a_whole_number(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        kn.set_options(max_rows=value)
