"""What the commands of analyses share: `python -m kntools.analyses.NAME ... --out results/name`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from kntools.analyses.neuron_search import PAPER, SearchSettings
from kntools.files import write as write_file
from kntools.results import processes


def table_parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with the options that all commands have."""
    made = argparse.ArgumentParser(prog=f"python -m kntools.analyses.{name}", description=description)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", type=Path, required=True, help="files to write, without their ending")
    return made


def parser(name: str, description: str, *, rule: bool = False) -> argparse.ArgumentParser:
    """The same for commands that run a model; `rule` adds `--paper`, for those that attribute."""
    made = table_parser(name, description)
    add = made.add_argument
    add("--model", default="smollm2-135m", help="a name, a local folder or a Hugging Face id")
    add("--bos", action=argparse.BooleanOptionalAction, help="begin with BOS (default: as the model)")
    add("--run", type=Path, help="keep what is finished in this folder; started again, the command goes on from there")
    if rule:
        add("--paper", action="store_true", help="the published rule of integration")
    return made


def load(o: argparse.Namespace) -> Any:
    """The model of the command, on the device of this process."""
    from kntools.models.load import load_model

    return load_model(o.model, device=processes.device())


def settings(o: argparse.Namespace) -> SearchSettings:
    """Of attribution."""
    return replace(PAPER if o.paper else SearchSettings(), prepend_bos=o.bos)


def write(result: Any, out: Path, *, data: str = ".json", **tables: pd.DataFrame) -> list[Path]:
    """All files of a command: the result (`data`, and its table as `.csv`), its figure, and further tables.

    Only one of several processes writes.
    """
    if not processes.is_main():
        return []
    named = {"": result.to_frame(), **{f"-{name.replace('_', '-')}": frame for name, frame in tables.items()}}
    files = [result.save(out.with_name(out.name + data))]
    for name, frame in named.items():
        files.append(write_file(out.with_name(f"{out.name}{name}.csv"), frame.to_csv(index=False)))
    page = result.plot().to_html(include_plotlyjs=True)
    return [*files, write_file(out.with_name(out.name + ".html"), page)]
