"""What a bar draws under a label is the table's value for that label, and its colour says what the table says."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

import kntools as kn
from kntools import plots
from kntools.analyses.edit_result import EditConsistency
from kntools.analyses.fig01_attribution_profile import AttributionProfile
from kntools.analyses.fig02_pair_search import PairSearch
from kntools.analyses.fig03_localisation import Localisation
from kntools.analyses.fig04_layer_distribution import LayerDistribution
from kntools.analyses.fig05_suppression_effect import SuppressionEffect, effect_of
from kntools.analyses.fig07_probability_shift import ProbabilityShift
from kntools.analyses.fig08_reliability import Reliability
from kntools.attribution.knowledge_neurons import KnowledgeNeurons
from kntools.plots.theme import COLOURS, NEGATIVE, NEUTRAL, POSITIVE
from kntools.sites import Neuron
from tests.drawn_figures import HEADER, bars, drawn, ends, plain
from tests.plots.test_neuron_figures import attribution


def effect(alpha: float = 0.05) -> SuppressionEffect:
    """In alphabetical order neither words nor p-values; the same words in two groups, with other values."""
    rows = []
    p_values = {"plural": (0.2, 0.001, 0.049, 0.051, 0.9, 0.0), "singular": (0.01, 0.6, 0.5, 0.003, 0.04, 0.8)}
    for group, corrected in p_values.items():
        for n, (word, p) in enumerate(zip(("the", "some", "all", "these", "a", "<one>"), corrected, strict=True)):
            change = (-1) ** n * (0.1 + 0.05 * n) * (2 if group == "singular" else 1)
            rows.append(
                {
                    "group": group, "section": "neutral" if n < 3 else "marked", "word": word, "n": 7 + n,
                    "before": 0.2 + n, "after": 0.1 + n, "change": change, "low": change - 0.01, "high": change + 0.03,
                    "p": p / 10, "p_corrected": p, "significant": p < alpha,
                }
            )  # fmt: skip
    return SuppressionEffect.of(rows, HEADER, what="w", test="t", alpha=alpha, change="dai")


@pytest.mark.parametrize("alpha", [0.05, 0.002])
def test_a_bar_is_red_if_and_only_if_its_corrected_p_is_below_alpha(alpha: float) -> None:
    result = effect(alpha)
    figure, frame = result.plot(), result.to_frame().set_index(["group", "word"])
    panels = {trace.yaxis: group for trace, group in zip(figure.data[::2], ("plural", "singular"), strict=True)}
    assert len(panels) == 2 and [a.text for a in figure.layout.annotations] == ["prompts: plural", "prompts: singular"]
    drawn_in = {}
    for trace in figure.data:
        assert (trace.name, trace.marker.color) in (("significant", POSITIVE), ("not significant", NEUTRAL))
        for section, word, y, hover, (low, high) in zip(
            *trace.x, trace.y, trace.customdata, ends(trace, "y"), strict=True
        ):
            if np.isnan(y):
                continue
            key = panels[trace.yaxis], word.replace("&lt;", "<").replace("&gt;", ">")
            row = frame.loc[key]
            assert key not in drawn_in, "a word has one bar"
            drawn_in[key] = trace.marker.color
            assert section == row["section"] and (y, low, high) == plain(row[["change", "low", "high"]])
            assert tuple(hover) == plain(row[["before", "after", "p_corrected", "n"]])
    assert drawn_in == {key: POSITIVE if row["p_corrected"] < alpha else NEUTRAL for key, row in frame.iterrows()}
    assert len(set(drawn_in.values())) == 2


def test_what_only_the_uncorrected_test_calls_significant_is_grey() -> None:
    before, push = 20 + drawn(12, 6), torch.tensor([0.0, 0.3, 0.7, 0.8, 0.9, 3.0])
    words = tuple(("s", f"w{i}") for i in range(6))
    after = before + push + drawn(12, 6, seed=1)
    found = effect_of(ProbabilityShift(before, after, ("g",) * 12, words, (Neuron(0, 0),), 0.0, HEADER))
    red, grey = ({w for w, y in zip(t.x[1], t.y, strict=True) if not np.isnan(y)} for t in found.plot().data)
    assert red == {row["word"] for row in found.rows if row["p_corrected"] < 0.05}
    assert grey == {row["word"] for row in found.rows} - red
    assert any(row["p"] < 0.05 and row["word"] in grey for row in found.rows), "the test tells nothing apart"


def test_results_of_analyses_take_a_title_and_sizes() -> None:
    shift = ProbabilityShift(
        drawn(4, 2).exp(), drawn(4, 2).exp(), ("a", "b") * 2, (("s", "v"), ("s", "w")), (Neuron(0, 0),), 0.0, HEADER
    )
    profile = AttributionProfile(drawn(2, 3, 4), drawn(2, 3, 4), ("this", "that"), (3, 4), HEADER)
    for result in (effect(), localised(), shift, profile):
        layout = result.plot(title="mine", width=640, height=480).layout
        assert (layout.title.text, layout.width, layout.height) == ("mine", 640, 480)
    scale = profile.plot(colorscale=["black", "white"]).layout.coloraxis.colorscale
    assert [colour for _, colour in scale] == ["black", "white"]


def test_bars_of_neurons_are_red_where_they_raise_the_answer() -> None:
    scores = drawn(3, 2, 4)
    att = attribution(scores)
    figure = plots.neuron_bars(att, k=8)
    mean, bar = scores.mean(0), figure.data[0]
    assert len(bar.y) == 8 and len(set(bar.marker.color)) == 2
    assert list(bar.y) == list(map(repr, att.top(8))) and len(figure.data[1].x) == 3 * 8
    for name, value, colour, note in zip(bar.y, bar.x, bar.marker.color, bar.customdata, strict=True):
        layer, index = map(int, name[1:].split(".N"))
        assert value == pytest.approx(float(mean[layer, index]))
        assert colour == (POSITIVE if mean[layer, index] > 0 else NEGATIVE)
        assert note == f"rank {1 + int((mean > mean[layer, index]).sum())} of 8"
    for name, x, prompt in zip(figure.data[1].y, figure.data[1].x, figure.data[1].customdata, strict=True):
        layer, index = map(int, name[1:].split(".N"))
        assert x == pytest.approx(float(scores[prompt, layer, index]))


def test_bars_of_knowledge_neurons_are_those_of_the_table() -> None:
    scores = drawn(4, 3, 9).abs()
    kns: KnowledgeNeurons = kn.knowledge_neurons(scores, threshold=0.3, target_count=(4, 9))
    assert kns.counts != kns.counts[::-1], "counts in this order only"
    (bar,) = kns.plot().data
    assert list(bar.y) == list(map(repr, kns.neurons))
    expected = {repr(n): (s, c) for n, s, c in zip(kns.neurons, kns.scores, kns.counts, strict=True)}
    assert {n: x for n, x in zip(bar.y, bar.x, strict=True)} == pytest.approx({n: s for n, (s, _) in expected.items()})
    for name, note in zip(bar.y, bar.customdata, strict=True):
        assert note == f"in the coarse sets of {expected[name][1]} of 4 prompts"


def localised() -> Localisation:
    rows = [
        {
            "source": source, "kind": kind, "group": str(g), "prompts": 3, "converged": True, "neurons": [],
            "count": n + g, "tau": 0.5 + 0.1 * g - 0.05 * n, "r1": 0.3 * (n + 1) - 0.05 * g * g, "null_count": 1 + n,
            "null_tau": 0.1 * n, "null_r1": 0.02 * n,
        }
        for n, (source, kind) in enumerate((("P36", "factual"), ("dna_1", "linguistic"), ("P101", "factual")))
        for g in range(3)
    ]  # fmt: skip
    return Localisation.of(rows, HEADER)


def test_localisation_bars_and_null_marks_are_those_of_their_source() -> None:
    result = localised()
    table, figure = result.summary().set_index("source"), result.plot()
    assert COLOURS["linguistic"] != COLOURS["factual"]
    for column, measure in enumerate(("count", "tau", "r1"), 1):
        axis = "x" if column == 1 else f"x{column}"
        panel = [t for t in figure.data if t.xaxis == axis]
        seen = []
        for trace in (t for t in panel if t.type == "bar"):
            assert trace.marker.color == COLOURS[trace.name]
            for source, value, (low, high), n in zip(trace.y, trace.x, ends(trace, "x"), trace.customdata, strict=True):
                row = table.loc[source]
                assert row["kind"] == trace.name and n == row["groups"]
                assert (value, low, high) == plain(row[[measure, f"{measure}_low", f"{measure}_high"]])
                seen.append(source)
        assert sorted(seen) == sorted(table.index)
        (null,) = [t for t in panel if t.type == "scatter"]
        assert dict(zip(null.y, null.x, strict=True)) == pytest.approx(table[f"null_{measure}"].to_dict())


def test_layer_bars_are_the_shares_of_their_kind_and_layer() -> None:
    rows = [
        {"kind": kind, "layer": layer, "neurons": 3 * layer + n, "share": 0.1 * layer + 0.03 * n,
         "low": 0.1 * layer + 0.01 * n, "high": 0.1 * layer + 0.08}
        for n, kind in enumerate(("linguistic", "factual")) for layer in range(3)
    ]  # fmt: skip
    result = LayerDistribution.of(rows, HEADER, groups={}, test=None)
    expected = {(r["kind"], r["layer"]): plain((r["share"], r["low"], r["high"])) for r in rows}
    assert bars(result.plot()) == expected
    for trace in result.plot().data:
        assert trace.marker.color == COLOURS[trace.name]
        assert list(trace.customdata) == [r["neurons"] for r in rows if r["kind"] == trace.name]


def test_pair_shares_are_those_of_their_neuron_and_determiner() -> None:
    hits = {("this", "singular"): (4, 9), ("those", "plural"): (7, 8), ("these", "plural"): (2, 5)}
    rows = [
        {"half": "test", "metric": "probability", "determiner": d, "number": number, "nouns": f"{d} {i}",
         "neurons": [[1, 7]] if i < k else [[2, 2]] if i % 2 else []}
        for (d, number), (k, n) in hits.items() for i in range(n)
    ]  # fmt: skip
    result = PairSearch.of(rows, HEADER)
    neurons = [(2, 2), (1, 7)]
    table = result.shares(neurons)
    expected = {(r.neuron, r.determiner): plain((r.share, r.low, r.high)) for r in table.itertuples()}
    figure = result.plot(neurons)
    assert bars(figure) == expected and len({t.marker.color for t in figure.data}) == 2
    for trace in figure.data:
        mine = table[table["neuron"] == trace.name].set_index("determiner")
        for determiner, hover in zip(trace.x, trace.customdata, strict=True):
            assert list(hover) == mine.loc[determiner, ["found", "nouns"]].tolist()


def test_pairs_without_a_neuron_are_an_empty_figure() -> None:
    rows = [
        {"half": half, "metric": "probability", "determiner": d, "number": n, "nouns": half, "neurons": []}
        for half in ("selection", "test")
        for d, n in (("this", "singular"), ("those", "plural"))
    ]
    assert not any(len(trace.y) for trace in PairSearch.of(rows, HEADER).plot().data)


@pytest.mark.parametrize("sources", [("P36",), ("P36", "dna_1")])
def test_overturned_bars_are_the_shares_of_their_edit_and_source(sources: tuple[str, ...]) -> None:
    rows = [
        {"source": source, "text": str(i), "target": "t", "edit": edit, "overturned": i < 2 + e + s,
         "random": i < 1 + e, "before": 0.5, "after": 0.4}
        for s, source in enumerate(sources)
        for e, edit in enumerate(("suppress", "enhance", "erase"))
        for i in range(10)
    ]  # fmt: skip
    result = Reliability.of(rows, HEADER)
    names = {"knowledge neurons": ("share", "low", "high"), "random neurons": ("random", "random_low", "random_high")}
    figure, summary = result.plot(), result.summary()
    if len(sources) > 1:
        assert [note.text for note in figure.layout.annotations] == list(sources)
    for source, axis in zip(sources, ("x", "x2"), strict=False):
        expected = {
            (name, row["edit"]): plain(row[c] for c in columns)
            for row in summary[summary["source"] == source].to_dict("records")
            for name, columns in names.items()
        }
        assert bars(go.Figure([t for t in figure.data if t.xaxis == axis])) == expected
    assert {t.name: t.marker.color == NEUTRAL for t in result.plot().data} == {
        "knowledge neurons": False, "random neurons": True,
    }  # fmt: skip


def test_edit_bars_are_the_scores_of_their_method() -> None:
    def said(shift: float) -> tuple[dict[str, Any], ...]:
        answers = [(role, 0.1 * i + shift) for i, role in enumerate(("forward new", "reverse new", "reverse old"))]
        return tuple(
            {
                "answers": {
                    role: [{"p": p + 0.02 * case, "first": case > 1, "exact": case > 0, "tokens": case / 4}]
                    for role, p in answers
                }
                | {"forward true": [{"p": 0.5, "first": True, "exact": case < 2, "tokens": 1.0}]}
            }
            for case in range(4)
        )

    result = EditConsistency(tuple("abcd"), said(0), {"rome": said(0.2), "values": said(0.3)}, {}, HEADER)
    frame = result.to_frame()
    for condition in ("all", "known"):
        table = frame[frame["condition"] == condition]
        expected = {(r.method, r.score): plain((r.value, r.low, r.high)) for r in table.itertuples()}
        assert bars(result.plot(condition=condition)) == expected
    assert set(frame["method"]) == {"before", "rome", "values"}
