"""From a function to a command: shared options, errors in one line, and one way to print and to write."""

import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from inspect import Parameter, Signature, signature
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

from kntools.cli.analysis import result_output
from kntools.cli.group import say
from kntools.cli.options import Options
from kntools.cli.output import Output, emit
from kntools.options import set_options
from kntools.results import processes
from kntools.results.result import Result


def command(function: Callable[..., Output | Result]) -> Callable[..., None]:
    """A typer command that runs `function` and emits what it returns: an `Output`, or the result of an analysis.

    ```python
    @command
    def attribute(text: Text, target: Target, options: ModelOptions) -> Output: ...
    ```

    A parameter whose type is a dataclass stands for its fields, which are options. One of them is an `Options`.
    """
    own = signature(function, eval_str=True).parameters
    groups: dict[str, Any] = {name: p.annotation for name, p in own.items() if is_dataclass(p.annotation)}
    fields = {name: signature(group, eval_str=True).parameters for name, group in groups.items()}
    parameters = [Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    parameters += [p.replace(kind=p.KEYWORD_ONLY) for name, p in own.items() if name not in groups]
    parameters += [p for options in fields.values() for p in options.values() if hasattr(p.annotation, "__metadata__")]

    def run(context: Any, **values: Any) -> None:
        typed = [word for word in context.find_root().obj if word not in ("--json", "--debug")]
        words = [_without_out(*pair) for pair in pairwise(["kntools", *typed])]
        every = {**values, "command": function.__name__, "line": shlex.join(["kntools", *words])}
        given = {name: value for name, value in values.items() if name in own}
        for name, group in groups.items():
            given[name] = group(**{field: every[field] for field in fields[name]})
        [options] = [value for value in given.values() if isinstance(value, Options)]
        with _one_line_per_problem(options.debug, options.kept or values.get("run")):
            options.check_out()
            with set_options(progress=sys.stderr.isatty(), max_rows=values.get("max_rows")):
                found = function(**given)
                output = found if isinstance(found, Output) else result_output(found, options)
                if processes.is_main():
                    emit(output, options)

    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined] # typer reads it
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    return run


def _without_out(before: str, word: str) -> str:
    """A word of the command line, with DIR for the value of `--out`."""
    return "DIR" if before in ("--out", "-o") else re.sub(r"(?s)^(--out=|-o(?=.)).*", r"\1DIR", word)


@contextmanager
def _one_line_per_problem(debug: bool, kept: Path | None) -> Iterator[None]:
    """Errors (exit code 2) and warnings as one line each on stderr; with `debug`, as Python shows them.

    `kept` is where finished items are saved.
    """
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.showwarning = say
            yield
    except KeyboardInterrupt:
        if kept is None:
            say("interrupted; nothing was saved. Rerun the command to start again")
        else:
            say(f"interrupted; finished items are saved in {kept}. Rerun the command to resume")
        raise typer.Exit(130) from None
    except (ValueError, KeyError, IndexError, OSError, ModuleNotFoundError, FloatingPointError) as error:
        if debug:
            raise
        # str() of a KeyError puts quotes around its message.
        say(error.args[0] if isinstance(error, KeyError) and error.args else error)
        raise typer.Exit(2) from error
