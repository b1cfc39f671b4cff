"""Two attributions of the same prompts: their difference, and their scores against each other."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kntools as kn
from kntools import plots
from tests import zoo

PROMPTS = [kn.Prompt("this book is", " book"), kn.Prompt("those books are here and", " books")]


@pytest.fixture(scope="module")
def model() -> Any:
    return zoo.fresh("llama")


@pytest.fixture(scope="module")
def pair(model: Any) -> tuple[kn.Attribution, kn.Attribution]:
    return kn.integrated_gradients(model, PROMPTS), kn.integrated_gradients(model, PROMPTS, rule="dai", steps=3)


def test_a_difference_is_an_attribution(pair: tuple[kn.Attribution, kn.Attribution], tmp_path: Path) -> None:
    a, b = pair
    found = a - b
    assert torch.equal(found.scores, a.scores - b.scores) and found.prompts == a.prompts
    assert float((found.scores.double().sum(-1) - found.gap - found.residual).abs().max()) < 1e-6, "sums stay sums"
    best = divmod(int((a.scores - b.scores).mean(0).argmax()), a.scores.shape[2])
    assert found.top(1) == (kn.Neuron(*best),)
    for text in ("Difference", "adaptive", "dai"):
        assert text in repr(found)
    assert "Difference" not in repr(a)
    assert kn.load(found.save(tmp_path / "found.safetensors")) == found
    assert "difference" in found.plot().layout.coloraxis.colorbar.title.text
    assert torch.equal((found - b).scores, a.scores - b.scores - b.scores)


def test_an_edit_is_a_difference_of_models(model: Any) -> None:
    before = kn.integrated_gradients(model, PROMPTS)
    with kn.fine_tune(model, PROMPTS[0], " cat", layer=1, steps=2).applied(model):
        after = kn.integrated_gradients(model, PROMPTS)
    found = after - before
    assert torch.allclose(found.probability, after.probability - before.probability)
    assert float(found.probability.abs().max()) > 0


def test_what_cannot_be_compared_is_refused(model: Any, pair: tuple[kn.Attribution, kn.Attribution]) -> None:
    a, b = pair
    with pytest.raises(ValueError, match="different prompts"):
        a - kn.integrated_gradients(model, PROMPTS[:1])
    with pytest.raises(ValueError, match="different prompts"):
        a.plot_against(kn.integrated_gradients(model, PROMPTS[::-1]))
    with pytest.raises(ValueError, match="neurons"):
        a - replace(a, widths=(48, 48, 48, 40))  # a model with other layers
    with pytest.raises(ValueError, match="plot_against"):
        a - kn.activation(model, PROMPTS)
    with pytest.raises(ValueError, match="a - b - c"):
        a - (a - b)
    with pytest.raises(ValueError, match=r"mlp\.hook_post and of mlp\.hook_pre"):
        a - kn.activation_x_gradient(model, PROMPTS, site="mlp.hook_pre", metric=a.metric)
    for other in (a.scores, 1, None):
        with pytest.raises(TypeError):
            a - other
        with pytest.raises(TypeError, match="compared with another"):
            a.plot_against(other)


def test_a_dot_is_a_neuron(pair: tuple[kn.Attribution, kn.Attribution]) -> None:
    a, b = pair
    figure = a.plot_against(b, width=500, names=3)
    (dots,) = figure.data
    assert figure.layout.width == 500 and len(dots.x) == a.scores[0].numel() and sum(map(bool, dots.text)) == 3
    for name, x, y in zip(dots.hovertext, dots.x, dots.y, strict=True):
        neuron = kn.Neuron.parse(name)
        assert (x, y) == pytest.approx((a.score_of(neuron), b.score_of(neuron)))
    pearson = np.corrcoef(a.scores.mean(0).flatten(), b.scores.mean(0).flatten())[0, 1]
    assert f"Pearson {pearson:.2f}" in figure.layout.title.text.replace("<br>", " ")
    assert "adaptive" in figure.layout.xaxis.title.text and "dai" in figure.layout.yaxis.title.text


def test_the_leading_neurons_of_either_are_drawn() -> None:
    a, b = torch.zeros(1, 2, 50), torch.zeros(1, 2, 50)
    a[0, 1, 7], b[0, 0, 3] = -5.0, 0.001
    dots = plots.score_scatter(a, b, k=2).data[0]
    assert set(dots.hovertext) == {"L1.N7", "L0.N3"}
    with pytest.raises(ValueError, match="not of the same neurons"):
        plots.score_scatter(a, b[:, :1])
