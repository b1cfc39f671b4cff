"""The cards that a page embeds: those of the neurons that stand out in its figures."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from kntools.attribution.neuron_card import neuron_card
from kntools.attribution.neuron_card_result import NeuronCard
from kntools.prompts import Prompt
from kntools.report.page import Chart, Section
from kntools.sites import NEURON_NAME

MOST = 20  # cards of a page, some kilobytes each


def page_cards(model: Any, sections: Sequence[Section], prompt: Prompt | None = None) -> list[NeuronCard]:
    """Cards of the leading neurons of each chart in turn."""
    charts = [_leading(block.figure) for part in sections for block in part.blocks if isinstance(block, Chart)]
    names = list(dict.fromkeys(name for places in zip_longest(*charts) for name in places if name))[:MOST]
    return neuron_card(model, names, prompt=prompt) if names else []


def _leading(figure: Any) -> Iterator[str]:
    """The neurons that a figure names: in cells the largest values first, elsewhere in their order."""
    for trace in figure.data:
        for axis in ("text", "y", "x"):
            names = np.ravel(np.asarray(() if trace[axis] is None else trace[axis], dtype=object))
            cells = axis == "text" and trace.type == "heatmap"
            sizes = np.abs(np.ravel(trace.z).astype(float)) if cells else np.zeros(len(names))
            order = np.argsort(-np.nan_to_num(sizes), kind="stable") if len(sizes) == len(names) else range(len(names))
            yield from (names[i] for i in order if isinstance(names[i], str) and NEURON_NAME.match(names[i]))
