"""Figure 6: correlation of an effect with co-occurrences of words and plural nouns."""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import regex
import torch

from kntools import data
from kntools.analyses.fig05_suppression_effect import SuppressionEffect, unit_of
from kntools.arguments import several, shown, whole
from kntools.data.grouping import noun_number
from kntools.data.read import json_lines, numbered_lines
from kntools.engine.answers import Answer, ask
from kntools.engine.texts import Texts, numbered
from kntools.models.causality import is_masked
from kntools.prompts import Encoded, Prompt, encode_many
from kntools.results.statistics import pearson, spearman, spearman_rows, statistic_interval
from kntools.results.table import Table

#: What comes before a word in the texts of `expected_beside`.
BEGINNINGS = ("They saw", "He likes", "She found", "We need")

_LETTERS = r"[\w\p{Join_Control}--_]+"  # with their marks; digits too
_WORD = regex.compile(rf"{_LETTERS}(?:['-]{_LETTERS})*|[.!?;:,]", regex.V1)


class CooccurrenceBias(Table):
    """One row per word: `word, section, plural, singular, bias, effect`.

    `plural` and `singular` count nouns beside the word; `bias` is the log of their odds (0.5 added to each). `details`
    has the correlations with their intervals.
    """

    def plot(self, **look: Any) -> Any:
        """A dot per word: the effect of the edit against the co-occurrence of the word with plural nouns."""
        from kntools.plots.charts import scatter_chart

        labels = {"bias": "log odds of a plural noun beside the word", "effect": unit_of(self.details["change"])}
        options: dict[str, Any] = {"color": "section", "text": "word", "hover_data": ["plural", "singular"]}
        options |= {"labels": labels, "title": self.describe(), **look}
        figure = scatter_chart(self.to_frame(), "bias", "effect", **options)
        return figure.add_hline(y=0, line={"color": "gray", "width": 1})

    def describe(self) -> str:
        c = self.details["correlation"]
        return (
            f"Effect against plural bias of {c['n']} words: Spearman {c['spearman']:.2f} "
            f"[{c['low']:.2f}, {c['high']:.2f}], Pearson {c['pearson']:.2f} ({self.provenance['model']})"
        )


def noun_numbers(paradigms: Iterable[str] = ()) -> dict[str, str]:
    """Noun -> `singular` or `plural`, from minimal pairs in which a noun's two forms differ.

    The default is BLiMP's determiner-noun agreement 1 and its irregular twin. A form of both numbers is left out.
    """
    names = tuple(paradigms) or ("determiner_noun_agreement_1", "determiner_noun_agreement_irregular_1")
    pairs = [record.words for name in names for record in data.blimp(name) if record.words]
    found: dict[str, set[str]] = {}
    for form, other in (ordered for pair in pairs for ordered in (pair, pair[::-1])):
        if number := noun_number(form, other):
            found.setdefault(form.lower(), set()).add(number)
    return {noun: next(iter(numbers)) for noun, numbers in sorted(found.items()) if len(numbers) == 1}


def count_beside(
    texts: Texts, words: Iterable[str], nouns: Mapping[str, str], *, between: int = 1
) -> dict[str, Counter[str]]:
    """How often each word occurs before a singular and before a plural noun.

    ```python
    count_beside(["Carl saw these old horses."], ["these"], {"horse": "singular", "horses": "plural"})
    count_beside(read_texts("corpus.txt"), words, noun_numbers())
    ```

    Arguments:
        texts: any stream: a list, `read_texts`, a `datasets` stream (its field `text` is read).
        words: what to count, lower case.
        nouns: noun -> number, as `noun_numbers` makes it.
        between: most words in between (adjectives); the first known noun counts, punctuation ends it.
    """
    wanted, between = _wanted(words, nouns), whole("between", between, least=0)
    counts = {word: Counter({"singular": 0, "plural": 0}) for word in sorted(wanted)}
    for _, text in numbered(texts):
        tokens = _WORD.findall(unicodedata.normalize("NFC", text).lower())
        for i, token in enumerate(tokens):
            if token in wanted:
                phrase = takewhile(lambda word: word[0].isalnum(), tokens[i + 1 : i + 2 + between])
                if noun := next((word for word in phrase if word in nouns), None):
                    counts[token][nouns[noun]] += 1
    return counts


