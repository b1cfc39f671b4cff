"""Every number of the report's sentences, made again from its CSV files; and no claim where there is nothing.

Reports of tiny models are made with planted measurements: what a model measures is replaced by random numbers as it is
stored, with a clear signal or with none. A sentence is compared by its numbers and neurons in order, each to the digits
that it shows; the wording is free.
"""

from __future__ import annotations

import html
import math
import random
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from scipy import stats

import kntools as kn
from kntools.analyses import SearchSettings
from kntools.analyses.fig03_localisation import Localisation
from kntools.analyses.fig08_reliability import EDITS
from kntools.report import FIGURES, QUICK, Study, build, choose, neuron_figures
from kntools.report.figure import ALPHA
from kntools.report.figure import tested as sentence_of
from kntools.results.run_store import RunStore
from tests import zoo
from tests.figure_numbers import NUMBERS, TESTED
from tests.page_numbers import TOKEN, Made, agree, assert_numbers
from tests.planted_measurements import plant

pytestmark = pytest.mark.filterwarnings("ignore:.*using kntools' built-in sample:UserWarning")

SIZE = replace(
    QUICK,
    facts=3,
    phrasings=2,
    draws=3,
    per_determiner=2,
    pairs=32,
    groups=2,
    frames=3,
    nouns=12,
    judged_pairs=10,
    judged_facts=3,
    traces=4,
    edits=3,
)
BERT = tuple(figure.key for figure in FIGURES if figure.key != "10")
LLAMA = ("10", "11")  # a masked model writes nothing


@contextmanager
def planted(signal: bool) -> Iterator[None]:
    """No data but what ships with the package, and planted measurements in the place of quick ones."""
    put, draw, attribute = RunStore.put, random.Random(0), SearchSettings.attribute

    def quickly(self: SearchSettings, model: Any, prompts: Any) -> kn.Attribution:
        return attribute(replace(self, rule="gauss_legendre", steps=2), model, prompts)

    def changed(self: RunStore, key: str, payload: Any) -> None:
        name = self.path.stem if self.path else ""
        put(self, key, plant(self.header["kind"], name, key, payload, signal=signal))

    def counted(texts: Any, words: Iterable[str], nouns: Any) -> dict[str, dict[str, int]]:
        order = [word for listed in kn.analyses.FIGURE_5.values() for word in listed]
        plural = list(range(20, 20 + 10 * len(order), 10))
        if not signal:
            draw.shuffle(plural)
        return {word: {"plural": n, "singular": 50} for word, n in zip(order, plural, strict=True)}

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KNTOOLS_DATA", raising=False)
        patch.setattr(RunStore, "put", changed)
        patch.setattr(SearchSettings, "attribute", quickly)
        patch.setattr(kn.analyses, "count_beside", counted)
        with kn.set_options(progress=False):
            yield


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Made:
    model = kn.load_model("tiny-bert")
    with planted(signal=True):
        return Made(build(Study(model, SIZE, tmp_path_factory.mktemp("bert")), choose(BERT)), model)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Made:
    model = zoo.tiny("llama")
    with planted(signal=True):
        return Made(build(Study(model, SIZE, tmp_path_factory.mktemp("llama")), choose(LLAMA)), model)


@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_of_a_sentence_are_those_of_the_tables(bert: Made, llama: Made, key: str) -> None:
    for made in (made for made, keys in ((bert, BERT), (llama, LLAMA)) if key in keys):
        assert_numbers(made.sentence(key), NUMBERS[key](made))


def test_layers_that_differ_between_paradigms_and_relations() -> None:
    kinds = {"linguistic": ("d1", "d2", "d3", "d4"), "factual": ("P1", "P2", "P3", "P4")}
    rows = [
        {"source": source, "kind": kind, "group": source, "neurons": [[layer, n]]}
        for layer, (kind, sources) in zip((2, 1), kinds.items(), strict=True)
        for n, source in enumerate(sources)
    ]
    study: Any = SimpleNamespace(
        localised=(Localisation.of(rows, {"model": "m"}, widths=[48] * 3), {}), model=zoo.tiny("bert"), seed=0
    )
    assert_numbers(neuron_figures.layers(study).sentence, [1.0, 0, 1, 4, 4, 8, ALPHA])


def test_nothing_is_claimed_where_there_is_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = kn.load_model("tiny-bert")
    with planted(signal=False):
        report = build(Study(model, SIZE, tmp_path_factory.mktemp("nothing")), choose(TESTED))
    sentences = {figure.key: shown.sentence for figure, shown in report.shown}
    claims = {
        key: text
        for key, text in sentences.items()
        if not re.match(r"No (.* passes the test|test was possible)|This sample is too small for its test", text)
    }
    assert not claims


