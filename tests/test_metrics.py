"""Metrics against the formulas, written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools import metrics


def logits(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softmax(row: Tensor) -> list[float]:
    """Of one row, in Python's own double precision."""
    top = max(row.tolist())
    weights = [math.exp(x - top) for x in row.tolist()]
    return [w / sum(weights) for w in weights]


def test_probability_of_one_token() -> None:
    x = logits(4, 11)
    expected = torch.tensor([softmax(row)[7] for row in x])
    torch.testing.assert_close(kn.probability(7)(x), expected)
    torch.testing.assert_close(kn.probability([7])(x[:, None]), expected)
    torch.testing.assert_close(kn.log_probability((7,))(x), expected.log())


def test_the_pieces_of_an_answer_multiply() -> None:
    x = logits(3, 4, 9)
    ids = [2, 0, 8, 2]
    expected = torch.tensor([math.prod(softmax(row[k])[i] for k, i in enumerate(ids)) for row in x])
    torch.testing.assert_close(kn.probability(ids)(x), expected)
    torch.testing.assert_close(kn.log_probability(ids)(x), expected.log())


def test_tiny_probabilities_keep_their_logarithm() -> None:
    x = torch.tensor([[0.0, 300.0], [0.0, 1000.0]])
    assert kn.log_probability(0)(x).tolist() == [-300.0, -1000.0]


def test_logit_difference() -> None:
    x = torch.tensor([[1.0, 5.0, 2.0], [0.0, -1.0, 4.0]])
    assert kn.logit_difference(1, 2)(x).tolist() == [3.0, -5.0]
    assert kn.logit_difference(1, 2)(x[:, None]).tolist() == [3.0, -5.0]


def test_kl_is_of_the_reference_relative_to_the_row() -> None:
    p, q = logits(7, seed=1), logits(3, 7, seed=2)
    ours = kn.kl_divergence(p)(q)
    for row, value in zip(q, ours.tolist(), strict=True):
        terms = zip(softmax(p), softmax(row), strict=True)
        assert value == pytest.approx(sum(a * math.log(a / b) for a, b in terms), rel=1e-5)
    assert kn.kl_divergence(p)(p[None]).item() == pytest.approx(0, abs=1e-7)
    assert (ours > 0).all() and ours.shape == (3,)


def test_kl_where_a_token_is_ruled_out() -> None:
    ruled_out = torch.tensor([0.0, 1.0, -torch.inf])
    assert kn.kl_divergence(ruled_out)(ruled_out[None]).tolist() == [0.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_widened_first(dtype: torch.dtype) -> None:
    x, reference = logits(5, 2000).to(dtype), logits(2000, seed=3).to(dtype)
    for metric in (kn.probability(3), kn.log_probability(3), kn.logit_difference(3, 4), kn.kl_divergence(reference)):
        value = metric(x)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, metric(x.float()), rtol=0, atol=0)
    expected = torch.tensor([softmax(row)[3] for row in x.float()])
    torch.testing.assert_close(kn.probability(3)(x), expected, rtol=1e-4, atol=0)


def test_double_precision_stays() -> None:
    x = logits(2, 9).double()
    assert kn.log_probability(1)(x).dtype == torch.float64
    assert kn.kl_divergence(x[0].float())(x).dtype == torch.float64


def test_metrics_can_be_differentiated() -> None:
    x = logits(2, 5).requires_grad_()
    [gradient] = torch.autograd.grad(kn.probability(1)(x).sum(), x)
    for row in range(2):
        p = softmax(x[row].detach())
        expected = [p[1] * ((k == 1) - p[k]) for k in range(5)]
        torch.testing.assert_close(gradient[row], torch.tensor(expected))


@pytest.mark.parametrize(
    ("metric", "shape"),
    [
        (kn.probability([1, 2]), (3, 9)),
        (kn.probability([1, 2]), (3, 3, 9)),
        (kn.probability(1), (3, 2, 9)),
        (kn.probability([]), (3, 9)),
        (kn.logit_difference(1, 2), (3, 2, 9)),
        (kn.kl_divergence(torch.zeros(9)), (3, 2, 9)),
        (kn.probability(1), (9,)),
        (kn.logit_difference(1, 2), (9,)),
        (kn.probability([1, 2]), (1, 3, 2, 9)),
        (kn.kl_divergence(torch.zeros(8)), (3, 9)),
    ],
)
def test_shapes_that_do_not_fit_are_errors(metric: object, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        metric(torch.zeros(shape))  # type: ignore[operator]


@pytest.mark.parametrize("token", [9, -1, -100])
def test_tokens_outside_the_vocabulary_are_errors(token: int) -> None:
    for metric in (kn.probability(token), kn.log_probability([token]), kn.logit_difference(token, 0)):
        with pytest.raises((IndexError, ValueError)):
            metric(torch.zeros(2, 9))


def test_values_are_alike_but_for_rounding() -> None:
    for value in (0.5, 1e-9, -20.0):
        assert metrics.alike(value, value * (1 + 1e-6)) and not metrics.alike(value, value * 1.001)
    assert metrics.alike(0.0, 0.0) and not metrics.alike(0.0, 1e-9) and not metrics.alike(-0.1, 0.1)
