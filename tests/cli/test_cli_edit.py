"""`kntools edit` and `kntools evaluate`, on a tiny model in a local folder."""

from __future__ import annotations

import warnings
from pathlib import Path

import pandas as pd
import pytest

import kntools as kn
from kntools import analyses
from kntools.editing.rome_settings import RomeSettings
from tests import zoo
from tests.cli.test_cli import run, run_json

TEXT, TARGET = "The capital of Canada is", " Rome"


def test_edit_prints_what_the_library_says(tiny: str, tmp_path: Path) -> None:
    model = kn.load_model(tiny)
    moments = kn.second_moment(model, [1, 2], [*zoo.SENTENCES, *zoo.SENTENCES])
    below, c = moments[1], moments[2]
    file, other = c.save(tmp_path / "C2.safetensors"), below.save(tmp_path / "C1.safetensors")
    words = ["edit", TEXT, TARGET, "-s", "Canada", "--old", " Ottawa", "--model", tiny, "--layer", "2", "--steps", "3"]
    options = [
        "--symmetric",
        "Rome is the capital of",
        "--synonym",
        "Canada is",
        "--tokens",
        "3",
        "--out",
        str(tmp_path),
    ]
    found = run_json(*words, "--second-moment", str(other), "--second-moment", str(file), *options)
    for given, message in ([other], "that of layer 1"), ([file, file], "one file per layer"):
        refused = run(*words, *(word for name in given for word in ("--second-moment", str(name))))
        assert refused.exit_code == 2 and message in refused.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prompt = kn.Prompt(TEXT, " Ottawa", subject="Canada")
        edit = kn.rome(model, prompt, TARGET, layer=2, second_moment=c, settings=RomeSettings(steps=3))
    assert (found["before"], found["after"]) == pytest.approx((edit.before, edit.after), abs=1e-5)
    assert found["uses_second_moment"] and found["layer"] == 2 and found["warnings"] == edit.warnings()
    assert [e["group"] for e in found["examples"]] == ["edited", "symmetric", "synonym", "unrelated", "unrelated"]
    loaded = kn.load(tmp_path / "edit.safetensors")
    with loaded.applied(model):
        assert found["examples"][0]["after"] == kn.generate(model, TEXT, max_new_tokens=3)
    assert len(pd.read_csv(tmp_path / "examples.csv")) == 5 and len(pd.read_csv(tmp_path / "loss.csv")) == 3
    assert "Before and after" in (tmp_path / "index.html").read_text()
    table = run("edit", TEXT, TARGET, "--subject", "Canada", "--model", tiny, "--steps", "2", "--unrelated", "Is Japan")
    assert table.exit_code == 0 and "in L1" in table.stdout and "C = I" in table.stdout and "Is Japan" in table.stdout
    warned = [line for line in table.stdout.splitlines() if line.startswith("warning: ")]
    assert warned and max(len(line) for line in table.stdout.splitlines() if line not in warned) < 150


def test_the_edited_model_as_a_folder(tiny: str, tmp_path: Path) -> None:
    folder = tmp_path / "edited"
    words = ["edit", TEXT, TARGET, "-s", "Canada", "--model", tiny, "--steps", "3", "--tokens", "3", "--save-model"]
    found = run_json(*words, str(folder))
    assert found["saved_model"] == str(folder)
    assert kn.generate(kn.load_model(folder), TEXT, max_new_tokens=3) == found["examples"][0]["after"]
    again = run(*words, str(folder))
    assert again.exit_code != 0 and "give a new folder" in again.output


