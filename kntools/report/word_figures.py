"""Figures 5 to 7: what suppressing a neuron does to words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kntools import data
from kntools.analyses.cooccurrence_bias import CooccurrenceBias, cooccurrence_bias, count_beside, noun_numbers
from kntools.analyses.pair_search import NUMBERS
from kntools.analyses.probability_shift import ProbabilityShift
from kntools.analyses.suppression_effect import SuppressionEffect, effect_of
from kntools.data.grouping import DETERMINER_NUMBER
from kntools.report.choices import NotPossible, each_possible
from kntools.report.shown import Numbers, Picture, Shown, missing_notes, share, within
from kntools.report.study import Study
from kntools.statistics import bootstrap_interval

# The fewest neutral words whose correlation says anything.
_FEWEST = 5


def suppression(study: Study) -> Shown:
    """Figure 5."""
    effects, missing = each_possible(NUMBERS, lambda number: effect_of(study.shift(number), seed=study.seed))
    return Shown(
        " ".join(_words_that_move(effect, study.leading(number), number) for number, effect in effects.items()),
        n=_prompts(study),
        parts=[part for number, effect in effects.items() for part in _suppressed(study, number, effect)],
        notes=missing_notes(missing),
    )  # fmt: skip


def _suppressed(study: Study, number: str, effect: SuppressionEffect) -> list[Picture | Numbers]:
    name, neuron = f"figure-5-{number}", study.leading(number)
    return [
        Picture(
            name, f"{neuron}, the {number} neuron, suppressed", effect.plot(),
            f"{_what_is_asked(study)} Change: (after - before) / the smaller of the two, of the means over prompts. "
            "Red: significant (paired t-test, Holm-corrected, 0.05). Thin lines are 95 % bootstrap intervals.",
            min_width=640,
        ),
        Numbers(name, f"{neuron} suppressed.", effect.to_frame(), digits=4),
    ]  # fmt: skip


def _words_that_move(effect: SuppressionEffect, neuron: object, number: str) -> str:
    """Of the prompts of the neuron's own number: which words of each section fall, and the largest change."""
    rows = [row for row in effect.rows if row["group"] == number]
    parts = []
    for section in dict.fromkeys(row["section"] for row in rows):
        some = [row for row in rows if row["section"] == section]
        fall = [row for row in some if row["change"] < 0]
        certain = sum(row["significant"] for row in some)
        parts.append(f"{len(fall)} of {len(some)} {section} words fall ({certain} changes are significant)")
    most = max(rows, key=lambda row: abs(row["change"]))
    return (
        f"With {neuron} suppressed, at {number} nouns {', '.join(parts)}; the largest change is that of "
        f"{most['word']}: {within(most['change'], most['low'], most['high'], 2, signed=True)}."
    )


def bias(study: Study) -> Shown:
    """Figure 6."""
    effect = effect_of(study.shift("plural"), seed=study.seed)
    texts, what, missing = _corpus(study)
    # The nouns come from the paradigms that ask for one; the irregular ones only where BLiMP itself is at hand.
    names = ["determiner_noun_agreement_1", "determiner_noun_agreement_irregular_1"]
    nouns = noun_numbers([name for name in names if name not in missing])
    counts = count_beside(texts, {row["word"] for row in effect.rows}, nouns)
    found, why = _neutral_or_all(effect, counts, study.seed)
    c = found.header["correlation"]
    return Shown(
        f"The effect of suppressing {study.leading('plural')} at plural nouns correlates with how often a word stands "
        f"before plural nouns at {within(c['spearman'], c['low'], c['high'], 2, signed=True)} (Spearman; {why}).",
        n=f"{c['n']} words, counted in {what}",
        parts=[
            Picture(
                "figure-6", "Effect against plural bias", found.plot(),
                "To the right, words that stand before plural nouns more often than before singular ones; down, words "
                "that become less probable.",
            ),
            Numbers("figure-6", "Counts and effects.", found.to_frame()),
        ],
        notes=[f"Left out, for they stand before too few nouns: {', '.join(found.header['rare'])}."]
        if found.header["rare"] else [],
    )  # fmt: skip


