"""The code in the documentation runs, and the names it documents are the public ones."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.options import options
from scripts import gallery
from tests import zoo
from tests.pages import CODE, DOCS, PAGES, ROOT, blocks, read, rows, sections

START, README, MIGRATION = (ROOT / name for name in ("docs/start.md", "README.md", "docs/migration.md"))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Whatever model is asked for, a small one is loaded; an empty folder to write to."""
    models = {"bert": kn.load_model("tiny-bert"), "gpt": zoo.tiny("gpt2")}
    defaults = {name: model.cfg.default_prepend_bos for name, model in models.items()}

    def load(name: str, *, prepend_bos: bool | None = None) -> Any:
        which = "bert" if "bert" in name else "gpt"
        models[which].cfg.default_prepend_bos = defaults[which] if prepend_bos is None else prepend_bos
        return models[which]

    monkeypatch.setattr(kn, "load_model", load)
    monkeypatch.delenv("KNTOOLS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    load("bert"), load("gpt")  # with BOS as before


#: What a small model has instead.
SMALLER = {
    "L9.N1094": "L3.N15",
    "9, 1094": "3, 15",
    "layer=17": "layer=1",
    "layer=5": "layer=1",
    "layers=5": "layers=1",
    '" horses", foil=" horse"': '" cat", foil=" dog"',  # one token each
    "second_moment(model, 5,": "second_moment(model, 1,",
    "50_000, seed=0": "500, seed=0, length=40",
    "layers=28": "layers=1",
    "top=200": "top=20",
    "blocks.8.": "blocks.1.",
    '"resid_post", 4,': '"resid_post", 1,',
    "(10, 209)": "(2, 20)",
    "(24, ": "(2, ",
    "1005": "5",
    "range(1536)": "range(40)",
    "tracing_profile(model, prompts)": "tracing_profile(model, prompts, known_only=False, samples=1)",
    'make_cases(model, "P36", 2)': 'make_cases(model, "P36", 2, among=20)',
    "window=10": "window=2",
    "The Parthenon": "The Rome",  # as many tokens as the subject
    "100_000, seed=0": "500, seed=0, length=40",
}


def smaller(code: str) -> str:
    for large, little in SMALLER.items():
        code = code.replace(large, little)
    return code


def run(codes: list[str]) -> dict[str, Any]:
    """One after the other, in one namespace, which is returned; options are set for this session alone."""
    namespace: dict[str, Any] = {}
    with kn.set_options(**asdict(options())):
        for code in codes:
            exec(smaller(code), namespace)
    return namespace


# --- code -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_python_block_is_python(page: Path) -> None:
    for code in blocks(read(page), "python"):
        ast.parse(code)


def test_what_is_included_is_there() -> None:
    included = re.findall(r'^--8<-- "(.*)"$', read(ROOT / "docs/extending.md"), re.M)
    assert len(included) == 3 and all((ROOT / name).is_file() for name in included)


@pytest.mark.filterwarnings("ignore")  # tiny random models are edited badly
def test_the_first_steps_run(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(blocks(read(START), "python"))
    assert "<div" in (small / "heatmap.html").read_text("utf-8")
    out = capsys.readouterr().out
    assert out.startswith("Attribution of 4 x 48 neurons for 1 prompt")
    assert re.search(r"^\[0\.\d+, 0\.\d+, 0\.\d+\]$", out, re.M), "as it is, off, doubled"


@pytest.mark.filterwarnings("ignore")
def test_the_readme_runs(small: Path) -> None:
    namespace = run(blocks(read(README), "python"))
    assert (small / "heatmap.html").is_file()
    assert namespace["edit"].before < namespace["edit"].after
    plain = torch.stack(namespace["scores"])  # both columns compute the same
    adaptive = kn.integrated_gradients(namespace["model"], namespace["prompt"]).scores[0]
    assert torch.corrcoef(torch.stack([plain.flatten(), adaptive.flatten()]))[0, 1] > 0.99


@pytest.mark.filterwarnings("ignore")
def test_the_gallery_runs(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block above a picture ends in a figure."""
    (small / "docs").symlink_to(ROOT / "docs")
    (small / "gallery.md").write_text(smaller(read(gallery.PAGE)), encoding="utf-8")
    monkeypatch.setattr(gallery, "PAGE", small / "gallery.md")
    drawn = dict(gallery.figures())
    assert len(drawn) > 30 and {type(figure).__name__ for figure in drawn.values()} == {"Figure"}


def migration(section: str) -> list[str]:
    """Blocks and the middle column of the tables, in the order of the page."""
    found = []
    for part in re.split(r"^(?=```python|\| before)", section, flags=re.M):
        if part.startswith("```"):
            found += blocks(part, "python")
        else:
            cells = rows(part)
            assert all(len(row) == 3 and CODE.fullmatch(row[1]) for row in cells), cells
            found += [row[1].strip("`") for row in cells]
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("title", sections(read(MIGRATION)))
def test_what_you_write_now_runs(title: str, small: Path) -> None:
    code = migration(sections(read(MIGRATION))[title])
    assert len(code) > 7
    run(code)


#: What the code on a page takes as given.
GIVEN = {
    "": """
import torch
import kntools as kn
model = kn.load_model("gpt2")
prompt = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada", foil=" Paris")
other = other_prompt = kn.Prompt("The capital of France is", " Paris", subject="France")
prompts = [prompt, other]
e = kn.encode(model, prompt)
tokens, answer_id = e.tokens, e.target_ids[0]
att = kn.integrated_gradients(model, prompts)
kns = kns_1 = kns_2 = kn.knowledge_neurons(att)
""",
    "sweep": "direction = torch.ones(model.cfg.d_model)",
    "patching": "cleans, corrupteds = prompts, list(reversed(prompts))",
    "editing": "one = kn.rome(model, prompt, ' Rome', layer=1); per_fact, unrelated = [att.top(3)], []",
    "extending": "without_mlp = lambda activation, hook: 0 * activation",
    "plots": "fig = att.plot()",
    "processes": "work = str",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["concepts", "sweep", "attribution", "patching", "tracing", "editing", "extending", "plots", "processes"]
)
def test_the_code_on_a_page_runs(name: str, small: Path) -> None:
    (small / "out").mkdir()
    code = blocks(read(ROOT / f"docs/{name}.md"), "python")
    assert code
    run([GIVEN[""], GIVEN.get(name, ""), *code])


# --- names ------------------------------------------------------------------------------------------


def directives() -> list[str]:
    """What mkdocstrings is asked for, over all pages."""
    return [name for page in DOCS for name in re.findall(r"^::: (\S+)", read(page), re.M)]


def is_module(path: str) -> bool:
    try:
        return importlib.util.find_spec(path) is not None
    except ModuleNotFoundError:  # its parent is no package
        return False


def is_there(path: str) -> bool:
    module, _, name = path.rpartition(".")
    return is_module(path) or hasattr(importlib.import_module(module), name)


def with_its_module(package: Any, name: str) -> bool:
    """A module shows what has a docstring of its own, but not what is called like one of its submodules."""
    found = getattr(package, name)
    return (inspect.isclass(found) or inspect.isfunction(found)) and not is_module(f"{package.__name__}.{name}")


def undocumented(package: Any, names: set[str]) -> set[str]:
    asked = set(directives())
    prefix = package.__name__
    whole = {name for name in names if prefix in asked and with_its_module(package, name)}
    return {n for n in names - whole if not asked & {f"{prefix}.{n}", f"{prefix}.{n}.{n}"}}


def test_every_public_name_is_documented() -> None:
    assert undocumented(kn, set(kn.__all__) - {"__version__", "data", "analyses"}) == set()
    for folder in (kn.data, kn.plots, kn.analyses):
        assert undocumented(folder, set(folder.__all__)) == set()
    assert undocumented(kn, {"no_such_name"}) == {"no_such_name"}


def test_nothing_is_documented_that_is_not_public() -> None:
    asked = directives()
    assert sorted(set(asked)) == sorted(asked), "twice"
    assert [name for name in asked if not is_there(name)] == []
    paths = [name.split(".")[1:] for name in asked]
    names = {parts[0] for parts in paths if len(set(parts)) == 1}  # kntools.editing.rome, or kntools.editing.rome.rome
    parts_of_kn = {name for name in names if name in kn.__all__ or not is_module(f"kntools.{name}")}
    assert parts_of_kn | {"__version__", "analyses"} == set(kn.__all__)


def test_the_page_of_names_lists_them_all() -> None:
    listed = sections(read(ROOT / "docs/api.md"))
    for title, names in (
        ("kn", set(kn.__all__) - {"data", "plots", "analyses", "__version__"}),
        ("kn.data", set(kn.data.__all__)),
        ("kn.plots", set(kn.plots.__all__)),
        ("kn.analyses", set(kn.analyses.__all__)),
    ):
        links = re.findall(r"\[`(\w+)`\]\[([\w.]+)\]", listed[title])
        assert sorted(name for name, _ in links) == sorted(names), title
        assert [target for name, target in links if not is_there(target) or not target.endswith(f".{name}")] == []


def test_the_map_of_the_paper_names_what_is_there() -> None:
    figures = rows(read(ROOT / "docs/paper.md"))[:11]
    assert [CODE.sub("", row[0])[1:].split("]")[0] for row in figures] == [str(n) for n in range(1, 12)]
    known = {*kn.__all__, *kn.analyses.__all__}
    for row in figures:
        names = [name.removeprefix("kn.") for name in CODE.findall(" ".join(row[2:]))]
        assert len(names) > 1 and set(names) <= known