def test_evaluate_prints_what_the_library_says(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kntools.cli import evaluate
    from tests.analyses.test_edit_consistency import cases

    monkeypatch.setattr(evaluate, "make_cases", lambda *args, **kwargs: cases(2))
    words = ["counterfact", "--model", tiny, "--steps", "2", "--method", "rome", "--method", "edit_values"]
    out = ["--out", str(tmp_path / "out")]
    found = run_json("evaluate", *words, *out, "--layer", "2")
    model = kn.load_model(tiny)
    methods = analyses.editors(model, ["rome", "edit_values"], layer=2, settings=RomeSettings(steps=2))
    result = analyses.edit_consistency(model, cases(2), methods)
    frame = result.to_frame()
    assert found["cases"] == list(result.cases) and len(found["scores"]) == len(frame)
    for ours, theirs in zip(found["scores"], frame.to_dict("records"), strict=True):
        assert (ours["method"], ours["score"]) == (theirs["method"], theirs["score"])
        assert ours["value"] == pytest.approx(theirs["value"], abs=1e-5)
    assert len(pd.read_csv(tmp_path / "out.csv")) == len(frame)
    assert "efficacy" in (tmp_path / "out.html").read_text()
    with monkeypatch.context() as patch:
        patch.setattr("kntools.analyses.edit_methods.rome", None)  # nothing is edited twice, by either name
        assert run_json("figure", "11", *words, *out, "--layer", "2")["scores"] == found["scores"]
    other = run("evaluate", *words, *out, "--layer", "1")
    assert other.exit_code == 2 and "another run" in other.stderr
    table = run("evaluate", *words)
    assert table.exit_code == 0 and "efficacy" in table.stdout and "before" in table.stdout


def test_editors_of_several_layers_take_a_second_moment_of_each(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kntools.cli import evaluate
    from tests.analyses.test_edit_consistency import cases

    monkeypatch.setattr(evaluate, "make_cases", lambda *args, **kwargs: cases(2))
    model = kn.load_model(tiny)
    moments = kn.second_moment(model, [1, 2], [*zoo.SENTENCES, *zoo.SENTENCES])
    files = [moment.save(tmp_path / f"C{layer}.safetensors") for layer, moment in moments.items()]
    given = [word for file in files for word in ("--second-moment", str(file))]
    found = run_json(
        "evaluate", "counterfact", "--model", tiny, "--layer", "2", "--steps", "2", "--method", "memit", *given
    )
    methods = analyses.editors(model, ["memit"], layer=2, second_moment=moments, settings=RomeSettings(steps=2))
    frame = analyses.edit_consistency(model, cases(2), methods).to_frame()
    assert [row["value"] for row in found["scores"]] == pytest.approx(list(frame["value"]), abs=1e-5, nan_ok=True)
    one = analyses.editors(model, ["memit"], layer=2, second_moment=moments[2], settings=RomeSettings(steps=2))
    assert list(analyses.edit_consistency(model, cases(2), one).to_frame()["value"]) != list(frame["value"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["edit", TEXT, TARGET, "-s", "Japan"], "not in the text"),
        (["edit", TEXT, TARGET, "-s", "Canada", "--old", "Rome"], "nothing to edit"),
        (["edit", TEXT, TARGET, "-s", "Canada", "--layer", "9"], "layers 0 to 3"),
        (["edit", TEXT, TARGET, "-s", "Canada", "--key", "mean"], "published"),
        (["edit", TEXT, TARGET, "-s", "Canada", "--tokens", "0"], "--tokens"),
        (["edit", TEXT, TARGET, "-s", "Canada", "--second-moment", "nowhere"], "no file"),
        (["edit", "The capital of [MASK]", TARGET, "-s", "The"], "causal models"),
        (["edit", TEXT, "Ottawa", "-s", "Canada", "--model", "tiny-bert"], "only causal models can be edited"),
        (["evaluate", "counterfact", "--method", "luck"], "unknown method 'luck'"),
        (["evaluate", "P36", "--method", "rome", "--bound", "1"], "bound=1.0 has no effect on rome"),
        (["evaluate", "P36", "--method", "edit_values", "--layer", "2"], "layer=2 has no effect on edit_values"),
        (["evaluate", "P36", "--method", "fine_tune", "--steps", "3"], "steps=3 has no effect on fine_tune"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, tiny: str) -> None:
    result = run(words[0], "--model", tiny, *words[1:])
    assert result.exit_code == 2
    assert said in result.stderr and "Traceback" not in result.stderr
