"""Figure 2: in how many determiner-noun pairs is a neuron a knowledge neuron?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kntools.analyses.fig03_localisation import Localisation
from kntools.analyses.neuron_search import ADAPTIVE, SearchSettings, search_each
from kntools.analyses.prompt_group import PromptGroup
from kntools.arguments import whole
from kntools.results.statistics import fisher, holm, share_interval
from kntools.results.table import Row, Table
from kntools.sites import Neuron, NeuronLike, as_neurons

NUMBERS = ("singular", "plural")
DETERMINERS = ("this", "that", "these", "those")


class PairSearch(Table):
    """One row per determiner-noun pair: `source, pair, determiner, noun, number, prompts, tau, converged, neurons`."""

    def leading(self, number: str, k: int = 1) -> tuple[Neuron, ...]:
        """The `k` neurons whose share of the pairs of this number is farthest above that of the other number."""
        if number not in NUMBERS:
            raise ValueError(f"number={number!r}; it is 'singular' or 'plural'")
        here, there = (self._found(number=n) for n in (number, _other(number)))
        above = {n: _share(here, n) - _share(there, n) for n in set[Neuron]().union(*here)}
        return tuple(n for n in sorted(above, key=lambda n: (-above[n], n)) if above[n] > 0)[: whole("k", k, least=0)]

    def shares(self, neurons: Iterable[NeuronLike] | None = None) -> pd.DataFrame:
        """Per neuron and determiner, the share of pairs in which it is a knowledge neuron (figure 2).

        Arguments:
            neurons: which; the leading three of each number by default. Any may be asked for: a share can be 0.

        Returns:
            `neuron, determiner, number, pairs, found, share, low, high` (Wilson's 95 % interval), and the control:
            `opposite`, the neuron's share of all pairs of the other number, with Fisher's test of the difference
            (`p`, and `p_holm` over the table).
        """
        leading = (n for number in NUMBERS for n in self.leading(number, 3))
        wanted = tuple(dict.fromkeys(leading)) if neurons is None else as_neurons(neurons)
        numbers = {row["determiner"]: row["number"] for row in self.rows}
        rows = []
        for neuron in wanted:
            for determiner in sorted(numbers, key=DETERMINERS.index):
                number = numbers[determiner]
                own, others = self._found(determiner=determiner), self._found(number=_other(number))
                hits, elsewhere = (sum(neuron in found for found in side) for side in (own, others))
                about = (repr(neuron), determiner, number, len(own), hits, hits / len(own))
                control = _share(others, neuron), fisher(hits, len(own), elsewhere, len(others))
                rows.append((*about, *share_interval(hits, len(own)), *(control if others else (math.nan, math.nan))))
        columns = ["neuron", "determiner", "number", "pairs", "found", "share", "low", "high", "opposite", "p"]
        frame = pd.DataFrame(rows, columns=columns)
        return frame.assign(p_holm=holm(frame["p"].tolist()))

    def summary(self) -> pd.DataFrame:
        return self.shares()

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"shares": self.shares()}

    def plot(self, neurons: Iterable[NeuronLike] | None = None, **look: Any) -> Any:
        """Shares per determiner, one group of bars per neuron; `neurons` as in `shares`."""
        from kntools.plots.charts import bar_chart

        options = {"color": "neuron", "hover_data": ["found", "pairs"], "labels": {"share": "share of pairs"}, **look}
        figure = bar_chart(self.shares(neurons), "determiner", "share", **{"title": self.describe(), **options})
        return figure.update_yaxes(range=[0, 1.05], tickformat=".0%")

    def describe(self) -> str:
        counts = ", ".join(f"{n} {number}" for number in NUMBERS if (n := len(self._found(number=number))))
        return f"Knowledge neurons of {len(self.rows)} determiner-noun pairs ({counts}; {self.provenance['model']})"

    def _found(self, **where: str) -> list[set[Neuron]]:
        """The neurons of each pair of this number or determiner."""
        rows = [row for row in self.rows if all(row[name] == value for name, value in where.items())]
        return [{Neuron(*pair) for pair in row["neurons"]} for row in rows]


def pair_search(
    model: Any, groups: Sequence[PromptGroup], *, settings: SearchSettings = ADAPTIVE, run: str | Path | None = None
) -> PairSearch:
    """A search for knowledge neurons per determiner-noun pair (Niu et al. 2024, figure 2).

    ```python
    found = pair_search(model, prompt_groups(model, "determiner_noun_agreement_2", frames=10))
    found.leading("plural")                             # (L9.N1094,) in the paper, on bert-base-cased
    found.shares([(9, 1094), (10, 2096)])               # and how often each is found
    ```

    The control is built in: a number neuron is found in pairs of its number and not in those of the other, in the same
    sentences.

    Arguments:
        groups: of a determiner-noun paradigm, from `prompt_groups`: each pair in many sentences.

    Raises:
        ValueError: no groups, or groups that have no determiner (another paradigm, a relation).
    """
    others = [g.key for g in groups if g.label("determiner") is None]
    if not groups or others:
        what = f"{others[:3]} have none" if others else "none were given"
        raise ValueError(
            f"pair_search needs determiner-noun pairs: {what}; use prompt_groups(model, 'determiner_noun_agreement_2')"
        )
    found, provenance = search_each(model, groups, settings, kind="pair search", run=run)
    return PairSearch.of(map(_row, groups, found), provenance)


def pairs_of(found: Localisation, groups: Sequence[PromptGroup]) -> PairSearch:
    """A `PairSearch` from the pairs of a `Localisation`, without a second search."""
    if [row["group"] for row in found.rows] != [group.key for group in groups]:
        raise ValueError("these are not the groups that were localised; give the same ones, in the same order")
    both = zip(groups, found.rows, strict=True)
    rows = [_row(group, {**row, "share": row["tau"]}) for group, row in both if group.label("determiner")]
    return PairSearch.of(rows, found.provenance)


def _row(group: PromptGroup, found: Row) -> Row:
    labels = {name: group.label(name) for name in ("determiner", "noun", "number")}
    measured = {"prompts": found["prompts"], "tau": found["share"], "converged": found["converged"]}
    return {"source": group.source, "pair": group.key, **labels, **measured, "neurons": found["neurons"]}


def _share(found: Sequence[set[Neuron]], neuron: Neuron) -> float:
    return sum(neuron in neurons for neurons in found) / max(1, len(found))


def _other(number: str) -> str:
    return NUMBERS[1 - NUMBERS.index(number)]
