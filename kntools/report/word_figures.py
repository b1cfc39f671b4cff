"""Figures 5 to 7, and other paradigms: what suppressing the candidate of a number does to words."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import pandas as pd
import torch

from kntools import analyses, data
from kntools.analyses.fig02_pair_search import NUMBERS
from kntools.data.blimp_pairs import SAMPLES
from kntools.data.grouping import DETERMINER_NUMBER
from kntools.report.choices import NotPossible, each_possible, possible
from kntools.report.figure import ALPHA, Shown, blocks, share, tested
from kntools.report.page import Block
from kntools.report.study import Study
from kntools.results.statistics import holm

_PERMUTATIONS = 50_000  # exact up to 8 words, the neutral ones of figure 5
_CHANGES = {
    "kn_thesis": "Relative change: (after - before) / the smaller of the two means over prompts; it can be below -1.",
    "log_odds": "Change of the log-odds of the plural against the singular form of the same noun, mean over prompts.",
}


def suppression(study: Study) -> Shown:
    """Figure 5."""
    effects, missing = each_possible(NUMBERS, lambda number: analyses.effect_of(study.shift(number), seed=study.seed))
    tables = _corrected({number: effect.to_frame() for number, effect in effects.items()}, "p_corrected")
    passed, content, p_values = list[str](), list[Block](), list[float]()
    for number, table in tables.items():
        effect = replace(effects[number], frame=table.assign(significant=table["p_corrected"] < ALPHA))
        passed += _less_probable(study, number, effect)
        change = _CHANGES[effect.details["change"]]
        content += blocks("figure-5", effect.plot(), effect.to_frame(), **_about(study, number), change=change)
        p_values += table["p_corrected"].tolist()
    counts = ", ".join(f"{len(listed)} prompts with {number} nouns" for number, listed in study.nouns[0].items())
    nothing, test = "decrease of a word at nouns of the candidate's number", "paired t-test, Holm-corrected"
    return Shown(tested(passed, nothing, f"{test}, n = {counts}", p_values), content, missing)


def _less_probable(study: Study, number: str, effect: analyses.SuppressionEffect) -> list[str]:
    """With how many words of each section, at nouns of the candidate's own number; nothing if with none.

    Log-odds are of the plural against the singular: without a singular neuron they rise.
    """
    frame = effect.to_frame().query("group == @number")
    odds = effect.details["change"] == "log_odds"
    away = frame["change"] * (-1 if odds and number == "singular" else 1) < 0
    falls = (frame["significant"] & away).groupby(frame["section"], sort=False)
    if not falls.sum().any():
        return []
    counts = ", ".join(f"{int(hits.sum())} of {len(hits)} {section}" for section, hits in falls)
    if odds:
        return [f"suppressing {study.candidate(number)} lowers the odds of the {number} form after {counts} words"]
    return [f"suppressing {study.candidate(number)} makes {counts} words less probable at {number} nouns"]


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
    counts, content = [], list[Block]()
    for number, found in shifts.items():
        order = _order(found, number).assign(prompt=[prompt.text for prompt in study.nouns[0][number]])
        overturned = share(int(order["overturned"].sum()), int(order["known"].sum()))
        counts.append(f"{study.candidate(number)} in {overturned} prompts with {number} nouns")
        tables = {"order": order}
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


def transfer(study: Study) -> Shown:
    """Is it number, or a pattern of words? What the candidate of a number does in other paradigms."""
    found, missing = each_possible(NUMBERS, study.transfer)
    summaries = _corrected({number: result.summary() for number, (result, _) in found.items()}, "p_holm")
    passed, content, p_values = list[str](), list[Block](), list[float]()
    for number, (result, left_out) in found.items():
        summary, missing = summaries[number], missing | left_out
        p_values += summary["p_holm"].tolist()
        # Towards the other form, and beyond what random neurons do.
        falls = (summary["p_holm"] < ALPHA) & (summary["change"] < summary["random_change"].clip(upper=0))
        counts = [
            f"{int(own.sum())} of {len(own)} sets {edit}" for edit, own in falls.groupby(summary["edit"], sort=False)
        ]
        if falls.any():
            passed.append(
                f"suppressing {study.candidate(number)} lowers the contrast of {number} pairs in {', '.join(counts)}"
            )
        tables = {"prompts": result.to_frame()}
        content += blocks("transfer", result.plot(), summary, tables=tables, **_about(study, number))
    nothing = "decrease of the contrast in any paradigm"
    return Shown(tested(passed, nothing, "t-test against random neurons, Holm-corrected", p_values), content, missing)


def _corrected(tables: Mapping[str, pd.DataFrame], column: str) -> dict[str, pd.DataFrame]:
    """Tables that one sentence is about, with Holm's correction over the `p` of all of them in this column."""
    corrected = iter(holm([p for frame in tables.values() for p in frame["p"]]))
    return {name: frame.assign(**{column: list(islice(corrected, len(frame)))}) for name, frame in tables.items()}


def _about(study: Study, number: str) -> dict[str, Any]:
    """What the texts of charts and tables of one candidate are filled with."""
    causal = "The probability of the noun after each word, because a causal model has not read the noun before it."
    asked = "The probability of each word at the determiner's place." if study.masked else causal
    return {"part": number, "number": number, "neuron": study.candidate(number), "asked": asked}
