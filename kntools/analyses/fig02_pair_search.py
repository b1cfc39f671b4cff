"""Figure 2: in how many determiner-noun pairs is a neuron a knowledge neuron?"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from kntools.analyses.fig03_localisation import Localisation, row_of
from kntools.analyses.neuron_search import ADAPTIVE, HALVES, SearchSettings, halves, local_seed, search_each
from kntools.analyses.prompt_group import PromptGroup
from kntools.arguments import check_list, whole
from kntools.engine.inputs import check_choice
from kntools.models import neuron_layers
from kntools.randomness import python_random
from kntools.results.statistics import Alternative, fisher, holm, share_interval, sign_test
from kntools.results.table import Row, Table
from kntools.sites import Neuron, NeuronLike, as_neurons

NUMBERS = ("singular", "plural")
DETERMINERS = ("this", "that", "these", "those")
_EXAMPLE = "prompt_groups(model, 'determiner_noun_agreement_2')"


class PairSearch(Table):
    """One row per determiner-noun pair: `source, pair, determiner, noun, number, nouns, half, prompts, metric, tau,
    converged, neurons, against`. `nouns` are both forms of the noun, where the model is asked for it.

    Neurons are chosen on the pairs whose `half` is `selection`, and tested on those of the half `test`. `against` are
    the knowledge neurons of the negative scores: of a contrast, the foil's.

    Shares and tests count nouns: `these horses` and `those horses` are hardly two observations. A neuron is one of a
    noun if it is one of at least half of the noun's pairs, those of one number or with one determiner.
    """

    def leading(self, number: str, k: int = 1) -> tuple[Neuron, ...]:
        """The `k` neurons whose share of the selection's nouns of this number is farthest above that of the other."""
        if number not in NUMBERS:
            raise ValueError(f"number={number!r}; it is 'singular' or 'plural'")
        here, there = (self._found(half="selection", number=n) for n in (number, _other(number)))
        above = {n: _share(here, n) - (_share(there, n) if there else 0.0) for n in set[Neuron]().union(*here)}
        return tuple(n for n in sorted(above, key=lambda n: (-above[n], n)) if above[n] > 0)[: whole("k", k, least=0)]

    def claims(self, k: int = 3) -> pd.DataFrame:
        """Is a neuron one of a number? The leading `k` of each number, tested on the other half of the nouns.

        Returns:
            `neuron, number, nouns, found, share, low, high` (Wilson's 95 % interval), and the controls: `opposite`, its
            share of the nouns of the other number; `random`, the share of a random neuron of its layer; `against`, the
            nouns in whose foil's favour it stands. `p` is the larger one of Fisher's exact test of `share` against
            `opposite` and the sign test of the nouns for which the neuron stands on one side of the contrast alone,
            which is what shuffled foils would make equal; `p_holm` is corrected over the table. `against` is nan where
            no pair has a contrast. Both tests are one-sided: the other half has fixed the direction.
        """
        rows = [self._test(n, number) for number in NUMBERS for n in self.leading(number, k)]
        measured = ["nouns", "found", "share", "low", "high", "opposite", "random", "against", "p"]
        return pd.DataFrame(rows, columns=["neuron", "number", *measured]).assign(p_holm=lambda frame: holm(frame["p"]))

    def _test(self, neuron: Neuron, number: str) -> Row:
        own, others = (self._found(half="test", number=n) for n in (number, _other(number)))
        row = {"neuron": repr(neuron), "number": number, **_compared(neuron, own, others, "greater")}
        in_layer = sum(n.layer == neuron.layer for found in own for n in found)
        row["random"] = in_layer / (self.details["widths"][neuron.layer] * len(own)) if own else math.nan
        contrasts = {"half": "test", "number": number, "metric": "contrast"}
        won, lost = ([neuron in found for found in self._found(side, **contrasts)] for side in ("neurons", "against"))
        row["against"] = sum(lost) if lost else math.nan
        if won and others:
            sides = Counter(zip(won, lost, strict=True))
            row["p"] = max(row["p"], sign_test(sides[True, False], sides[False, True], "greater"))
        return row

    def nouns(self, half: str) -> set[str]:
        """All forms of the nouns of one half: `selection` or `test`."""
        check_choice("half", half, HALVES)
        return {form for row in self.rows if row["half"] == half for form in row["nouns"].split("/")}

    def shuffled(self, seed: int) -> "PairSearch":
        """Null data: in every pair, target and foil change places where a coin says so. This asks the model nothing."""
        if any(row["metric"] != "contrast" for row in self.rows):
            raise ValueError("only a contrast has a reverse; search with SearchSettings(metric='contrast')")
        rng = python_random(local_seed("foils", seed))
        swap = {"neurons": "against", "against": "neurons"}
        rows = [row | ({a: row[b] for a, b in swap.items()} if rng.random() < 0.5 else {}) for row in self.rows]
        return PairSearch.of(rows, self.provenance, **self.details)

    def shares(self, neurons: Iterable[NeuronLike] | None = None) -> pd.DataFrame:
        """Per neuron and determiner, the share of the test's nouns of which it is a knowledge neuron (figure 2).

        Returns:
            `neuron, determiner, number, nouns, found, share, low, high` (Wilson's 95 % interval) of these neurons, or
            of the leading three of each number; and the control: `opposite`, the share of all nouns of the other
            number, with Fisher's test of the difference (`p`, and `p_holm` over the table).
        """
        leading = (n for number in NUMBERS for n in self.leading(number, 3))
        wanted = tuple(dict.fromkeys(leading)) if neurons is None else as_neurons(neurons)
        numbers = {row["determiner"]: row["number"] for row in self.rows if row["half"] == "test"}
        rows = []
        for neuron in wanted:
            for determiner in sorted(numbers, key=DETERMINERS.index):
                number = numbers[determiner]
                own = self._found(half="test", determiner=determiner)
                others = self._found(half="test", number=_other(number))
                about = {"neuron": repr(neuron), "determiner": determiner, "number": number}
                rows.append({**about, **_compared(neuron, own, others)})
        columns = ["neuron", "determiner", "number", "nouns", "found", "share", "low", "high", "opposite", "p"]
        return pd.DataFrame(rows, columns=columns).assign(p_holm=lambda frame: holm(frame["p"]))

    def summary(self) -> pd.DataFrame:
        return self.claims()

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"claims": self.claims(), "shares": self.shares()}

    def plot(self, neurons: Iterable[NeuronLike] | None = None, **look: Any) -> Any:
        """Shares per determiner, one group of bars per neuron; `neurons` as in `shares`."""
        from kntools.plots.charts import bar_chart

        options = {"color": "neuron", "hover_data": ["found", "nouns"], "labels": {"share": "share of nouns"}, **look}
        figure = bar_chart(self.shares(neurons), "determiner", "share", **{"title": self.describe(), **options})
        return figure.update_yaxes(range=[0, 1.05], tickformat=".0%")

    def describe(self) -> str:
        of = Counter(chain.from_iterable((row["number"], row["half"]) for row in self.rows))
        counts = ", ".join(f"{of[number]} {number}" for number in NUMBERS if of[number])
        metrics = " and ".join(dict.fromkeys(row["metric"] for row in self.rows))
        halves = " and ".join(f"{of[half]} for the {half}" for half in HALVES)
        about = "; ".join((counts, halves, metrics, self.provenance["model"]))
        return f"Knowledge neurons of {len(self.rows)} determiner-noun pairs ({about})"

    def _found(self, side: str = "neurons", **where: str) -> list[set[Neuron]]:
        """The neurons of each noun of this half, number or determiner: those of at least half of its pairs."""
        pairs: dict[str, list[set[Neuron]]] = {}
        for row in self.rows:
            if all(row[name] == value for name, value in where.items()):
                pairs.setdefault(row["nouns"], []).append({Neuron(*pair) for pair in row[side]})
        counts = ((Counter(chain.from_iterable(own)), len(own)) for own in pairs.values())
        return [{neuron for neuron, n in found.items() if 2 * n >= of} for found, of in counts]


