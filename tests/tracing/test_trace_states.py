"""Several ways to restore states of one prompt: the runs that they share, and each as it is alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import kntools as kn
from kntools.tracing.causal_tracing import trace_states
from kntools.tracing.restoration import make_restoration
from tests import zoo
from tests.tracing.test_tracing import fact

pytestmark = pytest.mark.filterwarnings("ignore:the corruption does not lower")


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_several_ways_to_restore_share_runs_and_nothing_else(name: str) -> None:
    model, prompt = zoo.tiny(name), fact(name)
    asked: list[tuple[Any, Any]] = [("hidden", None), ("mlp", None), ("attn", None), ("hidden", "mlp")]
    ways = [make_restoration(model, kind, 2, cut, "restored") for kind, cut in asked]
    [together] = trace_states(model, prompt, ways, noise="3sigma", samples=2, seed=1)
    for (kind, cut), trace in zip(asked, together, strict=True):
        alone = kn.causal_trace(model, prompt, kind=kind, window=2, sever=cut, samples=2, seed=1)
        assert (trace.kind, trace.sever, trace.window) == (alone.kind, alone.sever, alone.window)
        assert trace.clean == pytest.approx(alone.clean) and torch.equal(trace.noise, alone.noise)
        torch.testing.assert_close(trace.per_sample, alone.per_sample)
        torch.testing.assert_close(trace.corrupted_per_sample, alone.corrupted_per_sample)
