"""P-values, corrections and overlaps, wherever they are given, against scipy or by hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from kntools.analyses.fig02_pair_search import PairSearch
from kntools.analyses.fig04_layer_distribution import layer_distribution
from kntools.analyses.fig05_suppression_effect import effect_of
from kntools.analyses.fig08_reliability import Reliability
from kntools.analyses.method_comparison import RANDOM, SelectionMethods
from kntools.results.statistics import (
    holm,
    sign_test,
)
from tests.results.test_intervals import HEADER, N, assert_95, drawn, shifted, stats


@pytest.mark.parametrize("permutations", [1, 9, 99])
def test_a_permutation_p_is_never_0(permutations: int) -> None:
    """Of 2.6e26 ways to share out these groups two are as far apart as the kinds: none of them is drawn."""
    apart = {"a": [[(0, 1)]] * 45, "b": [[(3, 1)]] * 45}
    test = layer_distribution(apart, n_layers=4, permutations=permutations).details["test"]
    assert test["p"] == 1 / (permutations + 1)
    same = {"a": [[(0, 1)]] * 5, "b": [[(0, 2)]] * 5}
    few = {kind: groups[:2] for kind, groups in apart.items()}
    least = [layer_distribution(few, n_layers=4, permutations=9, seed=seed).details["test"] for seed in range(20)]
    assert {test["least"] for test in least} == {2 / 6} and min(test["p"] for test in least) == 2 / 6
    assert layer_distribution(same, n_layers=4, permutations=permutations).details["test"]["p"] == 1


def test_a_permutation_p_is_near_that_of_all_permutations() -> None:
    a, b = [0, 0, 1, 0, 2], [2, 1, 3, 3]
    both = a + b

    def distance(first: Sequence[int]) -> float:
        rest = [i for i in range(len(both)) if i not in first]
        shares = [np.bincount([both[i] for i in side], minlength=4) / len(side) for side in (first, rest)]
        return float(abs(shares[0] - shares[1]).sum() / 2)

    observed = distance(range(len(a)))
    every = [distance(first) >= observed - 1e-12 for first in itertools.combinations(range(len(both)), len(a))]
    groups = {"a": [[(layer, 0)] for layer in a], "b": [[(layer, 0)] for layer in b]}
    test = layer_distribution(groups, n_layers=4, permutations=4000).details["test"]
    assert test["distance"] == pytest.approx(observed)
    assert test["p"] == pytest.approx(np.mean(every), abs=0.025) and 0.02 < np.mean(every) < 0.5


@pytest.mark.parametrize(("up", "down"), [(0, 0), (1, 0), (3, 9), (9, 3), (10, 10), (40, 17)])
def test_mcnemar_is_the_exact_binomial_test(up: int, down: int) -> None:
    expected = stats.binomtest(up, up + down, 0.5).pvalue if up + down else 1
    assert sign_test(up, down) == pytest.approx(expected)


def overturned(edit: str, counts: dict[tuple[bool, bool], int]) -> list[dict[str, Any]]:
    """Rows of one edit by (overturned, overturned by random neurons)."""
    return [
        {"source": "P36", "edit": edit, "overturned": ours, "random": other, "before": 0.5, "after": 0.4}
        for (ours, other), n in counts.items()
        for _ in range(n)
    ]


def test_only_pairs_that_differ_decide_between_neurons_and_random_ones() -> None:
    counts = {
        "few agree": {(True, False): 9, (False, True): 2, (True, True): 1, (False, False): 1},
        "many agree": {(True, False): 9, (False, True): 2, (True, True): 70, (False, False): 500},
        "all agree": {(True, True): 4, (False, False): 6},
        "other way": {(True, False): 1, (False, True): 7, (True, True): 3, (False, False): 9},
    }
    rows = [row for edit, some in counts.items() for row in overturned(edit, some)]
    table = Reliability.of(rows, HEADER).summary().set_index("edit")
    expected = {"few agree": (9, 11), "many agree": (9, 11), "other way": (1, 8)}
    for edit, (k, n) in expected.items():
        assert table.loc[edit, "p"] == pytest.approx(stats.binomtest(k, n, 0.5).pvalue)
    assert table.loc["all agree", "p"] == 1
    assert table["p_holm"].tolist() == pytest.approx(by_definition(table["p"].tolist()))
    for edit, some in counts.items():
        n, hits = sum(some.values()), sum(k for (ours, _), k in some.items() if ours)
        wilson = stats.binomtest(hits, n).proportion_ci(method="wilson")
        row = table.loc[edit]
        assert (row["n"], row["share"]) == (n, hits / n)
        assert (row["low"], row["high"]) == pytest.approx((wilson.low, wilson.high))
        others = sum(k for (_, other), k in some.items() if other)
        wilson = stats.binomtest(others, n).proportion_ci(method="wilson")
        assert row["random"] == others / n
        assert (row["random_low"], row["random_high"]) == pytest.approx((wilson.low, wilson.high))


def by_definition(p_values: Sequence[float]) -> list[float]:
    """The level at which Holm's procedure begins to reject each: of the hypotheses up to it, the strictest step."""
    order = sorted(p_values)
    steps = [min(1.0, (len(order) - k) * p) for k, p in enumerate(order)]
    return [max(step for step, q in zip(steps, order, strict=True) if q <= p) for p in p_values]


