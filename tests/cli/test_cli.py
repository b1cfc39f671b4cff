"""The command line on a tiny model in a local folder: help, mistakes, options of all commands."""

import json
import re
import shlex
import subprocess
import sys
import warnings
from functools import cache
from html import unescape
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pandas as pd
import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

import kntools as kn
from kntools.attribution.neuron_card import neuron_card
from kntools.cli import app, figures
from kntools.cli.output import Output, Sheet, emit
from kntools.options import options
from tests import zoo

TEXT, TARGET = "The capital of Canada is", " Ottawa"
TEXTS = [TEXT, "Is Canada near Ottawa? The capital of Canada is", "The city of Canada is"]


def save_tiny(name: str, folder: Path) -> Path:
    zoo.hf_model(name).save_pretrained(folder)
    zoo.tokenizer(name).save_pretrained(folder)
    return folder


@cache
def _loaded(source: str, **options: Any) -> Any:
    """A model that commands share: they leave it as they found it."""
    return kn.load_model(source, **options)


def run(*words: str) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kntools.cli.options.load_model", _loaded)
        return CliRunner().invoke(app, [str(w) for w in words])


def run_json(*words: str) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)  # nothing but JSON


def test_version() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout == f"kntools {kn.__version__}\n"


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize(
    ("command", "options"),
    [
        (["attribute"], ["--rule", "--draws"]),
        (["search"], ["--rule", "--threshold"]),
        (["patch"], ["--site", "--multi-token"]),
        (["trace"], ["--subject", "--sever"]),
        (["edit"], ["--layer", "--second-moment"]),
        (["evaluate"], ["--layer", "--second-moment", "--run"]),
        (["report"], ["--quick", "--figures"]),
        (["figure", "3"], ["--null", "--run", "--paper"]),
        (["figure", "localisation"], ["--null", "--run", "--paper"]),
    ],
)
def test_help_of_every_command(command: list[str], options: list[str], flag: str) -> None:
    result = run(*command, flag)
    assert result.exit_code == 0
    for option in ("--model", "--bos", "--device", "--dtype", "--max-rows", "--out", "--seed", "--json", *options):
        assert option in result.stdout


