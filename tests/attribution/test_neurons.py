"""From hand-made scores to knowledge neurons; how alike score vectors are."""

from __future__ import annotations

import inspect
import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import kntools as kn


def votes(counts: list[int], prompts: int) -> Tensor:
    """Scores `[prompt 2 len(counts)/2]` in which neuron i (layer by layer) leads in the first counts[i] prompts."""
    rows = [[1.0 if p < c else 0.0 for c in counts] for p in range(prompts)]
    return torch.tensor(rows).view(prompts, 2, -1)


# --- coarse sets ----------------------------------------------------------------------------------------


def test_the_threshold_is_that_of_each_prompt() -> None:
    scores = torch.tensor([[[10.0, 2.0, 1.9], [-50.0, 0.0, 5.0]], [[0.001, 0.1, 0.0201], [0.021, 0.0199, -0.1]]])
    assert kn.coarse_sets(scores, 0.2).tolist() == [
        [[True, True, False], [False, False, True]],
        [[False, True, True], [True, False, False]],
    ]
    assert kn.coarse_sets(scores, 1.0).sum().item() == 2


def test_a_prompt_without_a_positive_score_has_no_coarse_set() -> None:
    assert not kn.coarse_sets(-torch.arange(1.0, 25).view(2, 3, 4)).any()
    assert not kn.coarse_sets(torch.zeros(1, 2, 2)).any()


# --- the search -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "prompts", "share", "kept"),
    [
        ([20, 15, 14, 3, 0, 0], 20, 0.7, 3),  # fits at once
        ([20, 20, 19, 18, 17, 16, 14, 14], 20, 0.85, 5),  # too many: up
        ([20, 9, 8, 0], 20, 0.45, 2),  # too few: down
        ([20, 1, 0, 0], 20, 0.05, 2),  # 0.7 - 13 * 0.05 in floating point is 0.04999...
        ([20, 6, 0, 0], 20, 0.3, 2),  # 0.7 - 8 * 0.05 is 0.29999...
        ([10, 10, 10, 10, 10, 10, 9, 9], 10, None, 6),  # too many at any share
        ([10, 0, 0, 0], 10, None, 1),  # too few at any share
        ([0, 0], 4, None, 0),
        ([3, 2, 2, 2, 2, 2, 2, 0], 3, 0.7, 1),  # one or seven: one is nearer
        ([3, 3, 3, 3, 3, 3, 0, 0], 3, 1.0, 6),
        ([1, 1, 0, 0], 1, 0.7, 2),
    ],
)
def test_the_share_moves_until_the_number_fits(counts: list[int], prompts: int, share: Any, kept: int) -> None:
    found = kn.knowledge_neurons(votes(counts, prompts))
    assert len(found.neurons) == kept and found.converged == (2 <= kept <= 5)
    if share is not None:
        assert found.share == share
    needed = max(1, math.ceil(Fraction(str(found.share)) * prompts))
    assert sorted(found.counts, reverse=True) == sorted((c for c in counts if c >= needed), reverse=True)
    assert 0 < found.share <= 1 and found.prompts == prompts


@given(
    st.lists(st.integers(0, 14), min_size=2, max_size=24).filter(lambda c: len(c) % 2 == 0),
    st.sampled_from([(2, 5), (1, 1), (0, 3), (4, 4)]),
    st.sampled_from([0.7, 0.5, 0.05, 1.0, 0.33]),
    st.sampled_from([0.05, 0.1, 0.3, 1.0]),
)
def test_the_search_against_all_shares(counts: list[int], wanted: tuple[int, int], share: float, step: float) -> None:
    prompts = 14
    found = kn.knowledge_neurons(votes(counts, prompts), target_count=wanted, share=share, step=step)

    def number(p: Fraction) -> int:
        return sum(c >= 1 and c >= p * prompts for c in counts)

    start, by = Fraction(str(share)), Fraction(str(step))
    grid = {p for k in range(-40, 40) if 0 < (p := start + k * by) <= 1} | {Fraction(1)}
    assert len(found.neurons) == number(Fraction(str(found.share)))
    assert found.converged == (wanted[0] <= len(found.neurons) <= wanted[1])
    if not found.converged:
        assert not any(wanted[0] <= number(p) <= wanted[1] for p in grid)
    if wanted[0] <= number(start) <= wanted[1]:
        assert found.share == share


def test_neurons_come_with_their_mean_scores_highest_first() -> None:
    scores = torch.tensor([[[1.0, 3.0], [0.0, 2.0]], [[2.0, 4.0], [0.0, 5.0]]])
    found = kn.knowledge_neurons(scores)
    assert list(found) == [kn.Neuron(0, 1), kn.Neuron(1, 1), kn.Neuron(0, 0)] and found.scores == (3.5, 3.5, 1.5)
    assert found.counts == (2, 2, 2) and found.settings["threshold"] == 0.2
    assert found.to_frame()["share"].tolist() == [1.0, 1.0, 1.0]
    assert found.describe() == "Knowledge neurons L0.N1, L1.N1, L0.N0 (2 prompts, tau 0.70)"


