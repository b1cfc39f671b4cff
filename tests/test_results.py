"""The tables of the documentation are those of the committed results, and these those of the finished items."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import kntools as kn
from kntools.analyses import EDITORS
from kntools.analyses.edit_result import SCORES, EditConsistency
from kntools.analyses.fig09_tracing_profile import TracingProfile
from kntools.attribution.faithfulness import SHARES
from kntools.results import run_store
from kntools.results.run_file import RunFile
from scripts.result_commands import COMMANDS, RESULTS, ROOT, SAVED, TRACES, command, items, tables_of
from scripts.results import TABLES, Table

PAGES = sorted({table.page for table in TABLES})


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.marker)
def test_a_table_on_a_page_is_what_the_results_say(table: Table, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text((ROOT / table.page).read_text("utf-8"), encoding="utf-8")
    table.write(page)
    assert page.read_text("utf-8") == (ROOT / table.page).read_text("utf-8"), "python -m scripts.results"
    assert table.cells()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_is_on_a_page(name: str) -> None:
    assert any(command(name) in (ROOT / page).read_text("utf-8") for page in PAGES)


def test_pages_have_no_place_that_was_not_filled() -> None:
    for page in PAGES:
        assert not re.findall(r"@@\w+", (ROOT / page).read_text("utf-8"))


def rows(name: str) -> list[dict[str, Any]]:
    return list(kn.load(RESULTS / f"{name}.json").rows)


@pytest.mark.parametrize("name", ["pairs", "pairs-probability", "localisation"])
def test_searches_are_those_of_the_items(name: str) -> None:
    # Keys are `source/group/hash`, those of newer runs `source/group/hash/metric`.
    found = {key.rsplit("/", 1 if name == "localisation" else 2)[0]: payload for key, payload in items(name).items()}
    table = rows(name)
    assert len(table) == len(found) >= 40
    for row in table:
        payload = found[f"{row['source']}/{row['group' if name == 'localisation' else 'pair']}"]
        same = ("prompts", "neurons", "converged")
        assert [row[k] for k in same] == [payload[k] for k in same] and row["tau"] == payload["share"]
        if name == "localisation":
            assert (row["count"], row["r1"]) == (len(payload["neurons"]), payload["r1"])
            assert row["null_r1"] == payload["null"]["r1"]


@pytest.mark.parametrize("name", SAVED)
def test_tables_are_what_the_result_says_now(name: str) -> None:
    for path, frame in tables_of(name).items():
        made = pd.read_csv(io.StringIO(frame.to_csv(index=False)))
        pd.testing.assert_frame_equal(pd.read_csv(path), made, check_exact=False, rtol=1e-9)


def test_every_table_has_its_result() -> None:
    """Those of traces are compared with their items below; these two are of results that are large."""
    made = {path.stem for name in SAVED for path in tables_of(name)}
    traces = {f"tracing-{what}{part}" for what in TRACES for part in ("", "-sites")}
    assert {path.stem for path in RESULTS.glob("*.csv")} == made | traces | {"profile", "shift-plural"}


@pytest.mark.parametrize("name", ["pairs", "pairs-probability"])
def test_only_a_contrast_has_neurons_of_the_foil(name: str) -> None:
    assert pd.read_csv(RESULTS / f"{name}-claims.csv")["against"].isna().all() == (name == "pairs-probability")


def test_transfer_is_that_of_the_items() -> None:
    found = kn.load(RESULTS / "transfer-plurals.json")
    before, *after = (
        [payload[k] for values in items("transfer-plurals").values() for payload in values] for k in range(5)
    )
    table = pd.DataFrame(found.rows)
    for k, edit in enumerate(("at the answer", "at all positions")):
        own = table[table["edit"] == edit]
        assert sorted(own["before"]) == sorted(before)
        assert sorted(own["after"]) == sorted(after[2 * k]) and sorted(own["random"]) == sorted(after[2 * k + 1])


@pytest.mark.parametrize("name", ["reliability-pairs", "reliability-facts"])
def test_overturned_predictions_are_those_of_the_items(name: str) -> None:
    payloads = items(name)
    table = pd.DataFrame(rows(name))
    right = [payload for payload in payloads.values() if payload["correct"]]
    assert len(table) == sum(len(payload["outcomes"]) for payload in right)
    assert len(right) >= (500 if name.endswith("pairs") else 200)
    for edit, some in table.groupby("edit"):
        outcomes = [o for payload in right for o in payload["outcomes"] if o["edit"] == edit]
        for column in ("overturned", "random"):
            assert some[column].sum() == sum(o[column] for o in outcomes)
    summary = pd.read_csv(RESULTS / f"{name}-summary.csv")
    for row in summary.itertuples():
        some = table[(table["source"] == row.source) & (table["edit"] == row.edit)]
        assert (row.n, row.share) == (len(some), pytest.approx(some["overturned"].mean()))


def test_ways_to_choose_are_those_of_the_items() -> None:
    payloads, summary = items("methods"), pd.read_csv(RESULTS / "methods-summary.csv").set_index("method")
    assert len(payloads) >= 40 and set(summary["n"]) == {len(payloads)}
    for method, row in summary.iterrows():
        own = [r for payload in payloads.values() for r in payload if r["method"] == method]
        assert row["drop"] == pytest.approx(sum(r["before"] - r["after"] for r in own) / len(own))
        clean, none = (sum(r[name] for r in own) for name in ("before", "ablated"))
        f = [(sum(r["kept"][k] for r in own) - none) / (clean - none) for k in range(len(own[0]["kept"]))]
        at = torch.tensor(SHARES, dtype=torch.float64).log()
        area = torch.trapezoid(torch.tensor(f, dtype=torch.float64), at) / (at[-1] - at[0])
        assert row["cpr"] == pytest.approx(float(area), rel=1e-5) and row["cpr_low"] <= row["cpr"] <= row["cpr_high"]


@pytest.mark.parametrize("what", ["tiny-bert", "smollm2"])
def test_recall_of_planted_neurons_is_that_of_the_items(what: str) -> None:
    every = [row for payload in items(f"planted-{what}").values() for row in payload]
    table = pd.read_csv(RESULTS / f"planted-{what}-recall.csv")
    for row in table.to_dict("records"):
        ranks = [r["ranks"] for r in every if r["method"] == row["method"] and r["after"] >= 0.95]
        found = [sum(rank <= row["k"] for rank in own) / len(own) for own in ranks]
        assert (row["n"], row["recall"]) == (len(ranks), pytest.approx(sum(found) / len(found)))


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.startswith(("editors-", "fine-tune"))])
def test_scores_of_edits_are_those_of_the_items(name: str) -> None:
    payloads = items(name)
    before = {key.removeprefix("before/"): payload for key, payload in payloads.items() if key.startswith("before/")}
    after: dict[str, dict[str, Any]] = {}
    for key, some in payloads.items():
        method, *cases = key.split("/")
        if method != "before":
            after.setdefault(method, {}).update(zip("/".join(cases).split("/"), some, strict=True))
    edited = next(iter(after.values()))
    done = [key for key in before if key in edited and not any("error" in after[m][key] for m in after)]
    result = EditConsistency(
        tuple(done),
        tuple(before[key] for key in done),
        {method: tuple(after[method][key] for key in done) for method in after},
        {},
        {"model": "smollm2-135m"},
    )
    assert len(before) == len(done) == {"editors-P1376": 50}.get(name, 100)
    table = pd.read_csv(RESULTS / f"{name}.csv")
    columns = ["method", "condition", "score", "n", "value"]
    keys = ["method", "condition", "score"]
    ours = result.to_frame()[columns].sort_values(keys).reset_index(drop=True)
    theirs = table[columns].sort_values(keys).reset_index(drop=True)
    pd.testing.assert_frame_equal(ours, theirs, check_exact=False, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "order", "editors"),
    [
        ("forgetting", "at once", set(EDITORS)),
        ("forgetting-sequence", "in sequence", {"rome", "memit", "fine_tune", "edit_values"}),
    ],
)
def test_the_forgetting_curve_is_that_of_the_items(name: str, order: str, editors: set[str]) -> None:
    table = pd.read_csv(RESULTS / f"{name}.csv").set_index(["editor", "order", "edits", "score"]).sort_index()
    seen = 0
    for key, states in items(name).items():
        editor, made, _ = key.split("/")
        assert made == ("" if editor == "before" else order)
        for edits, state in states.items():
            assert len(state["answers"]) == int(edits)
            rows = table.loc[(editor, order, int(edits))]
            assert set(rows["failed"]) == {state["failed"]}
            answers = {score: [v for v in map(of, state["answers"]) if v is not None] for score, of in SCORES.items()}
            expected = {score: np.mean(values) for score, values in answers.items() if values}
            assert rows["value"].to_dict() == pytest.approx({**expected, "perplexity": state["perplexity"]}, rel=1e-9)
            seen += len(rows)
    assert seen == len(table) and {*table.index.get_level_values("editor")} == {"before", *editors}


def test_the_regression_on_traces_is_that_of_the_items() -> None:
    payloads = items("traced")
    before = {
        k.removeprefix("before/"): p["answers"]["rewrite new"][0]["p"] for k, p in payloads.items() if "before" in k
    }
    traced = RunFile(RESULTS / "runs" / "traced-traces").read()[1]
    effects = {list(before)[int(key.split("/")[0])]: effect for key, effect in traced.items()}
    facts, success, effect, layers = [], [], [], []
    for key, after in payloads.items():
        layer, *cases = key.split("/")
        if layer == "before":
            continue
        for case, payload in zip("/".join(cases).split("/"), after, strict=True):
            if case in effects:
                p = payload["answers"]["rewrite new"][0]["p"]
                facts.append(case)
                layers.append(int(layer))
                success.append((p - before[case]) / (1 - before[case]))
                effect.append(effects[case][int(layer)])
    table = pd.read_csv(RESULTS / "traced.csv").set_index(["fact", "layer"])
    mine = pd.DataFrame({"effect": effect, "success": success}, index=pd.MultiIndex.from_arrays([facts, layers]))
    pd.testing.assert_frame_equal(mine.loc[table.index].rename_axis(table.index.names), table, rtol=1e-9)
    y, dummies = np.array(success), np.eye(max(layers) + 1)[layers]
    columns = {"layer": dummies, "effect": np.column_stack([np.ones(len(y)), effect])}
    columns["layer and effect"] = np.column_stack([dummies, effect])
    found = pd.read_csv(RESULTS / "traced-regression.csv").set_index("success on")
    for name, x in columns.items():
        residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        assert found.loc[name, "r2"] == pytest.approx(1 - residual.var() / y.var(), abs=1e-9)
    assert found.loc["gain", "r2"] == pytest.approx(found.loc["layer and effect", "r2"] - found.loc["layer", "r2"])
    assert table.index.get_level_values("fact").nunique() == 40 and set(layers) == set(range(30))


@pytest.mark.parametrize("what", TRACES)
def test_traces_are_those_of_the_items(what: str) -> None:
    name = f"tracing-{what}"
    header, payloads = RunFile(RESULTS / "runs" / name).read()
    settings = header["settings"]
    found = [payloads[key] for key in sorted(payloads, key=lambda key: int(key.split("/")[0]))]
    profile = TracingProfile(
        effects=torch.stack([item["effects"] for item in found], dim=1),
        clean=torch.tensor([one["clean"] for one in found]),
        corrupted=torch.tensor([one["corrupted"] for one in found]),
        variants=tuple((kind, cut) for kind, cut in settings["variants"]),
        prompts=(kn.Prompt("in the items", " by number"),) * len(found),
        window=settings["window"],
        provenance={"model": "smollm2-135m"},
    )
    assert len(found) >= 24
    for table, file in ((profile.to_frame(), f"{name}.csv"), (profile.summary(), f"{name}-sites.csv")):
        committed = pd.read_csv(RESULTS / file, dtype={"kind": str, "severed": str}, keep_default_na=False)
        pd.testing.assert_frame_equal(table, committed, check_exact=False, rtol=1e-6)


def test_runs_of_one_model_say_so() -> None:
    """The headers are what a command that is given again compares with."""
    headers = [
        RunFile(path).read()[0]
        for path in sorted((RESULTS / "runs").glob("*.jsonl"))
        if not path.stem.endswith((".search", "-traces"))
    ]
    assert len(headers) == len(COMMANDS) - 1  # that of `profile` is large, and is not kept
    weights = {h["model"]: h["fingerprint"] for h in headers}
    assert set(weights) == {"smollm2-135m", "tiny-bert"} and {h["format"] for h in headers} == {run_store.FORMAT}
    assert all(h["fingerprint"] == weights[h["model"]] for h in headers)