def rejected(p_values: Sequence[float], alpha: float) -> set[int]:
    """Holm's procedure, as he wrote it: step down, and stop at the first that is not small enough."""
    left = set(range(len(p_values)))
    while left:
        smallest = min(left, key=lambda i: p_values[i])
        if p_values[smallest] > alpha / len(left):
            break
        left.remove(smallest)
    return set(range(len(p_values))) - left


@pytest.mark.parametrize("seed", range(5))
def test_a_corrected_p_is_the_level_from_which_on_holms_procedure_rejects(seed: int) -> None:
    p = (torch.rand(9, generator=torch.Generator().manual_seed(seed)) ** 4).tolist()
    corrected = holm(p)
    assert corrected == pytest.approx(by_definition(p))
    for alpha in (0.001, 0.01, 0.05, 0.2, 0.5, 0.9):
        assert {i for i, q in enumerate(corrected) if q <= alpha} == rejected(p, alpha)
    assert any(c > 1.5 * q for c, q in zip(corrected, p, strict=True))


def test_word_effects_are_corrected_over_all_words_and_the_published_test_is_not() -> None:
    before = drawn(12, 6).float()
    push = torch.tensor([1.0, 0.9, 0.97, 0.99, 0.995, 1.002])
    shift = shifted(before, before * push + 0.05 * drawn(12, 6, seed=2).float())
    rows = effect_of(shift).rows
    plain = [float(stats.ttest_rel(shift.after[:, w], shift.before[:, w]).pvalue) for w in range(6)]
    assert [row["p"] for row in rows] == pytest.approx(plain, rel=1e-3)
    assert [row["p_corrected"] for row in rows] == pytest.approx(by_definition([row["p"] for row in rows]))
    assert [row["significant"] for row in rows] == [row["p_corrected"] < 0.05 for row in rows]
    between = [row["p"] for row in rows if row["p"] < 0.05 <= row["p_corrected"]]
    assert between, "no word tells a corrected test from an uncorrected one: the test says nothing"
    for row in effect_of(shift, paper=True, alpha=0.3).rows:
        assert row["p_corrected"] == row["p"] and row["significant"] == (row["p"] < 0.3)


def test_shares_of_pairs_are_corrected_over_the_table() -> None:
    def pairs(determiner: str, number: str, hits: int, of: int) -> list[dict[str, Any]]:
        about = {"determiner": determiner, "number": number, "pair": determiner, "half": "test"}
        return [{**about, "nouns": f"{i}", "neurons": [[1, 7]] if i < hits else [[2, 2]]} for i in range(of)]

    rows = [*pairs("this", "singular", 1, 12), *pairs("those", "plural", 7, 10), *pairs("these", "plural", 6, 9)]
    table = PairSearch.of(rows, HEADER).shares([(1, 7), (2, 2)])
    row = table.set_index(["neuron", "determiner"]).loc[("L1.N7", "those")]
    wilson = stats.binomtest(7, 10).proportion_ci(method="wilson")
    assert (row["found"], row["nouns"], row["share"], row["opposite"]) == (7, 10, 0.7, 1 / 12)
    assert (row["low"], row["high"]) == pytest.approx((wilson.low, wilson.high))
    assert row["p"] == pytest.approx(stats.fisher_exact([[7, 3], [1, 11]]).pvalue)
    assert table["p_holm"].tolist() == pytest.approx(by_definition(table["p"].tolist()))