def pair_search(
    model: Any,
    groups: Sequence[PromptGroup],
    *,
    settings: SearchSettings = ADAPTIVE,
    seed: int = 0,
    run: str | Path | None = None,
) -> PairSearch:
    """A search for knowledge neurons per determiner-noun pair (Niu et al. 2024, figure 2).

    ```python
    found = pair_search(model, prompt_groups(model, "determiner_noun_agreement_2", frames=10))
    found.leading("plural")                             # (L9.N1094,) in the paper, on bert-base-cased
    found.claims()                                      # is it one of that number? Tested on other pairs
    found.shares([(9, 1094), (10, 2096)])               # and how often each is found
    ```

    Neurons are chosen on half of the nouns and tested on the others.

    Arguments:
        groups: of a determiner-noun paradigm, from `prompt_groups`: each pair in many sentences.
        seed: of the halves.

    Raises:
        ValueError: no groups, or groups without one of `DETERMINERS` (another paradigm, a relation).
    """
    check_list("groups", groups, PromptGroup, _EXAMPLE)
    _check_determiners(groups)
    found, provenance = search_each(model, groups, settings, kind="pair search", run=run)
    located = Localisation.of(map(row_of, groups, found), provenance, widths=list(neuron_layers.widths(model)))
    return pairs_of(located, groups, seed=seed)


