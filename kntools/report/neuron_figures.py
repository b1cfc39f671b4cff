"""Figures 1 to 4: which neurons, in how many pairs, how many of them, and in which layers."""

from __future__ import annotations

import pandas as pd

from kntools.analyses.fig01_attribution_profile import AttributionProfile, attribution_profile
from kntools.analyses.fig02_pair_search import NUMBERS, PairSearch
from kntools.analyses.fig03_localisation import Localisation
from kntools.analyses.fig04_layer_distribution import layer_distribution
from kntools.data.grouping import DETERMINER_NUMBER
from kntools.models import adapter
from kntools.report import choices
from kntools.report.choices import NotPossible
from kntools.report.shown import Numbers, Picture, Shown, mean, missing_notes, percent, share, within
from kntools.report.study import Study
from kntools.sites import Neuron

_NAMES = {"linguistic": "agreement", "factual": "facts"}


def attribution(study: Study) -> Shown:
    """Figure 1."""
    prompts = choices.by_determiner(study.pairs, study.size.per_determiner)
    profile = attribution_profile(
        study.model, prompts, settings=study.search, run=study.run("attribution_profile"), progress=study.progress
    )
    neurons = {number: _standing_out(profile, number) for number in NUMBERS}
    found = [_scores_in_words(profile, number, neuron) for number, neuron in neurons.items()]
    table = profile.to_frame(list(dict.fromkeys((*profile.leading(), *filter(None, neurons.values())))))
    return Shown(
        " ".join(finding for finding, _ in found),
        details=[detail for _, detail in found],
        n=", ".join(f"{n} prompts of {name}" for name, n in zip(profile.classes, profile.counts, strict=True)),
        parts=[
            Picture(
                "figure-1", "Mean attribution scores", profile.plot(k=3).update_yaxes(title_text="determiner"),
                "Columns are the three leading neurons of each determiner, rows the determiners. Red adds to the "
                "probability of the answer, blue takes from it.",
            ),
            Numbers("figure-1", "Mean scores of these neurons and of those of the numbers, with 95 % intervals.", table,
                    digits=5),
        ],
    )  # fmt: skip


def _standing_out(profile: AttributionProfile, number: str) -> Neuron | None:
    """The neuron that both determiners of one number have in common: its lowest score for them is the farthest above 0
    and above its highest one for the other's. None without determiners of both numbers."""
    own = [DETERMINER_NUMBER[name] == number for name in profile.classes]
    if all(own) or not any(own):
        return None
    scores, others = (profile.scores[[m is side for m in own]] for side in (True, False))
    best = int((scores.amin(0) - others.amax(0).clamp(min=0)).argmax())
    return Neuron(*divmod(best, profile.scores.shape[-1]))


def _scores_in_words(profile: AttributionProfile, number: str, neuron: Neuron | None) -> tuple[str, str]:
    if neuron is None:
        return "", f"There are no determiners to set the {number} ones against."
    mine = [DETERMINER_NUMBER[name] == number for name in profile.classes]
    rows = profile.to_frame([neuron]).set_index("class").to_dict("index")
    here, there = ([r for r, m in zip(rows.values(), mine, strict=True) if m is side] for side in (True, False))
    clear = min(r["low"] for r in here) > max(r["high"] for r in there)
    finding = (
        f"{neuron} leads for the {number}, {'and no' if clear else 'but some'} intervals of the two numbers overlap."
    )
    said = [f"{within(r['score'], r['low'], r['high'], None, signed=True)} ({name})" for name, r in rows.items()]
    return finding, f"Mean score of {neuron}, the {number} neuron: {', '.join(said)}."


def pair_search(study: Study) -> Shown:
    """Figure 2."""
    found = study.pair_search
    shares = found.shares()
    leading = {number: found.leading(number) for number in NUMBERS}
    return Shown(
        " ".join(_number_neuron(found, number, *neurons) for number, neurons in leading.items()),
        n=f"{len(found.rows)} pairs, each in up to {study.size.frames} sentences",
        parts=[
            Picture(
                "figure-2", "Pairs in which a neuron is a knowledge neuron", found.plot(),
                "The three leading neurons of each number. Thin lines are Wilson's 95 % intervals.",
            ),
            Numbers(
                "figure-2", "Share of the pairs of each determiner, and of all pairs of the opposite number, with "
                "Fisher's exact test, Holm-corrected.", shares,
            ),
            Numbers("figure-2-pairs", "Every pair and its knowledge neurons.", _readable(found.to_frame())),
        ],
    )  # fmt: skip


def _number_neuron(found: PairSearch, number: str, neuron: Neuron | None = None) -> str:
    if neuron is None:
        return f"No neuron is found in more pairs of the {number} than of the other number."
    shares = found.shares([neuron])
    mine = shares["number"] == number
    here, there = (share(int(side["found"].sum()), int(side["pairs"].sum())) for side in (shares[mine], shares[~mine]))
    return f"The {number} neuron {neuron} is found in {here} {number} pairs, and in {there} of the others."


