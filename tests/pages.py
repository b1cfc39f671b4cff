"""The pages of the documentation, taken apart."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted(path for folder in (".", "reference") for path in (ROOT / "docs" / folder).glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.S | re.M)
CODE = re.compile(r"`([^`\n]+)`")


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str, *languages: str) -> list[str]:
    """Fenced code of these languages, without the indentation of what it stands in."""
    return [
        re.sub(rf"^{indent}", "", code, flags=re.M) for indent, name, code in FENCE.findall(text) if name in languages
    ]


def prose(text: str) -> str:
    """What is not in code blocks."""
    return FENCE.sub("", text)


def rows(text: str) -> list[list[str]]:
    """Cells of every row of every table, without heads and rules."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        body = table.splitlines()[2:]
        found += [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in body]
    return found


def sections(text: str) -> dict[str, str]:
    """Second-level heading -> what stands under it."""
    parts = re.split(r"^## (.*)\n", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
