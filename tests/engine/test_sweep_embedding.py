"""Sweeps of prompts whose embedding is changed in every run (the corrupted prompts of causal tracing)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import kntools as kn
from kntools.engine.capability import Capability
from kntools.models import adapter
from tests import zoo
from tests.loop import ALL, tokens_for


@pytest.mark.parametrize("overhead", [0, 64])
@pytest.mark.parametrize("name", ALL)
def test_every_row_equals_its_own_run(name: str, overhead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Late forks, kept prefixes, hooks of its own on the embedding, a model that cannot fork: always the same."""
    monkeypatch.setattr("kntools.engine.plan.PASS_OVERHEAD", overhead)
    model = zoo.tiny(name)
    tokens, hook = tokens_for(model), adapter.embedding_name(model)
    noise = torch.randn(3, 2, zoo.D_MODEL, generator=torch.Generator().manual_seed(0))
    corrupted = [kn.corrupt([2, 3], one, hook=hook) for one in noise]
    own: list[Any] = [
        [],
        kn.scale_site("resid_post", 1, 0.5, pos=3),
        kn.scale_site("attn_out", 0, 0.5, pos=-1),
        kn.scale_site("k", 1, 0.5, pos=4),
        kn.corrupt([4], noise[0][:1], hook=hook),
        kn.corrupt([2], noise[0][:1], hook=hook) + kn.scale_site("mlp.hook_post", 2, 0.0, pos=2),
        [("blocks.1.hook_resid_post", lambda x, hook: x.flip(1))],
    ]
    runs = [kn.Intervention(hooks, prompt=p) for p in (2, 0, 1) for hooks in own]
    with torch.no_grad():
        alone = [model.run_with_hooks(tokens, fwd_hooks=corrupted[r.prompt] + list(r.hooks))[0, -1] for r in runs]
    expected = torch.stack(alone).softmax(-1)
    for max_rows in (None, 4):
        with kn.set_options(max_rows=max_rows):
            found = kn.sweep(model, tokens.expand(3, -1), runs, embedding=corrupted, pos=-1)
        torch.testing.assert_close(found.softmax(-1), expected, atol=1e-5, rtol=0)
    monkeypatch.setattr("kntools.engine.runner.capability", lambda *a: Capability(fork=False))
    found = kn.sweep(model, tokens.expand(3, -1), runs, embedding=corrupted, pos=-1)
    torch.testing.assert_close(found.softmax(-1), expected, atol=1e-5, rtol=0)


def test_one_prompt_and_no_hooks() -> None:
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    plain = kn.sweep(model, tokens, [[]])
    torch.testing.assert_close(kn.sweep(model, tokens, [[]], embedding=[[]]), plain)


def test_errors_say_what_to_type() -> None:
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    with pytest.raises(ValueError, match="2 prompts, but there are 1"):
        kn.sweep(model, tokens, [[]], embedding=[[], []])
    with pytest.raises(ValueError, match="not on the embedding"):
        kn.sweep(model, tokens, [[]], embedding=[kn.scale_site("resid_pre", 0, 0.5)])
    with pytest.raises(RuntimeError, match="never fired"):
        kn.sweep(model, tokens, [[]], embedding=[[("rotary_emb.hook_out", lambda x, hook: x)]])
