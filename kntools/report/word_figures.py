"""Figures 5 to 7: what suppressing the candidate of a number does to words."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from kntools import analyses, data
from kntools.analyses.fig02_pair_search import NUMBERS
from kntools.data.blimp_pairs import SAMPLES
from kntools.data.grouping import DETERMINER_NUMBER
from kntools.report.choices import NotPossible, each_possible, possible
from kntools.report.figure import ALPHA, Shown, blocks, corrected_together, share, tested
from kntools.report.page import Block
from kntools.report.study import Study

_PERMUTATIONS = 50_000  # exact up to 8 words, the neutral ones of figure 5
_CHANGES = {
    "kn_thesis": "Relative change: (after - before) / the smaller of the two means over prompts; it can be below -1.",
    "log_odds": "Change of the log-odds of the plural against the singular form of the same noun, mean over prompts.",
}


def suppression(study: Study) -> Shown:
    """Figure 5."""
    alone, missing = each_possible(NUMBERS, lambda number: analyses.effect_of(study.shift(number), seed=study.seed))
    tables = corrected_together({number: effect.to_frame() for number, effect in alone.items()}, "p_corrected")
    effects = {
        number: replace(alone[number], frame=table.assign(significant=table["p_corrected"] < ALPHA))
        for number, table in tables.items()
    }
    passed = [line for number, effect in effects.items() if (line := _less_probable(study, number, effect))]
    nothing = "decrease of a word at nouns of the candidate's number"
    content: list[Block] = []
    for number, effect in effects.items():
        about = {**_about(study, number), "change": _CHANGES[effect.details["change"]]}
        content += blocks("figure-5", effect.plot(), effect.to_frame(), **about)
    p_values = [row["p_corrected"] for effect in effects.values() for row in effect.rows]
    counts = ", ".join(f"{len(listed)} prompts with {number} nouns" for number, listed in study.nouns[0].items())
    sentence = tested(passed, nothing, f"paired t-test, Holm-corrected, n = {counts}", p_values)
    return Shown(sentence, content, missing)


def _less_probable(study: Study, number: str, effect: analyses.SuppressionEffect) -> str:
    """With how many words of each section, at nouns of the candidate's own number; empty if with none.

    Log-odds are of the plural against the singular: without a singular neuron they rise.
    """
    frame = effect.to_frame().query("group == @number")
    odds = effect.details["change"] == "log_odds"
    away = frame["change"] * (-1 if odds and number == "singular" else 1) < 0
    falls = (frame["significant"] & away).groupby(frame["section"], sort=False)
    if not falls.sum().any():
        return ""
    counts = ", ".join(f"{int(hits.sum())} of {len(hits)} {section}" for section, hits in falls)
    if odds:
        return f"suppressing {study.candidate(number)} lowers the odds of the {number} form after {counts} words"
    return f"suppressing {study.candidate(number)} makes {counts} words less probable at {number} nouns"


def bias(study: Study) -> Shown:
    """Figure 6. The question is about neutral words; that the others correlate is grammar."""
    effect = analyses.effect_of(study.shift("plural"), seed=study.seed)
    with possible():
        words = list(dict.fromkeys(row["word"] for row in effect.rows))
        counts, source = _counts(study, words)
        found = analyses.cooccurrence_bias(effect, counts, group="plural", sections=None, seed=study.seed)
    frame, rare = found.to_frame(), found.details["rare"]
    neutral = frame[frame["section"] == "neutral"]
    rho, p = _correlation(neutral)
    passed = [f"Effect and plural bias of neutral words correlate at {rho:+.2f} (Spearman)"] if p < ALPHA else []
    how = f"permutation test, n = {len(neutral)} neutral words"
    least = 2 / math.factorial(len(neutral))  # all in one order, or in the reverse one
    tables = {"test": pd.DataFrame([{"n": len(neutral), "spearman": rho, "p": p}])}
    return Shown(
        tested(passed, "correlation of effect and plural bias among neutral words", how, [p], least),
        blocks("figure-6", found.plot(), frame, tables=tables, neuron=study.candidate("plural"), source=source),
        {", ".join(rare): "they precede too few nouns"} if rare else {},
    )


def _correlation(frame: pd.DataFrame) -> tuple[float, float]:
    """Spearman's correlation of bias and effect, and p of a permutation test (exact for up to 8 words)."""
    from scipy.stats import PermutationMethod, pearsonr, rankdata  # half a second

    if len(frame) < 3 or min(frame["bias"].nunique(), frame["effect"].nunique()) < 2:
        return float("nan"), float("nan")
    method = PermutationMethod(n_resamples=_PERMUTATIONS, random_state=0)
    found = pearsonr(rankdata(frame["bias"]), rankdata(frame["effect"]), method=method)
    return float(found.statistic), float(found.pvalue)


