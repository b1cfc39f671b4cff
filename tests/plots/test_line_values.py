"""What a line or a dot draws under a label is the table's value for that label."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import kntools as kn
from kntools import plots
from kntools.analyses.fig06_cooccurrence_bias import CooccurrenceBias
from kntools.analyses.fig07_probability_shift import ProbabilityShift
from kntools.analyses.fig09_tracing_profile import TracingProfile
from kntools.sites import Neuron
from tests.drawn_figures import HEADER, drawn, plain


def test_role_lines_and_bands_are_those_of_their_role_and_kind() -> None:
    effects = drawn(2, 6, len(TracingProfile.roles), 4).tanh()
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
    before, after = drawn(6, 3).sigmoid(), drawn(6, 3, seed=1).sigmoid()
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
