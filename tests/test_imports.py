"""Imports inside kntools go from left to right only.

text data -> prompts -> hooks -> sweep -> metrics
                          |-> attribution -> neurons
                          |-> patching / tracing   -> analyses -> plots -> report / CLI
                          |-> rome / neuron edits
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "kntools"

# A module may import those of earlier lines, and of its own line (a package: itself).
ORDER: list[set[str]] = [
    {"processes", "shown"},
    {"sites", "prefix", "backends"},
    {"models"},
    {"prompts"},
    {"plots"},  # draws results, but knows only their fields: so that a result's .plot() can call it
    {"hooks", "positioned"},
    {"engine", "sweep"},
    {"metrics"},
    {"saving"},
    {"quadrature", "path", "adaptive", "attribution_result", "attribution"},
    {"neurons"},
    {"control"},
    {"statistics"},
    {"live", "prompt_pairs", "patch_grid", "patch_job", "patching"},
    {"noise", "token_roles", "trace_result", "tracing"},
    {"neuron_scan"},
    {"sampling", "moment_sums", "second_moment"},
    {"edit_stack", "weight_edits", "rank_one", "value_edits", "fine_tune"},
    {"rome_settings", "rome_rows", "rome_value"},
    {"rome", "edits"},
    {"run_folder"},
    {"data"},
    {"analyses"},
    {"page", "report"},
    {"cli"},
]
RANK = {module: rank for rank, modules in enumerate(ORDER) for module in modules}
# The public face and `python -m kntools` import whatever they show.
FACES = {"__init__", "__main__"}


def imported(path: Path, package: str = "kntools") -> set[str]:
    """The top-level modules of the package that a file imports, wherever in the file it does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path}:{node.lineno}: write the import in full, not relative")
        elif isinstance(node, ast.ImportFrom):
            # `from kntools import hooks` imports kntools.hooks
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith(package + ".")}
    return found


def violations(root: Path) -> list[str]:
    """One line per import that goes against the order, or that concerns a module without a place in it."""
    problems: list[str] = []
    for path in sorted(root.rglob("*.py")):
        module = path.relative_to(root).with_suffix("").parts[0]
        if module in FACES:
            continue
        where = path.relative_to(root.parent)
        if module not in RANK:
            problems.append(f"{where}: {module!r} has no place in ORDER")
            continue
        for other in sorted(imported(path, root.name)):
            if other not in RANK:
                if (root / f"{other}.py").exists() or (root / other).is_dir():
                    problems.append(f"{where}: imports {other!r}, which has no place in ORDER")
                else:
                    problems.append(f"{where}: imports {other!r} from the public face; name its module")
            elif RANK[other] > RANK[module]:
                problems.append(f"{where}: {module!r} must not import {other!r}, which comes after it")
    return problems


def test_imports_go_from_left_to_right() -> None:
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("hooks.py", "from kntools.data import blimp"),
        ("prompts.py", "import kntools.data.blimp"),
        ("backends.py", "from kntools import models"),
        ("sweep.py", "def late():\n    from kntools.attribution import integrated_gradients"),
        ("data/blimp.py", "import kntools.analyses.localisation as loc"),
        ("analyses/localisation.py", "from kntools.report import page"),
        ("newcomer.py", "import torch"),
        ("cli.py", "from kntools import load_model"),
    ],
)
def test_a_violation_is_found(file: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "kntools" / file
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n")
    (problem,) = violations(tmp_path / "kntools")
    assert problem.startswith(f"kntools/{file}: ")


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("hooks.py", "from kntools.prompts import encode"),
        ("data/blimp.py", "from kntools.prompts import Prompt\nfrom kntools.data.sources import find"),
        ("analyses/localisation.py", "from kntools import attribution, neurons"),
        ("__init__.py", "from kntools.cli import app"),
        ("cli.py", "import datasets, torch"),
    ],
)
def test_what_is_allowed(file: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "kntools" / file
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n")
    assert violations(tmp_path / "kntools") == []


def test_a_relative_import_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kntools" / "hooks.py"
    path.parent.mkdir()
    path.write_text("from .data import blimp\n")
    with pytest.raises(AssertionError, match="write the import in full"):
        violations(tmp_path / "kntools")
