"""What was captured is a copy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.sites import hook_name
from tests import zoo
from tests.loop import tokens_for


@pytest.mark.parametrize("pos", [None, range(6), -1], ids=str)
@pytest.mark.parametrize("site", ["resid_post", "resid_mid", "z", "pattern", "mlp.hook_post"])
def test_what_was_captured_stays_when_the_activation_is_written_to(site: str, pos: Any) -> None:
    model = zoo.tiny("llama")
    tokens, name = tokens_for(model), hook_name(site, 1)
    assert tokens.shape[1] == 6
    _, cache = model.run_with_cache(tokens)
    originals: list[Tensor] = []

    def overwrite(x: Tensor, hook: Any) -> None:
        originals.append(x)
        x.fill_(7.0)

    seen: dict[str, Tensor] = {}
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=[*kn.capture(seen, [site], [1], pos=pos), (name, overwrite)])
    assert bool((originals[0] == 7.0).all())
    axis = 2 if site == "pattern" else 1
    expected = cache[name] if pos != -1 else cache[name].narrow(axis, 5, 1)
    assert torch.equal(seen[name], expected)


def test_writing_to_what_was_captured_changes_no_run() -> None:
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    seen: dict[str, Tensor] = {}

    def overwrite(x: Tensor, hook: Any) -> None:
        seen["blocks.1.hook_resid_post"].fill_(7.0)

    hooks = [*kn.capture(seen, ["resid_post"], [1]), ("blocks.1.hook_resid_post", overwrite)]
    with torch.no_grad():
        clean = model(tokens, return_type="logits")
        assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=hooks), clean)
