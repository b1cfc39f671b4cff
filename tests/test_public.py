"""The public face: what `kn.` offers, what `help` says of it, and that progress is shown where people look."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

import kntools as kn
from tests.conftest import ROOT

FACES = {"kn": kn, "kn.data": kn.data, "kn.plots": kn.plots}
PUBLIC = {f"{face}.{name}": getattr(module, name) for face, module in FACES.items() for name in module.__all__}
CALLABLE = {name: x for name, x in PUBLIC.items() if inspect.isclass(x) or inspect.isfunction(x)}


def examples(thing: Any) -> list[str]:
    found = re.findall(r"```python\n(.*?)```", inspect.getdoc(thing) or "", flags=re.DOTALL)
    return [textwrap.dedent(code) for code in found]


def dotted(tree: ast.AST) -> Iterator[str]:
    """Every `kn.a.b` of some code."""
    for node in ast.walk(tree):
        name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if re.fullmatch(r"kn(\.\w+)+", name):
            yield name


@pytest.mark.parametrize("name", [n for n in CALLABLE if n.count(".") == 1])
def test_help_has_an_example_that_python_reads(name: str) -> None:
    found = examples(CALLABLE[name])
    assert found, f"{name} has no example in its docstring"
    for example in found:
        code = re.sub(r"^>>> ", "", example, flags=re.MULTILINE)
        for other in dotted(ast.parse(code)):
            assert eval(other, {"kn": kn}) is not None


@pytest.mark.parametrize("name", [n for n in CALLABLE if n.count(".") == 2])
def test_help_says_what_it_is(name: str) -> None:
    first = (inspect.getdoc(CALLABLE[name]) or "").split("\n")[0]
    assert first.endswith((".", ":")) and not first.startswith(name.split(".")[-1] + "("), "a dataclass's own signature"


def test_an_example_that_names_what_is_not_there_is_found() -> None:
    [name] = dotted(ast.parse("x = kn.no_such_name(model)"))
    with pytest.raises(AttributeError):
        eval(name, {"kn": kn})


@pytest.mark.parametrize("face", FACES)
def test_names_are_sorted_and_there(face: str) -> None:
    names = FACES[face].__all__
    assert len(set(names)) == len(names) and all(hasattr(FACES[face], name) for name in names)
    # Constants, classes, functions, each by name: as ruff sorts them.
    assert names == sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n))


def test_autocompletion_offers_the_public_names() -> None:
    """... and not the fifty modules behind them."""
    assert [name for name in dir(kn) if not name.startswith("__")] == sorted(set(kn.__all__) - {"__version__"})
    assert {"__version__", "__doc__", "__path__"} <= set(dir(kn))
    for folder in (kn.data, kn.plots, kn.analyses):
        assert dir(folder) == sorted(folder.__all__)


def test_options_at_the_end_of_a_cell_are_shown() -> None:
    with kn.set_options(progress=False, max_rows=7) as changed:
        assert repr(changed) == "Options(progress=False, max_rows=7)"


def test_progress_bars_are_those_of_notebooks() -> None:
    found = {
        line.strip()
        for folder in ("kntools", "examples", "scripts", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(import|from) tqdm", line)
    }
    assert found == {"from tqdm.auto import tqdm"}


def test_the_first_screen_is_the_whole_vocabulary() -> None:
    """`help(kn)` begins with every public name, in groups."""
    named = set(re.findall(r"`(\w+)`", kn.__doc__ or ""))
    assert named == set(kn.__all__) - {"__version__"}