CURVE = {"before": 1.0, "ablated": 0.0, "kept": [0.5, 1.0], "removed": [0.5, 0.0]}
KEPT = {"shares": [0.1, 1.0], "counts": [3, 30], "ablation": "zero"}


def chosen(neurons: dict[str, list[list[int]]], drops: dict[str, list[float]] | None = None) -> SelectionMethods:
    """`neurons[method][prompt]` are indices in layer 0."""
    rows = [
        {
            "method": method, "text": f"text {p}", "neurons": [[0, i] for i in indices], "gradients": 4, "seconds": 0.1,
            "drop": 0.1 if drops is None else drops[method][p], "target": " a", **CURVE,
        }
        for method, some in neurons.items() for p, indices in enumerate(some)
    ]  # fmt: skip
    methods = [m for m in neurons if m != RANDOM]
    return SelectionMethods.of(rows, HEADER, methods=methods, count=3, faithfulness=KEPT)


def test_the_overlap_is_the_shared_part_of_the_union() -> None:
    found = chosen(
        {
            "a": [[1, 2, 3], [1, 2, 3]],
            "b": [[1, 2, 4], [1, 2, 3]],  # 2 of 4 different neurons, then 3 of 3
            "c": [[3, 8, 9], [7, 8, 9]],  # with a: 1 of 5, then 0 of 6; with b: 0 of 6 twice
            RANDOM: [[1], [3, 4, 5, 6]],  # another size: 1 of 3, then 1 of 6; b: 1 of 3, 1 of 6; c: 0 of 4, 0 of 7
        }
    )
    table = found.overlap().set_index(["one", "other"])
    expected = {
        ("a", "b"): (2 / 4 + 3 / 3) / 2, ("a", "c"): (1 / 5 + 0) / 2, ("a", RANDOM): (1 / 3 + 1 / 6) / 2,
        ("b", "c"): 0, ("b", RANDOM): (1 / 3 + 1 / 6) / 2, ("c", RANDOM): 0,
    }  # fmt: skip
    assert table["jaccard"].to_dict() == pytest.approx(expected)
    # Student's of 0.5 and 1 is -2.4 to 3.9.
    assert table.loc[("a", "b"), ["low", "high"]].tolist() == [0, 1]


def test_neurons_of_equal_index_in_other_layers_do_not_overlap() -> None:
    rows = [{"method": m, "neurons": [[layer, 5], [layer, 6]]} for layer, m in enumerate(("a", RANDOM))]
    found = SelectionMethods.of(rows, HEADER, methods=["a"], count=2)
    assert found.overlap()["jaccard"].tolist() == [0]


def test_intervals_of_drops_and_overlaps_are_of_95_percent_and_tests_are_paired() -> None:
    drops = {m: drawn(N, seed=s).tolist() for s, m in enumerate(("a", "b", RANDOM))}
    hits = torch.randint(4, (N,), generator=torch.Generator().manual_seed(0)).tolist()
    found = chosen(
        {"a": [[1, 2, 3]] * N, "b": [[1, 2, 3][:h] + [7, 8, 9][h:] for h in hits], RANDOM: [[20]] * N}, drops
    )
    table = found.summary().set_index("method")
    for method, values in drops.items():
        assert_95(table.loc[method, "low"], table.loc[method, "high"], torch.tensor(values, dtype=torch.float64))
    p = [float(stats.ttest_rel(drops["a"], drops[m]).pvalue) for m in ("b", RANDOM)]
    assert np.isnan(table.loc["a", "p_holm"])
    assert table["p_holm"].tolist()[1:] == pytest.approx(by_definition(p))
    overlap = found.overlap().set_index(["one", "other"]).loc[("a", "b")]
    assert_95(overlap["low"], overlap["high"], torch.tensor([h / (6 - h) for h in hits], dtype=torch.float64))
