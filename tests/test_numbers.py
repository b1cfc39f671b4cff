"""Settings that are numbers: those of NumPy and PyTorch are taken; decimal counts, `True` and texts are refused."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch

import kntools as kn
from kntools.analyses.fig04_layer_distribution import layer_distribution
from kntools.analyses.fig05_suppression_effect import suppression_effect
from kntools.analyses.fig06_cooccurrence_bias import count_beside
from kntools.analyses.fig08_reliability import reliability
from kntools.analyses.fig09_tracing_profile import tracing_profile
from kntools.editing.rome_settings import RomeSettings
from kntools.editing.value_edits import relation_neurons
from kntools.engine.generation import sample_texts
from kntools.results import encoding
from kntools.results.result import Result
from kntools.results.statistics import bootstrap_interval
from tests import zoo
from tests.leaks import PROMPTS

FEW_STEPS = RomeSettings(steps=2, templates=["{}"])
CLEAN, CORRUPTED = PROMPTS
SCORES = torch.arange(24.0).view(1, 3, 8)

Number = Callable[[Any], Any]

#: Every public function that takes numbers, and its result with numbers made by `n`.
CALLS: dict[str, Callable[[Any, Number], Any]] = {
    "integrated_gradients": lambda m, n: kn.integrated_gradients(m, CLEAN, tol=n(0.01)),
    "fixed rule": lambda m, n: kn.integrated_gradients(m, CLEAN, rule="midpoint", steps=n(2)),
    "knowledge_neurons": lambda m, n: kn.knowledge_neurons(
        SCORES, threshold=n(0.25), share=n(0.5), target_count=(n(1), n(9)), step=n(0.125)
    ),
    "top": lambda m, n: kn.activation(m, PROMPTS).top(n(3), prompt=n(1)),
    "faithfulness": lambda m, n: kn.faithfulness(m, PROMPTS, kn.activation(m, PROMPTS), draws=n(1), seed=n(3)),
    "neuron_scan": lambda m, n: kn.neuron_scan(m, CLEAN, layers=[n(1)], factor=n(0.5)),
    "its top": lambda m, n: kn.neuron_scan(m, CLEAN, [(n(1), n(2))]).top(n(1), prompt=n(0)),
    "neuron_card": lambda m, n: kn.neuron_card(m, (n(1), n(3)), zoo.SENTENCES, k=n(3)),
    "activation_patch": lambda m, n: kn.activation_patch(
        m, CLEAN, CORRUPTED, site="mlp_out", layers=[n(1)], positions=[n(2)], window=n(1)
    ),
    "heads": lambda m, n: kn.activation_patch(m, CLEAN, CORRUPTED, site="z", heads=[n(1)]).top(n(2)),
    "attribution_patch": lambda m, n: kn.attribution_patch(
        m, CLEAN, CORRUPTED, layers=[n(0), n(1)], method="integrated", steps=n(2)
    ),
    "causal_trace": lambda m, n: kn.causal_trace(
        m, CLEAN, kind="mlp", window=n(2), samples=n(2), seed=n(3), noise=n(0.5)
    ),
    "its leading states": lambda m, n: kn.causal_trace(m, CLEAN, samples=1).top(n(2)),
    "second_moment": lambda m, n: kn.second_moment(
        m, n(1), zoo.SENTENCES * 2, tokens=n(100), context=n(8), every=n(1000)
    ),
    "from_matrix": lambda m, n: kn.SecondMoment.from_matrix(m, n(1), torch.eye(m.cfg.d_mlp), n(1000)),
    "rome": lambda m, n: kn.rome(m, CLEAN, " Rome", layer=n(1), settings=replace(FEW_STEPS, lr=n(0.5), steps=n(2))),
    "emmet": lambda m, n: kn.emmet(m, [CLEAN], [" Rome"], layers=[n(1)], settings=FEW_STEPS),
    "settings": lambda m, n: RomeSettings(
        steps=n(2), lr=n(0.5), weight_decay=n(0.5), clamp=n(4.0), kl_weight=n(0.5), stop_loss=n(0.5), seed=n(1)
    ),
    "templates": lambda m, n: RomeSettings(templates=n(3)),
    "fine_tune": lambda m, n: kn.fine_tune(
        m, CLEAN, " Rome", layer=n(1), steps=n(2), lr=n(0.5), limit=n(0.25), stop_loss=n(0.5)
    ),
    "edit_values": lambda m, n: kn.edit_values(m, [(n(1), n(3))], n(5), n(7), amounts=(n(1.0), n(8.0))),
    "erase_values": lambda m, n: kn.erase_values(m, [(n(1), n(3))]),
    "relation_neurons": lambda m, n: relation_neurons([[(1, 2)]], count=n(1), most_shared=n(0.5)),
    "hooks on neurons": lambda m, n: [kn.Neuron(n(1), n(2)), kn.ablate_neurons([(n(1), n(2))], pos=n(3))[0][0]],
    "hooks on heads": lambda m, n: kn.ablate_heads([(n(1), n(2))])[0][0],
    "hooks on states": lambda m, n: kn.scale_site("mlp_out", n(1), 2.0)[0][0],
    "positions": lambda m, n: kn.sweep(m, CLEAN, [kn.scale_site("resid_pre", 1, 2.0, pos=[n(0), n(-1)])]),
    "resample_neurons": lambda m, n: kn.resample_neurons([(1, 2)], SCORES, seed=n(0))[0][0],
    "sweep": lambda m, n: kn.sweep(m, PROMPTS, [kn.Intervention([], prompt=n(1), rows=n(2))]),
    "metrics": lambda m, n: kn.sweep(m, CLEAN, [()], metric=kn.logit_difference(n(3), n(4))),
    "generate": lambda m, n: kn.generate(m, "One", max_new_tokens=n(3), temperature=n(0.5), seed=n(1), top_k=n(5)),
    "sample_texts": lambda m, n: [
        *sample_texts(m, n(9), seed=n(1), length=n(5), rows=n(2), temperature=n(0.5), top_k=n(5))
    ],
    "bootstrap": lambda m, n: bootstrap_interval(SCORES[0], confidence=n(0.5), resamples=n(50), seed=n(1)),
    "occurrence": lambda m, n: kn.Prompt("Rome is Rome, a", " city", subject="Rome", occurrence=n(1)),
    "options": lambda m, n: kn.set_options(max_rows=n(5)).close(),
    "data": lambda m, n: kn.data.blimp("determiner_noun_agreement_1", limit=n(2), seed=n(1)).records,
    "count_beside": lambda m, n: count_beside(["these horses"], ["these"], {"horses": "plural"}, between=n(1)),
    "layer_distribution": lambda m, n: layer_distribution(
        {"a": [[(1, 2)]], "b": [[(0, 1)]]}, n_layers=n(2), permutations=n(9), seed=n(1)
    ),
    "reliability": lambda m, n: reliability(m, {"capitals": PROMPTS}, correct_only=False, count=n(2), seed=n(1)),
    "tracing_profile": lambda m, n: tracing_profile(m, PROMPTS, window=n(2), samples=n(1), known_only=False, seed=n(0)),
    "suppression_effect": lambda m, n: suppression_effect(
        m, {"x": PROMPTS}, [(n(1), n(5))], words=["book", "cat"], factor=n(0.5), alpha=n(0.25), seed=n(1)
    ),
    "plots": lambda m, n: kn.plots.neuron_bars(SCORES, k=n(3)).data[0].y.tolist(),
}

IGNORED = (
    "ignore:the noise does not",
    "ignore:.*it has not taken",
    "ignore:the corruption",
    "ignore:.*are not protected",
    "ignore:.*have a probability below",
)


@pytest.fixture(autouse=True)
def as_users_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.filterwarnings(*IGNORED)
@pytest.mark.parametrize("name", CALLS)
def test_numbers_of_numpy(name: str, tmp_path: Any) -> None:
    model = zoo.tiny("llama")
    made = CALLS[name](model, lambda n: np.int64(n) if isinstance(n, int) else np.float32(n))
    if isinstance(made, Result):
        assert kn.load(made.save(tmp_path / "made.safetensors")) == made
    # The numbers with decimals are rounded to float32: what is computed from them is as well.
    plain = CALLS[name](model, lambda n: n if isinstance(n, int) else float(np.float32(n)))
    assert encoding.same(plain, made) if not isinstance(made, Result) else plain == made


@dataclass
class Spoiler:
    """Gives numbers back as they are, but for number `at`."""

    at: int
    way: str
    seen: int = 0

    def __call__(self, number: Any) -> Any:
        self.seen += 1
        return self.spoilt(number) if self.seen == self.at + 1 else number

    def spoilt(self, number: Any) -> Any:
        ways = {"decimal": number + 0.5, "true": True, "text": "3", "float": float(number)}
        return (ways if isinstance(number, int) else ways | {"decimal": math.nan, "float": -math.inf})[self.way]


@pytest.mark.filterwarnings(*IGNORED)
@pytest.mark.parametrize("way", ["decimal", "true", "text", "float"])
@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_such_number_is_refused(name: str, way: str) -> None:
    """Each number of a call is spoilt in turn."""
    model, at = zoo.tiny("llama"), 0
    while True:
        n = Spoiler(at, way)
        try:
            CALLS[name](model, n)
        except (TypeError, ValueError) as error:
            assert n.seen > at, error
            assert (line := traceback.extract_tb(error.__traceback__)[-1].line or "").startswith("raise "), line
        else:
            assert n.seen <= at, f"number {at} is taken"
            break
        at += 1
    assert at
