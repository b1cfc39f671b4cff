"""Errors and warnings of the library as one line each on stderr, in the words of the command line."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

# Arguments of the library that are options here; messages name them, so that one knows what to type.
_OPTIONS = (
    "multi_token", "max_rows", "steps", "tol", "rule", "threshold", "share", "step", "device", "seed", "draws",
)  # fmt: skip
_COUNT = re.compile(r"\btarget_count=\((-?\d+), (-?\d+)\)")
_ARGUMENT = re.compile(rf"\b({'|'.join(_OPTIONS)})=")


@contextmanager
def friendly(debug: bool) -> Iterator[None]:
    """Say what went wrong and what to type instead, with exit code 2; with `debug`, let the traceback through."""
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.showwarning = _show_in_one_line
            yield
    except (ValueError, KeyError, IndexError, OSError, ModuleNotFoundError, FloatingPointError) as error:
        if debug:
            raise
        typer.echo(f"kntools: {in_words(error)}", err=True)
        raise typer.Exit(2) from error


def _show_in_one_line(message: Warning | str, *where: Any, **more: Any) -> None:
    typer.echo(f"kntools: {in_words(message)}", err=True)


def in_words(error: Warning | Exception | str) -> str:
    """One line: no quotes around a `KeyError`'s text, no line breaks, `--option` instead of `argument=`."""
    raw = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = " ".join(str(raw).split()) or type(error).__name__
    text = _COUNT.sub(r"--least \1 --most \2", text)
    text = text.replace("prepend_bos=True", "--bos").replace("prepend_bos=False", "--no-bos")
    return _ARGUMENT.sub(lambda m: f"--{m.group(1).replace('_', '-')} ", text)
