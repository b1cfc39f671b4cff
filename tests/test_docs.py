"""The documentation says what is there: messages, links, pictures and commands."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from kntools.cli import app
from tests.pages import CODE, PAGES, ROOT, blocks, prose, read, rows

EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


# --- messages ---------------------------------------------------------------------------------------


def template(node: ast.AST) -> str | None:
    """A text as the source builds it, with NUL for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = template(node.left), template(node.right)
        return None if left is None and right is None else (left or "\0") + (right or "\0")
    return None


@pytest.fixture(scope="module")
def templates() -> list[str]:
    trees = [ast.parse(read(file)) for file in sorted((ROOT / "kntools").rglob("*.py"))]
    return [text for tree in trees for node in ast.walk(tree) if (text := template(node))]


def occurs(message: str, templates: list[str]) -> bool:
    """Is there a text with these pieces, in this order? `...` stands for what is filled in."""
    pieces = [re.escape(piece.strip()) for piece in message.split("...") if piece.strip()]
    return any(re.search(".*".join(pieces), text, re.S) for text in templates)


def messages() -> list[str]:
    return [CODE.findall(first)[0] for first, *_ in rows(read(ROOT / "docs/errors.md"))]


@pytest.mark.parametrize("message", messages())
def test_every_message_on_the_page_is_in_the_source(message: str, templates: list[str]) -> None:
    assert occurs(message, templates)


def test_a_message_that_is_not_there_is_found_out(templates: list[str]) -> None:
    assert len(messages()) > 60 and len(set(messages())) == len(messages())
    assert occurs("hook ... does not exist on this model", templates)
    assert not occurs("on this model does not exist ... hook", templates)
    assert not occurs("hook ... does not exist on this machine", templates)


# --- links and pictures -----------------------------------------------------------------------------


@EVERY_PAGE
def test_every_link_and_picture_is_there(page: Path) -> None:
    text = CODE.sub("", prose(read(page)))
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'<img src="([^"]+)"', text)
    inside = [t for t in targets if not t.startswith(("https://", "#"))]
    assert [t for t in inside if not (page.parent / t.split("#")[0]).is_file()] == []


def test_every_picture_is_shown() -> None:
    shown = {name for page in PAGES for name in re.findall(r"images/([\w-]+\.png)[)\"]", read(page))}
    assert shown == {path.name for path in (ROOT / "docs/images").iterdir()}
    assert max(path.stat().st_size for path in (ROOT / "docs/images").glob("gallery-*.png")) < 60_000


def test_llms_txt_links_every_page() -> None:
    """The convention of llmstxt.org: a title, a summary, sections of described links."""
    lines = read(ROOT / "docs/llms.txt").splitlines()
    assert lines[0] == "# kntools" and lines[2].startswith("> ")
    links = [re.fullmatch(r"- \[[^]]+\]\(([\w-]+)\.html\): .+", line) for line in lines if line.startswith("- ")]
    names = [link[1] for link in links if link]
    assert len(links) == len(names) and len(set(names)) == len(names)
    assert {*names, "index"} == {path.stem for path in (ROOT / "docs").glob("*.md")}


# --- commands ---------------------------------------------------------------------------------------

COMMAND = re.compile(r"(kntools|python|make) ")
OWN = ("mine", "my_")  # how the reader's own files are called


class Parsed(Exception):
    """The command line was read without complaint; what would follow is the work."""


def in_blocks(page: Path) -> Iterator[list[str]]:
    """Words of every command in a block without a language, or of the shell."""
    for line in "\n".join(blocks(read(page), "", "bash")).replace("\\\n", " ").splitlines():
        if COMMAND.match(line.strip()):
            words = shlex.split(line, comments=True)
            yield words[: words.index("|")] if "|" in words else words


def in_prose(page: Path) -> Iterator[list[str]]:
    """The same within sentences, where a command may be cut short. `NAME` stands for something."""
    for code in CODE.findall(prose(read(page))):
        if COMMAND.match(code) and not re.search(r"\bNAME\b", code):
            yield shlex.split(code)


