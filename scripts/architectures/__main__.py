"""Make the architecture table: `python -m scripts.architectures`, from the root. An interrupted run is resumed.

With names of configurations, only these are run, anew, and what differs is printed; the page stays as it is.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import torch

import kntools as kn
from kntools import files
from kntools.results.run_file import RunFile
from kntools.results.run_store import RunStore
from scripts.architectures.build import built
from scripts.architectures.columns import PRIMITIVES
from scripts.architectures.families import FAMILIES
from scripts.architectures.table import Cells, failures, page
from scripts.architectures.verdict import TOLERANCE, Cell, judge

ROOT = Path(__file__).resolve().parents[2]
RUN, PAGE = ROOT / "docs" / "results" / "architectures.jsonl", ROOT / "docs" / "architectures.md"


def cells_of(name: str) -> dict[str, Any]:
    """All cells of one configuration."""
    try:
        case = built(name)
    except Exception as error:  # TransformerLens cannot wrap it
        failed = Cell("unclear", note=f"{type(error).__name__}: {error}").payload()
        return dict.fromkeys(PRIMITIVES, failed)
    return {key: judge(case, primitive).payload() for key, primitive in PRIMITIVES.items()}


def committed() -> tuple[Cells, str]:
    """The cells of the run file, in the order of the table, and the page that they give."""
    header, items = RunFile(RUN).read()
    cells = {name: items[name] for name in FAMILIES if name in items}
    return cells, page(cells, header["versions"]["transformer-lens"], header["settings"]["tolerance"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", choices=[[], *FAMILIES], metavar="name", help="only these, without the page"
    )
    names = parser.parse_args().names
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # TransformerLens says a lot while it folds weights
    with kn.set_options(progress=False):
        if names:
            cells = {name: cells_of(name) for name in names}
        else:
            # The header names a model; each item is of a model of its own.
            store = RunStore(RUN, kind="architectures", model=built("gpt2").model, settings={"tolerance": TOLERANCE})
            store.each(list(FAMILIES), key=str, make=_reported)
            cells, text = committed()
            files.write(PAGE, text)
    bad = failures(cells)
    print("\n".join(bad) or f"no wrong and no unclear cell in {len(cells)} configurations")
    return int(bool(bad))


def _reported(name: str) -> dict[str, Any]:
    cells = cells_of(name)
    print(name, *failures({name: cells}), sep="\n    ", flush=True)
    return cells


if __name__ == "__main__":
    sys.exit(main())