def pairs_of(found: Localisation, groups: Sequence[PromptGroup], *, seed: int = 0) -> PairSearch:
    """A `PairSearch` from the pairs of a `Localisation`, without a second search."""
    if [row["group"] for row in found.rows] != [group.key for group in groups]:
        raise ValueError("these are not the groups that were localised; give the same ones, in the same order")
    pairs = [(group, row) for group, row in zip(groups, found.rows, strict=True) if group.label("noun")]
    _check_determiners([group for group, _ in pairs])
    half_of = halves([str(g.label("determiner")) for g, _ in pairs], [noun_of(g) for g, _ in pairs], seed)
    rows: list[Row] = []
    for (group, row), half in zip(pairs, half_of, strict=True):
        about: Row = {"source": group.source, "pair": group.key}
        about |= {name: group.label(name) for name in ("determiner", "noun", "number")}
        measured = {name: row[name] for name in ("prompts", "metric", "tau", "converged", "neurons", "against")}
        rows.append({**about, **measured, "nouns": noun_of(group), "half": half})
    return PairSearch.of(rows, found.provenance, halves_seed=seed, widths=found.details["widths"])


def _check_determiners(groups: Sequence[PromptGroup]) -> None:
    others = [group.key for group in groups if group.label("determiner") not in DETERMINERS]
    if others:
        raise ValueError(
            f"pair_search needs determiner-noun pairs, of {', '.join(DETERMINERS)}: {others[:3]} have none; "
            f"use {_EXAMPLE}"
        )


def noun_of(group: PromptGroup) -> str:
    """The noun of a pair whatever its number, where it is asked for: `horse/horses`; else the noun as it stands."""
    noun, [first, *_] = str(group.label("noun")), group.prompts
    forms = sorted({first.target.strip(), (first.foil or "").strip()})
    return "/".join(forms) if noun in forms else noun


def _compared(
    neuron: Neuron, own: Sequence[set[Neuron]], others: Sequence[set[Neuron]], alternative: Alternative = "two-sided"
) -> Row:
    """Of how many of these nouns it is a knowledge neuron, of what share of the others, and Fisher's test of both."""
    hits, elsewhere = (sum(neuron in found for found in side) for side in (own, others))
    low, high = share_interval(hits, len(own))
    shares = {"share": _share(own, neuron), "low": low, "high": high, "opposite": _share(others, neuron)}
    p = fisher(hits, len(own), elsewhere, len(others), alternative) if own and others else math.nan
    return {"nouns": len(own), "found": hits, **shares, "p": p}


def _share(found: Sequence[set[Neuron]], neuron: Neuron) -> float:
    return sum(neuron in neurons for neurons in found) / len(found) if found else math.nan


def _other(number: str) -> str:
    return NUMBERS[1 - NUMBERS.index(number)]
