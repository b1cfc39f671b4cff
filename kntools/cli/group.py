"""Groups of commands whose modules are imported when a command runs: `-h` answers before PyTorch is there."""

import ast
import sys
from collections.abc import Mapping
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from kntools.models.names import check_name
from kntools.results import processes

HELP = {"help_option_names": ["-h", "--help"]}
# typer exports one of its usage errors, not their base.
_UsageError: Any = typer.BadParameter.__base__


class LateCommand(TyperCommand):
    """A command by its place, `"module:function"` of `kntools.cli`: its help is read, it is imported to run."""

    def __init__(self, name: str, place: str, *, prefix: str = "", hidden: bool = False) -> None:
        self.module, _, self.function = place.partition(":")
        super().__init__(name, help=prefix + _docstrings(self.module)[self.function], hidden=hidden)

    @cached_property
    def command(self) -> Any:
        app = typer.Typer(add_completion=False, context_settings=HELP)
        app.command(self.name)(getattr(import_module(f"kntools.cli.{self.module}"), self.function))
        return typer.main.get_command(app)

    def make_context(self, *args: Any, **options: Any) -> Any:
        return self.command.make_context(*args, **options)


@cache
def _docstrings(module: str) -> dict[str, str]:
    """The docstring of each function of a module, which is not imported."""
    tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
    return {node.name: ast.get_docstring(node) or "" for node in tree.body if isinstance(node, ast.FunctionDef)}


class Group(TyperGroup):
    """Commands. What is wrong with a name or an option is one line, and a wrong name gets the nearest ones."""

    late: ClassVar[Mapping[str, LateCommand]] = {}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {**self.late, **self.commands}

    def main(  # type: ignore[override] # the other parameters of typer are within `options`
        self, args: Any = None, prog_name: str | None = None, **options: Any
    ) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        alone = options.pop("standalone_mode", True)
        try:
            code = super().main(words, prog_name, standalone_mode=False, obj=words, **options)
        except _UsageError as error:
            if message := _message(error):  # else help was asked for
                say(f"{message.rstrip('.')} (see {error.ctx.command_path if error.ctx else 'kntools'} --help)")
            code = 2
        return sys.exit(code) if alone else code

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            try:
                check_name("command" if ctx.parent is None else ctx.info_name, args[0], self.list_commands(ctx))
            except ValueError as error:
                raise _UsageError(str(error), ctx) from None
        return super().resolve_command(ctx, args)


def _message(error: Any) -> str:
    """What is wrong; of a value that pydantic refused for typer, the value and the reason, without its own words."""
    for found in getattr(error.__cause__, "errors", list)():
        own = found.get("ctx", {}).get("error")  # of a function that typer called
        error.message = str(own or found["msg"].replace("Input", str(found["input"]), 1))
    return str(error.format_message())


def group_of(commands: Mapping[str, LateCommand]) -> type[Group]:
    """A group of these commands, as `typer.Typer(cls=...)` takes it."""
    return type("Group", (Group,), {"late": commands})


def say(message: object, *where: Any, **more: Any) -> None:
    """One line on stderr, of the main process alone."""
    if processes.is_main():
        typer.echo(f"kntools: {' '.join(str(message).split()) or type(message).__name__}", err=True)
