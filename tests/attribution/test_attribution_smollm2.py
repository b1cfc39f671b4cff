"""Attribution of a real model: complete on eight facts, right where published rules fail, true when intervened."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import kntools as kn
from kntools.attribution.integration_path import Line, Paths
from kntools.attribution.quadrature import fixed_rule
from tests.facts import FACTS

pytestmark = pytest.mark.smollm2
COUNT = 8  # of 20: all of them, `benchmarks/accuracy.py`


def fact(model: Any, number: int) -> kn.Encoded:
    return kn.encode(model, kn.Prompt(*FACTS[number]), prepend_bos=False)


@pytest.fixture(scope="module")
def attribution(smollm2: Any) -> kn.Attribution:
    return kn.integrated_gradients(smollm2, [fact(smollm2, number) for number in range(COUNT)])


def test_every_layer_of_every_fact_is_complete(attribution: kn.Attribution) -> None:
    allowed = 0.01 * attribution.gap.abs().clamp(min=0.05)
    assert attribution.scores.shape == (COUNT, 30, 1536)
    assert bool((attribution.residual.abs() <= allowed).all())
    torch.testing.assert_close(attribution.scores.sum(-1) - attribution.gap, attribution.residual, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("number", "layers"), [(3, (0,)), (6, (1,))])
def test_scores_agree_with_512_midpoints(
    smollm2: Any, attribution: kn.Attribution, number: int, layers: tuple[int, ...]
) -> None:
    """Where it is hard (layer 0, where P leaps) and where it is not; all layers: `benchmarks/accuracy.py`."""
    e = fact(smollm2, number)
    paths = Paths(smollm2, [e], [kn.probability(e.target_ids)], "mlp.hook_post", {})
    rule = fixed_rule("midpoint", 512)
    for layer in layers:
        line = Line(0, layer)
        with kn.set_options(max_rows=128):
            paths.evaluate({line: rule.nodes.tolist()})
        expected = line.integral(rule.nodes.tolist(), rule.weights)
        error = (attribution.scores[number, layer] - expected).norm() / expected.norm()
        assert float(error) < 0.01, layer


def test_published_rules_are_incomplete_in_layer_0(smollm2: Any, attribution: kn.Attribution) -> None:
    """The Eiffel Tower: what a fixed rule gets wrong shows in its own residual."""
    published = kn.integrated_gradients(smollm2, fact(smollm2, 3), rule="kn_thesis")
    assert abs(float(published.residual[0, 0])) > 10 * abs(float(attribution.residual[3, 0]))
    ours, theirs = kn.coarse_sets(attribution.scores[3:4])[0], kn.coarse_sets(published.scores)[0]
    overlap = (ours & theirs).sum() / (ours | theirs).sum()
    assert float(overlap) < 0.5


def test_suppressing_top_neurons_beats_random_ones(smollm2: Any, attribution: kn.Attribution) -> None:
    """Scores are checked by intervening: the same layers, the same number, chosen at random."""
    generator = torch.Generator().manual_seed(0)
    falls, controls = [], []
    for number in range(6):
        e = fact(smollm2, number)
        top = attribution.top(20, prompt=number)
        draws = [[(n.layer, int(torch.randint(1536, (1,), generator=generator))) for n in top] for _ in range(5)]
        hooks = [[], kn.ablate_neurons(top), *[kn.ablate_neurons(draw) for draw in draws]]
        clean, chosen, *random = kn.sweep(smollm2, e, hooks, metric=kn.probability(e.target_ids)).tolist()
        falls.append(clean - chosen)
        controls.append(clean - sum(random) / len(random))
    assert all(fall > control for fall, control in zip(falls, controls, strict=True))
    assert sum(falls) / 6 > 0.1 > abs(sum(controls) / 6)
