"""What a figure draws under a label is the table's value for that label, and colours say what the table says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
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
from kntools.analyses.fig06_cooccurrence_bias import CooccurrenceBias
from kntools.analyses.fig07_probability_shift import ProbabilityShift
from kntools.analyses.fig08_reliability import Reliability
from kntools.analyses.fig09_tracing_profile import TracingProfile
from kntools.analyses.method_comparison import RANDOM, SelectionMethods
from kntools.attribution.knowledge_neurons import KnowledgeNeurons
from kntools.plots.theme import COLOURS, NEGATIVE, NEUTRAL, POSITIVE
from kntools.sites import Neuron
from tests import zoo

HEADER = {"model": "by hand"}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cells(trace: Any) -> dict[tuple[Any, Any], float]:
    """(label of the row, label of the column) -> what is drawn there."""
    z = np.asarray(trace.z, dtype=float)
    assert z.shape == (len(trace.y), len(trace.x))
    return {(y, x): float(z[i, j]) for i, y in enumerate(trace.y) for j, x in enumerate(trace.x)}


def ends(trace: Any, axis: str) -> Iterator[tuple[float, float]]:
    """Where the thin line of each bar begins and ends."""
    bars, centre = getattr(trace, f"error_{axis}"), getattr(trace, axis)
    assert bars.symmetric is False
    return zip(np.subtract(centre, bars.arrayminus), np.add(centre, bars.array), strict=True)


def bars(figure: Any, axis: str = "y") -> dict[tuple[str, Any], tuple[float, float, float]]:
    """(name of the trace, label) -> value and both ends, of the bars that are there."""
    found = {}
    for trace in figure.data:
        if trace.type == "bar":
            labels = trace.x if axis == "y" else trace.y
            labels = labels if np.ndim(labels) == 1 else list(zip(*labels, strict=True))
            rows = zip(labels, getattr(trace, axis), ends(trace, axis), strict=True)
            found |= {(trace.name, at): (value, low, high) for at, value, (low, high) in rows}
    return found


def plain(values: Any) -> Any:
    return pytest.approx(tuple(map(float, values)), nan_ok=True)


# --- figure 5: the colour is the corrected p --------------------------------------------------------


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


# --- heatmaps ---------------------------------------------------------------------------------------


def test_class_heatmap_cells_are_the_means_of_their_class_and_neuron() -> None:
    scores = drawn(3, 4, 5)
    profile = AttributionProfile(scores, torch.ones_like(scores), ("this", "<those>", "a"), (3, 4, 5), HEADER)
    figure = profile.plot(k=2)
    (trace,) = figure.data
    frame = profile.to_frame(profile.leading(2))
    expected = {
        (c.replace("<", "&lt;").replace(">", "&gt;"), n): s for c, n, s in frame[["class", "neuron", "score"]].values
    }
    assert cells(trace) == pytest.approx(expected) and len(expected) == 3 * len(profile.leading(2))
    scale = figure.layout.coloraxis
    assert -scale.cmin == scale.cmax == pytest.approx(max(map(abs, expected.values())))


CURVE = {"before": 1.0, "ablated": 0.0, "kept": [0.5, 1.0], "removed": [0.5, 0.0]}
KEPT = {"shares": [0.1, 1.0], "counts": [3, 30], "ablation": "zero"}


def test_methods_and_their_overlaps_stand_beside_their_names() -> None:
    chosen = {"adaptive": [[1, 2, 3], [1, 2, 3]], "dai": [[1, 2, 4], [1, 2, 3]], "activation": [[1, 8, 9], [7, 8, 9]],
              RANDOM: [[5, 6, 3], [3, 4, 1]]}  # fmt: skip
    rows = [
        {"method": m, "text": f"{p}", "neurons": [[0, i] for i in some], "gradients": 10 * n, "seconds": 0.5 * n,
         "drop": (0.3, 0.1, 0.4, 0.2)[n] + 0.02 * p + 0.01 * n * p, "target": " a", **CURVE}
        for n, (m, prompts) in enumerate(chosen.items()) for p, some in enumerate(prompts)
    ]  # fmt: skip
    result = SelectionMethods.of(rows, HEADER, methods=list(chosen)[:-1], count=3, faithfulness=KEPT)
    figure, summary = result.plot(), result.summary().set_index("method")
    found = bars(figure, "x")
    assert {m for _, m in found} == set(chosen)
    for (_, method), values in found.items():
        assert values == plain(summary.loc[method, ["drop", "low", "high"]])
    (trace,) = [t for t in figure.data if t.type == "bar"]
    for method, hover in zip(trace.y, trace.customdata, strict=True):
        assert tuple(hover) == plain(summary.loc[method, ["gradients", "seconds", "n"]])
    (trace,) = [t for t in figure.data if t.type == "heatmap"]
    expected = {(m, m): 1.0 for m in chosen}
    for row in result.overlap().itertuples():
        expected[row.one, row.other] = expected[row.other, row.one] = row.jaccard
    assert cells(trace) == pytest.approx(expected) and len(set(expected.values())) > 4


@pytest.mark.parametrize("heads", [False, True])
def test_patch_heatmap_cells_are_the_effects_of_their_layer_and_column(heads: bool) -> None:
    pair = kn.Prompt("The capital of Canada is", " Ottawa"), "The capital of France is"
    grid = kn.activation_patch(zoo.tiny("llama"), *pair, site="z" if heads else "resid_pre", heads=heads)
    frame, names = grid.to_frame(), grid.plot().layout.yaxis.ticktext
    (trace,) = grid.plot().data
    column = "head" if heads else "position"
    assert cells(trace) == pytest.approx({(r[column], r["layer"]): r["effect"] for r in frame.to_dict("records")})
    if heads:
        assert list(names) == [f"head {h}" for h in range(4)]
    else:
        tokens = frame.drop_duplicates("position").set_index("position")["token"]
        assert list(names) == [tokens[p].strip().replace("<", "&lt;").replace(">", "&gt;") for p in trace.y]
        assert all(trace.text[p][0].endswith(names[p]) for p in trace.y)
    assert len({round(v, 6) for v in cells(trace).values()}) > len(trace.x), "rows and columns differ"


@pytest.mark.parametrize("scores", [False, True])
def test_trace_heatmap_cells_are_those_of_their_layer_token_and_kind(scores: bool) -> None:
    prompt = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")
    traces = [
        kn.causal_trace(zoo.tiny("llama"), prompt, kind=kind, window=2, samples=2) for kind in ("hidden", "mlp", "attn")
    ]
    figure = plots.trace_panels(traces, scores=scores)
    for drawn_trace, trace in zip(figure.data, traces, strict=True):
        rows = trace.to_frame().to_dict("records")
        value = "score" if scores else "effect"
        assert cells(drawn_trace) == pytest.approx({(r["position"], r["layer"]): r[value] for r in rows})
        for r in rows:
            assert drawn_trace.text[r["position"]][r["layer"]].endswith(f"<br>{r['role']}")
    assert len(plots.trace_panels([traces[0], traces[0]]).data) == 2, "two traces of one kind are two panels"
    shown = [t.replace("<b>", "").replace("</b>", "") for t in figure.layout.yaxis.ticktext]
    assert [s.replace("&lt;", "<").replace("&gt;", ">") for s in shown] == [t.strip() for t in traces[0].tokens]
    bold = [i for i, t in enumerate(figure.layout.yaxis.ticktext) if t.startswith("<b>")]
    assert bold == list(traces[0].subject) and len(bold) == 1


def test_heatmap_cells_and_their_texts_are_the_changes() -> None:
    changes = drawn(3, 4)
    rows, columns = ["a", "b", "c"], ["w", "x", "y", "z"]
    figure = plots.heatmap(changes, rows=rows, columns=columns, say=True)
    expected = {(r, c): float(changes[i, j]) for i, r in enumerate(rows) for j, c in enumerate(columns)}
    heatmap, texts = figure.data
    assert cells(heatmap) == pytest.approx(expected)
    assert {(y, x): t for y, x, t in zip(texts.y, texts.x, texts.text, strict=True)} == {
        key: f"{value:+.3f}" for key, value in expected.items()
    }


def test_neuron_heatmap_rows_are_layers_and_columns_are_neurons() -> None:
    scores = drawn(2, 3, 9)
    (trace,) = plots.neuron_heatmap(scores, columns=4).data
    mean = scores.mean(0)
    assert cells(trace) == pytest.approx({(y, x): float(mean[y, int(x)]) for y in range(3) for x in trace.x})


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


# --- bars -------------------------------------------------------------------------------------------


def test_bars_of_neurons_are_red_where_they_raise_the_answer() -> None:
    scores = drawn(3, 2, 4)
    figure = plots.neuron_bars(scores, k=8)
    mean, bar = scores.mean(0), figure.data[0]
    assert len(bar.y) == 8 and len(set(bar.marker.color)) == 2
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
    (bar,) = plots.neuron_bars(kns).data
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
        {"half": "test", "metric": "probability", "determiner": d, "number": number,
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
            assert list(hover) == mine.loc[determiner, ["found", "pairs"]].tolist()


def test_pairs_without_a_neuron_are_an_empty_figure() -> None:
    rows = [
        {"half": half, "metric": "probability", "determiner": d, "number": n, "neurons": []}
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


# --- lines and dots ---------------------------------------------------------------------------------


def test_role_lines_and_bands_are_those_of_their_role_and_kind() -> None:
    effects = drawn(2, 6, len(TracingProfile.roles), 4)
    effects[:, :, 2] = torch.nan
    prompts = tuple(kn.Prompt(f"text {i}", " a") for i in range(6))
    profile = TracingProfile(
        effects, torch.ones(6), torch.zeros(6), (("mlp", None), ("hidden", "attn")), prompts, 2, HEADER
    )
    figure, frame = (
        plots.role_lines(profile, before=True),
        profile.to_frame().set_index(["kind", "role", "layer"]).sort_index(),
    )
    shown = set()
    for number, kind in enumerate(("mlp", "hidden")):
        axis = "x" if number == 0 else "x2"
        panel = [t for t in figure.data if t.xaxis == axis]
        for line in (t for t in panel if t.mode == "lines"):
            role = line.name.split(" (n = ")[0]
            rows = frame.loc[(kind, role)].loc[list(line.x)]
            assert list(line.y) == pytest.approx(rows["effect"].tolist())
            assert line.name == f"{role} (n = {rows['n'].iloc[0]})"
            (band,) = [t for t in panel if t.mode == "none" and t.legendgroup == line.legendgroup]
            assert list(band.x) == [*line.x, *line.x[::-1]]
            assert list(band.y) == pytest.approx([*rows["high"], *rows["low"][::-1]])
            shown.add((kind, role))
    assert shown == set(frame.reset_index("layer").index)


def test_shift_dots_are_the_means_before_and_after_of_their_word() -> None:
    before, after = drawn(6, 3).exp(), drawn(6, 3, seed=1).exp()
    words = (("a", "the"), ("a", "some"), ("b", "all"))
    shift = ProbabilityShift(before, after, ("x", "y") * 3, words, (Neuron(0, 0),), 0.0, HEADER)
    frame = shift.to_frame().set_index(["group", "word"])
    for group, axis in (("x", "x"), ("y", "x2")):
        dots = {t.name: t for t in shift.plot().data if t.xaxis == axis and t.mode == "markers"}
        for column in ("before", "after"):
            found = dict(zip(dots[column].y, dots[column].x, strict=True))
            assert found == pytest.approx(frame.loc[group][column].to_dict())
        lines = {t.y[0]: tuple(t.x) for t in shift.plot().data if t.xaxis == axis and t.mode == "lines"}
        assert lines == {word: plain(row[["before", "after"]]) for word, row in frame.loc[group].iterrows()}
    assert [a.text for a in shift.plot().layout.annotations] == ["prompts: x", "prompts: y"]
    both = replace(shift, foil_before=after, foil_after=before).plot()
    panels = {a.text: (round(a.x, 2), round(a.y, 2)) for a in both.layout.annotations}
    assert panels["prompts: x"][0] == panels["prompts: x, other form"][0] < panels["prompts: y"][0]
    assert panels["prompts: x"][1] == panels["prompts: y"][1] > panels["prompts: x, other form"][1]


def test_bias_dots_are_those_of_their_word_and_section() -> None:
    rows = [
        {"word": w, "section": s, "plural": 10 * i + 1, "singular": 30 - 3 * i, "bias": 1 - 0.5 * i,
         "effect": 0.2 - 0.1 * i * i}
        for i, (w, s) in enumerate((("the", "n"), ("these", "p"), ("any", "n"), ("this", "s")))
    ]  # fmt: skip
    correlation = {"n": 4, "spearman": 0.0, "low": 0.0, "high": 0.0, "pearson": 0.0}
    units = {"log_odds": "change of plural log-odds (nats)", "dai": "relative change (dai)"}
    figures = {c: CooccurrenceBias.of(rows, HEADER, correlation=correlation, change=c).plot() for c in units}
    assert {c: figure.layout.yaxis.title.text for c, figure in figures.items()} == units
    found = {
        (trace.name, word): (x, y, *hover)
        for trace in figures["dai"].data
        for word, x, y, hover in zip(trace.text, trace.x, trace.y, trace.customdata, strict=True)
    }
    assert found == {
        (r["section"], r["word"]): plain((r["bias"], r["effect"], r["plural"], r["singular"])) for r in rows
    }  # fmt: skip