def test_help_lists_the_commands() -> None:
    names = {"attribute", "search", "patch", "trace", "edit", "evaluate", "figure", "report"}
    assert all(name in run("-h").stdout for name in names)
    assert run().exit_code == 2 and "attribute" in run().stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["attribute", "", TARGET], "the text of"),
        (["attribute", TEXT, TARGET, "--model", "smollm2-153m"], "did you mean 'smollm2-135m'"),
        (["attribute", TEXT, TARGET, "--model", "./no-such-folder"], "unknown model"),
        (["attribute", TEXT, " Ouagadougou", "--model", "TINY"], "multi_token='first'"),
        (["attribute", "The capital is [MASK].", "Ottawa", "--model", "TINY"], "causal model"),
        (["attribute", TEXT, TARGET, "--model", "TINY", "--rule", "dai", "--steps", "0"], "--steps"),
        (["attribute", TEXT, TARGET, "--model", "TINY", "--tol", "2"], "tol=2"),
        (["attribute", TEXT, TARGET, "--model", "TINY", "--steps", "9"], "steps=9 has no effect"),
        (["attribute", TEXT, TARGET, "--model", "./no-such-folder", "--out", __file__], "test_cli.py is no folder"),
        (["figure", "1", TEXT, "--model", "./no-such-folder", "--out", f"{__file__}/a"], "test_cli.py is no folder"),
        (["trace", TEXT, TARGET, "-s", "Canada", "--model", "TINY", "--foil", " Rome"], "with --metric probability"),
        (["patch", TEXT, TARGET, TEXT, "--metric", "logit", "--foil", " Rome"], "has no effect with --metric logit"),
        (["evaluate", "P36", "--generations", "3", "--model", "TINY"], "generations=3 has no effect for P36"),
        (["figure", "6", __file__, "--run", "x"], "--run"),
        (["attribute", TEXT, TARGET, "--model", "TINY", "--top", "0"], "for '--top': 0 should be"),
        (["attribute", TEXT, TARGET, "--model", "TINY", "--draws", "-1"], "--draws"),
        (["attribute", "Canada " * 100 + "is", TARGET, "--model", "TINY"], "context holds"),
        (["attribute", TEXT, TARGET, "--model", "TINY", "--device", "abacus"], "device='abacus' is not a device"),
        (["attribute", TEXT, TARGET, "--model", "TINY", "--dtype", "int8"], "dtype='int8'"),
        (["attribute", TEXT, TARGET, "--model", "TINY", "--max-rows", "0"], "--max-rows"),
        (["attribute", TEXT, TARGET, "--model", "TINY", "--rule", "simpson"], "'--rule': 'simpson' is not one of"),
        (["attribute", TEXT, "Ottawa", "--model", "TINY"], "write ' Ottawa'"),
        (["attribute", TEXT], "target"),
        (["attribute", TEXT, TARGET, "--modle", "TINY"], "--modle"),
        (["atribute", TEXT, TARGET], "did you mean 'attribute'"),
        (["report", "--quick"], "--out"),
        (["figure", "locaisation"], "did you mean 'localisation'"),
        (["figure", "12"], "unknown figure '12'"),
        (["search", "--model", "TINY"], "--file FILE"),
        (["search", TARGET, "--model", "TINY"], "no prompts given"),
        (["search", TARGET, TEXT, TEXT, "--model", "./no-such-folder"], "is given 2 times"),
        (["search", TARGET, TEXT, "--model", "TINY", "--threshold", "3"], "threshold=3"),
        (["search", TARGET, TEXT, "--model", "TINY", "--share", "0"], "share=0"),
        (["search", TARGET, TEXT, "--model", "TINY", "--least", "4", "--most", "2"], "target_count=(4, 2)"),
        (["search", "--file", "nowhere.jsonl", "--model", "TINY"], "nowhere.jsonl"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_type(words: list[str], says: str, tiny: str) -> None:
    result = run(*(tiny if w == "TINY" else w for w in words))
    assert result.exit_code == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("kntools: ")
    assert says in lines[0]
    assert result.stdout == ""


def test_a_bad_line_in_a_file_is_named(tiny: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"text": "The capital of Canada is", "target": " Ottawa"}\n{"text": "x"}\n')
    result = run("search", "--file", file, "--model", tiny)
    assert result.exit_code == 2
    assert "prompts.jsonl:2" in result.stderr
    assert "target" in result.stderr


def test_a_file_where_the_folder_should_be(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    result = run("attribute", TEXT, TARGET, "--model", tiny, "--out", tmp_path / "taken")
    assert result.exit_code == 2
    assert "taken" in result.stderr


def test_debug_shows_the_traceback(tiny: str) -> None:
    result = run("attribute", TEXT, " Ouagadougou", "--model", tiny, "--debug")
    assert isinstance(result.exception, ValueError)


def test_warnings_are_one_line_each(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(*args: Any, **options: Any) -> None:
        warnings.warn("no data here;\n  pass more", stacklevel=1)
        raise ValueError("that was\n all")

    monkeypatch.setattr("kntools.analyses.neuron_search.integrated_gradients", warn)
    shown = warnings.showwarning
    result = run("attribute", TEXT, TARGET, "--model", tiny)
    assert result.stderr == "kntools: no data here; pass more\nkntools: that was all\n"
    assert warnings.showwarning is shown  # and afterwards as before


def test_a_key_error_is_shown_without_quotes(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise KeyError("hook 'x' does not exist")

    monkeypatch.setattr("kntools.analyses.neuron_search.integrated_gradients", fail)
    assert run("attribute", TEXT, TARGET, "--model", tiny).stderr == "kntools: hook 'x' does not exist\n"


def _interrupt(*args: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_command_says_that_nothing_was_kept(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kntools.analyses.neuron_search.integrated_gradients", _interrupt)
    result = run("attribute", TEXT, TARGET, "--model", tiny)
    assert result.exit_code == 130 and result.stdout == ""
    assert "nothing was saved" in result.stderr and len(result.stderr.splitlines()) == 1


def test_rows_and_bars_are_set_for_the_command_alone(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(*args: Any, **settings: Any) -> Any:
        seen.append(options())
        return kn.integrated_gradients(*args, **settings)

    monkeypatch.setattr("kntools.analyses.neuron_search.integrated_gradients", look)

    def look_again(*args: Any, **settings: Any) -> Any:
        seen.append(options())
        return neuron_card(*args, **settings)

    monkeypatch.setattr("kntools.report.cards.neuron_card", look_again)  # for the page, which is written last
    before = options()
    run_json("attribute", TEXT, TARGET, "--model", tiny, "--max-rows", "3", "--draws", "0", "--out", tmp_path / "out")
    assert len(seen) == 2 and options() == before
    assert {(seen_one.max_rows, seen_one.progress) for seen_one in seen} == {(3, False)}


def test_the_type_of_the_weights(tiny: str) -> None:
    exact, coarse = (
        run_json("attribute", TEXT, TARGET, "--model", tiny, "--dtype", dtype, "--rule", "midpoint")["probability"]
        for dtype in ("float32", "bfloat16")
    )
    assert exact != coarse and exact == pytest.approx(coarse, rel=0.2)


@pytest.mark.parametrize(
    ("words", "code"), [(["-h"], 0), (["figure", "-h"], 0), ([], 2), (["--version"], 0), (["figure", "12"], 2)]
)
def test_help_needs_no_pytorch(words: list[str], code: int) -> None:
    """... nor anything else that takes seconds to import."""
    script = (
        "import sys\n"
        f"sys.argv = ['kntools', *{words}]\n"
        "from kntools.cli import app\n"
        "try:\n    app()\n"
        "finally:\n    print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert not {"torch", "transformers", "transformer_lens", "numpy", "pandas", "plotly"} & {*done.stderr.split()}
    if words in (["-h"], []):
        lines = done.stdout.splitlines()
        for name in ("attribute", "search", "patch", "trace", "edit", "evaluate", "report", "figure"):
            assert any(re.search(rf"^\W*{name} +\w", line) for line in lines), name


@pytest.mark.parametrize("group", [app, figures])
def test_the_list_says_what_the_commands_say(group: Any) -> None:
    """What `-h` reads from their source is what they are made of, and each of them is there."""
    for name, late in get_command(group).commands.items():
        if name != "figure":
            assert late.command.name == name and late.help.removeprefix(f"{name}: ").endswith(late.command.help)
            assert [p.name for p in late.command.params] and late.command.hidden is False


@pytest.mark.parametrize("group", [app, figures])
def test_every_number_has_a_least_value(group: Any) -> None:
    """A number that is too small is an error before the model is loaded."""
    seen = 0
    for name, late in get_command(group).commands.items():
        made = None if name == "figure" else getattr(import_module(f"kntools.cli.{late.module}"), late.function)
        for option in signature(made).parameters.values() if made else ():
            if re.search(r"\bint\b", str(get_args(option.annotation)[:1])):
                seen += 1
                assert option.annotation.__metadata__[0].min is not None, f"{name} --{option.name}"
    assert seen > 20


def test_what_a_face_has_is_imported_when_it_is_asked_for(tmp_path: Path) -> None:
    """... and so are the analyses whose results are loaded."""
    row = {"group": "edited", "text": "a", "before": "b", "after": "c"}
    path = kn.analyses.EditExamples.of([row], {}, edit="an edit").save(tmp_path / "examples.safetensors")
    script = (
        "import sys, kntools as kn\n"
        "assert 'torch' not in sys.modules and kn.__version__\n"
        "from kntools.results.result import load\n"
        "assert 'kntools.face' not in sys.modules\n"
        f"assert load({str(path)!r}).to_frame().to_dict('records') == [{row}]\n"
        "assert kn.Neuron(1, 2) == kn.sites.Neuron(1, 2) and 'torch' in sys.modules\n"
        "from kntools import *\n"
        "assert set(kn.__all__) - {'__version__'} <= set(globals()) and rome is kn.rome\n"
        "assert not hasattr(kn, 'no_such_name') and not hasattr(kn, '_no_such_name')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "kntools", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"kntools {kn.__version__}\n"


def test_notes_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    note = "0.5  open 10:on:20, :smile: [bold]"
    given: Any = SimpleNamespace(out=None, as_json=False, command="card")
    emit(Output({}, [Sheet(note, pd.DataFrame(), [note])]), given)
    assert capsys.readouterr().out.splitlines() == [note, note, ""]


@pytest.mark.parametrize("written", [["--out", "Canada"], ["-o", "Canada"], ["--out=Canada"], ["-oCanada"]])
def test_the_command_on_a_page_has_no_folder_and_is_else_as_typed(
    written: list[str], tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["trace", TEXT, TARGET, "-s", "Canada", "-m", tiny, "--samples", "1"]
    assert run(*words, *written).exit_code == 0
    shown = (tmp_path / "Canada" / "index.html").read_text(encoding="utf-8")
    typed = shlex.join(["kntools", *words, *(word.replace("Canada", "DIR") for word in written)])
    assert typed in unescape(shown)


def test_many_files_are_counted_and_json_names_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    files = [Path("out", f"t{n}.csv") for n in range(12)]
    for as_json in (False, True):
        given: Any = SimpleNamespace(out=Path("out"), as_json=as_json, command="report")
        emit(Output({}, [], lambda out: files), given)
        printed = capsys.readouterr().out
        if as_json:
            assert json.loads(printed)["files"] == list(map(str, files))
        else:
            assert printed.splitlines() == [*(f"wrote {file}" for file in files[:8]), "... and 4 more files"]