def commands() -> list[str]:
    return sorted({shlex.join(words) for page in PAGES for words in in_blocks(page)})


def test_there_are_commands_of_every_kind() -> None:
    found = commands()
    assert len(found) > 40
    for start in ("kntools attribute", "kntools figure", "python -m scripts", "python examples/", "make demo"):
        assert any(command.startswith(start) for command in found), start


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("command", commands())
def test_every_command_in_a_block_can_be_typed(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    try_out(shlex.split(command), monkeypatch)


@pytest.mark.parametrize(
    "wrong",
    [
        "kntools attribute 'The capital of Canada is'",
        "kntools trace text ' answer' --subject text --no-such-option",
        "kntools nothing",
        "kntools figure reliability P36 --limit ten --out x",
        "kntools figure 12 P36",
        "python -m scripts.nothing",
        "python examples/nothing.py",
        "python examples/quickstart.py --model gpt2",
        "make nothing",
    ],
)
def test_a_command_that_cannot_be_typed_is_found_out(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((AssertionError, SystemExit)):
        try_out(shlex.split(wrong), monkeypatch)


@EVERY_PAGE
def test_every_command_in_a_sentence_is_there(page: Path) -> None:
    for words in in_prose(page):
        if words[0] == "kntools" and words[1].isalpha() and words[1].islower():
            found, _, rest = command_of(words)
            known = {name for p in found.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
            assert {word for word in rest if word.startswith("--")} <= known, words
        elif words[0] == "make":
            assert_target(words[1])
        elif words[0] == "python":
            assert_program(words[1:])


def command_of(words: list[str]) -> tuple[Any, str, list[str]]:
    """The command that a line calls, its name, and the words that it reads itself. A group alone is one, too."""
    found, name, rest = typer.main.get_command(app), words[0], words[1:]
    while hasattr(found, "commands") and rest and not rest[0].startswith("-") and not re.search("N(AME)?$", rest[0]):
        name, *rest = rest
        assert name in found.commands, f"no command {name}"
        found = found.commands[name]
        found = getattr(found, "command", found)  # one that is imported when it runs
    return found, name, rest


def assert_target(name: str) -> None:
    assert re.search(rf"^{name}:", read(ROOT / "Makefile"), re.M), f"the Makefile makes no {name!r}"


def assert_program(words: list[str]) -> None:
    """`-m module ...` or `file.py ...`: is it there?"""
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1]), f"no module {words[1]}"
    elif not words[0].startswith(OWN):
        assert (ROOT / words[0]).is_file(), f"no file {words[0]}"


def try_out(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the program itself read the command line, and stop it before it does anything."""
    if words[0] == "kntools":
        found, name, rest = command_of(words)
        try:
            found.make_context(name, rest)
        except Exception as error:  # click's usage errors, of which some releases of typer have a copy of their own
            raise AssertionError(f"{shlex.join(words)}: {error}") from error
    elif words[0] == "make":
        assert_target(words[1])
    else:
        assert_program(words[1:])
        if not words[1].startswith(OWN):
            read_by_program(words[1:], monkeypatch)


def read_by_program(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    module = words[1] if words[0] == "-m" else None
    file = Path(str(importlib.util.find_spec(module).origin)) if module else ROOT / words[0]  # type: ignore[union-attr]
    arguments = words[2:] if module else words[1:]
    if not file.is_relative_to(ROOT):  # a module of Python's own
        return
    if "parse_args" not in read(file):  # it takes words, if any
        assert not [word for word in arguments if word.startswith("-")], arguments
        return
    whole = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, args: object = None, namespace: object = None) -> None:
        whole(self, args, namespace)  # type: ignore[call-overload]
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(sys, "argv", [str(file), *arguments])
    monkeypatch.syspath_prepend(str(file.parent))
    with pytest.raises(Parsed):
        runpy.run_module(module, run_name="__main__") if module else runpy.run_path(str(file), run_name="__main__")