def test_negative_prompts_take_neurons_out() -> None:
    ours, other = votes([10, 10, 10, 10], 10), votes([10, 6, 0, 0], 10)
    found = kn.knowledge_neurons(ours, negatives=other)
    assert set(found.neurons) == {kn.Neuron(0, 1), kn.Neuron(1, 0), kn.Neuron(1, 1)} and found.share == 0.7
    assert found.settings["negatives"] == 10
    few = kn.knowledge_neurons(ours, negatives=votes([4, 2, 0, 0], 4))  # as many prompts as there happen to be
    assert len(few) == 3 and few.settings["negatives"] == 4
    everything = kn.knowledge_neurons(ours, negatives=ours)
    assert everything.neurons == () and not everything.converged


NAN = torch.full((1, 2, 2), torch.nan)


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (votes([1, 1], 1), {"threshold": 0.0}, "threshold=0.0"),
        (votes([1, 1], 1), {"threshold": 1.1}, "threshold=1.1"),
        (votes([1, 1], 1), {"threshold": float("nan")}, "threshold=nan"),
        (votes([1, 1], 1), {"share": 0.0}, "share=0.0"),
        (votes([1, 1], 1), {"share": 70.0}, "share=70"),
        (votes([1, 1], 1), {"step": 0.0}, "step=0.0"),
        (votes([1, 1], 1), {"target_count": (5, 2)}, r"target_count=\(5, 2\)"),
        (torch.zeros(0, 2, 2), {}, "at least one prompt"),
        (NAN, {}, "nan"),
        (votes([1, 1, 1, 1], 1), {"negatives": NAN}, "nan"),
        (votes([1, 1, 1, 1], 1), {"negatives": votes([1] * 8, 1)}, "negatives"),
        (votes([1, 1, 1, 1], 1), {"negatives": torch.ones(1, 1, 2)}, "negatives"),
    ],
)
def test_errors(scores: Tensor, options: dict[str, Any], message: str) -> None:
    # As a user runs it: without the type checker of the tests, which has something to say about shapes.
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(kn.knowledge_neurons)(scores, **options)


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.5])
def test_coarse_sets_check_their_threshold_too(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        kn.coarse_sets(votes([1, 1], 1), threshold)


# --- R1^2 -----------------------------------------------------------------------------------------------


def test_r1_squared_in_closed_form() -> None:
    row = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(0))
    assert kn.r1_squared(torch.cat([row, 5 * row, 0.1 * row])) == pytest.approx(1)
    assert kn.r1_squared(torch.cat([row, -3 * row])) == pytest.approx(1)  # signs do not count
    assert kn.r1_squared(torch.eye(6).view(6, 2, 3)) == pytest.approx(0, abs=1e-12)
    for angle in (0.1, 1.0, 2.5):  # the Gram matrix [[1, c], [c, 1]] has the eigenvalues 1 + c and 1 - c
        two = torch.tensor([[[2.0, 0.0]], [[3 * math.cos(angle), 3 * math.sin(angle)]]], dtype=torch.float64)
        assert kn.r1_squared(two) == pytest.approx(abs(math.cos(angle)))
    # n rows with the same cosine c to each other: s1^2 = 1 + (n - 1) c, so R1^2 = c.
    shared = torch.cat([torch.eye(5), torch.ones(5, 1)], 1).view(5, 2, 3)
    assert kn.r1_squared(shared) == pytest.approx(0.5)


def test_r1_squared_needs_two_directions() -> None:
    row, zero = torch.ones(1, 2, 3), torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match="at least 2"):
        kn.r1_squared(row)
    with pytest.raises(ValueError, match=r"prompt\(s\) \[1\] are all zero; pass drop_zero=True"):
        kn.r1_squared(torch.cat([row, zero, row]))
    assert kn.r1_squared(torch.cat([row, zero, row]), drop_zero=True) == pytest.approx(1)
    with pytest.raises(ValueError, match="at least 2"):
        kn.r1_squared(torch.cat([row, zero]), drop_zero=True)


def test_only_shares_of_the_grid_are_tried() -> None:
    """As published: 0.72 would give three neurons, and lies between two steps."""
    scores = torch.zeros(100, 1, 20)
    scores[:74, 0, :3], scores[:71, 0, 3:10], scores[90:, 0, 18], scores[:, 0, 19] = 1, 1, 1, 0.001
    found = kn.knowledge_neurons(scores)
    assert not found.converged and found.share in (0.7, 0.75) and len(found) in (0, 10)
    assert len(kn.knowledge_neurons(scores, share=0.72)) == 3