def cooccurrence_bias(
    effect: SuppressionEffect,
    counts: Mapping[str, Mapping[str, int]],
    *,
    group: str | None = None,
    sections: Sequence[str] | None = ("neutral",),
    least: int = 10,
    seed: int = 0,
) -> CooccurrenceBias:
    """Correlate the effect of an edit with co-occurrences of words (Niu et al. 2024, figure 6).

    ```python
    counts = count_beside(corpus, words, noun_numbers())
    cooccurrence_bias(effect, counts, group="plural")
    ```

    Arguments:
        counts: of `count_beside` or `expected_beside`.
        group: the prompts whose effects are taken (`"plural"`: with plural nouns); the first one by default.
        sections: of words; `None` for all. The neutral ones are the question: grammar ties the marked ones to a number.
        least: words with fewer nouns are left out, and named in `details`. Three must remain.
        seed: of the bootstrap over words that gives the interval.
    """
    groups = list(dict.fromkeys(row["group"] for row in effect.rows))
    chosen = groups[0] if group is None else group
    known = {row["section"] for row in effect.rows}
    if chosen not in groups or not known.issuperset(sections or ()):
        raise ValueError(f"group {chosen!r}, sections {sections}; there are {groups} and {sorted(known)}")
    rows, rare = [], []
    for row in effect.rows:
        if row["group"] != chosen or row["section"] not in (sections or known):
            continue
        plural, singular = (counts.get(row["word"].lower(), {}).get(number, 0) for number in ("plural", "singular"))
        if plural + singular < least:
            rare.append(row["word"])
            continue
        about = {"word": row["word"], "section": row["section"], "plural": plural, "singular": singular}
        rows.append({**about, "bias": math.log((plural + 0.5) / (singular + 0.5)), "effect": row["change"]})
    if len(rows) < 3:
        raise ValueError(
            f"{len(rows)} words remain, a correlation needs 3: {rare} occur beside fewer than {least} nouns; "
            "give more text, more sections or a lower least"
        )
    x, y = (torch.tensor([float(row[name]) for row in rows], dtype=torch.float64) for name in ("bias", "effect"))
    low, high = statistic_interval(lambda i: spearman_rows(x[i], y[i]), len(x), resamples=2000, seed=seed)
    found = {"n": len(rows), "spearman": spearman(x, y), "low": low, "high": high, "pearson": pearson(x, y)}
    details = {**effect.details, "group": chosen, "rare": rare, "correlation": found}
    return CooccurrenceBias.of(rows, effect.provenance, **details)


def expected_beside(
    model: Any,
    words: Iterable[str],
    nouns: Mapping[str, str],
    *,
    beginnings: Sequence[str] = BEGINNINGS,
    texts: int = 1_000_000,
) -> dict[str, Counter[str]]:
    """How often each word would precede a singular and a plural noun, in texts that a causal model continues.

    ```python
    cooccurrence_bias(effect, expected_beside(model, words, noun_numbers()), sections=None)
    ```

    A text is one of the `beginnings` and the word (`"They saw these"`). The expected count is `texts` times the mean,
    over beginnings, of the sum of P(noun | text) over the nouns of a number, rounded: what a corpus of so many texts
    would have, without the noise of sampling, and also for rare words. Where the tokens of a noun begin another one
    (`boss`, `bosses`), the longer one counts alone. `words` and `nouns` are as in `count_beside`.

    Raises:
        ValueError: a masked model, or no words, nouns or beginnings.
    """
    if is_masked(model):
        raise ValueError("a masked model does not continue texts; count in a corpus: count_beside(texts, words, nouns)")
    each, starts = _wanted(words, nouns), several("beginnings", beginnings, "'They saw'")
    if not starts:
        raise ValueError("no beginnings given; give what comes before a word, e.g. ['They saw']")
    size, asked = whole("texts", texts, least=1) / len(starts), [(word, s) for word in each for s in starts]
    mass: dict[str, dict[str, float]] = {word: {"singular": 0.0, "plural": 0.0} for word in each}
    prompts = [Prompt(f"{start} {word}", f" {noun}", multi_token="sum") for word, start in asked for noun in nouns]
    encoded = encode_many(model, prompts)
    answers = iter(zip(encoded, ask(model, encoded), strict=True))
    for word, _ in asked:
        for noun, p in _alone({noun: next(answers) for noun in nouns}).items():
            mass[word][nouns[noun]] += size * p
    return {word: Counter({number: round(n) for number, n in own.items()}) for word, own in mass.items()}


def _alone(answers: Mapping[str, tuple[Encoded, Answer]]) -> dict[str, float]:
    """The probability of each noun without that of the longer nouns that begin with its tokens."""
    ids = {noun: e.target_ids for noun, (e, _) in answers.items()}
    found: dict[str, float] = {}
    for noun in sorted(answers, key=lambda noun: -len(ids[noun])):
        longer = sum(p for other, p in found.items() if ids[other][: len(ids[noun])] == ids[noun])
        found[noun] = answers[noun][1].probability - longer
    return found


def _wanted(words: Iterable[str], nouns: Mapping[str, str]) -> list[str]:
    """The words in lower case, each once."""
    wanted = list(dict.fromkeys(word.lower() for word in several("words", words, "['these']")))
    if not isinstance(nouns, Mapping) or not {"singular", "plural"}.issuperset(nouns.values()):
        raise TypeError(f"nouns={shown(nouns)}; give noun -> 'singular' or 'plural', as noun_numbers() does")
    if not wanted or not nouns:
        raise ValueError("nothing to count; give at least one word and one noun (see noun_numbers)")
    return wanted


def read_texts(path: str | Path, field: str = "text") -> Iterator[str]:
    """The lines of a text file, or one field of every row of a `.jsonl` file."""
    path = Path(path)
    if path.suffix != ".jsonl":
        yield from (line for _, line in numbered_lines(path, "texts", blank_is_error=False))
        return
    for row in json_lines(path):
        if field not in row.values:
            raise ValueError(f"{row.where}: no field {field!r}; there are {', '.join(row.values)}; give field=")
        yield str(row.values[field])
