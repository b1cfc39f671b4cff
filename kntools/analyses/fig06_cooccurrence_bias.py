"""Figure 6: does an effect follow how often a word stands with plural nouns?"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from kntools import data
from kntools.analyses.fig05_suppression_effect import SuppressionEffect
from kntools.data.grouping import noun_number
from kntools.results.statistics import pearson, spearman
from kntools.results.table import Table

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*|[.!?;:,]")


class CooccurrenceBias(Table):
    """One row per word: `word, section, plural, singular, bias, effect`.

    `plural` and `singular` count nouns of either number beside the word; `bias` is the log of their odds (0.5 added
    to each), positive for words that stand with plurals. The header has the correlations with their intervals.
    """

    def plot(self, **look: Any) -> Any:
        """A dot per word: the effect of the edit against how often the word stands with plural nouns."""
        from kntools.plots.charts import scatter_chart

        labels = {
            "bias": "log odds of a plural noun beside the word",
            "effect": f"relative change of probability ({self.header.get('change', '?')})",
        }
        options: dict[str, Any] = {
            "color": "section",
            "text": "word",
            "hover_data": ["plural", "singular"],
            "labels": labels,
        }
        figure = scatter_chart(self.to_frame(), "bias", "effect", **options, **{"title": self.describe(), **look})
        return figure.add_hline(y=0, line={"color": "gray", "width": 1})

    def describe(self) -> str:
        c = self.header["correlation"]
        return (
            f"Effect against plural bias of {c['n']} words: Spearman {c['spearman']:.2f} "
            f"[{c['low']:.2f}, {c['high']:.2f}], Pearson {c['pearson']:.2f} ({self.header['model']})"
        )


def noun_numbers(paradigms: Iterable[str] = (), *, path: Any = None) -> dict[str, str]:
    """Noun -> `singular` or `plural`, from minimal pairs in which a noun's two forms differ.

    The default is BLiMP's determiner-noun agreement 1 and its irregular twin. A form of both numbers is left out.
    """
    names = tuple(paradigms) or ("determiner_noun_agreement_1", "determiner_noun_agreement_irregular_1")
    found: dict[str, set[str]] = {}
    for name in names:
        for record in data.blimp(name, path=path):
            for one, other in (record.words, record.words[::-1]) if record.words else ():
                number = noun_number(one, other)
                if number:
                    found.setdefault(one.lower(), set()).add(number)
    return {noun: next(iter(numbers)) for noun, numbers in sorted(found.items()) if len(numbers) == 1}


def count_beside(
    texts: Iterable[str | Mapping[str, Any]], words: Iterable[str], nouns: Mapping[str, str], *, between: int = 1
) -> dict[str, Counter[str]]:
    """How often each word stands before a singular and before a plural noun.

    ```python
    count_beside(["Carl saw these old horses."], ["these"], {"horse": "singular", "horses": "plural"})
    count_beside(read_texts("corpus.txt"), words, noun_numbers())
    ```

    Arguments:
        texts: any stream: a list, `read_texts`, a `datasets` stream (its field `text` is read).
        words: what to count, lower case.
        nouns: noun -> number, as `noun_numbers` makes it.
        between: so many other words may stand between (adjectives); the first known noun counts, punctuation ends it.
    """
    if between < 0:
        raise ValueError(f"between={between}; give 0 or more")
    wanted = {w.lower() for w in words}
    if not wanted or not nouns:
        raise ValueError("give at least one word and one noun; noun_numbers() makes a list of nouns")
    counts = {word: Counter({"singular": 0, "plural": 0}) for word in sorted(wanted)}
    for text in texts:
        tokens = [t.lower() for t in _WORD.findall(text if isinstance(text, str) else str(text["text"]))]
        for i, token in enumerate(tokens):
            if token in wanted:
                number = _next_noun(tokens[i + 1 : i + 2 + between], nouns)
                if number:
                    counts[token][number] += 1
    return counts


def _next_noun(following: Sequence[str], nouns: Mapping[str, str]) -> str | None:
    """The number of the first known noun, before any punctuation."""
    phrase = takewhile(lambda word: word[0].isalnum(), following)
    return next((nouns[word] for word in phrase if word in nouns), None)


def cooccurrence_bias(
    effect: SuppressionEffect,
    counts: Mapping[str, Mapping[str, int]],
    *,
    group: str | None = None,
    sections: Sequence[str] | None = ("neutral",),
    least: int = 10,
    resamples: int = 2000,
    seed: int = 0,
) -> CooccurrenceBias:
    """Correlate the effect of an edit with what words stand beside (Niu et al. 2024, figure 6).

    ```python
    counts = count_beside(corpus, words, noun_numbers())
    cooccurrence_bias(effect, counts, group="plural")
    ```

    Arguments:
        effect: of `suppression_effect`.
        counts: of `count_beside`.
        group: the prompts whose effects are taken (`"plural"`: with plural nouns); the first one by default.
        sections: of words; `None` for all. The neutral ones are the question: the marked ones, which grammar ties
            to one number, correlate for that reason.
        least: words that stand beside fewer nouns are left out, and counted in the header.
        resamples, seed: of the bootstrap over words that gives the interval.

    Raises:
        ValueError: fewer than three words are left, or there is no such group or section.
    """
    groups = list(dict.fromkeys(row["group"] for row in effect.rows))
    chosen = groups[0] if group is None else group
    known = {row["section"] for row in effect.rows}
    if chosen not in groups or not known.issuperset(sections or ()):
        raise ValueError(f"group {chosen!r}, sections {sections}; there are {groups} and {sorted(known)}")
    rows, rare = [], []
    for row in effect.rows:
        if row["group"] != chosen or (sections is not None and row["section"] not in sections):
            continue
        beside = counts.get(row["word"].lower(), {})
        plural, singular = beside.get("plural", 0), beside.get("singular", 0)
        if plural + singular < least:
            rare.append(row["word"])
            continue
        bias = math.log((plural + 0.5) / (singular + 0.5))
        about = {"word": row["word"], "section": row["section"], "plural": plural, "singular": singular}
        rows.append({**about, "bias": bias, "effect": row["change"]})
    if len(rows) < 3:
        raise ValueError(
            f"{len(rows)} words are left, a correlation needs 3: {rare} stand beside fewer than {least} nouns; "
            "give more text, more sections or a lower least"
        )
    x, y = (torch.tensor([float(row[name]) for row in rows], dtype=torch.float64) for name in ("bias", "effect"))
    low, high = _interval(x, y, resamples, seed)
    found = {"n": len(rows), "spearman": spearman(x, y), "low": low, "high": high, "pearson": pearson(x, y)}
    return CooccurrenceBias.of(rows, {**effect.header, "group": chosen, "rare": rare, "correlation": found})


def _interval(x: torch.Tensor, y: torch.Tensor, resamples: int, seed: int) -> tuple[float, float]:
    """Percentile bootstrap of Spearman's correlation over words; samples of one word only say nothing."""
    drawn = torch.randint(len(x), (resamples, len(x)), generator=torch.Generator().manual_seed(seed))
    values = torch.tensor([spearman(x[i], y[i]) for i in drawn], dtype=torch.float64)
    low, high = values.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def read_texts(path: str | Path, field: str = "text") -> Iterator[str]:
    """The lines of a text file, or one field of every row of a `.jsonl` file."""
    path = Path(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.suffix != ".jsonl":
        yield from lines
        return
    for number, line in enumerate(lines, start=1):
        row = json.loads(line)
        if field not in row:
            raise ValueError(f"{path}, line {number}: no field {field!r}; there are {', '.join(row)}; give field=")
        yield str(row[field])