def localisation(study: Study) -> Shown:
    """Figure 3."""
    found, missing = study.localised
    table = found.summary()
    tests = found.difference()
    return Shown(
        f"{_how_localised(found)} {_verdict(tests)}",
        details=[*_by_source(table), *_tests_in_words(tests)],
        n=f"{len(found.rows)} groups of prompts",
        parts=[
            Picture(
                "figure-3", "Number of knowledge neurons, share of prompts, similarity", found.plot(),
                "|KN|: knowledge neurons per group. τ: share of a group's prompts in which a neuron must stand out so "
                "that two to five are left. R₁²: how alike the scores of a group's prompts are, from 0 to 1. Crosses: "
                "the same scores on random neurons. Thin lines are 95 % bootstrap intervals over groups.",
                min_width=640,
            ),
            Numbers("figure-3", "Means over the groups of each paradigm and relation.", table),
            Numbers("figure-3-difference", "Facts against agreement: Welch's test, Holm-corrected.", tests),
            Numbers("figure-3-groups", "Every group and its knowledge neurons.", _readable(found.to_frame())),
        ],
        notes=missing_notes(missing),
    )  # fmt: skip


def _how_localised(found: Localisation) -> str:
    frame = found.to_frame()
    kinds = {kind: [float(x) for x in frame[frame["kind"] == kind]["r1"]] for kind in _NAMES}
    parts = [f"{mean(values)} for {_NAMES[kind]}" for kind, values in kinds.items() if values]
    chance = float(frame["null_r1"].astype(float).mean())
    return f"R₁² is {' and '.join(parts)}, and {chance:.2f} by chance."


def _by_source(table: pd.DataFrame) -> list[str]:
    """The range of the means."""
    kinds = {kind: table[table["kind"] == kind]["r1"] for kind in _NAMES}
    names = {"linguistic": "paradigms", "factual": "relations"}
    return [
        f"Mean R₁² of {len(means)} {names[kind]}: {means.min():.2f} to {means.max():.2f}."
        for kind, means in kinds.items()
        if len(means)
    ]


def _verdict(tests: pd.DataFrame) -> str:
    if tests["p_holm"].isna().all():
        return "With fewer than two paradigms or relations there is no test of their difference."
    different = int((tests["p_holm"] < 0.05).sum())
    return f"{different or 'None'} of number, τ and R₁² {'differ' if different > 1 else 'differs'} significantly."


def _tests_in_words(tests: pd.DataFrame) -> list[str]:
    rows = [r for r in tests.to_dict("records") if r["p_holm"] == r["p_holm"]]
    return [
        f"{r['measure']}: {r['linguistic']:.2f} for agreement, {r['factual']:.2f} for facts (p = {r['p_holm']:.2g})."
        for r in rows
    ]


def layers(study: Study) -> Shown:
    """Figure 4."""
    found, missing = study.localised
    count = adapter.n_layers(study.model)
    if not any(found.neurons()):
        raise NotPossible("no group has a knowledge neuron")
    spread = layer_distribution(found, n_layers=count, seed=study.seed)
    top = count - max(1, round(count / 3))
    parts = [
        f"{_in_upper(groups, top)} of those of {name}"
        for kind, name in _NAMES.items()
        if (groups := [g for g in found.neurons(kind) if g])
    ]
    test = spread.header["test"]
    verdict, details = "There is only one kind of them, so nothing to compare.", []
    if test is not None:
        verdict = f"The two distributions {'differ' if test['p'] < 0.05 else 'do not differ'} (p = {test['p']:.2g})."
        details = [
            f"They are {test['distance']:.2f} apart (0: the same, 1: no layer in common); the mean layers are "
            f"{test['means'][0]:.1f} and {test['means'][1]:.1f}."
        ]
    return Shown(
        f"In the upper third of the layers ({top} to {count - 1}) lie {' and '.join(parts)}. {verdict}",
        details=details,
        n=", ".join(f"{n} {kind} groups" for kind, n in spread.header["groups"].items()),
        parts=[
            Picture(
                "figure-4", "Layers of the knowledge neurons", spread.plot(),
                "Mean over groups of the share of a group's neurons in each layer; thin lines are 95 % bootstrap "
                "intervals over groups.",
            ),
            Numbers("figure-4", "The same in numbers.", spread.to_frame()),
        ],
        notes=missing_notes(missing),
    )  # fmt: skip


def _in_upper(groups: list[tuple[Neuron, ...]], top: int) -> str:
    shares = [100 * sum(n.layer >= top for n in group) / len(group) for group in groups]
    if len(shares) < 2:
        return percent(shares[0] / 100)
    return f"{mean(shares, 0)} %"


def _readable(frame: pd.DataFrame) -> pd.DataFrame:
    """Neurons by their names."""
    names = [", ".join(repr(Neuron(*pair)) for pair in some) for some in frame["neurons"]]
    return frame.assign(neurons=names)