def _counts(study: Study, words: Sequence[str]) -> tuple[dict[str, Counter[str]], str]:
    """Nouns beside the words, as a causal model writes them, or in all sentences at hand; and what was counted."""
    nouns = analyses.noun_numbers(SAMPLES[:1] if study.sampled else ())
    if not study.masked:
        counts = analyses.expected_beside(study.model, words, nouns)
        return counts, "Counts that the model expects in a million texts after each word"
    names = SAMPLES if study.sampled else data.PARADIGMS
    texts = [record.good for name in names for record in data.blimp(name)]
    source = f"Counts in {len(texts):,} sentences of {'the built-in sample' if study.sampled else 'BLiMP'}"
    return analyses.count_beside(texts, words, nouns), source


def shift(study: Study) -> Shown:
    """Figure 7. A count with its interval, without a test."""
    shifts, missing = each_possible(NUMBERS, study.shift)
    texts = {number: [prompt.text for prompt in prompts] for number, prompts in study.nouns[0].items()}
    orders = {number: _order(found, number).assign(prompt=texts[number]) for number, found in shifts.items()}
    counts = [
        f"{study.candidate(number)} in {share(int(frame['overturned'].sum()), int(frame['known'].sum()))} prompts with "
        f"{number} nouns"
        for number, frame in orders.items()
    ]
    content: list[Block] = []
    for number, found in shifts.items():
        tables = {"order": orders[number]}
        content += blocks("figure-7", found.plot(), found.to_frame(), tables=tables, **_about(study, number))
    return Shown(
        "The order of the demonstratives of a noun's number over the others is overturned by suppressing "
        f"{'; '.join(counts)} (Wilson's 95 % intervals, no test).",
        content,
        missing,
    )


def _order(found: analyses.ProbabilityShift, number: str) -> pd.DataFrame:
    """Mean probability with the demonstratives of a number and with the others, before and after, per prompt."""
    [other] = {*NUMBERS} - {number}
    frame = pd.DataFrame()
    for side, own in {"right": number, "wrong": other}.items():
        pairs = [found.pair(number, word) for _, word in found.words if DETERMINER_NUMBER.get(word) == own]
        if not pairs:
            raise NotPossible("this model has no one token for the demonstratives of a number")
        for when, values in zip(("before", "after"), zip(*pairs, strict=True), strict=True):
            frame[f"{side} {when}"] = torch.stack(values).double().mean(0).tolist()
    frame["known"] = frame["right before"] > frame["wrong before"]
    frame["overturned"] = frame["known"] & (frame["right after"] <= frame["wrong after"])
    return frame


def _about(study: Study, number: str) -> dict[str, Any]:
    """What the texts of charts and tables of one candidate are filled with."""
    causal = "The probability of the noun after each word, because a causal model has not read the noun before it."
    asked = "The probability of each word at the determiner's place." if study.masked else causal
    return {"part": number, "number": number, "neuron": study.candidate(number), "asked": asked}
