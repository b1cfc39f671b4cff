"""The files around the code agree with each other: citation, workflow, pre-commit, versions, addresses."""

from __future__ import annotations

import configparser
import os
import re
import tomllib
from datetime import date
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.pages import read

PYPROJECT: dict[str, Any] = tomllib.loads(read(ROOT / "pyproject.toml"))
PROJECT = PYPROJECT["project"]
REPOSITORY = PROJECT["urls"]["Repository"]


def parsed(name: str) -> Any:
    return yaml.safe_load(read(ROOT / name))


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(.+)$", read(ROOT / "constraints.txt"), re.M)
    assert found
    return found[1]


def test_the_citation_is_of_this_version_and_these_authors() -> None:
    citation = parsed("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format requires
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]
    assert all(author["name"] in read(ROOT / "LICENSE") for author in citation["authors"])
    assert citation["repository-code"] == REPOSITORY and citation["keywords"] == PROJECT["keywords"]
    released = re.findall(r"^## \[(\d.*?)\] - (.*)$", read(ROOT / "CHANGELOG.md"), re.M)
    assert released[0] == (citation["version"], str(citation["date-released"]))
    assert all(date.fromisoformat(day) for _, day in released)


def test_the_workflow_runs_what_ci_runs() -> None:
    steps = [step for job in parsed(".github/workflows/ci.yml")["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in [step["run"] for step in steps if "run" in step]
    assert os.access(ROOT / ".ci/run", os.X_OK)
    [python] = [step["with"]["python-version"] for step in steps if "python" in step.get("uses", "")]
    assert PROJECT["requires-python"] == f">={python}"


def test_pre_commit_has_the_versions_of_the_constraints() -> None:
    repos = {repo["repo"]: repo for repo in parsed(".pre-commit-config.yaml")["repos"]}
    ruff = repos["https://github.com/astral-sh/ruff-pre-commit"]
    assert ruff["rev"] == f"v{pinned('ruff')}"
    assert {hook["id"] for repo in repos.values() for hook in repo["hooks"]} == {"ruff-check", "ruff-format", "mypy"}


def test_settings_of_ruff_and_mypy_are_in_one_place() -> None:
    assert {"ruff", "mypy"} <= set(PYPROJECT["tool"])
    assert not [name for name in ("ruff.toml", ".ruff.toml", "mypy.ini", ".mypy.ini") if (ROOT / name).exists()]
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert not setup.has_section("mypy")


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem)
def test_issue_templates_are_forms(path: Any) -> None:
    form = yaml.safe_load(read(path))
    if path.stem != "config":
        assert {"name", "description", "body"} <= set(form)
        names = [field["id"] for field in form["body"]]
        assert len(set(names)) == len(names) and all(field["attributes"]["label"] for field in form["body"])


def test_one_address_of_the_repository() -> None:
    files = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CITATION.cff", "pyproject.toml", "mkdocs.yml")]
    for file in [*files, *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.ipynb")]:
        addresses = re.findall(r"github(?:\.com|usercontent\.com)?/([\w-]+/kntools)\b", read(file))
        assert {f"https://github.com/{name}" for name in addresses} <= {REPOSITORY}, file.name
