"""Rows that are the tokens of all prompts, parts of `z` that are no heads, positions as arrays, tokens of others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import kntools as kn
from scripts.architectures.build import built
from tests import zoo

TOKENS = torch.arange(5, 13)[None]
PAIR = kn.Prompt("The capital of Canada is", " Ottawa", foil=" Rome"), "The capital of France is"


@pytest.mark.parametrize("site", ["ln2.hook_normalized", "ln2.hook_scale"])
def test_rows_that_are_tokens_have_no_position(site: str) -> None:
    model = zoo.tiny("opt")
    hooks, name = kn.scale_site(site, 1, 0.5, pos=-1), kn.sites.hook_name(site, 1)
    for count in (1, 8):
        with pytest.raises(ValueError, match=f"{name} is .* write a hook of your own"):
            kn.sweep(model, TOKENS, [hooks] * count)
    with pytest.raises(ValueError, match="without positions"):
        model.run_with_hooks(TOKENS, fwd_hooks=hooks)
    with pytest.raises(ValueError, match="without positions"):
        kn.sweep_gradients(model, TOKENS, [kn.Intervention((), wrt=[(name, -1)])], kn.probability(7))

    def last(x: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.cat([x[:-1], 0.5 * x[-1:]])

    expected = model.run_with_hooks(TOKENS, fwd_hooks=[(name, last)])[0, -1]
    torch.testing.assert_close(kn.sweep(model, TOKENS, [[(name, last)]])[0], expected)


@pytest.mark.parametrize("name", ["deepseek2", "deepseek3"])
def test_parts_of_z_that_are_no_heads_are_an_error(name: str) -> None:
    """Latent attention: z comes in parts of a query's width; a head's values are those of its own number."""
    model = zoo.tiny(name)
    calls = [
        lambda: model.run_with_hooks(TOKENS, fwd_hooks=kn.ablate_heads([(1, 1)], pos=None)),
        lambda: kn.sweep(model, TOKENS, [kn.ablate_heads([(1, 1)])]),
        lambda: kn.activation_patch(model, *PAIR, site="z", heads=True),
        lambda: kn.attribution_patch(model, *PAIR, site="z", heads=True),
        lambda: kn.path_patch(model, *PAIR, sender="L0.H1", receiver="L1.MLP"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="its parts are no heads; use site='v'"):
            call()

    def without(x: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.cat([x[:, :1], 0 * x[:, 1:2], x[:, 2:]], 1)

    hook = "blocks.1.attn.hook_v"
    expected = model.run_with_hooks(TOKENS, fwd_hooks=[(hook, without)])[0, -1]
    assert not torch.allclose(expected, model(TOKENS)[0, -1])
    grid = kn.activation_patch(model, *PAIR, site="q", heads=True)
    assert len(grid.columns) == model.cfg.n_heads


@pytest.mark.parametrize(
    ("name", "site"),
    [
        *(("deepseek2", site) for site in ("q", "k", "v")),
        ("deepseek3", "q"),
        ("qwen3", "attn.q_norm.hook_out"),
        ("nanochat", "attn.q_norm.hook_in"),
    ],
)
def test_positions_behind_heads(name: str, site: str) -> None:
    """[batch head pos d_head], as many heads as tokens: transformer-lens 3.9 says it nowhere, 4.3 at most sites."""
    model, tokens, point = built(name).model, TOKENS[:, :4], kn.sites.hook_name(site, 1)

    def third(x: torch.Tensor, hook: Any) -> torch.Tensor:
        assert x.shape[1:3] == (4, 4)
        return torch.cat([x[:, :, :2], 0.3 * x[:, :, 2:3], x[:, :, 3:]], 2)

    hooks = kn.scale_site(site, 1, 0.3, pos=2)
    expected = model.run_with_hooks(tokens, fwd_hooks=[(point, third)])
    assert not torch.allclose(expected, model(tokens))
    torch.testing.assert_close(model.run_with_hooks(tokens, fwd_hooks=hooks), expected)
    torch.testing.assert_close(kn.sweep(model, tokens, [hooks], pos=range(4))[0], expected[0])
    [row] = kn.sweep_gradients(model, tokens, [kn.Intervention((), wrt=[(point, 2)])], kn.probability(7))
    [whole] = kn.sweep_gradients(model, tokens, [kn.Intervention((), wrt=[(point, None)])], kn.probability(7))
    torch.testing.assert_close(row.wrt[point].gradient[0, 0], whole.wrt[point].gradient[0, 2])


@pytest.mark.parametrize("form", [list, tuple, np.array, torch.tensor])
def test_several_positions_in_any_form(form: Any) -> None:
    model = zoo.tiny("llama")
    expected = model(TOKENS)[:, [1, 2]]
    torch.testing.assert_close(kn.sweep(model, TOKENS, [[]], pos=form([1, 2])), expected)
    one = kn.sweep(model, TOKENS, [[]], pos=np.int64(1))
    torch.testing.assert_close(one, expected[:, 0])
    two = TOKENS.repeat(2, 1)
    runs = [kn.Intervention((), prompt=p) for p in (0, 1)]
    found = kn.sweep(model, two, runs, pos=[form([1, 2]), form([3, 4])])
    torch.testing.assert_close(found, model(two)[[[0], [1]], [[1, 2], [3, 4]]])


def test_several_layers_in_any_form() -> None:
    model = zoo.tiny("llama")
    expected = kn.second_moment(model, [1, 2], zoo.SENTENCES)
    for layers in (np.array([1, 2]), torch.tensor([1, 2])):
        found = kn.second_moment(model, layers, zoo.SENTENCES)  # type: ignore[arg-type]
        assert {n: torch.equal(found[n].matrix, expected[n].matrix) for n in found} == {1: True, 2: True}
    assert isinstance(kn.second_moment(model, np.int64(1), zoo.SENTENCES), kn.SecondMoment)


def test_token_ids_of_the_vocabulary() -> None:
    model = zoo.tiny("llama")
    for wrong in (-1, int(model.cfg.d_vocab)):
        with pytest.raises(ValueError, match=f"token ids from .*; the model's are 0 to {model.cfg.d_vocab - 1}"):
            kn.sweep(model, torch.tensor([[1, 2, wrong]]), [[]])


@pytest.mark.parametrize(("made", "used"), [("bert", "llama"), ("llama", "bert")])
def test_a_prompt_that_was_encoded_for_another_model(made: str, used: str) -> None:
    asked = kn.Prompt("The capital of Canada is [MASK].", "Ottawa") if made == "bert" else PAIR[0]
    encoded = kn.encode(zoo.tiny(made), asked)
    with pytest.raises(ValueError, match=r"of another model: .* give the Prompt: encoded\.prompt"):
        kn.integrated_gradients(zoo.tiny(used), encoded)
    assert kn.encode(zoo.tiny(made), encoded) is encoded
