"""Figures 5 to 7: what suppressing a neuron does to words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kntools import data
from kntools.analyses.fig02_pair_search import NUMBERS
from kntools.analyses.fig05_suppression_effect import SuppressionEffect, effect_of
from kntools.analyses.fig06_cooccurrence_bias import CooccurrenceBias, cooccurrence_bias, count_beside, noun_numbers
from kntools.analyses.fig07_probability_shift import ProbabilityShift
from kntools.data import sample
from kntools.data.grouping import DETERMINER_NUMBER
from kntools.report.choices import each_possible, possible
from kntools.report.shown import Numbers, Picture, Shown, missing_notes, share, within
from kntools.report.study import Study
from kntools.results.statistics import bootstrap_interval

# The fewest neutral words whose correlation says anything, and the fewest nouns beside a word.
_FEWEST, _LEAST = 5, 10


def suppression(study: Study) -> Shown:
    """Figure 5."""
    effects, missing = each_possible(NUMBERS, lambda number: effect_of(study.shift(number), seed=study.seed))
    number, effect = ("plural", effects["plural"]) if "plural" in effects else next(iter(effects.items()))
    return Shown(
        _own_words(effect, number, study.masked),
        details=[_words_that_move(effect, study.leading(number), number) for number, effect in effects.items()],
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


def _own_words(effect: SuppressionEffect, number: str, masked: bool) -> str:
    """At nouns of the neuron's own number: with how many words of that number, and of the other, does the probability
    fall? A neuron of all words would not be one of number."""
    other = NUMBERS[1 - NUMBERS.index(number)]
    at_nouns = [row for row in effect.rows if row["group"] == number]
    rows, others = ([row for row in at_nouns if row["section"] == section] for section in (number, other))
    fall = [row for row in rows if row["change"] < 0]
    counted = share(len(fall), len(rows))
    also = f"{sum(row['change'] < 0 for row in others)} of {len(others)}"
    what = (
        f"{counted} {number} words less probable before {number} nouns"
        if masked
        else f"{number} nouns less probable after {counted} {number} words"
    )
    return (
        f"Suppressing the {number} neuron makes {what}, {sum(row['significant'] for row in fall)} significantly; of "
        f"{other} words {also}."
    )


def _words_that_move(effect: SuppressionEffect, neuron: object, number: str) -> str:
    """At nouns of the neuron's own number: with which words of each section it falls, and the largest change."""
    rows = [row for row in effect.rows if row["group"] == number]
    parts = []
    for section in dict.fromkeys(row["section"] for row in rows):
        some = [row for row in rows if row["section"] == section]
        fall = [row for row in some if row["change"] < 0]
        parts.append(f"{len(fall)} of {len(some)} {section} ones ({sum(row['significant'] for row in fall)})")
    most = max(rows, key=lambda row: abs(row["change"]))
    return (
        f"With {neuron} suppressed, the probability at {number} nouns falls with {', '.join(parts)} (in brackets: "
        f"significantly); the largest change is that with {most['word']}: "
        f"{within(most['change'], most['low'], most['high'], 2, signed=True)}."
    )


def bias(study: Study) -> Shown:
    """Figure 6."""
    effect = effect_of(study.shift("plural"), seed=study.seed)
    with possible():
        texts, what = _corpus(study)
        nouns = noun_numbers(sample.PARADIGMS[:1] if study.sampled else ())
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


def _corpus(study: Study) -> tuple[list[str], str]:
    """Sentences of all paradigms at hand, and what the model writes; and in words what they are."""
    names = sample.PARADIGMS if study.sampled else data.PARADIGMS
    texts = [record.good for name in names for record in data.blimp(name)]
    what = f"{len(texts):,} sentences of {'the built-in sample' if study.sampled else 'BLiMP'}"
    if study.size.corpus and not study.masked:
        written = study.written(study.size.corpus)
        texts += written
        what += f" and {len(written):,} texts that the model writes"
    return texts, what


def _neutral_or_all(
    effect: SuppressionEffect, counts: Mapping[str, Mapping[str, int]], seed: int
) -> tuple[CooccurrenceBias, str]:
    """Of the neutral words if there are enough of them; else of all, and what is to be said about that."""
    neutral = {row["word"] for row in effect.rows if row["section"] == "neutral"}
    counted = sum(sum(counts[word].values()) >= _LEAST for word in neutral)
    enough = counted >= _FEWEST
    with possible():
        found = cooccurrence_bias(
            effect, counts, group="plural", sections=("neutral",) if enough else None, least=_LEAST, seed=seed
        )
    if enough:
        return found, "neutral words, on which grammar is silent"
    return found, (
        f"all words, for too few neutral ones, {counted}, stand before enough nouns; the others correlate because "
        "grammar says so"
    )


def shift(study: Study) -> Shown:
    """Figure 7."""
    shifts, missing = each_possible(NUMBERS, study.shift)
    return Shown(
        " ".join(_overturned(found, number) for number, found in shifts.items()),
        details=[_means_in_words(found, study.leading(number), number) for number, found in shifts.items()],
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


def _demonstratives(found: ProbabilityShift, number: str) -> tuple[list[str], list[str]]:
    """Those of this number, and the others."""
    words = [word for _, word in found.words if word in DETERMINER_NUMBER]
    right = [word for word in words if DETERMINER_NUMBER[word] == number]
    return right, [word for word in words if word not in right]


def _overturned(found: ProbabilityShift, number: str) -> str:
    """At nouns of the neuron's own number: are the demonstratives of that number still the more probable ones?"""
    right, wrong = _demonstratives(found, number)
    (before, after), (other_before, other_after) = (_means(found, number, words) for words in (right, wrong))
    known = before > other_before
    lost = known & (after <= other_after)
    return (
        f"Suppressing the {number} neuron overturns the order of {' and '.join(right)} over {' and '.join(wrong)} in "
        f"{share(int(lost.sum()), int(known.sum()))} prompts with {number} nouns."
    )


def _means_in_words(found: ProbabilityShift, neuron: object, number: str) -> str:
    right, _ = _demonstratives(found, number)
    before, after = _means(found, number, right)
    low, high = bootstrap_interval(after - before)
    change = within(float((after - before).mean()), float(low), float(high), 5, signed=True)
    return (
        f"With {neuron} suppressed, the mean probability with {' and '.join(right)} goes from "
        f"{float(before.mean()):.4g} to {float(after.mean()):.4g} at {number} nouns ({change})."
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
