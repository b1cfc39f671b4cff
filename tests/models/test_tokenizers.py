"""A model without a tokenizer: token ids and prompts encoded elsewhere work, texts say what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformer_lens.model_bridge.sources.native  # noqa: F401 - gives TransformerBridge its boot_native
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

import kntools as kn
from kntools.engine.generation import sample_texts
from tests import zoo

TOKENS = torch.tensor([[1, 2, 3, 4]])
ENCODED = kn.Encoded(kn.Prompt("b c d e", " f"), TOKENS, (3,), (5,), None, None, False, ("b", " c", " d", " e"))


@pytest.fixture(scope="module")
def native() -> Any:
    config = {"d_model": 32, "d_head": 8, "n_heads": 4, "d_mlp": 48, "n_layers": 2, "n_ctx": 64, "d_vocab": 50}
    return TransformerBridge.boot_native(
        TransformerBridgeConfig(**config, act_fn="gelu", normalization_type="LN", seed=0)
    ).eval()


def test_token_ids_work(native: Any) -> None:
    assert native.tokenizer is None
    hooks = kn.ablate_neurons([(1, 3), (0, 5)], pos=-1)
    with torch.no_grad():
        expected = native.run_with_hooks(TOKENS, fwd_hooks=hooks)[0, -1]
        torch.testing.assert_close(kn.sweep(native, TOKENS, [hooks], pos=-1)[0], expected)
        torch.testing.assert_close(kn.sweep(native, ENCODED, [hooks])[0], expected)
        longer = TOKENS
        for _ in range(3):
            longer = torch.cat([longer, native(longer)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(kn.generate(native, TOKENS, max_new_tokens=3), longer[:, 4:])
    att = kn.integrated_gradients(native, ENCODED)
    torch.testing.assert_close(att.scores.sum(-1), att.gap, atol=1e-3, rtol=0.02)
    grid = kn.activation_patch(native, ENCODED, ENCODED, site="resid_pre", metric=kn.probability(5))
    torch.testing.assert_close(grid.values, torch.full_like(grid.values, float(grid.clean)))


def test_texts_say_what_to_do(native: Any) -> None:
    prompt = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")
    for call in (
        lambda: kn.encode(native, prompt),
        lambda: kn.sweep(native, prompt, [[]]),
        lambda: kn.generate(native, prompt.text),
        lambda: kn.integrated_gradients(native, prompt),
        lambda: kn.activation_patch(native, prompt, prompt, site="resid_pre"),
        lambda: kn.causal_trace(native, prompt),
        lambda: kn.rome(native, prompt, " Rome", layer=1),
        lambda: kn.second_moment(native, 1, zoo.SENTENCES),
        lambda: next(sample_texts(native, 10, seed=0)),
        lambda: kn.data.pararel("P36", path="sample").prompts(native),
    ):
        with pytest.raises(ValueError, match=r"has no tokenizer, .*set model\.tokenizer .* or pass token ids"):
            call()
