"""On a phone no page scrolls sideways, except wide tables in their own box, which say so."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import kntools as kn
from kntools.report import page
from tests import browser, zoo
from tests.pages import ROOT

pytestmark = pytest.mark.skipif(browser.find() is None, reason=browser.MISSING)
PHONE = 390
WIDE = {f"a column with a long name {n}": ["unbreakable" * 2, 0.5] for n in range(9)}


@pytest.mark.parametrize("width", [PHONE, 1280])
def test_a_page_with_everything(tmp_path: Path, width: int) -> None:
    model = zoo.fresh("llama")
    prompt = kn.Prompt("this book is", " book")
    att = kn.activation_x_gradient(model, prompt)
    cards = kn.neuron_card(model, att.top(2), ["this book is a book"] * 3, prompt=prompt)
    blocks = [
        page.PageTable(pd.DataFrame(WIDE), "Wide"),
        page.PageTable(pd.DataFrame({"a": [1, 2]}), "Narrow"),
        page.Command("kntools attribute " + "--an-option-with-a-value value " * 8),
        page.Chart(att.plot(), "Figure"),
    ]
    content = page.Page("Title", [page.Section("Part", blocks)], cards=cards, card_command="kntools card {neuron}")
    seen = browser.visit(page.write(tmp_path / "index.html", content), tmp_path / "profile", width=width)
    assert seen.console == [] and seen.overflow <= 0
    wide, narrow = ("data-wide" in part.split(">")[0] for part in seen.dom.split('<div class="scroll"')[1:3])
    assert wide and not narrow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pages in the look of the documentation, built by its settings but for the reference."""
    config = pytest.importorskip("mkdocs.config")
    build = pytest.importorskip("mkdocs.commands.build")
    folder = tmp_path_factory.mktemp("docs")
    for name in ("javascripts", "stylesheets"):
        shutil.copytree(ROOT / "docs" / name, folder / "in" / name)
    table = pd.DataFrame(WIDE)
    lines = [" | ".join(map(str, row)) for row in (table.columns, ["---"] * len(table.columns), *table.values)]
    code = "```python\nf(" + "a_long_argument, " * 20 + ")\n```\n"
    (folder / "in/index.md").write_text("# Home\n\n" + "\n".join(f"| {line} |" for line in lines) + "\n\n" + code)
    (folder / "in/other.md").write_text("# Other\n\nAbout ornithopters.\n")
    settings: dict[str, Any] = {"docs_dir": str(folder / "in"), "site_dir": str(folder / "site")}
    logging.disable(logging.WARNING)
    build.build(
        config.load_config(
            str(ROOT / "mkdocs.yml"), **settings, nav=None, plugins=["material/search", "material/offline"]
        )
    )
    logging.disable(logging.NOTSET)
    return folder / "site"


def test_the_documentation_on_a_phone(site: Path, tmp_path: Path) -> None:
    seen = browser.visit(site / "index.html", tmp_path / "profile", width=PHONE)
    assert seen.console == [] and seen.overflow <= 0
    assert "data-wide" in seen.dom.split("md-typeset__scrollwrap")[1].split(">")[0]


def test_the_documentation_is_searched_from_disk(site: Path, tmp_path: Path) -> None:
    seen = browser.visit(site / "index.html", tmp_path / "profile", query="?q=ornithopters")
    results = seen.dom.split('class="md-search-result__list"')[1]
    assert "other.html" in results.split("</ol>")[0] and seen.console == []
