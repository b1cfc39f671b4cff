"""Every number of the report's sentences and tables, made again from its CSV files (or the run's items, where said).

Two reports of tiny models are made once, with planted measurements: what a model measures is replaced by random numbers
as it is stored, so no two numbers of a page coincide and none is 0 by accident. A sentence is compared by its numbers
and neurons in order, each to the digits that it shows; the wording is free.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

import kntools as kn
from kntools.engine.answers import answer_probabilities
from kntools.prompts import Prompt
from kntools.report import FIGURES, QUICK, Study, build, choose
from kntools.results.run_store import RunStore
from tests import zoo
from tests.figure_numbers import COUNTS, DETAILS, FINDING, NUMBER, OTHER, SCORES, facts_paragraphs
from tests.page_numbers import TOKEN, Made, agree, assert_numbers
from tests.planted_measurements import plant

pytestmark = pytest.mark.filterwarnings("ignore:.*using kntools' built-in sample:UserWarning")

#: `figure_numbers.COUNTS` has the counts of draws and frames.
SIZE = replace(
    QUICK, facts=3, phrasings=2, draws=2, per_determiner=2, pairs=8, groups=2, frames=3, nouns=12, judged_pairs=7,
    judged_facts=3, traces=3, edits=3,
)  # fmt: skip
BERT = tuple(figure.key for figure in FIGURES if figure.key != "10")
LLAMA = ("10", "11")  # a masked model writes nothing


@pytest.fixture(scope="module")
def planted() -> Iterator[None]:
    """No data but what ships with the package, and planted measurements."""
    put = RunStore.put

    def changed(self: RunStore, key: str, payload: Any) -> None:
        name = self.path.stem if self.path else ""
        put(self, key, plant(self.header["kind"], name, key, payload))

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KNTOOLS_DATA", raising=False)
        patch.setattr(RunStore, "put", changed)
        yield


@pytest.fixture(scope="module")
def bert(planted: None, tmp_path_factory: pytest.TempPathFactory) -> Made:
    model = kn.load_model("tiny-bert")
    return Made(build(Study(model, SIZE, tmp_path_factory.mktemp("bert"), progress=False), choose(BERT)), model)


@pytest.fixture(scope="module")
def llama(planted: None, tmp_path_factory: pytest.TempPathFactory) -> Made:
    model = zoo.tiny("llama")
    return Made(build(Study(model, SIZE, tmp_path_factory.mktemp("llama"), progress=False), choose(LLAMA)), model)


@pytest.mark.parametrize(
    ("key", "what", "expected"),
    [
        pytest.param(key, what, expected, id=f"{key}-{what}")
        for what, table in (("finding", FINDING), ("details", DETAILS), ("n", COUNTS))
        for key, expected in table.items()
    ]
    + [pytest.param("facts", "paragraphs", facts_paragraphs, id="facts-paragraphs")],
)
def test_numbers_of_a_sentence_are_those_of_the_tables(
    bert: Made, llama: Made, key: str, what: str, expected: Callable[[Made], list[Any]]
) -> None:
    for made in (made for made, keys in ((bert, BERT), (llama, LLAMA)) if key in keys):
        assert_numbers(made.sentence(key, what), expected(made))


def test_every_figure_has_an_entry(bert: Made, llama: Made) -> None:
    assert list(FINDING) == list(COUNTS) == [figure.key for figure in FIGURES]
    for made in (bert, llama):
        for figure, shown in made.report.shown:
            assert bool(shown.details) == (figure.key in DETAILS), figure.key
            assert not shown.finding.startswith("Not shown"), shown.finding


# Tables that the report makes itself, from the measurements.


def test_tables_of_facts_hold_the_measurements(bert: Made) -> None:
    items = bert.items("facts")
    control, changes = (bert.table(f"facts-{what}").set_index("fact") for what in ("control", "interventions"))
    names = list(control.index)
    payloads = [items[f"effects/{name}"] for name in names]
    assert len(names) == SIZE.facts and list(changes.index) == names
    for i, (name, payload) in enumerate(zip(names, payloads, strict=True)):
        draws = payload["random"]
        expected = [payload["clean"], payload["leading"], sum(draws) / len(draws), min(draws), max(draws)]
        assert control.loc[name].tolist() == pytest.approx(expected, rel=1e-5)
        others = [j for j in range(len(names)) if j != i]
        own = [payload["clean"], payload["suppressed"][i], payload["enhanced"][i]]
        sides = ([p["clean"] for p in payloads], payload["suppressed"], payload["enhanced"])
        unrelated = [sum(side[j] for j in others) / len(others) for side in sides]
        assert changes.loc[name].tolist() == pytest.approx([*own, *unrelated], rel=1e-5)
    assert list(changes.columns) == [
        f"{o}{what}" for o in ("", "others ") for what in ("before", "suppressed", "enhanced")
    ]
    said = bert.table("facts-said")[["the model says", "suppressed", "enhanced"]]
    assert said.to_numpy().tolist() == [[text.strip() for text in payload["says"]] for payload in payloads]


def test_prompts_of_facts_have_their_probability(bert: Made) -> None:
    table = bert.table("facts-prompts")
    assert len(table) == SIZE.facts * SIZE.phrasings
    prompts = [Prompt(text, answer) for text, answer in zip(table["prompt"], table["answer"], strict=True)]
    [values] = answer_probabilities(bert.model, prompts)
    assert table["probability"].tolist() == pytest.approx(values.tolist(), rel=1e-4)


def test_neurons_of_facts_are_those_of_their_scores(bert: Made) -> None:
    items = bert.items("facts")
    for row in bert.table("facts-neurons").to_dict("records"):
        found = kn.knowledge_neurons(items[f"attribution/{row['fact']}"])
        assert row["knowledge neurons"].split(", ") == [f"L{n.layer}.N{n.index}" for n in found.neurons]
        assert (row["τ"], row["converged"]) == (found.share, found.converged)


def test_words_beside_nouns_are_counted_in_good_sentences(bert: Made) -> None:
    table = bert.table("figure-6").set_index("word")
    for word, number in NUMBER.items():
        if word in table.index:
            assert table.loc[word, number] > 0 == table.loc[word, OTHER[number]]
    effects = bert.table("figure-5-plural").query("group == 'plural'").set_index("word")["change"]
    assert table["effect"].tolist() == pytest.approx(effects[table.index].tolist())


def test_written_texts_are_those_of_the_run(llama: Made) -> None:
    table = llama.table("figure-10")
    items = llama.items("edit_examples")
    for name, rows in table.groupby("edit", sort=False):
        for column in ("group", "text", "before", "after", "begins", "follows"):
            assert rows[column].tolist() == [row[column] for row in items[name]["rows"]]


@pytest.mark.parametrize("name", SCORES)
def test_scores_of_edits_are_those_of_their_data_set(bert: Made, llama: Made, name: str) -> None:
    for made in (bert, llama):
        table = made.table("figure-11").query("data == @name and condition == 'all' and score == 'reliability, exact'")
        items = made.items(f"edit_consistency_{name}")
        for method, value in zip(table["method"], table["value"], strict=True):
            payloads = [p for key, payload in items.items() if key.startswith(f"{method}/") for p in listed(payload)]
            answers = [[a["exact"] for a in payload["answers"]["forward new"]] for payload in payloads]
            assert value == pytest.approx(sum(sum(row) / len(row) for row in answers) / len(answers))


def listed(payload: Any) -> list[Any]:
    return payload if isinstance(payload, list) else [payload]


# The page.


def test_cells_of_the_page_are_those_of_the_files(bert: Made, llama: Made) -> None:
    for made in (bert, llama):
        page = made.report.page.read_text(encoding="utf-8")
        found = re.findall(r'href="(tables/[^"]+\.csv)".*?<table[^>]*>(.*?)</table>', page, flags=re.DOTALL)
        assert len(found) == len(list(made.folder.glob("tables/*.csv")))
        for file, body in found:
            frame = pd.read_csv(made.folder / file, keep_default_na=False, dtype=str)
            head, *rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, flags=re.DOTALL) for line in lines(body)]
            assert [html.unescape(cell) for cell in head] == list(frame.columns)
            assert len(rows) == len(frame)
            for cells, expected in zip(rows, frame.itertuples(index=False, name=None), strict=True):
                wrong = [(a, b) for a, b in zip(cells, expected, strict=True) if not same_cell(html.unescape(a), b)]
                assert not wrong, (file, wrong)


def lines(body: str) -> list[str]:
    return re.findall(r"<tr>(.*?)</tr>", body, flags=re.DOTALL)


def same_cell(shown: str, written: str) -> bool:
    if shown == written or shown == {"True": "yes", "False": "no"}.get(written):
        return True
    return bool(TOKEN.fullmatch(shown)) and agree(shown, float(written))


def test_the_page_shows_each_finding_twice_under_its_heading(bert: Made, llama: Made) -> None:
    """In the summary and in the section of its figure, where also its details and counts are."""
    for made in (bert, llama):
        page = made.report.page.read_text(encoding="utf-8")
        summary, *sections = re.split(r"<h2[^>]*>", page)[1:]
        assert len(sections) == len(made.report.shown)
        for section, (figure, shown) in zip(sections, made.report.shown, strict=True):
            text, top = (html.unescape(re.sub(r"<[^>]+>", "", part)) for part in (section, summary))
            assert text.startswith(figure.heading) and f"{figure.heading}" in top
            assert shown.finding in top and shown.finding in text and shown.n in text
            assert all(line in text for line in (*shown.details, *shown.notes))
