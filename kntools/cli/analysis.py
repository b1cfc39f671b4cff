"""What commands of analyses share: `--run`, `--out` as the beginning of file names, and results as output."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from torch import Tensor

from kntools import files
from kntools.analyses.neuron_search import ADAPTIVE, PAPER, SearchSettings
from kntools.arguments import check_distinct
from kntools.cli.options import ModelOptions, Options, method, output
from kntools.cli.output import Output, Sheet
from kntools.engine.metric_choice import MetricName
from kntools.models.names import check_name
from kntools.results.table import Table


@dataclass(frozen=True, kw_only=True)
class RunOptions(ModelOptions):
    run: Annotated[Path | None, output(help="Save finished items here, to resume (default: OUT.run.jsonl).")] = None

    @property
    def kept(self) -> Path | None:
        return _beside(self, ".run.jsonl") if self.run is None and self.out else self.run

    @property
    def shared(self) -> dict[str, Any]:
        return {"seed": self.seed, "run": self.kept}


@dataclass(frozen=True, kw_only=True)
class Search:
    paper: Annotated[bool, method("--paper", help="Use the published rule.")] = False
    metric: Annotated[
        MetricName | None, method(help="Metric to attribute (default: the contrast of pairs, if the model is causal).")
    ] = None

    @property
    def settings(self) -> SearchSettings:
        return replace(PAPER if self.paper else ADAPTIVE, metric=self.metric)


def choose(kind: str, names: list[str] | None, known: tuple[str, ...]) -> list[Any]:
    """What was chosen of `known`, all of it by default; a name that is unknown or given twice is an error."""
    for name in names or ():
        check_name(kind, name, known)
    check_distinct(kind, names or ())
    return names or list(known)


def result_output(
    found: Any,
    options: Options,
    *,
    tables: Mapping[str, pd.DataFrame | None] | None = None,
    rows: str = "rows",
    **more: Any,
) -> Output:
    """A result of an analysis: how it was made and its tables as JSON, the summary in the terminal, all of it in files.

    `tables` are those that the result has, or others (`null` if one could not be made). If there are none, its own
    table is in the JSON as `rows`. `more` are further entries.
    """
    every = found.tables() if tables is None else tables
    about = {**found.provenance, **(found.details if isinstance(found, Table) else {})}
    summary = found.summary()
    further = {name: frame for name, frame in every.items() if frame is not None}
    others = [Sheet(name, frame) for name, frame in further.items() if not frame.equals(summary)]

    def write(out: Path) -> list[Path]:
        tensors = any(isinstance(value, Tensor) for value in vars(found).values())
        saved = found.save(_beside(options, ".safetensors" if tensors else ".json"))
        page = _beside(options, ".html")
        files.write(page, found.plot().to_html(include_plotlyjs=True))
        return [saved, *write_tables({"": found.to_frame(), **further}, options), page]

    data = {**about, **more, **(every or {rows: found.to_frame()})}
    return Output(data, [Sheet(found.describe(), summary), *others], write)


def write_tables(tables: Mapping[str, pd.DataFrame], options: Options) -> list[Path]:
    """`OUT.csv` of the table without a name, `OUT-NAME.csv` of others."""
    return [
        files.write(_beside(options, f"-{name}.csv" if name else ".csv"), frame.to_csv(index=False))
        for name, frame in tables.items()
    ]


def _beside(options: Options, end: str) -> Path:
    """A file whose name begins with `--out`; in a folder that is there, with the name of the command."""
    assert options.out is not None
    out = options.out / options.command if options.out.is_dir() else options.out
    return out.with_name(out.name + end)