def _corpus(study: Study) -> tuple[list[str], str, set[str]]:
    """Sentences of BLiMP, and what the model writes; in words what they are; which paradigms are not at hand."""
    texts, missing = [], set()
    for name in data.PARADIGMS:
        try:
            texts += [record.good for record in data.blimp(name)]
        except FileNotFoundError:
            missing.add(name)
    what = f"{len(texts):,} sentences of {len(data.PARADIGMS) - len(missing)} paradigms"
    if study.size.corpus and not study.masked:
        written = study.written(study.size.corpus)
        texts += written
        what += f" and {len(written):,} texts that the model writes"
    return texts, what, missing


def _neutral_or_all(
    effect: SuppressionEffect, counts: Mapping[str, Mapping[str, int]], seed: int
) -> tuple[CooccurrenceBias, str]:
    """Of the neutral words if there are enough of them; else of all, and what is to be said about that."""
    try:
        found = cooccurrence_bias(effect, counts, group="plural", seed=seed)
        if len(found.rows) >= _FEWEST:
            return found, "neutral words, on which grammar is silent"
        return (
            cooccurrence_bias(effect, counts, group="plural", sections=None, seed=seed),
            f"all words, for only {len(found.rows)} neutral ones stand before enough nouns; the others correlate "
            "because grammar says so",
        )
    except ValueError as error:
        raise NotPossible(str(error).split(";")[0]) from error


def shift(study: Study) -> Shown:
    """Figure 7."""
    shifts, missing = each_possible(NUMBERS, study.shift)
    return Shown(
        " ".join(_still_right(found, study.leading(number), number) for number, found in shifts.items()),
        n=_prompts(study),
        parts=[part for number, found in shifts.items() for part in _shifted(study, number, found)],
        notes=missing_notes(missing),
    )  # fmt: skip


def _shifted(study: Study, number: str, found: ProbabilityShift) -> list[Picture | Numbers]:
    name, neuron = f"figure-7-{number}", study.leading(number)
    return [
        Picture(
            name, f"{neuron}, the {number} neuron: before and after", found.plot(),
            f"{_what_is_asked(study)} Means over prompts, on a logarithmic axis.", min_width=560,
        ),
        Numbers(name, f"{neuron} suppressed: means, and the mean difference.", found.to_frame(), digits=5),
    ]  # fmt: skip


def _still_right(found: ProbabilityShift, neuron: object, number: str) -> str:
    """At nouns of the neuron's own number: are the demonstratives of that number still the more probable ones?"""
    words = [word for _, word in found.words if word in DETERMINER_NUMBER]
    right = [word for word in words if DETERMINER_NUMBER[word] == number]
    wrong = [word for word in words if word not in right]
    before, after = _means(found, number, right)
    other_before, other_after = _means(found, number, wrong)
    known = before > other_before
    lost = known & (after <= other_after)
    low, high = bootstrap_interval(after - before)
    change = within(float((after - before).mean()), float(low), float(high), 4, signed=True)
    return (
        f"With {neuron} suppressed, at {number} nouns the mean probability with {' and '.join(right)} goes from "
        f"{float(before.mean()):.4g} to {float(after.mean()):.4g} ({change}); of the prompts in which it was above "
        f"that with {' and '.join(wrong)}, the order is overturned in {share(int(lost.sum()), int(known.sum()))}."
    )


def _means(found: ProbabilityShift, number: str, words: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Mean over words per prompt `[prompt]`, before and after."""
    pairs = [found.pair(number, word) for word in words]
    before, after = (torch.stack(side).double().mean(0) for side in zip(*pairs, strict=True))
    return before, after


def _prompts(study: Study) -> str:
    return ", ".join(f"{len(some)} prompts with {number} nouns" for number, some in study.nouns[0].items())


def _what_is_asked(study: Study) -> str:
    if study.masked:
        return "The probability of each word in the place of the determiner."
    return "The probability of the noun after each word, for a causal model has not read the noun before it."
