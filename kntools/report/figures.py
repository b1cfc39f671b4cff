"""The figures of Niu et al. 2024 in order, with what the paper says about each, and before them a fact at a time."""

from __future__ import annotations

from collections.abc import Sequence

from kntools.report.edit_figures import consistency, examples
from kntools.report.fact_figure import facts
from kntools.report.neuron_figures import attribution, layers, localisation, pair_search
from kntools.report.reliability_figure import reliability
from kntools.report.shown import Figure
from kntools.report.tracing_figure import tracing
from kntools.report.word_figures import bias, shift, suppression

FIGURES = (
    Figure(
        "facts", "fact_effects", "A fact at a time",
        "Which neurons carry a fact, whatever the phrasing, and what becomes of it without them?",
        "Dai et al. (2022): suppressing the knowledge neurons of a fact lowers the probability of its answer, "
        "enhancing them raises it, and other facts stay as they are.",
        facts,
    ),
    Figure(
        "1", "attribution_profile", "attribution by determiner",
        "Which neurons stand out when a determiner and its noun must agree?",
        "In BERT one neuron (L10.N2096) has a high mean score for both this and that, and another (L9.N1094) for both "
        "these and those.",
        attribution,
    ),
    Figure(
        "2", "pair_search", "pairs in which a neuron is found",
        "In how many determiner-noun pairs, each searched alone, is a neuron a knowledge neuron?",
        "The plural neuron in all pairs with these and those, the singular one in 93 % of those with this and 75 % of "
        "those with that; neither in pairs of the other number.",
        pair_search,
    ),
    Figure(
        "3", "localisation", "how localised",
        "Are rules of agreement as localised as facts?",
        "Number of neurons, τ and R₁² of agreement and of facts fall within the same range.",
        localisation,
    ),
    Figure(
        "4", "layer_distribution", "in which layers",
        "Do the neurons of agreement lie in other layers than those of facts?",
        "No: both occupy the topmost layers, which speaks against syntax in lower and meaning in upper layers.",
        layers,
    ),
    Figure(
        "5", "suppression_effect", "words without the number neuron",
        "What does suppressing a number neuron do to plural, singular and neutral words?",
        "Suppressing the plural neuron makes plural words less probable before plural nouns, and not only the four "
        "determiners it was found with.",
        suppression,
    ),
    Figure(
        "6", "cooccurrence_bias", "effect and co-occurrence",
        "Does the effect follow how often a word stands with plural nouns, where grammar has nothing to say?",
        "Yes: words such as scattered, any or all, which go with either number but stand more often with one, move "
        "too. The neurons follow frequencies.",
        bias,
    ),
    Figure(
        "7", "probability_shift", "exact probabilities",
        "What are these probabilities, before and after?",
        "The change is clear relative to itself and often not enough to overturn what the model would say.",
        shift,
    ),
    Figure(
        "8", "reliability", "predictions overturned",
        "How many predictions does an edit of knowledge neurons overturn?",
        "At most 5.2 % of BLiMP's pairs; of facts, few as well.",
        reliability,
    ),
    Figure(
        "9", "tracing_profile", "causal traces",
        "Where in a sentence, and in which layers, does the model hold what the answer depends on?",
        "The early site (the subject's last token, middle layers) and the late site (the last token, upper layers) of "
        "facts cannot be told apart for determiner-noun and subject-verb agreement, nor for many facts.",
        tracing,
    ),
    Figure(
        "10", "edit_examples", "what an edited model writes",
        "What does the model write after a rank-one edit, on the edited sentence and around it?",
        "The edited sentence follows. The reverse of a symmetric fact, other words for the same thing and other "
        "subjects under the same rule do not.",
        examples,
    ),
    Figure(
        "11", "edit_consistency", "what follows from an edit",
        "How often does what follows from an edit follow?",
        "ROME on GPT-2 XL edits a field of work in 99.82 % of cases; the synonym (the occupation) follows in 52.35 %.",
        consistency,
    ),
)  # fmt: skip


def choose(wanted: Sequence[str]) -> tuple[Figure, ...]:
    """Figures by number or by the name of their analysis, in the order of the paper; all if none is named.

    ```python
    choose(["5", "localisation"])
    ```

    Raises:
        ValueError: an unknown one; the message lists them.
    """
    unknown = [name for name in wanted if not any(name in (f.key, f.name) for f in FIGURES)]
    if unknown:
        known = ", ".join(f"{f.key} ({f.name})" for f in FIGURES)
        raise ValueError(f"unknown figures {', '.join(unknown)}; there are {known}")
    return tuple(f for f in FIGURES if not wanted or f.key in wanted or f.name in wanted)
