"""The figures of Niu et al. 2024 in order, and before them a fact at a time."""

from collections.abc import Sequence

from kntools.report import edit_figures, facts, neuron_figures, word_figures
from kntools.report.figure import Figure, asset

_SHOW = {
    "facts": facts.facts,
    "1": neuron_figures.attribution,
    "2": neuron_figures.pair_search,
    "3": neuron_figures.localisation,
    "4": neuron_figures.layers,
    "5": word_figures.suppression,
    "6": word_figures.bias,
    "7": word_figures.shift,
    "8": neuron_figures.overturned,
    "transfer": word_figures.transfer,
    "9": neuron_figures.tracing,
    "10": edit_figures.examples,
    "11": edit_figures.consistency,
}

FIGURES = tuple(Figure(key, **texts, show=_SHOW[key]) for key, texts in asset("texts.toml")["figures"].items())


def choose(wanted: Sequence[str]) -> tuple[Figure, ...]:
    """Figures by number or by the name of their analysis, in the order of the paper; all if none is named."""
    unknown = [name for name in wanted if not any(name in (f.key, f.name) for f in FIGURES)]
    if unknown:
        known = ", ".join(f"{f.key} ({f.name})" for f in FIGURES)
        raise ValueError(f"unknown figures {', '.join(unknown)}; there are {known}")
    return tuple(f for f in FIGURES if not wanted or f.key in wanted or f.name in wanted)