@pytest.mark.parametrize(
    ("passed", "p_values", "sentence"),
    [
        ([], [math.nan], "No test was possible in this sample (t-test, n = 1)."),
        ([], [], "No test was possible in this sample (t-test, n = 1)."),
        ([], [math.nan, 0.5], "No effect passes the test in this sample (t-test, n = 1, p < 0.05)."),
        (["one does"], [math.nan, 0.01], "One does (t-test, n = 1, p < 0.05)."),
    ],
)
def test_what_was_not_tested_did_not_fail_a_test(passed: list[str], p_values: list[float], sentence: str) -> None:
    assert sentence_of(passed, "effect", "t-test, n = 1", p_values) == sentence


def test_a_test_that_no_sample_of_this_size_passes_was_not_failed() -> None:
    asked = ("McNemar's exact test, n = 5", [0.0625])
    assert sentence_of([], "edit", *asked, 0.0625) == (
        "This sample is too small for its test, whose p is at least 0.062 (McNemar's exact test, n = 5)."
    )
    assert sentence_of([], "edit", *asked, 0.04).startswith("No edit passes the test")


def test_quick_reports_have_prompts_enough_to_pass_the_test_of_figure_8() -> None:
    tests = len(EDITS) * (1 + QUICK.relations)
    for n in (QUICK.judged_pairs, QUICK.judged_facts):
        assert tests * stats.binomtest(n, n).pvalue < ALPHA


@pytest.mark.parametrize(("n", "least"), [(5, 0.75), (10, 0.0234375)])
def test_figure_8_says_where_its_sample_cannot_pass(monkeypatch: pytest.MonkeyPatch, n: int, least: float) -> None:
    """Twelve tests of n prompts each; p is at least 12 * 2 / 2 ** n."""
    outcome = {
        "source": "P36",
        "kind": "fact",
        "target": " t",
        "overturned": False,
        "random": False,
        "before": 0.5,
        "after": 0.5,
    }
    rows = [
        {**outcome, "source": source, "text": f"{source} {i}", "edit": edit}
        for source in ("a", "b", "c")
        for edit in EDITS
        for i in range(n)
    ]
    found = kn.analyses.Reliability.of(rows, {"model": "m"}, wrong=0, correct_only=True)
    monkeypatch.setattr(kn.analyses, "reliability", lambda *args, **options: found)
    monkeypatch.setattr(neuron_figures, "_judged", lambda study, source: [])
    study: Any = SimpleNamespace(paradigms=["a"], relations=["b", "c"], model=None, seed=0, run=lambda name: None)
    sentence = neuron_figures.overturned(study).sentence
    assert sentence.startswith("This sample is too small") == (least > ALPHA)
    assert least < ALPHA or f"at least {least:.2g}" in sentence


def test_every_figure_names_its_test_or_says_that_it_has_none(bert: Made, llama: Made) -> None:
    assert list(NUMBERS) == [figure.key for figure in FIGURES]
    for made in (bert, llama):
        for figure, shown in made.report.shown:
            assert not shown.sentence.startswith("Not shown"), shown.sentence
            named = re.search(r"(t-test|Welch's|Fisher's exact|McNemar's exact|permutation) ?", shown.sentence)
            assert bool(named) == (figure.key in TESTED)
            assert named or re.search(r"\b(no|without a) test\b", shown.sentence)


# The page.


def test_cells_of_the_page_are_those_of_the_files(bert: Made, llama: Made) -> None:
    for made in (bert, llama):
        page = made.report.page.read_text(encoding="utf-8")
        found = re.findall(r'href="(tables/[^"]+\.csv)".*?<table[^>]*>(.*?)</table>', page, flags=re.DOTALL)
        assert len(found) == len(list(made.folder.glob("tables/*.csv")))
        for file, body in found:
            frame = pd.read_csv(made.folder / file, keep_default_na=False, dtype=str)
            head, *rows = [
                re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, flags=re.DOTALL)
                for line in re.findall(r"<tr>(.*?)</tr>", body, flags=re.DOTALL)
            ]
            assert [html.unescape(cell) for cell in head] == list(frame.columns)
            assert len(rows) == len(frame)
            for cells, expected in zip(rows, frame.itertuples(index=False, name=None), strict=True):
                wrong = [(a, b) for a, b in zip(cells, expected, strict=True) if not same_cell(html.unescape(a), b)]
                assert not wrong, (file, wrong)


def same_cell(shown: str, written: str) -> bool:
    if shown == written or shown == {"True": "yes", "False": "no"}.get(written):
        return True
    return bool(TOKEN.fullmatch(shown)) and agree(shown, float(written))


def test_the_page_shows_each_sentence_twice_under_its_heading(bert: Made, llama: Made) -> None:
    """In the summary and in the section of its figure."""
    for made in (bert, llama):
        page = made.report.page.read_text(encoding="utf-8")
        summary, *sections = re.split(r"<h2[^>]*>", page)[1:]
        assert len(sections) == len(made.report.shown)
        for section, (figure, shown) in zip(sections, made.report.shown, strict=True):
            text, top = (html.unescape(re.sub(r"<[^>]+>", "", part)) for part in (section, summary))
            assert text.startswith(figure.heading) and figure.heading in top
            assert shown.sentence in top and shown.sentence in text and shown.remarks in text
