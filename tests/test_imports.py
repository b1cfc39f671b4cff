"""Imports inside kntools go one way, and there is no circle.

A folder imports those before it and itself; a result's `.plot()` may import `plots` inside the function.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "kntools"

ORDER: list[set[str]] = [
    {"sites", "metrics", "options", "files", "scopes", "arguments", "randomness", "word_borders"},
    {"models"},
    {"results"},
    {"tokenisation"},
    {"prompts"},
    {"hooks"},
    {"engine"},
    {"attribution", "patching", "tracing", "editing"},
    {"data"},
    {"analyses"},
    {"plots"},
    {"report"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
# Folders of one rank stand beside each other: they do not import one another.
FACES = {"__init__", "__main__", "face"}
# A face shows what its folder holds; modules import from the module itself.
WITH_A_FACE = {"data", "analyses", "plots"}


def imports(path: Path, package: str = "kntools") -> Iterator[tuple[str, bool]]:
    """Every module of the package that a file imports, in full, and whether it does so inside a function."""
    tree = ast.parse(path.read_text(), str(path))
    late = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path}:{node.lineno}: write the import in full, not relative")
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((name, node in late) for name in names if name.startswith(package + "."))


def violations(root: Path) -> list[str]:
    """One line per import that goes against the order, or that concerns a folder without a place in it."""
    problems: list[str] = []
    for path in sorted(root.rglob("*.py")):
        folder = path.relative_to(root).with_suffix("").parts[0]
        if folder in FACES:
            continue
        where = path.relative_to(root.parent)
        if folder not in RANK:
            problems.append(f"{where}: {folder!r} has no place in ORDER")
            continue
        for other, late in sorted({(name.split(".")[1], late) for name, late in imports(path, root.name)}):
            if other not in RANK:
                problems.append(f"{where}: imports {other!r}, which has no place in ORDER; name a module")
            elif other == "plots" and late:
                continue
            elif other != folder and (RANK[other] > RANK[folder] or (RANK[other] == RANK[folder] > 0)):
                problems.append(f"{where}: {folder!r} must not import {other!r}")
    return problems


def circles(root: Path) -> list[list[str]]:
    """Modules that import one another, lazily or not (faces and plots of results left out)."""
    modules = {
        ".".join((root.name, *path.relative_to(root).with_suffix("").parts)): path
        for path in root.rglob("*.py")
        if path.stem not in FACES
    }
    edges = {
        name: {
            found
            for other, late in imports(path, root.name)
            for found in (other, other.rpartition(".")[0])
            if found in modules and found != name and not (late and ".plots." in other)
        }
        for name, path in modules.items()
    }
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        if name in trail:
            found.append([*trail[trail.index(name) :], name])
        elif name not in done:
            for other in sorted(edges[name]):
                visit(other, [*trail, name])
            done.add(name)

    for name in sorted(modules):
        visit(name, [])
    return found


def test_imports_go_one_way() -> None:
    assert violations(PACKAGE) == []


def test_there_is_no_circle() -> None:
    assert circles(PACKAGE) == []


def test_a_module_and_a_public_name_never_share_a_path() -> None:
    """`import kntools.data.x` gives the module x: no face hides a module behind a name of its own."""
    for face in [PACKAGE, *(PACKAGE / name for name in WITH_A_FACE)]:
        modules = {path.stem for path in face.glob("*.py")} | {path.name for path in face.iterdir() if path.is_dir()}
        tree = ast.parse((face / ("face.py" if face == PACKAGE else "__init__.py")).read_text())
        shown = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module != "kntools"
            for alias in node.names
        }
        assert not shown & modules, face


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("hooks/neurons.py", "from kntools.data import blimp"),
        ("prompts.py", "import kntools.data.blimp_pairs"),
        ("models/adapter.py", "from kntools import results"),
        ("engine/sweep.py", "def late():\n    from kntools.attribution import adaptive"),
        ("patching/grid.py", "from kntools.tracing.trace import Trace"),
        ("data/blimp_pairs.py", "import kntools.analyses.fig03_localisation as loc"),
        ("analyses/one.py", "from kntools.report import build"),
        ("attribution/result.py", "from kntools.plots.heatmap import neuron_heatmap"),
        ("newcomer.py", "import torch"),
        ("cli/one.py", "from kntools import load_model"),
    ],
)
def test_a_violation_is_found(file: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "kntools" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line + "\n")
    (problem,) = violations(tmp_path / "kntools")
    assert problem.startswith(f"kntools/{file}: ")


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("hooks/neurons.py", "from kntools.prompts import encode"),
        ("data/blimp_pairs.py", "from kntools.prompts import Prompt\nfrom kntools.data.sources import find"),
        ("analyses/one.py", "from kntools.attribution import adaptive, knowledge_neurons"),
        ("attribution/result.py", "def plot(self):\n    from kntools.plots.heatmap import neuron_heatmap"),
        ("__init__.py", "from kntools.cli import app"),
        ("cli/one.py", "import datasets, torch"),
    ],
)
def test_what_is_allowed(file: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "kntools" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line + "\n")
    assert violations(tmp_path / "kntools") == []


def test_a_circle_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "kntools" / "data"
    folder.mkdir(parents=True)
    (folder / "one.py").write_text("from kntools.data.two import b\n")
    (folder / "two.py").write_text("def f():\n    from kntools.data import one\n")
    assert circles(tmp_path / "kntools") == [["kntools.data.one", "kntools.data.two", "kntools.data.one"]]


def test_a_relative_import_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kntools" / "hooks" / "neurons.py"
    path.parent.mkdir(parents=True)
    path.write_text("from .data import blimp\n")
    with pytest.raises(AssertionError, match="write the import in full"):
        violations(tmp_path / "kntools")
