"""The wheel and the source archive: what is in them, and that the wheel alone runs, from an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from email import message_from_string
from pathlib import Path
from typing import Any

import pytest

import kntools as kn
from tests.cli.test_cli import save_tiny
from tests.conftest import ROOT

pytest.importorskip("hatchling")  # of the extra `test`
pytestmark = pytest.mark.slow
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both, as `python -m build` makes them, without asking a network for the build backend."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(out)], cwd=ROOT, check=True)
    return out


def wheel_of(built: Path) -> Path:
    [wheel] = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def environment(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment: kntools from the wheel alone, everything else from the environment of the tests."""
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, with_pip=False, symlinks=os.name != "nt")
    pip = [sys.executable, "-m", "pip", "--python", str(root / "bin" / "python")]
    options = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "install", *options, str(wheel_of(built))], check=True)
    [own] = root.glob("lib/python*/site-packages")
    # A folder named in a .pth file is searched, but .pth files in it are not read: an editable kntools stays outside.
    (own / "rest.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return root


def run(environment: Path, *command: str, folder: Path) -> str:
    """What a command of the environment prints, started in `folder`."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(environment / "bin" / command[0]), *command[1:]],
        cwd=folder, env={**variables, "HF_HUB_OFFLINE": "1"}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout


def projects(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", line)[0] for line in requirements}


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(wheel_of(built)) as wheel:
        held = {name: wheel.read(name) for name in wheel.namelist() if ".dist-info/" not in name}
        [metadata] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        about = message_from_string(wheel.read(metadata).decode())
        licences = [name for name in wheel.namelist() if name.endswith("/LICENSE")]
        scripts = wheel.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    ours = [p for p in (ROOT / "kntools").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert held == {p.relative_to(ROOT).as_posix(): p.read_bytes() for p in ours}
    assets = ("py.typed", "models/tiny-bert/model.safetensors", "report/assets/page.html", "data/sample/countries.tsv")
    assert {f"kntools/{name}" for name in assets} <= set(held)
    assert (about["Name"], about["Version"]) == (PROJECT["name"], PROJECT["version"])
    assert about["License-Expression"] == "MIT" and len(licences) == 1
    assert about["Requires-Python"] == PROJECT["requires-python"]
    needed = [line for line in about.get_all("Requires-Dist") or [] if "extra ==" not in line]
    assert projects(needed) == projects(PROJECT["dependencies"])
    assert "kntools = kntools.cli:app" in scripts
    assert wheel_of(built).stat().st_size < 10_000_000


def test_the_source_archive_has_what_make_test_needs(built: Path) -> None:
    [archive] = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    needed = {"Makefile", "pyproject.toml", "constraints.txt", "mkdocs.yml", "README.md", "CHANGELOG.md", "LICENSE"}
    assert needed | {"CITATION.cff", "CONTRIBUTING.md", ".pre-commit-config.yaml", ".ci/run"} <= names
    folders = {name.split("/")[0] for name in names if "/" in name}
    assert folders == {"kntools", "tests", "docs", "examples", "scripts", "benchmarks", ".ci", ".github"}
    assert not any("__pycache__" in name or name.endswith(".pyc") for name in names)


def test_the_version_is_the_one_of_the_package(environment: Path, tmp_path: Path) -> None:
    assert run(environment, "kntools", "--version", folder=tmp_path) == f"kntools {PROJECT['version']}\n"
    code = "import json, kntools; print(json.dumps([kntools.__file__, kntools.__version__, len(kntools.__all__)]))"
    file, version, names = json.loads(run(environment, "python", "-c", code, folder=tmp_path))
    assert Path(file).is_relative_to(environment)
    assert (version, names) == (PROJECT["version"], len(kn.__all__))


def test_the_command_runs_on_the_model_in_the_wheel(environment: Path, tmp_path: Path) -> None:
    command = ["attribute", "The capital of Canada is [MASK].", "Ottawa", "--model", "tiny-bert", "--json"]
    found = json.loads(run(environment, "kntools", *command, "--draws", "0", folder=tmp_path))
    prompt = kn.Prompt("The capital of Canada is [MASK].", "Ottawa")
    att = kn.integrated_gradients(kn.load_model("tiny-bert"), prompt)
    assert [n["neuron"] for n in found["neurons"][:3]] == [repr(n) for n in att.top(3)]
    assert list(tmp_path.iterdir()) == [], "it writes nothing where nothing was asked for"


def test_the_main_job_runs_on_it(environment: Path, tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "tiny-llama")
    options = ["--model", str(model), "--quick", "--figures", "1", "--out", str(tmp_path / "out")]
    run(environment, "kntools", "report", *options, folder=tmp_path)
    assert (tmp_path / "out" / "index.html").stat().st_size > 1_000_000  # with plotly in it


def test_the_changelog_begins_with_this_version() -> None:
    """... or with what comes after it."""
    [first, *_] = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert first in ("Unreleased", PROJECT["version"])
    assert kn.__version__ == PROJECT["version"], "install again: make, or pip install -e ."
