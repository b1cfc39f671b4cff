"""What a heatmap draws under a label is the table's value for that label."""

from __future__ import annotations

import pytest
import torch

import kntools as kn
from kntools import plots
from kntools.analyses.fig01_attribution_profile import AttributionProfile
from kntools.analyses.method_comparison import RANDOM, SelectionMethods
from tests import zoo
from tests.drawn_figures import HEADER, bars, cells, drawn, plain


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
