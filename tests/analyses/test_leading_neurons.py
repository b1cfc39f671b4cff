"""Leading neurons of groups of unequal size, and random neurons to compare them with."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from kntools.analyses.fig02_pair_search import PairSearch
from kntools.attribution.random_neurons import random_like
from kntools.sites import Neuron


def pairs(number: str, count: int, found: dict[Neuron, int]) -> list[dict[str, Any]]:
    """Rows of so many pairs; each neuron is found in the first so many of them."""
    return [
        {
            "determiner": "this" if number == "singular" else "these", "number": number, "half": "selection",
            "nouns": str(i),
            "neurons": [[n.layer, n.index] for n, times in found.items() if i < times],
        }
        for i in range(count)
    ]  # fmt: skip


def test_leading_neurons_of_groups_of_unequal_size_are_those_of_the_largest_difference_of_shares() -> None:
    """By counts alone, each of these neurons would be one of the larger group; by shares alone, `common` the first."""
    often, both, rare, equal, common = (Neuron(0, i) for i in (1, 2, 3, 4, 0))
    singular = {often: 9, both: 4, rare: 3, equal: 6, common: 10}  # of 12: shares 0.75, 0.33, 0.25, 0.5, 0.83
    plural = {often: 1, both: 3, rare: 2, equal: 2, common: 4}  # of 4: shares 0.25, 0.75, 0.5, 0.5, 1
    rows = [*pairs("singular", 12, singular), *pairs("plural", 4, plural)]
    for order in (rows, rows[::-1]):
        found = PairSearch.of(order, {"model": "m"})
        assert found.leading("singular", 4) == (often,)
        assert found.leading("plural", 4) == (both, rare, common)
        assert found.leading("plural") == (both,)


def test_leading_neurons_where_there_is_no_other_group() -> None:
    first, second = Neuron(0, 1), Neuron(0, 2)
    found = PairSearch.of(pairs("plural", 5, {second: 2, first: 4}), {"model": "m"})
    assert found.leading("plural", 3) == (first, second)
    assert found.leading("singular", 3) == ()


def test_random_controls_are_other_neurons_of_the_same_layers() -> None:
    """Half of a layer is given, so that its control must be exactly the other half."""
    given = [Neuron(2, 0), (0, 7), (2, 3), Neuron(2, 5), (2, 6), (5, 4)]
    drawn: set[tuple[Neuron, ...]] = set()
    for seed in range(40):
        controls = random_like(given, 8, torch.Generator().manual_seed(seed))
        assert Counter(n.layer for n in controls) == {2: 4, 0: 1, 5: 1}
        assert len(set(controls)) == len(controls)
        assert {n.index for n in controls if n.layer == 2} == {1, 2, 4, 7}
        assert not set(controls) & {Neuron(*n) if isinstance(n, tuple) else n for n in given}
        assert controls == random_like(given, 8, torch.Generator().manual_seed(seed))
        drawn.add(controls)
    for layer, own in ((0, 7), (5, 4)):  # 40 draws of 7 neurons: each is drawn, the given one never
        assert {n.index for c in drawn for n in c if n.layer == layer} == set(range(8)) - {own}
    with pytest.raises(ValueError, match="layer 2 has 3 other neurons, 4 are needed"):
        random_like(given, 7, torch.Generator().manual_seed(0))
