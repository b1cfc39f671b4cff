"""The report on two tiny models: every figure is there, says what its tables hold, and survives a kill."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import kntools as kn
from kntools.report import FIGURES, QUICK, Report, Size, Study, build, choose
from kntools.report.page import Chart
from kntools.results.run_file import RunFile
from kntools.results.run_store import RunStore
from tests import browser, planted, zoo
from tests.cli.test_cli import run, run_json
from tests.report.test_page import Elements, assert_self_contained

pytestmark = pytest.mark.filterwarnings("ignore:.*using kntools' built-in sample:UserWarning")

SIZE = replace(
    QUICK,
    facts=2,
    phrasings=3,
    draws=2,
    per_determiner=3,
    pairs=4,
    groups=2,
    frames=3,
    nouns=6,
    judged_pairs=4,
    judged_facts=2,
    traces=2,
    edits=2,
)
COMMAND = "kntools report --model tiny-bert --quick --out DIR"


def bert_study(out: Path, size: Size = SIZE) -> Study:
    return Study(kn.load_model("tiny-bert"), size, out)


@pytest.fixture(scope="module")
def sample_only() -> Iterator[None]:
    """No data but what ships with the package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KNTOOLS_DATA", raising=False)
        yield


@pytest.fixture(scope="module")
def bert(sample_only: None, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return build(bert_study(tmp_path_factory.mktemp("bert")), FIGURES, command=COMMAND)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A random model, and a data folder with pairs in its words."""
    root = tmp_path_factory.mktemp("data")
    (root / "blimp").mkdir()
    planted.write_pairs(root / "blimp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KNTOOLS_DATA", str(root))
        study = Study(zoo.tiny("llama"), SIZE, tmp_path_factory.mktemp("llama"))
        return build(study, FIGURES)


def sentence(report: Report, key: str) -> str:
    return next(shown.sentence for figure, shown in report.shown if figure.key == key)


def table(report: Report, name: str) -> pd.DataFrame:
    return pd.read_csv(report.page.parent / "tables" / f"{name}.csv")


# Everything is there.


def test_all_figures_are_on_the_page(bert: Report, llama: Report) -> None:
    assert [f.key for f in FIGURES] == ["facts", *map(str, range(1, 9)), "transfer", *map(str, range(9, 12))]
    for report, not_shown in ((bert, {"10"}), (llama, {"6"})):
        html = report.page.read_text(encoding="utf-8")
        assert_self_contained(html)
        for figure, shown in report.shown:
            assert f">{figure.heading}</h2>" in html and figure.question in Elements(html).text
            missing = shown.sentence.startswith("Not shown")
            assert missing == (figure.key in not_shown), (figure.key, shown.sentence)
            assert bool(shown.blocks) != missing
    assert "masked models do not continue text" in sentence(bert, "10")
    assert "its data set was not found" in sentence(llama, "6")


def test_what_is_left_out_is_said(llama: Report) -> None:
    notes = {figure.key: shown.remarks for figure, shown in llama.shown}
    assert "P36" in notes["3"] and "P36" in notes["8"]  # a random model knows no fact
    assert "determiner-noun agreement (its data set was not found" in notes["9"]


def test_a_model_without_neurons_has_a_page_of_what_it_has(sample_only: None, tmp_path: Path) -> None:
    found = build(Study(zoo.tiny("mixtral"), SIZE, tmp_path / "experts"), choose(["facts", "9", "10"]))
    for key in ("facts", "10"):
        assert sentence(found, key).startswith("Not shown for this model: layer 0 of tiny-mixtral has no neurons")
    assert not sentence(found, "9").startswith("Not shown")
    mamba = build(Study(zoo.tiny("mamba"), SIZE, tmp_path / "mamba"), choose(["9"]))
    assert "hook 'blocks.0.hook_mlp_out' does not exist on this model (3 layers)." in sentence(mamba, "9")
    assert "<dt>Neurons</dt><dd>none</dd>" in found.page.read_text(encoding="utf-8")


def test_no_path_of_this_machine_no_time_and_no_date(bert: Report, llama: Report) -> None:
    for report in (bert, llama):
        html = report.page.read_text(encoding="utf-8")
        body = html[html.index("<header>") : html.index('id="templates"')]
        assert "/tmp" not in body and str(Path.home()) not in body and "seconds" not in body


def test_every_table_has_its_files(bert: Report, llama: Report) -> None:
    for report in (bert, llama):
        links = [str(a["href"]) for a in Elements(report.page.read_text(encoding="utf-8")).named("a")]
        files = [link for link in links if not link.startswith("#")]
        assert len(files) > 30 and len(set(files)) == len(files)
        for link in files:
            assert (report.page.parent / link).stat().st_size > 0
        for file in report.files:
            if file.suffix == ".csv":
                rows = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
                assert list(rows[0]) == list(pd.read_csv(file).columns) and len(rows) == len(pd.read_csv(file))


# What is measured.


def test_figure_7_is_counted_from_the_probabilities(bert: Report) -> None:
    """The number of overturned prompts, from the items of the run."""
    from kntools.analyses.words import FIGURE_5

    words = [word for some in FIGURE_5.values() for word in some]
    lost = known = 0
    for key, payload in RunFile(bert.page.parent / "runs" / "probability_shift_plural").read()[1].items():
        if not key.startswith("plural/"):
            continue
        before, after = (pd.DataFrame(side, columns=words) for side in payload[0])
        right = [(side["these"] + side["those"]) > (side["this"] + side["that"]) for side in (before, after)]
        known += int(right[0].sum())
        lost += int((right[0] & ~right[1]).sum())
    assert f"in {lost} of {known} (" in sentence(bert, "7").partition("; ")[2]


# Killed, chosen, refused.


def files_of(folder: Path) -> dict[str, bytes]:
    """The page and the tables."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in [folder / "index.html", *folder.glob("tables/*")]}


def test_killed_and_resumed_it_is_the_same(bert: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sum(len(RunFile(file).read()[1]) for file in bert.page.parent.glob("runs/*.jsonl"))
    put, times = RunStore.put, []

    def stopping(self: RunStore, key: str, payload: Any) -> None:
        put(self, key, payload)
        times.append(key)
        if len(times) == whole // 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunStore, "put", stopping)
    with pytest.raises(KeyboardInterrupt):
        build(bert_study(tmp_path), FIGURES, command=COMMAND)
    done = {file: file.read_bytes() for file in tmp_path.glob("runs/*.jsonl")}
    assert sum(len(RunFile(file).read()[1]) for file in done) == whole // 2
    assert not (tmp_path / "index.html").exists()
    build(bert_study(tmp_path), FIGURES, command=COMMAND)
    assert len(times) == whole  # nothing twice
    assert all(file.read_bytes().startswith(before) for file, before in done.items())
    assert files_of(tmp_path) == files_of(bert.page.parent)


def test_a_figure_alone_has_the_same_numbers(bert: Report, tmp_path: Path) -> None:
    alone = build(bert_study(tmp_path), choose(["suppression_effect"]), command=COMMAND)
    assert [figure.key for figure, _ in alone.shown] == ["5"]
    found, whole = files_of(tmp_path), files_of(bert.page.parent)
    assert len(found) == 5  # the page, and two tables
    for name in found.keys() - {"index.html"}:
        assert found[name] == whole[name]


def test_the_folder_of_another_report_is_refused(bert: Report) -> None:
    with pytest.raises(ValueError, match=r"another run: its settings is \{'seed': 0\}, not \{'seed': 1\}"):
        Study(kn.load_model("tiny-bert"), SIZE, bert.page.parent, seed=1)
    with pytest.raises(ValueError, match="another run: its settings"):
        bert_study(bert.page.parent, replace(SIZE, traces=99))
    with pytest.raises(ValueError, match="another run: its model is tiny-bert"):
        Study(zoo.tiny("llama"), SIZE, bert.page.parent)


def test_a_report_does_not_go_on_with_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample_only: None
) -> None:
    bert_study(tmp_path / "out")
    (tmp_path / "data/blimp").mkdir(parents=True)
    planted.write_pairs(tmp_path / "data/blimp")
    monkeypatch.setenv("KNTOOLS_DATA", str(tmp_path / "data"))
    with pytest.raises(ValueError, match=r"another run: its settings is \{'stand_ins': \['BLiMP', .*not .*\['ParaRel'"):
        bert_study(tmp_path / "out")


def test_unknown_figures() -> None:
    assert [f.key for f in choose(["localisation", "1"])] == ["1", "3"]
    assert choose([]) == FIGURES
    with pytest.raises(ValueError, match=r"unknown figures 12, b; there are facts .*11 \(edit_consistency\)"):
        choose(["12", "1", "b"])


# The command line.


def test_the_command_and_the_one_on_its_page(
    sample_only: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kntools.cli.report.QUICK", SIZE)
    words = ["report", "--model", "tiny-bert", "--quick", "--figures", "2"]
    found = run_json(*words, "--out", str(tmp_path / "first"))
    assert [(f["figure"], f["analysis"]) for f in found["figures"]] == [("2", "pair_search")]
    assert found["model"] == "tiny-bert" and all(Path(file).is_file() for file in found["files"])
    html = Path(found["page"]).read_text(encoding="utf-8")
    [alone] = re.findall(r"<pre[^>]*><code>(kntools [^<]+)</code>", html)
    again = run(*(str(tmp_path / "second") if word == "DIR" else word for word in shlex.split(alone)[1:]))
    assert again.exit_code == 0, again.stderr
    assert found["figures"][0]["finding"] in again.stdout and "Figure 2" in again.stderr
    assert again.stderr.count("built-in sample instead") == 1
    assert "BLiMP, ParaRel, known facts, CounterFact" in again.stderr
    assert "UserWarning" not in again.stderr and "in its place" not in again.stderr
    assert "also replaces ParaRel, known facts, CounterFact" in html
    assert files_of(tmp_path / "first") == files_of(tmp_path / "second")
    other = run(*words, "--seed", "5", "--out", str(tmp_path / "first"))
    assert other.exit_code == 2 and "name a new run" in other.stderr


def test_mistakes_are_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    wrong = run("report", "--model", "no-such-model", "--figures", "13", "--out", str(tmp_path))
    assert wrong.exit_code == 2 and "unknown figures 13; there are facts" in wrong.stderr
    assert run("report", "--model", "no-such-model", "--out", str(tmp_path)).exit_code == 2
    assert not any(tmp_path.iterdir())


# Pictures and the browser.


def test_pictures_are_drawn_in_one_go_or_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import plotly.graph_objects as go
    import plotly.io

    drawn: dict[str, list[Any]] = {}
    some = [Chart(go.Figure(layout={"height": 300 + n}), "", name=f"p{n}", min_width=1200 * n) for n in (0, 1)]
    module = import_module("kntools.report.build")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    files, note = module._pictures(tmp_path, some)
    assert files == [] and "kntools[images]" in note
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setattr(plotly.io, "write_images", lambda **given: drawn.update(given))
    files, note = module._pictures(tmp_path, some)
    assert not note and [f.name for f in files] == ["p0.png", "p0.svg", "p1.png", "p1.svg"]
    assert drawn["height"] == [300, 300, 301, 301] and drawn["width"] == [1000, 1000, 1200, 1200]

    def fails(**given: Any) -> None:
        raise RuntimeError("no browser")

    monkeypatch.setattr(plotly.io, "write_images", fails)
    assert "RuntimeError: no browser" in module._pictures(tmp_path, some)[1]


@pytest.mark.slow
@pytest.mark.skipif(browser.find() is None, reason=browser.MISSING)
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_a_browser_draws_every_figure(bert: Report, tmp_path: Path, width: int, dark: bool) -> None:
    seen = browser.visit(bert.page, tmp_path / "profile", width=width, dark=dark)
    assert seen.console == []
    assert seen.overflow <= 0
    assert f'data-theme="{"dark" if dark else "light"}"' in seen.dom
    wanted = re.findall(r'data-plot="([^"]+)"', bert.page.read_text(encoding="utf-8"))
    assert len(wanted) == sum(isinstance(block, Chart) for _, shown in bert.shown for block in shown.blocks) > 15
    for name in wanted:
        plot = seen.dom.split(f'id="{name}"', 1)[1].split("<script", 1)[0]
        # Axes, and something between them.
        assert 'class="main-svg"' in plot and re.search(r'class="(point|trace|hm|js-fill|layer-above)|<image', plot), (
            name
        )
